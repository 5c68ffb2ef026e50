"""What fits together in a filter: fields of the allow-list, operators that suit their types, values, and sizes.

The text and a stored tree go through the same checks, so that neither can hold what the other may not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final, Literal

from reclaim.common.errors import Invalid
from reclaim.scanner.filters.fields import FIELDS, KINDS, FilterField, Kind, Type, nearest
from reclaim.scanner.filters.tree import (
    Among,
    And,
    Compare,
    Condition,
    Day,
    Flag,
    Instant,
    IsNull,
    Leaf,
    Matches,
    Not,
    Number,
    Or,
    Related,
    Text,
    Value,
    Within,
    walk,
)

MOST_CHARACTERS: Final = 2_000
MOST_LEVELS: Final = 20
MOST_VALUES: Final = 500
MOST_DAYS: Final = 3_650
DECIMALS: Final = 4
FIRST_YEAR: Final = 1900
LAST_YEAR: Final = 9998

_LARGEST: Final = Decimal(10) ** 14
"""Above it SQLite, which keeps amounts as whole ten-thousandths in 64 bits, has no room."""

Part = Literal["field", "operator", "value"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not fit. `at` is the first character's place in the text, from 0, and `length` its extent.

    Of a tree that came without text, both are 0.
    """

    at: int
    length: int
    message: str

    def of(self, text: str) -> str:
        """Return the message with the place in words; lines and columns count from 1."""
        line = text.count("\n", 0, self.at) + 1
        column = self.at - (text.rfind("\n", 0, self.at) + 1) + 1
        place = f"At character {column}" if "\n" not in text else f"In line {line} at character {column}"
        return f"{place}: {self.message}"


class FilterRefused(Invalid):
    """A filter that cannot be used; `problems` has every one that was found, with its place."""

    title = "The filter does not fit"

    def __init__(self, problems: Sequence[Problem], text: str = "") -> None:
        said = (problem.of(text) if text else problem.message for problem in problems)
        super().__init__(" ".join(said), field="filter")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Misfit:
    """What is wrong with one part of one comparison; `number` tells which value of a list."""

    part: Part
    message: str
    number: int = 0


_SUITS: Final[dict[Type, tuple[type, ...]]] = {
    "text": (Text,),
    "number": (Number,),
    "instant": (Instant, Day),
    "flag": (Flag,),
}
_WANTED: Final[dict[Type, str]] = {
    "text": "a text in single quotes, such as 'Sales'",
    "number": "a number, such as 25 or 12.50",
    "instant": "a date or an instant, such as 2026-11-20 or 2026-11-20T08:00:00Z",
    "flag": "true or false",
}
_NAMES: Final[dict[Type, str]] = {"text": "a text", "number": "a number", "instant": "an instant", "flag": "a flag"}


def unknown_field(name: str, kind: Kind) -> str:
    """Return what to say of a field that is not on the list."""
    known = FIELDS[kind]
    other = [one for one in KINDS if one != kind and name in FIELDS[one]]
    if other:
        return f"{name} is a field of {other[0]} software; this filter is about {kind} software."
    close = nearest(name[:100], known)
    hint = f"the nearest is {close}" if close else f"there are {', '.join(known)}"
    return f"there is no field {name[:60]!r}; {hint}."


def misfits(leaf: Leaf, kind: Kind) -> list[Misfit]:
    """Return what does not fit in one comparison."""
    if isinstance(leaf, Related):
        return _unfit_text(leaf.name) or _empty(leaf.how, leaf.name)
    field = FIELDS[kind].get(leaf.field)
    if field is None:
        return [Misfit("field", unknown_field(leaf.field, kind))]
    match leaf:
        case IsNull():
            return []
        case Compare(_, operator, value):
            if field.type == "flag" and operator not in ("eq", "ne"):
                return [Misfit("operator", f"{field.path} is true or false: compare it by eq or ne.")]
            return _unfit(field, value)
        case Among(_, values):
            return _unfit_list(field, values)
        case Matches(how, _, text):
            if field.type != "text":
                return [Misfit("field", f"{how} needs a field of text, {field.path} is {_NAMES[field.type]}.")]
            return _unfit_text(text) or _empty(how, text)
        case Within(_, days):
            if field.type != "instant":
                return [Misfit("field", f"within_days needs an instant, {field.path} is {_NAMES[field.type]}.")]
            if not 1 <= days <= MOST_DAYS:
                return [Misfit("value", f"the days must be a whole number from 1 to {MOST_DAYS}.")]
            return []


def _empty(function: str, text: str) -> list[Misfit]:
    return [] if text else [Misfit("value", f"{function} needs a text that is not empty.")]


def _unfit(field: FilterField, value: Value, number: int = 0) -> list[Misfit]:
    if not isinstance(value, _SUITS[field.type]):
        return [Misfit("value", f"{field.path} is compared with {_WANTED[field.type]}.", number)]
    match value:
        case Text(text):
            return _unfit_text(text, number)
        case Number(amount):
            if not amount.is_finite() or abs(amount) >= _LARGEST or amount != round(amount, DECIMALS):
                return [
                    Misfit("value", f"a number has at most 14 digits before the point and {DECIMALS} after.", number)
                ]
        case Instant(at):
            if at.tzinfo is None or not FIRST_YEAR <= at.astimezone(UTC).year <= LAST_YEAR:
                return [Misfit("value", _YEARS, number)]
        case Day(day):
            if not FIRST_YEAR <= day.year <= LAST_YEAR:
                return [Misfit("value", _YEARS, number)]
        case Flag():
            pass
    return []


_YEARS: Final = f"dates lie in the years {FIRST_YEAR} to {LAST_YEAR}."


def _unfit_list(field: FilterField, values: Sequence[Value]) -> list[Misfit]:
    if field.type not in ("text", "number"):
        return [Misfit("operator", f"in is for texts and numbers; compare {field.path} by eq, ge or lt.")]
    if not 1 <= len(values) <= MOST_VALUES:
        return [Misfit("value", f"a list has 1 to {MOST_VALUES} values, this one has {len(values)}.")]
    return [misfit for number, value in enumerate(values) for misfit in _unfit(field, value, number)]


_CONTROL: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def _unfit_text(text: str, number: int = 0) -> list[Misfit]:
    if _CONTROL.search(text):
        return [Misfit("value", "the text has a control character; take it out.", number)]
    return []


def too_deep(tree: Condition) -> str | None:
    """Return what to say of a tree with too many levels."""
    if all(level <= MOST_LEVELS for _, level in walk(tree)):
        return None
    return f"and, or and not are nested more than {MOST_LEVELS} levels deep; say it flatter."


def too_long(text: str) -> str | None:
    """Return what to say of a text that is too long."""
    if len(text) <= MOST_CHARACTERS:
        return None
    return f"a filter has at most {MOST_CHARACTERS:,} characters, this one has {len(text):,}."


def check(tree: Condition, kind: Kind) -> None:
    """Refuse a tree that the text could not have said.

    Raises:
        FilterRefused: with every problem, without places.
    """
    if deep := too_deep(tree):
        raise FilterRefused([Problem(0, 0, deep)])
    found = []
    for node, _ in walk(tree):
        if isinstance(node, And | Or):
            if len(node.parts) < 2:
                found.append(Problem(0, 0, "and, or join at least two conditions."))
        elif not isinstance(node, Not):
            found += [Problem(0, 0, misfit.message) for misfit in misfits(node, kind)]
    if found:
        raise FilterRefused(found)


def require_applicable(applies_to: str, *filters: Condition | None) -> Kind | None:
    """Return what kind of software the filters of a rule are about; None if there is none to apply.

    Raises:
        Invalid: a filter where the rule applies neither to subscription nor to installed software.
    """
    given = any(one is not None for one in filters)
    for kind in KINDS:
        if applies_to == kind:
            return kind if given else None
    if given:
        raise Invalid(
            "A filter is for rules about subscription or installed software; this rule applies to "
            f"{applies_to or 'neither'}. Take the filter away, or change what the rule applies to.",
            field="filter",
        )
    return None


def combined(rule: Condition | None, parent: Condition | None) -> Condition | None:
    """Return the filter of a rule AND that of the suite it reclaims by; None if neither has one."""
    if rule is None or parent is None:
        return rule if parent is None else parent
    return And((rule, parent))


def as_utc(value: datetime | date) -> tuple[datetime, datetime]:
    """Return the first instant that counts as the value, and the first one after it (for an instant: the same)."""
    if isinstance(value, datetime):
        return value.astimezone(UTC), value.astimezone(UTC)
    start = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return start, datetime.fromordinal(value.toordinal() + 1).replace(tzinfo=UTC)
