"""Take credentials out of text that is about to be shown or kept: messages of libraries, lines of a log."""

import re

MASK = "[redacted]"
_WORD = r"(?:secret|password|passwd|token|credential|signature|(?:api|access|account|auth|private|sas)[_-]?key)"
_NAME = rf"(?:[\w-]{{0,60}}[_-])?{_WORD}(?:[_-][\w-]{{0,60}})?|Secret\w{{1,60}}|(?:Access|Account)Key\w{{0,60}}"
_VALUE = r"(?!\d+(?:\.\d+)?\b)[^\s\"'&,;})]{6,}"
_RULES = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^/\s:@]{0,200}:[^/\s@]{1,500}@", re.IGNORECASE), rf"\1{MASK}@"),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), MASK),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}\b|\bsk-[A-Za-z0-9_-]{20,}\b|\bgh[pousr]_[A-Za-z0-9]{20,}\b"), MASK),
    (re.compile(rf"(?<![\w-])({_NAME})([\"']?\s*[=:]\s*[\"']?){_VALUE}", re.IGNORECASE), rf"\1\2{MASK}"),
)


def redact(text: str) -> str:
    """Return `text` with URL passwords, bearer tokens, well-known key shapes and NAME=secret pairs masked.

    A number after such a name is a count and stays: `token_budget=20480`.
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def carries_credentials(url: str) -> bool:
    """Tell whether a URL holds a user's password, or a query with a secret."""
    return redact(url) != url
