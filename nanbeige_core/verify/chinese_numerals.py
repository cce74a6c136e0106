"""Read a number written in Chinese characters, strictly: what could be read in two ways is not read at all.

`七八` (seven or eight), `三千五` (3,500 or 3,005) and a run of digits without units are such; `二〇二四` is a number.
"""

import re

_WRITTEN = ["〇零", "一", "二两", "三", "四", "五", "六", "七", "八", "九"]
DIGITS = {character: value for value, characters in enumerate(_WRITTEN) for character in characters}
UNITS = {"十": 10, "百": 100, "千": 1000}
SECTIONS = {"亿": 10**8, "万": 10**4}
_CHARACTERS = "".join([*DIGITS, *UNITS, *SECTIONS])
_NUMBER = re.compile(rf"(负?)([{_CHARACTERS}]+)(?:点([{''.join(DIGITS)}]+))?")
_FRACTION = re.compile(rf"(负?)(?:([{_CHARACTERS}]+)又)?([{_CHARACTERS}]+)分之([{_CHARACTERS}点]+)")
_COUNTED = re.compile(rf"(负?[{_CHARACTERS}点]+)([一-鿿]{{1,6}})")


def plain_number(text: str) -> str | None:
    """Return a Chinese number, fraction, percentage or counted number in digits, as LaTeX; None for anything else."""
    if match := _FRACTION.fullmatch(text):
        return _fraction(match[1], match[2], match[3], match[4])
    if match := _NUMBER.fullmatch(text):
        return _decimal(match)
    if (match := _COUNTED.fullmatch(text)) and (number := _NUMBER.fullmatch(match[1])):
        value = _decimal(number)
        return None if value is None else value + match[2]
    return None


def _decimal(match: re.Match[str]) -> str | None:
    whole = _whole(match[2])
    if whole is None:
        return None
    decimals = "".join(str(DIGITS[character]) for character in match[3] or "")
    return f"{'-' if match[1] else ''}{whole}{'.' if decimals else ''}{decimals}"


def _fraction(sign: str, whole: str | None, below: str, above: str) -> str | None:
    number = _NUMBER.fullmatch(above)
    top = _decimal(number) if number else None
    front = _whole(whole) if whole else None
    minus = "-" if sign else ""
    if top is None or (whole and front is None):
        return None
    if below == "百" and not whole:
        return f"{minus}{top}\\%"
    bottom = 1000 if below == "千" else _whole(below)
    if not bottom or "." in top:
        return None
    return f"{minus}{'' if front is None else front}\\frac{{{top}}}{{{bottom}}}"


def _whole(text: str) -> int | None:
    """Read a whole number; each section is smaller than the next unit, and a lone last digit follows ten or a zero."""
    if len(text) > 2 and set(text) <= set(DIGITS) and set(text) & set("〇零"):
        return int("".join(str(DIGITS[character]) for character in text))
    total, rest = 0, text
    for name, size in SECTIONS.items():
        if name in rest:
            front, _, rest = rest.partition(name)
            value = _whole(front) if name == "亿" else _section(front)
            if not value or (len(rest) == 1 and rest in DIGITS):
                return None  # 三万五 may be 35,000
            total += value * size
    if not rest:
        return total if total else None
    value = _section(rest)
    return None if value is None else total + value


def _section(text: str) -> int | None:
    """Read a number below 10,000."""
    if text in DIGITS:
        return DIGITS[text]
    total, digit, last, zero = 0, None, 10_000, False
    for character in text:
        if character in UNITS:
            unit = UNITS[character]
            if unit >= last or (digit is None and not (unit == 10 and total == 0)) or digit == 0:
                return None
            total, digit, last, zero = total + (digit or 1) * unit, None, unit, False
        elif digit is not None or character not in DIGITS:
            return None
        elif DIGITS[character] == 0:
            zero = True
        else:
            digit = DIGITS[character]
    if digit is None:
        return None if zero else total
    return total + digit if last == 10 or zero else None
