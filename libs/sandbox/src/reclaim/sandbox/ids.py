"""Record ids: a key prefix, an instance, a counter, and Salesforce's three-character checksum.

The 15-character form is case-sensitive. The 18-character form carries the case of its letters in the last three
characters, so it survives a system that folds case.
"""

from __future__ import annotations

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECK = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_ALLOWED = frozenset(_ALPHABET)
_INSTANCE = "Sb0"


def _suffix(short: str) -> str:
    out = []
    for start in (0, 5, 10):
        bits = 0
        for place, char in enumerate(short[start : start + 5]):
            if "A" <= char <= "Z":
                bits |= 1 << place
        out.append(_CHECK[bits])
    return "".join(out)


def make_id(prefix: str, number: int) -> str:
    """Return the 18-character id of the `number`th record of a type; ids sort in the order they were made."""
    digits = []
    for _ in range(9):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    short = prefix + _INSTANCE + "".join(reversed(digits))
    return short + _suffix(short)


def normalise_id(text: str) -> str | None:
    """Return the 18-character form of an id given in either form, or `None` when it is not one."""
    if not _ALLOWED.issuperset(text):
        return None
    if len(text) == 15:
        return text + _suffix(text)
    if len(text) != 18:
        return None
    short, suffix = text[:15], text[15:].upper()
    if _suffix(short) == suffix:
        return short + suffix
    return _recase(short, suffix)


def _recase(short: str, suffix: str) -> str | None:
    """Give the letters of a case-folded id the case that its checksum records."""
    chars = list(short)
    for group, check in enumerate(suffix):
        bits = _CHECK.find(check)
        if bits < 0:
            return None
        for place in range(5):
            at = group * 5 + place
            chars[at] = chars[at].upper() if bits >> place & 1 else chars[at].lower()
    fixed = "".join(chars)
    return fixed + suffix if _suffix(fixed) == suffix else None
