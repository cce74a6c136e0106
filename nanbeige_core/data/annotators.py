"""The annotators: what each of the twenty labels measures on a clean document, offline and without a large model.

Content measures are relative (ranked within a language), format measures absolute. Where a large model's grades came
with a program (CodeI/O), they replace the measure of the label they speak of.
"""

import re
import zlib
from collections.abc import Callable

from nanbeige_core.data.language import cjk_ratio

CONTENT_LABELS = (
    "knowledge_density",
    "reasoning_depth",
    "factual_accuracy",
    "educational_value",
    "originality",
    "completeness",
    "domain_expertise",
    "logical_coherence",
    "problem_solution",
    "topical_focus",
    "usefulness",
    "timeliness",
    "code_math_substance",
    "safety",
)
FORMAT_LABELS = ("readability", "markup_noise", "boilerplate", "truncation", "repetition", "language_purity")
LABELS = CONTENT_LABELS + FORMAT_LABELS

GRADED_LABELS = {
    "educational_value": "educational",
    "usefulness": "practice",
    "domain_expertise": "difficulty",
    "safety": "safety",
}
"""Label -> grade of the same meaning in the provenance of graded programs."""

REASONING = re.compile(
    r"\b(?:because|therefore|thus|hence|since|if|then|unless|implies|so that|however|while|return|else|for)\b"
    r"|因为|所以|因此|如果|那么|由于|从而|但是|则"
)
TEACHING = re.compile(
    r"\b(?:example|for instance|note that|is defined as|means|see also|explain|parameters|returns|tutorial|used to)\b"
    r"|例如|比如|示例|说明|注意|定义|表示|用于|请参阅"
)
SOLVING = re.compile(
    r"\b(?:how to|in order to|to do this|step|problem|solution|solve|task|choose|click|compute|find|fix|error)\b|\?"
    r"|如何|步骤|问题|解决|选择|点击|计算|执行|？"
)
CHECKABLE = re.compile(r"\d+(?:\.\d+)?|\([A-Z][a-z]+,? \d{4}\)|\[\d+\]|《[^》]+》")
RISKY = re.compile(
    r"\b(?:eval|exec|rm -rf|os\.system|pickle|password|exploit|kill|attack|hack|shell=True)\b|攻击|密码|破解"
)
DATED = re.compile(r"\b(?:deprecated|obsolete|no longer|legacy|old version|python 2|windows 95)\b|过时|不再|废弃")
YEAR = re.compile(r"\b(?:19[5-9]\d|20[0-4]\d)\b")
LONG_TERM = re.compile(r"\b[A-Za-z_]{9,}\b|[\u3400-\u9fff]{6,}")
SYMBOLIC = re.compile(r"[=+\-*/^<>{}\[\]()|&%$#@\\_`]|\d")
MARKUP = re.compile(r"</?[a-zA-Z][^>\n]{0,80}>|&[a-z]{2,6};|\{\{[^}]*\}\}")
FURNITURE = re.compile(
    r"cookie|privacy policy|all rights reserved|subscribe|share on|log ?in|sign up|click here|copyright"
    r"|版权所有|联系我们|登录|注册|点击这里|公众号"
)
"""Matched against lowercased text: ignoring case inside the pattern is several times slower."""
DEBRIS = re.compile(r"[\ufffd\u00a4\u00c2\u00c3\u00a9\u00ae\u00ac\u00bf\u00a5\u017e]")
SENTENCE_END = re.compile(r"[.!?。！？:：;；)）\]\"'”’}`>|]\s*$")


def compression_ratio(text: str) -> float:
    """Return compressed size over size in bytes (0 to about 1): low means redundant."""
    raw = text.encode("utf-8", errors="replace")
    return min(1.0, len(zlib.compress(raw, 6)) / max(1, len(raw)))


def rate(pattern: re.Pattern[str], text: str) -> float:
    """Return matches per hundred characters."""
    return 100.0 * len(pattern.findall(text)) / max(1, len(text))


def distinct_line_share(text: str) -> float:
    """Return the share of distinct ones among the lines or sentences that are not blank."""
    lines = [line.strip() for line in re.split(r"[\n.。]", text) if line.strip()]
    return len(set(lines)) / max(1, len(lines))


def local_overlap(text: str) -> float:
    """Return how many words (characters in Chinese) of the second half occur in the first: a focus measure."""
    units = re.findall(r"[\u3400-\u9fff]|[a-z_]{4,}", text.lower())
    first, second = set(units[: len(units) // 2]), units[len(units) // 2 :]
    return sum(unit in first for unit in second) / max(1, len(second))


CONTENT_MEASURES: dict[str, Callable[[str, float], float]] = {
    "knowledge_density": lambda text, bits: compression_ratio(text[:1200]),
    "reasoning_depth": lambda text, bits: rate(REASONING, text),
    "factual_accuracy": lambda text, bits: rate(CHECKABLE, text),
    "educational_value": lambda text, bits: rate(TEACHING, text),
    "originality": lambda text, bits: distinct_line_share(text) + 0.2 * min(4.0, bits),
    "completeness": lambda text, bits: min(len(text), 2000) / 2000 + bool(SENTENCE_END.search(text[-80:])),
    "domain_expertise": lambda text, bits: rate(LONG_TERM, text),
    "logical_coherence": lambda text, bits: -bits,
    "problem_solution": lambda text, bits: rate(SOLVING, text),
    "topical_focus": lambda text, bits: local_overlap(text),
    "usefulness": lambda text, bits: rate(TEACHING, text) + rate(SOLVING, text) - 3 * rate(FURNITURE, text.lower()),
    "timeliness": lambda text, bits: max([1990, *map(int, YEAR.findall(text))]) / 10 - 202 - 5 * rate(DATED, text),
    "code_math_substance": lambda text, bits: rate(SYMBOLIC, text),
    "safety": lambda text, bits: -rate(RISKY, text),
}
"""Label -> measure of (text, bits per byte); higher is better, ranked within a language afterwards."""


def measure_format(text: str, language: str) -> dict[str, float]:
    """Return the six format labels of a clean document on the absolute 0-9 scale."""
    words = re.findall(r"[A-Za-z]+", text)
    odd_words = sum(len(word) > 24 for word in words) / max(1, len(words))
    debris = len(DEBRIS.findall(text)) / max(1, len(text))
    foreign = abs(cjk_ratio(text) - 0.6) if language == "zh" else cjk_ratio(text)
    shares = {
        "readability": 1 - min(1.0, 4 * odd_words + 20 * debris),
        "markup_noise": 1 - min(1.0, 0.35 * rate(MARKUP, text)),
        "boilerplate": 1 - min(1.0, 1.2 * rate(FURNITURE, text.lower())),
        "truncation": 1.0 if SENTENCE_END.search(text[-80:]) or language != "en" else 0.75,
        "repetition": distinct_line_share(text) ** 0.5,
        "language_purity": 1 - min(1.0, 20 * debris + max(0.0, foreign - 0.2)),
    }
    return {name: 9.0 * value for name, value in shares.items()}
