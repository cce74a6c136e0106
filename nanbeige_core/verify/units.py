"""Units of measurement in English and Chinese: read one, and bring two values to the same scale.

A unit is a product of powers of seven dimensions and a factor to SI. Words that are no unit (`7 apples`) are not
guessed at: `read_unit` returns None for them.
"""

import re
from fractions import Fraction
from math import pi
from typing import NamedTuple


class Unit(NamedTuple):
    """A factor to SI and the powers of its dimensions, sorted by name."""

    factor: Fraction
    dimensions: tuple[tuple[str, int], ...]


DEGREE = Fraction(pi) / 180
COUNTED = [
    "个",
    "人",
    "只",
    "本",
    "页",
    "元",
    "块",
    "岁",
    "次",
    "种",
    "棵",
    "辆",
    "件",
    "支",
    "朵",
    "条",
    "箱",
    "瓶",
    "枚",
    "张",
    "名",
    "位",
    "组",
    "题",
    "分",
    "dollars",
    "dollar",
    "people",
    "unit",
    "units",
]
"""Counting words say what is counted; they carry no scale and no dimension."""
_BASES: dict[str, tuple[str, str, Fraction]] = {
    "m": ("m meter meters metre metres 米", "length", Fraction(1)),
    "km": ("km kilometer kilometers kilometre kilometres 千米 公里", "length", Fraction(1000)),
    "dm": ("dm decimeter decimeters 分米", "length", Fraction(1, 10)),
    "cm": ("cm centimeter centimeters centimetre centimetres 厘米", "length", Fraction(1, 100)),
    "mm": ("mm millimeter millimeters 毫米", "length", Fraction(1, 1000)),
    "um": ("um μm micrometer micrometers 微米", "length", Fraction(1, 10**6)),
    "nm": ("nm nanometer nanometers 纳米", "length", Fraction(1, 10**9)),
    "in": ("inch inches", "length", Fraction(254, 10000)),
    "ft": ("ft foot feet", "length", Fraction(3048, 10000)),
    "mi": ("mi mile miles", "length", Fraction(1609344, 1000)),
    "s": ("s sec second seconds 秒", "time", Fraction(1)),
    "ms": ("ms 毫秒", "time", Fraction(1, 1000)),
    "min": ("min minute minutes 分钟", "time", Fraction(60)),
    "h": ("h hr hour hours 小时 时", "time", Fraction(3600)),
    "day": ("day days 天 日", "time", Fraction(86400)),
    "week": ("week weeks 周 星期", "time", Fraction(604800)),
    "kg": ("kg kilogram kilograms 千克 公斤", "mass", Fraction(1)),
    "g": ("g gram grams 克", "mass", Fraction(1, 1000)),
    "mg": ("mg milligram milligrams 毫克", "mass", Fraction(1, 10**6)),
    "t": ("ton tons tonne tonnes 吨", "mass", Fraction(1000)),
    "A": ("A ampere amperes amp amps 安 安培", "current", Fraction(1)),
    "K": ("K kelvin 开尔文", "temperature", Fraction(1)),
    "C": ("℃ °C 摄氏度", "celsius", Fraction(1)),
    "mol": ("mol moles mole 摩尔", "amount", Fraction(1)),
    "cd": ("cd candela", "light", Fraction(1)),
    "deg": ("° degree degrees deg 度 circ", "angle", DEGREE),
    "rad": ("rad radian radians 弧度", "angle", Fraction(1)),
    "cent": ("cent cents", "cent", Fraction(1)),
    "percent": ("% percent", "percent", Fraction(1, 100)),
}
_DERIVED: dict[str, tuple[Fraction, dict[str, int]]] = {
    "L l liter liters litre litres 升": (Fraction(1, 1000), {"length": 3}),
    "mL ml 毫升": (Fraction(1, 10**6), {"length": 3}),
    "N newton newtons 牛 牛顿": (Fraction(1), {"mass": 1, "length": 1, "time": -2}),
    "J joule joules 焦 焦耳": (Fraction(1), {"mass": 1, "length": 2, "time": -2}),
    "kJ 千焦": (Fraction(1000), {"mass": 1, "length": 2, "time": -2}),
    "W watt watts 瓦 瓦特": (Fraction(1), {"mass": 1, "length": 2, "time": -3}),
    "kW 千瓦": (Fraction(1000), {"mass": 1, "length": 2, "time": -3}),
    "Pa pascal pascals 帕 帕斯卡": (Fraction(1), {"mass": 1, "length": -1, "time": -2}),
    "kPa 千帕": (Fraction(1000), {"mass": 1, "length": -1, "time": -2}),
    "Hz hertz 赫兹": (Fraction(1), {"time": -1}),
    "V volt volts 伏 伏特": (Fraction(1), {"mass": 1, "length": 2, "time": -3, "current": -1}),
    "Ω ohm ohms 欧 欧姆": (Fraction(1), {"mass": 1, "length": 2, "time": -3, "current": -2}),
    "公顷 hectare hectares": (Fraction(10000), {"length": 2}),
}
_UNITS: dict[str, tuple[Fraction, dict[str, int]]] = {
    **{name: (factor, {dimension: 1}) for names, dimension, factor in _BASES.values() for name in names.split()},
    **{name: unit for names, unit in _DERIVED.items() for name in names.split()},
    **{name: (Fraction(1), dict[str, int]()) for name in COUNTED},
}
_POWERS = {"平方": 2, "立方": 3, "square": 2, "cubic": 3}
LONGEST = 40
"""characters"""


def read_unit(text: str) -> Unit | None:
    """Read `cm`, `m/s^2`, `千米每小时`, `平方厘米`; None when some part is no known unit."""
    plain = re.sub(r"\\(?:text|mathrm|textbf|mathbf|rm)|[{}\s\\]", "", text.replace("²", "^2").replace("³", "^3"))
    plain = re.sub(r"\bper\b|每", "/", plain.replace("cdot", "*").replace("·", "*"))
    if not plain or len(plain) > LONGEST:
        return None
    factor, powers = Fraction(1), dict[str, int]()
    for sign, part in zip(_signs(plain), re.split(r"[/*]", plain), strict=True):
        found = _read_power(part)
        if found is None:
            return None
        scale, dimensions, power = found
        factor *= scale ** (sign * power)
        for dimension, exponent in dimensions.items():
            powers[dimension] = powers.get(dimension, 0) + sign * power * exponent
    return Unit(factor, tuple(sorted((d, p) for d, p in powers.items() if p)))


def _signs(text: str) -> list[int]:
    return [1, *(-1 if mark == "/" else 1 for mark in re.findall(r"[/*]", text))]


def _read_power(part: str) -> tuple[Fraction, dict[str, int], int] | None:
    match = re.fullmatch(r"(平方|立方|square|cubic)?([^\^\d]+)\^?(-?[1-4])?", part)
    if match is None:
        return None
    name = match[2] if match[2] in _UNITS else match[2].lower()
    if name not in _UNITS or (match[1] and match[3]):
        return None
    factor, dimensions = _UNITS[name]
    return factor, dimensions, _POWERS.get(match[1] or "", int(match[3] or 1))
