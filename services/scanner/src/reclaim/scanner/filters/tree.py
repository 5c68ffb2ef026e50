"""The condition tree: what a filter says, whichever way it was written. Immutable, and the same after JSON and back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

Comparison = Literal["eq", "ne", "lt", "le", "gt", "ge"]
Match = Literal["contains", "startswith", "endswith"]
Relation = Literal["in_group", "reports_to"]

COMPARISONS: Final[tuple[Comparison, ...]] = get_args(Comparison)
MATCHES: Final[tuple[Match, ...]] = get_args(Match)
RELATIONS: Final[tuple[Relation, ...]] = get_args(Relation)


class _Node(msgspec.Struct, frozen=True, tag_field="is", forbid_unknown_fields=True):
    """A part of a tree; `is` names its kind in JSON."""


class Text(_Node, frozen=True, tag="text"):
    """A text; compared character by character, case and all."""

    value: str


class Number(_Node, frozen=True, tag="number"):
    """An exact decimal."""

    value: Decimal


class Instant(_Node, frozen=True, tag="instant"):
    """A point in time."""

    value: Annotated[datetime, msgspec.Meta(tz=True)]


class Day(_Node, frozen=True, tag="day"):
    """A whole day, in UTC: *eq* is within it, *lt* before it, *le* before its end, and so on."""

    value: date


class Flag(_Node, frozen=True, tag="flag"):
    """True or false."""

    value: bool


Value = Text | Number | Instant | Day | Flag


class Compare(_Node, frozen=True, tag="compare"):
    """A field against a value; unknown where the field has none."""

    field: str
    operator: Comparison
    value: Value


class IsNull(_Node, frozen=True, tag="null"):
    """Whether a field has no value; never unknown."""

    field: str
    null: bool = True


class Among(_Node, frozen=True, tag="among"):
    """A field against a list of values."""

    field: str
    values: tuple[Value, ...]


class Matches(_Node, frozen=True, tag="matches"):
    """A text field that holds, begins with or ends with a text, taken as it stands: there are no wildcards."""

    how: Match
    field: str
    text: str


class Within(_Node, frozen=True, tag="within"):
    """An instant in the last `days` times 24 hours, now excluded."""

    field: str
    days: int


class Related(_Node, frozen=True, tag="related"):
    """The holder is in a group, or reports to somebody (id or e-mail address), directly or through others."""

    how: Relation
    name: str


class Not(_Node, frozen=True, tag="not"):
    part: Condition


class And(_Node, frozen=True, tag="and"):
    parts: tuple[Condition, ...]


class Or(_Node, frozen=True, tag="or"):
    parts: tuple[Condition, ...]


Leaf = Compare | IsNull | Among | Matches | Within | Related
Condition = Compare | IsNull | Among | Matches | Within | Related | Not | And | Or


def dump(tree: Condition) -> Any:
    """Return a tree as plain JSON values."""
    return msgspec.to_builtins(tree)


def load(raw: Any) -> Condition:
    """Return the tree that `dump` wrote; `checks.check` tells whether it still fits the fields there are.

    Raises:
        msgspec.ValidationError: it is no condition tree.
    """
    found: Condition = msgspec.convert(raw, Condition)
    return found


def walk(tree: Condition) -> Iterator[tuple[Condition, int]]:
    """Yield every condition with its level, the root's being 1. Without recursion: a tree may be far too deep."""
    waiting = [(tree, 1)]
    while waiting:
        node, level = waiting.pop()
        yield node, level
        match node:
            case And(parts) | Or(parts):
                waiting.extend((part, level + 1) for part in reversed(parts))
            case Not(part):
                waiting.append((part, level + 1))
            case _:
                pass


def names(tree: Condition) -> frozenset[str]:
    """Return the fields that a tree names."""
    return frozenset(
        node.field for node, _ in walk(tree) if isinstance(node, Compare | IsNull | Among | Matches | Within)
    )


def depth(tree: Condition) -> int:
    """Return the number of levels, a single comparison being one."""
    return max(level for _, level in walk(tree))
