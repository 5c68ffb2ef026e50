"""The form in which a filter is put together on a page: rows of field, operator, value, in groups one level deep.

All rows of a group are joined by *all* or *any*, and so are the groups. A tree that fits is shown that way and comes
back the same; one that nests deeper is edited as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Final, Literal

from reclaim.scanner.filters.checks import misfits, too_long, unknown_field
from reclaim.scanner.filters.fields import FIELDS, HOLDER, Kind, Type
from reclaim.scanner.filters.text import literal, show
from reclaim.scanner.filters.tree import (
    COMPARISONS,
    MATCHES,
    RELATIONS,
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
)

Join = Literal["all", "any"]

_NEGATED: Final = "not_"

OPERATORS: Final[Mapping[str, str]] = {
    "eq": "is",
    "ne": "is not",
    "in": "is one of",
    "not_in": "is none of",
    "contains": "contains",
    "not_contains": "does not contain",
    "startswith": "begins with",
    "not_startswith": "does not begin with",
    "endswith": "ends with",
    "not_endswith": "does not end with",
    "lt": "is less than, before",
    "le": "is at most, until",
    "gt": "is more than, after",
    "ge": "is at least, from",
    "within_days": "is within the last days",
    "not_within_days": "is not within the last days",
    "null": "is empty",
    "not_null": "is not empty",
    "in_group": "is in the group",
    "not_in_group": "is not in the group",
    "reports_to": "reports to",
    "not_reports_to": "does not report to",
}
"""What a row's operators are called; those for which no value is entered are in `WITHOUT_VALUE`."""

WITHOUT_VALUE: Final = ("null", "not_null")


@dataclass(frozen=True, slots=True)
class BuilderRow:
    """One line: a field, an operator, and a value as it is typed. Several values are apart by commas."""

    field: str = ""
    operator: str = "eq"
    value: str = ""

    @property
    def blank(self) -> bool:
        return not self.field and not self.value.strip()


@dataclass(frozen=True, slots=True)
class BuilderGroup:
    """Lines that belong together."""

    join: Join
    rows: tuple[BuilderRow, ...]


@dataclass(frozen=True, slots=True)
class Builder:
    """The whole form."""

    join: Join = "all"
    groups: tuple[BuilderGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """What a form says: a tree, None for a form without a line, or what is wrong with which line (group, row)."""

    tree: Condition | None
    problems: Mapping[tuple[int, int], str] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ form to tree


def build(form: Builder, kind: Kind) -> Built:
    """Return the tree of a form; lines in which nothing was entered are left out."""
    problems: dict[tuple[int, int], str] = {}
    groups: list[Condition] = []
    for at, group in enumerate(form.groups):
        rows: list[Condition] = []
        for number, row in enumerate(group.rows):
            if row.blank:
                continue
            try:
                rows.append(_condition(row, kind))
            except ValueError as error:
                problems[at, number] = str(error)
        if rows:
            groups.append(_joined(group.join, rows))
    if problems or not groups:
        return Built(None, problems)
    tree = _joined(form.join, groups)
    if long := too_long(show(tree)):
        return Built(None, {(0, 0): long})
    return Built(tree)


def _joined(join: Join, parts: Sequence[Condition]) -> Condition:
    if len(parts) == 1:
        return parts[0]
    return And(tuple(parts)) if join == "all" else Or(tuple(parts))


def _condition(row: BuilderRow, kind: Kind) -> Condition:
    """Return what a line says; ValueError with what to enter instead."""
    if long := too_long(row.value):
        raise ValueError(long)
    if not row.field:
        raise ValueError("choose the field that has to have this value.")
    negated = row.operator.startswith(_NEGATED) and row.operator != "not_null"
    leaf = _leaf(row, row.operator.removeprefix(_NEGATED) if negated else row.operator, kind)
    if wrong := misfits(leaf, kind):
        raise ValueError(wrong[0].message)
    return Not(leaf) if negated else leaf


def _leaf(row: BuilderRow, operator: str, kind: Kind) -> Leaf:
    for relation in RELATIONS:
        if operator == relation:
            if row.field != HOLDER:
                raise ValueError("groups and reporting lines are asked of the holder.")
            return Related(relation, _filled(row.value))
    known = FIELDS[kind].get(row.field)
    if known is None:
        if row.field == HOLDER:
            raise ValueError("of the holder you can ask for groups and reporting lines; choose one of its fields.")
        raise ValueError(unknown_field(row.field, kind))
    if operator in WITHOUT_VALUE:
        return IsNull(row.field, null=operator == "null")
    if operator == "within_days":
        if not re.fullmatch(r"[0-9]{1,5}", row.value.strip()):
            raise ValueError("enter a whole number of days.")
        return Within(row.field, int(row.value))
    if operator == "in":
        return Among(row.field, tuple(_value(text, known.type) for text in split_values(row.value)))
    for how in MATCHES:
        if operator == how:
            return Matches(how, row.field, _filled(row.value))
    for comparison in COMPARISONS:
        if operator == comparison:
            return Compare(row.field, comparison, _value(row.value, known.type))
    raise ValueError(f"there is no operator {operator[:40]!r}.")


def _filled(text: str) -> str:
    if not text:
        raise ValueError("enter a text.")
    return text


def _value(text: str, kind: Type) -> Value:
    stripped = text.strip()
    match kind:
        case "text":
            return Text(text)
        case "number":
            if not re.fullmatch(r"-?[0-9]{1,30}(\.[0-9]{1,30})?", stripped):
                raise ValueError("enter a number, such as 25 or 12.50.")
            return Number(Decimal(stripped) or Decimal(0))
        case "flag":
            if stripped not in ("true", "false"):
                raise ValueError("enter true or false.")
            return Flag(stripped == "true")
        case "instant":
            with suppress(ValueError):
                if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", stripped):
                    return Day(date.fromisoformat(stripped))
                at = datetime.fromisoformat(stripped)
                if at.tzinfo is not None:
                    return Instant(at)
            raise ValueError("enter a date such as 2026-11-20, or an instant such as 2026-11-20T08:00:00Z.")


_VALUE: Final = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"\s][^,]*?|))\s*(?:,|$)')


def split_values(text: str) -> list[str]:
    """Return the values of a list as it is typed: apart by commas; one in double quotes may hold commas itself."""
    found, at = [], 0
    while at < len(text):
        match = _VALUE.match(text, at)
        if match is None:
            raise ValueError("a value begins with a double quote that is not closed.")
        found.append(match[1].replace('""', '"') if match[1] is not None else match[2])
        at = match.end()
    return found


def join_values(values: Sequence[str]) -> str:
    """Return values as `split_values` reads them."""
    return ", ".join(
        '"' + value.replace('"', '""') + '"' if not value or value != value.strip() or set(value) & set(',"') else value
        for value in values
    )


# ------------------------------------------------------------------------------------------------ tree to form


def unbuild(tree: Condition | None) -> Builder | None:
    """Return the form of a tree; None if it nests deeper than a form can show."""
    if tree is None:
        return Builder()
    join, parts = _parts(tree)
    groups = []
    for part in parts:
        inner, leaves = _parts(part)
        rows = [_row(leaf) for leaf in leaves]
        if not all(rows):
            return None
        groups.append(BuilderGroup(inner, tuple(row for row in rows if row is not None)))
    return Builder(join, tuple(groups))


def _parts(tree: Condition) -> tuple[Join, tuple[Condition, ...]]:
    match tree:
        case And(parts):
            return "all", parts
        case Or(parts):
            return "any", parts
        case _:
            return "all", (tree,)


def _row(tree: Condition) -> BuilderRow | None:
    match tree:
        case Not(IsNull() | Compare() | Not() | And() | Or()):
            return None
        case Not(part):
            row = _row(part)
            return row and BuilderRow(row.field, _NEGATED + row.operator, row.value)
        case Compare(name, operator, value):
            return BuilderRow(name, operator, _typed(value))
        case IsNull(name, null):
            return BuilderRow(name, "null" if null else "not_null")
        case Among(name, values):
            return BuilderRow(name, "in", join_values([_typed(value) for value in values]))
        case Matches(how, name, text):
            return BuilderRow(name, how, text)
        case Within(name, days):
            return BuilderRow(name, "within_days", str(days))
        case Related(how, name):
            return BuilderRow(HOLDER, how, name)
        case _:
            return None


def _typed(value: Value) -> str:
    return value.value if isinstance(value, Text) else literal(value)
