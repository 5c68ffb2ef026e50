"""Filters over seats in memory, with Kleene's three values: True, False and None for unknown.

A comparison with a field that has no value is unknown. `and` is false as soon as one part is, `or` true as soon as one
part is, whatever else is unknown. A seat is chosen where the answer is True and nowhere else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from reclaim.scanner.filters.checks import as_utc
from reclaim.scanner.filters.tree import (
    Among,
    And,
    Compare,
    Comparison,
    Condition,
    Day,
    Instant,
    IsNull,
    Match,
    Matches,
    Not,
    Or,
    Related,
    Within,
)

FieldValue = str | Decimal | datetime | bool | None


@dataclass(frozen=True, slots=True)
class Superiors:
    """Everybody a holder reports to, directly or through others: ids and e-mail addresses.

    Not `complete` means that the line leads out of what is known: who is not in it may still be above it.
    """

    names: frozenset[str] = frozenset()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One seat as a filter sees it: values by path (instants aware, numbers decimal), and what is known of its holder.

    A path that is left out has no value. `groups` says for a group whether the holder is in it; what is left out, or
    None, is not known. `superiors` is None where nobody has read them.
    """

    values: Mapping[str, FieldValue]
    groups: Mapping[str, bool | None] = field(default_factory=dict)
    superiors: Superiors | None = field(default=None)


Predicate = Callable[[Row], bool | None]


def compile_memory(tree: Condition, now: datetime) -> Predicate:
    """Return the function that answers a filter for a seat, with the time it is asked at."""
    match tree:
        case And(parts):
            return _all([compile_memory(part, now) for part in parts])
        case Or(parts):
            return _any([compile_memory(part, now) for part in parts])
        case Not(part):
            return _not(compile_memory(part, now))
        case Compare(name, how, Day(day)):
            return _on(name, _by_day(how, *as_utc(day)))
        case Compare(name, how, Instant(at)):
            return _on(name, _against(how, at.astimezone(UTC)))
        case Compare(name, how, value):
            return _on(name, _against(how, value.value))
        case IsNull(name, null):
            return lambda row: (row.values.get(name) is None) is null
        case Among(name, values):
            chosen = frozenset(value.value for value in values)
            return _on(name, lambda found: found in chosen)
        case Matches(how, name, text):
            return _on(name, _matching(how, text))
        case Within(name, days):
            start = now - timedelta(days=days)
            return _on(name, lambda at: start <= at < now)
        case Related("in_group", name):
            return lambda row: row.groups.get(name)
        case Related(_, name):
            return lambda row: _reports(row.superiors, name)


def _on(name: str, test: Callable[[Any], bool]) -> Predicate:
    def predicate(row: Row) -> bool | None:
        value = row.values.get(name)
        return None if value is None else test(value)

    return predicate


OPERATORS: Final[Mapping[Comparison, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _against(how: Comparison, value: Any) -> Callable[[Any], bool]:
    compare = OPERATORS[how]
    return lambda found: compare(found, value)


def _by_day(how: Comparison, start: datetime, end: datetime) -> Callable[[datetime], bool]:
    tests: Mapping[Comparison, Callable[[datetime], bool]] = {
        "eq": lambda at: start <= at < end,
        "ne": lambda at: not start <= at < end,
        "lt": lambda at: at < start,
        "le": lambda at: at < end,
        "gt": lambda at: at >= end,
        "ge": lambda at: at >= start,
    }
    return tests[how]


def _matching(how: Match, text: str) -> Callable[[str], bool]:
    tests: Mapping[Match, Callable[[str], bool]] = {
        "contains": lambda found: text in found,
        "startswith": lambda found: found.startswith(text),
        "endswith": lambda found: found.endswith(text),
    }
    return tests[how]


def _reports(superiors: Superiors | None, name: str) -> bool | None:
    if superiors is None:
        return None
    return True if name in superiors.names else False if superiors.complete else None


def _all(parts: Sequence[Predicate]) -> Predicate:
    def predicate(row: Row) -> bool | None:
        answer: bool | None = True
        for part in parts:
            found = part(row)
            if found is False:
                return False
            if found is None:
                answer = None
        return answer

    return predicate


def _any(parts: Sequence[Predicate]) -> Predicate:
    def predicate(row: Row) -> bool | None:
        answer: bool | None = False
        for part in parts:
            found = part(row)
            if found is True:
                return True
            if found is None:
                answer = None
        return answer

    return predicate


def _not(part: Predicate) -> Predicate:
    def predicate(row: Row) -> bool | None:
        found = part(row)
        return None if found is None else not found

    return predicate
