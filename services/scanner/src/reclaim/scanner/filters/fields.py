"""The fields that a filter may name, with their types: an allow-list for each kind of software, and nothing else.

A path leads over at most two hops, as in `user/manager/email`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Kind = Literal["subscription", "installed"]
"""What a rule applies to, as far as filters go."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MOST_HOPS: Final = 2
FIRST_SEEN: Final = "first_seen_at"
"""The field that no connector reads: the register has it."""

Type = Literal["text", "number", "instant", "flag"]


@dataclass(frozen=True, slots=True)
class FilterField:
    """One field: its path, what a page calls it, and its type."""

    path: str
    label: str
    type: Type


_COMMON: Final = (
    FilterField("user/id", "Holder: id", "text"),
    FilterField("user/name", "Holder: name", "text"),
    FilterField("user/email", "Holder: e-mail", "text"),
    FilterField("user/department", "Holder: department", "text"),
    FilterField("user/type", "Holder: kind of account", "text"),
    FilterField("user/active", "Holder: account is active", "flag"),
    FilterField("user/created_at", "Holder: account made", "instant"),
    FilterField("user/manager/id", "Manager: id", "text"),
    FilterField("user/manager/name", "Manager: name", "text"),
    FilterField("user/manager/email", "Manager: e-mail", "text"),
    FilterField("product/id", "Product: key", "text"),
    FilterField("product/name", "Product: name", "text"),
    FilterField("price", "Price a month", "number"),
    FilterField("currency", "Currency", "text"),
    FilterField(FIRST_SEEN, "First seen", "instant"),
    FilterField("last_used_at", "Last used", "instant"),
)

FIELDS: Final[Mapping[Kind, Mapping[str, FilterField]]] = {
    "subscription": {
        field.path: field for field in (*_COMMON, FilterField("assigned_at", "Licence assigned", "instant"))
    },
    "installed": {
        field.path: field
        for field in (
            *_COMMON,
            FilterField("installed_at", "Installed", "instant"),
            FilterField("version", "Version", "text"),
            FilterField("device/id", "Device: id", "text"),
            FilterField("device/name", "Device: name", "text"),
            FilterField("device/platform", "Device: platform", "text"),
        )
    },
}

HOLDER: Final = "user"
"""What `in_group` and `reports_to` are about."""


def nearest(name: str, among: Iterable[str]) -> str | None:
    """Return the known name that looks most like the given one; None if nothing comes near."""
    names = list(among)
    folded = name.lower().replace(".", "/")
    if folded in names:
        return folded
    last = folded.rsplit("/", 1)[-1]
    by_last = [known for known in names if known.rsplit("/", 1)[-1] == last]
    if by_last:
        return by_last[0]
    return next(iter(difflib.get_close_matches(folded, names, n=1, cutoff=0.5)), None)
