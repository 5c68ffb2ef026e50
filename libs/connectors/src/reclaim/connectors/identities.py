"""Whom a source of usage names, and whether that is a name at all."""

from __future__ import annotations

import re
from typing import Final

_NOBODY: Final = frozenset({"", "-", "n/a", "na", "none", "null", "unknown", "anonymous", "anonymized", "anonymised"})
_DIGEST: Final = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})", re.IGNORECASE)
_UUID: Final = re.compile(r"\{?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}?", re.IGNORECASE)


def is_anonymous(name: str | None) -> bool:
    """Tell whether a source hides whom it means: no name, a word for none, or a digest or random id in its place.

    Vendors pseudonymise usage reports for privacy, some by default. Whoever is meant did use the product, so nobody's
    absence is proven as long as such rows are there.
    """
    text = (name or "").strip()
    return text.casefold() in _NOBODY or bool(_DIGEST.fullmatch(text)) or bool(_UUID.fullmatch(text))
