"""Bring answers written in several notations to one text, without deciding anything.

Width and spacing, Chinese wording, numbers in words of magnitude, repeating decimals and lists of named solutions.
"""

import re
import unicodedata
from fractions import Fraction

from nanbeige_core.verify.chinese_numerals import plain_number

SPACING = re.compile(
    r"\\[,;:! $]|\\q?quad(?![A-Za-z])|\\(?:left|right)(?![A-Za-z])|~|\$|\\displaystyle(?![A-Za-z])|\{,\}"
)
_SYMBOLS = str.maketrans(
    {
        **{
            "²": "^2",
            "³": "^3",
            "−": "-",
            "×": "\\times ",
            "·": "\\cdot ",
            "°": "^\\circ ",
            "π": "\\pi ",
            "∞": "\\infty ",
        },
        **{"∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "±": "\\pm ", "∓": "\\mp "},
        **{"≤": "\\le ", "≥": "\\ge ", "⟨": "(", "⟩": ")"},
    }
)
_MAGNITUDES = {"万": 10**4, "亿": 10**8}
_CHINESE_NAME = re.compile(r"^[一-鿿]{1,8}?(?:为|是|等于|=|:)\s*(?=[^\s])")
_CHINESE_LEAD = re.compile(r"^(?:一?共有?|等于|得到?|[为是])\s*")
_REPEATING = re.compile(r"(?<!\d)(\d*)\.(\d*)\\(?:overline|dot)\{(\d+)\}")
_SET_OF = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*(?:\\mathbb\{?R\}?|R)\s*)?(?:\\mid|\||:)(.*)\\\}")
_MIXED = re.compile(r"([+-]?\d+)(?:\s+|又)(?:(\d+)/(\d+)|(\\[dt]?frac))")
_NAMED = re.compile(r"\s*(\\?[A-Za-z][A-Za-z]*(?:_\{?\w+\}?)?)\s*=\s*(.+)")
LARGEST_EXPONENT = 400


def widen(text: str) -> str:
    """Return the text with full-width and typographic characters as their plain equivalents."""
    return unicodedata.normalize("NFKC", text.translate(_SYMBOLS))


def plain_notation(text: str) -> str:
    """Return an answer in plain LaTeX: spacing gone, `等于` as =, `答案为` dropped, 3.5万 as 35000, 0.1\\overline{6}
    as a fraction, `6e23` as a power of ten, `x=1, x=2` as `1,2`."""
    text = widen(text).replace("{,}", ",")
    text = SPACING.sub(lambda mark: " " if mark[0] in ("~", "\\ ") else "", text).strip()
    text = re.sub(r"^\{([^{}]*)\}$", r"\1", text).rstrip("。")
    text = _CHINESE_NAME.sub("", _CHINESE_LEAD.sub("", text)).replace("等于", "=")
    text = plain_number(text) or text
    text = text.replace("\\varnothing", "\\emptyset").replace("\\langle", "(").replace("\\rangle", ")")
    text = _SET_OF.sub(lambda m: m[2].strip() if m[1] in m[2] else m[0], text)
    text = _MIXED.sub(lambda m: m[1] + (m[4] or f"\\frac{{{m[2]}}}{{{m[3]}}}"), text)
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"(?<=\d)[eE]([+-]?\d{1,3})(?!\d)", r"\\times 10^{\1}", text)
    text = re.sub(r"^([+-]?\d+(?:\.\d+)?)(万|亿)", lambda m: str(_whole(m[1], _MAGNITUDES[m[2]])), text)
    return _values_of_one_name(both_signs(text))


def both_signs(text: str) -> str:
    """Return `+2,-2` for `\\pm 2`; a list may hold several such parts, and `\\mp` is the other sign of its part."""
    if not re.search(r"\\[pm][pm](?![A-Za-z])", text):
        return text
    parts: list[str] = []
    for part in split_list(text):
        upper, lower = (
            re.sub(r"\\(pm|mp)(?![A-Za-z])\s*", lambda m, sign=sign: sign[m[1] == "mp"], part) for sign in ("+-", "-+")
        )
        # a sign in front of the first term is not written
        parts += [re.sub(r"(^|=)\s*\+", r"\1", upper), lower] if upper != lower else [part]
    return ",".join(parts)


def _whole(digits: str, magnitude: int) -> Fraction:
    return Fraction(digits) * magnitude


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, repeated = match[1], match[2], match[3]
    if len(fixed) + len(repeated) > LARGEST_EXPONENT:
        return match[0]
    once = int((whole + fixed) or "0")
    value = Fraction(int((whole + fixed + repeated) or "0") - once, 10 ** len(fixed) * (10 ** len(repeated) - 1))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def split_list(text: str) -> list[str]:
    """Split at commas, 或, 、 and `or` outside brackets."""
    text = re.sub(r"\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|或者?|、|;", ",", text)
    parts, depth, start = list[str](), 0, 0
    for position, character in enumerate(text):
        depth += (character in "{([") - (character in "})]")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _values_of_one_name(text: str) -> str:
    """Return `1,2` for `x=1, x=2`: the same name each time; anything else stays."""
    parts = [_NAMED.fullmatch(part) for part in split_list(text)]
    if len(parts) < 2 or any(part is None for part in parts):
        return text
    names = {part[1] for part in parts if part}
    return ",".join(part[2] for part in parts if part) if len(names) == 1 else text
