"""A quantity that is known exactly, or only between two bounds.

Arithmetic works bound by bound, so the bounds of a sum are the sums of the bounds: they are wider than those of
independent quantities would be, and hold whatever the quantities have to do with one another.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Range:
    """Low, expected and high value of a quantity that is never negative."""

    low: float
    expected: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.expected <= self.high:
            raise ValueError(
                f"a range runs 0 <= low <= expected <= high, found {self.low}, {self.expected}, {self.high}"
            )

    @classmethod
    def exactly(cls, value: float) -> Self:
        """Return a range without width."""
        return cls(value, value, value)

    @classmethod
    def total(cls, parts: Iterable["Range"]) -> "Range":
        """Return the sum of ranges, zero for none."""
        return sum(parts, start=NOTHING)

    @property
    def exact(self) -> bool:
        """Tell whether the value is known exactly."""
        return self.low == self.high

    def holds(self, value: float) -> bool:
        """Tell whether a value lies within the bounds."""
        return self.low <= value <= self.high

    def map(self, function: Callable[[float], float]) -> "Range":
        """Return the image under a function that never falls."""
        return Range(function(self.low), function(self.expected), function(self.high))

    def at_most(self, bound: "Range | float") -> "Range":
        """Return the smaller of two quantities, bound by bound."""
        other = as_range(bound)
        return Range(min(self.low, other.low), min(self.expected, other.expected), min(self.high, other.high))

    def at_least(self, bound: "Range | float") -> "Range":
        """Return the larger of two quantities, bound by bound."""
        other = as_range(bound)
        return Range(max(self.low, other.low), max(self.expected, other.expected), max(self.high, other.high))

    def __add__(self, other: "Range | float") -> "Range":
        term = as_range(other)
        return Range(self.low + term.low, self.expected + term.expected, self.high + term.high)

    __radd__ = __add__

    def __mul__(self, other: "Range | float") -> "Range":
        factor = as_range(other)
        return Range(self.low * factor.low, self.expected * factor.expected, self.high * factor.high)

    __rmul__ = __mul__

    def __truediv__(self, other: "Range | float") -> "Range":
        """Divide; a divisor's high bound makes the low bound of the quotient."""
        divisor = as_range(other)
        return Range(self.low / divisor.high, self.expected / divisor.expected, self.high / divisor.low)


def as_range(value: "Range | float") -> Range:
    """Return a number as a range without width, a range as it is."""
    return value if isinstance(value, Range) else Range.exactly(value)


NOTHING = Range.exactly(0.0)
