"""Filters as SQLAlchemy expressions, for SQLite and PostgreSQL. Every value is bound; no text becomes SQL.

SQL's own `AND`, `OR` and `NOT` are Kleene's. What differs between the databases, and from Python, is settled here:

- Texts are compared by their characters: PostgreSQL is told so (`COLLATE "C"`), SQLite does.
- `LIKE` ignores case on SQLite, so there the pattern goes to `GLOB`. Either has its wildcards escaped.
- A flag is compared as a condition, a number as the exact decimal its column holds, a day as the instants it spans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import sqlalchemy as sa

from reclaim.scanner.filters.checks import as_utc
from reclaim.scanner.filters.memory import OPERATORS
from reclaim.scanner.filters.tree import (
    Among,
    And,
    Compare,
    Comparison,
    Condition,
    Day,
    Flag,
    Instant,
    IsNull,
    Match,
    Matches,
    Not,
    Or,
    Related,
    Text,
    Within,
)

Dialect = Literal["sqlite", "postgresql"]
Expression = sa.ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a filter finds its fields: an expression for each path, and for what is known of the holder.

    `in_group` and `reports_to` return expressions that are NULL where nobody knows.
    """

    dialect: str
    columns: Mapping[str, sa.ColumnElement[Any]]
    in_group: Callable[[str], Expression]
    reports_to: Callable[[str], Expression]


def compile_sql(tree: Condition, source: Source, now: datetime) -> Expression:
    """Return the expression that answers a filter, with the time it is asked at."""
    match tree:
        case And(parts):
            return sa.and_(*(compile_sql(part, source, now) for part in parts))
        case Or(parts):
            return sa.or_(*(compile_sql(part, source, now) for part in parts))
        case Not(part):
            return sa.not_(compile_sql(part, source, now))
        case Related("in_group", name):
            return source.in_group(name)
        case Related(_, name):
            return source.reports_to(name)
        case _:
            pass
    column = source.columns[tree.field]
    match tree:
        case Compare(_, how, Day(day)):
            return _by_day(column, how, *as_utc(day))
        case Compare(_, how, Flag(flag)):
            return column if flag is (how == "eq") else sa.not_(column)
        case Compare(_, how, Instant(at)):
            return _compared(column, how, at.astimezone(UTC))
        case Compare(_, how, Text(text)):
            return _compared(_by_character(column, source.dialect), how, text)
        case Compare(_, how, value):
            return _compared(column, how, value.value)
        case IsNull(_, null):
            return column.is_(None) if null else column.is_not(None)
        case Among(_, values):
            return column.in_([value.value for value in values])
        case Matches(how, _, text):
            return _matching(column, how, text, source.dialect)
        case Within(_, days):
            return sa.and_(column >= now - timedelta(days=days), column < now)


def _compared(column: sa.ColumnElement[Any], how: Comparison, value: Any) -> Expression:
    found: Expression = OPERATORS[how](column, value)  # type: ignore[assignment]
    return found


def _by_day(column: sa.ColumnElement[Any], how: Comparison, start: datetime, end: datetime) -> Expression:
    match how:
        case "eq":
            return sa.and_(column >= start, column < end)
        case "ne":
            return sa.or_(column < start, column >= end)
        case "lt":
            return column < start
        case "le":
            return column < end
        case "gt":
            return column >= end
        case "ge":
            return column >= start


def _by_character(column: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[Any]:
    return sa.collate(column, "C") if dialect == "postgresql" else column


_GLOB_WILDCARDS: Final = re.compile(r"[*?\[]")


def _matching(column: sa.ColumnElement[Any], how: Match, text: str, dialect: str) -> Expression:
    if dialect == "postgresql":
        compare: Mapping[Match, Callable[..., Expression]] = {
            "contains": column.contains,
            "startswith": column.startswith,
            "endswith": column.endswith,
        }
        return compare[how](text, autoescape=True)
    escaped = _GLOB_WILDCARDS.sub(r"[\g<0>]", text)
    before = "" if how == "startswith" else "*"
    after = "" if how == "endswith" else "*"
    return column.bool_op("GLOB")(before + escaped + after)
