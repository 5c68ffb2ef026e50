"""Filters as text: read by the grammar beside this file, and written back in one canonical form.

`parse(show(tree)) == tree` holds for every tree that `checks.check` accepts, as long as its text is not too long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Final

from lark import Lark, Token, UnexpectedInput, UnexpectedToken
from lark.visitors import Transformer_NonRecursive

from reclaim.scanner.filters.checks import FilterRefused, Misfit, Part, Problem, misfits, too_deep, too_long
from reclaim.scanner.filters.fields import HOLDER, Kind, nearest
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

WITHIN: Final = "within_days"
FUNCTIONS: Final = (*MATCHES, WITHIN, *RELATIONS)


@dataclass(frozen=True, slots=True)
class ReadFilter:
    """What a text says: a tree, or else every problem that was found, in the order of the text."""

    tree: Condition | None
    problems: tuple[Problem, ...] = ()


def parse(text: str, kind: Kind) -> Condition:
    """Return the tree that a text says.

    Raises:
        FilterRefused: it does not fit; each problem says where, what was found and what is expected.
    """
    found = read(text, kind)
    if found.tree is None:
        raise FilterRefused(found.problems, text)
    return found.tree


def read(text: str, kind: Kind) -> ReadFilter:
    """Return the tree that a text says, or what is wrong with it."""
    if long := too_long(text):
        return ReadFilter(None, (Problem(0, 0, long),))
    try:
        parsed = _parser().parse(text)
    except UnexpectedInput as error:
        return ReadFilter(None, (_unexpected(text, error),))
    build = _Build(kind)
    tree: Condition | None = build.transform(parsed)
    problems = sorted(build.problems, key=lambda problem: problem.at)
    if problems or tree is None:
        return ReadFilter(None, tuple(problems))
    for trouble in (too_deep(tree), too_long(show(tree))):
        if trouble:
            return ReadFilter(None, (Problem(0, len(text), trouble),))
    return ReadFilter(tree)


# ------------------------------------------------------------------------------------------------ reading


@cache
def _parser() -> Lark:
    grammar = files(__package__ or __name__).joinpath("filter.lark").read_text()
    return Lark(grammar, start="either", parser="lalr", lexer="contextual")


_EXPECTED: Final = {
    "NAME": "a field",
    "FUNCTION": f"one of {', '.join(FUNCTIONS)}",
    "OPERATOR": ", ".join(COMPARISONS),
    "STRING": "a text in single quotes",
    "NUMBER": "a number",
    "INSTANT": "an instant",
    "DAY": "a date",
    "TRUE": "true",
    "FALSE": "false",
    "NULL": "null",
    "AND": "and",
    "OR": "or",
    "NOT": "not",
    "IN": "in",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": ",",
    "$END": "the end",
}
"""How the terminals of the grammar are called to people, in the order in which they are listed."""

_FOUND: Final = re.compile(r"'(?:[^']|'')*'|[\w/.:+-]+|[=<>!&|]+|\S")
_FOUND_SHOWN: Final = 40


def _unexpected(text: str, error: UnexpectedInput) -> Problem:
    place: int | None = error.pos_in_stream
    match = None
    # At the end of the text the parser names no place.
    if not (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        match = _FOUND.search(text, place if place is not None and place >= 0 else len(text))
    wanted = _expected(text[: match.start()] if match else text)
    if match is None:
        return Problem(len(text.rstrip()), 0, f"the filter ends where {wanted} is expected.")
    found, at = match[0], match.start()
    if found == "'":
        return Problem(at, len(text) - at, "a text begins here that is not closed; a quote in it is doubled.")
    shown = found if len(found) <= _FOUND_SHOWN else found[:_FOUND_SHOWN] + "…"
    return Problem(at, len(found), f"found {shown}, expected {wanted}.")


def _expected(before: str) -> str:
    """Return what may follow a text that is right so far."""
    reading = _parser().parse_interactive(before)
    reading.exhaust_lexer()
    accepted: set[str] = reading.accepts()  # type: ignore[no-untyped-call]
    named = [words for name, words in _EXPECTED.items() if name in accepted]
    return f"{', '.join(named[:-1])} or {named[-1]}" if len(named) > 1 else "".join(named)


class _Build(Transformer_NonRecursive):  # type: ignore[type-arg]
    """Turns the parser's tree into ours, and collects what does not fit with its place. A part that fails is None."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self._kind = kind
        self.problems: list[Problem] = []

    def either(self, parts: list[Any]) -> Condition | None:
        return None if None in parts else Or(tuple(parts))

    def both(self, parts: list[Any]) -> Condition | None:
        return None if None in parts else And(tuple(parts))

    def negation(self, parts: list[Any]) -> Condition | None:
        return None if parts[0] is None else Not(parts[0])

    def comparison(self, tokens: list[Token]) -> Condition | None:
        name, operator, value = tokens
        places: dict[Part, list[Token]] = {"field": [name], "operator": [operator], "value": [value]}
        if value.type == "NULL":
            if operator not in ("eq", "ne"):
                self._refuse(operator, "null is compared by eq or ne only.")
                return None
            return self._checked(IsNull(str(name), null=operator == "eq"), places)
        literal = self._literal(value)
        return None if literal is None else self._checked(Compare(str(name), _comparison(operator), literal), places)

    def among(self, tokens: list[Token]) -> Condition | None:
        name, *values = tokens
        literals = []
        for value in values:
            if value.type == "NULL":
                self._refuse(value, "a list has no null; add: or … eq null.")
            elif (literal := self._literal(value)) is not None:
                literals.append(literal)
        if len(literals) < len(values):
            return None
        return self._checked(Among(str(name), tuple(literals)), {"field": [name], "operator": [name], "value": values})

    def call(self, tokens: list[Token]) -> Condition | None:
        function, name, value = tokens
        places: dict[Part, list[Token]] = {"field": [name], "operator": [function], "value": [value]}
        literal = self._literal(value) if value.type != "NULL" else None
        if function == WITHIN:
            if not isinstance(literal, Number) or literal.value != int(literal.value):
                self._refuse(value, f"{WITHIN} needs a whole number of days, such as {WITHIN}(last_used_at, 30).")
                return None
            return self._checked(Within(str(name), int(literal.value)), places)
        if function not in FUNCTIONS:
            close = nearest(str(function), FUNCTIONS)
            hint = f"the nearest is {close}" if close else f"there are {', '.join(FUNCTIONS)}"
            self._refuse(function, f"there is no function {str(function)[:40]!r}; {hint}.")
            return None
        if not isinstance(literal, Text):
            self._refuse(value, f"{function} needs a text in single quotes.")
            return None
        for relation in RELATIONS:
            if function == relation:
                if name != HOLDER:
                    self._refuse(name, f"{function} is about {HOLDER}: {function}({HOLDER}, …).")
                    return None
                return self._checked(Related(relation, literal.value), places)
        return self._checked(Matches(_match(function), str(name), literal.value), places)

    def _literal(self, token: Token) -> Value | None:
        text = str(token)
        match token.type:
            case "STRING":
                return Text(text[1:-1].replace("''", "'"))
            case "NUMBER":
                return Number(Decimal(text) or Decimal(0))
            case "TRUE" | "FALSE":
                return Flag(token.type == "TRUE")
        try:
            if token.type == "DAY":
                return Day(date.fromisoformat(text))
            return Instant(datetime.fromisoformat(text).astimezone(UTC))
        except (ValueError, OverflowError):
            self._refuse(token, f"{text} is no day or time that there is.")
            return None

    def _checked(self, leaf: Leaf, places: dict[Part, list[Token]]) -> Condition | None:
        found = misfits(leaf, self._kind)
        for misfit in found:
            self.problems.append(_placed(misfit, places))
        return None if found else leaf

    def _refuse(self, token: Token, message: str) -> None:
        self.problems.append(Problem(token.start_pos or 0, len(token), message))


def _placed(misfit: Misfit, places: dict[Part, list[Token]]) -> Problem:
    tokens = places[misfit.part]
    token = tokens[misfit.number if misfit.number < len(tokens) else 0]
    return Problem(token.start_pos or 0, len(token), misfit.message)


def _comparison(token: Token) -> Any:
    return str(token)


_match = _comparison
"""Both are literals of the tree, which the grammar and the names of the functions let through."""


# ------------------------------------------------------------------------------------------------ writing


def show(tree: Condition) -> str:
    """Return a tree as text, in the one form that every tree has. Conditions within others stand in parentheses."""
    match tree:
        case Or(parts):
            return " or ".join(map(_inner, parts))
        case And(parts):
            return " and ".join(map(_inner, parts))
        case Not(part):
            return f"not ({show(part)})"
        case Compare(field, operator, value):
            return f"{field} {operator} {literal(value)}"
        case IsNull(field, null):
            return f"{field} {'eq' if null else 'ne'} null"
        case Among(field, values):
            return f"{field} in ({', '.join(map(literal, values))})"
        case Matches(how, field, text):
            return f"{how}({field}, {literal(Text(text))})"
        case Within(field, days):
            return f"{WITHIN}({field}, {days})"
        case Related(how, name):
            return f"{how}({HOLDER}, {literal(Text(name))})"


def _inner(part: Condition) -> str:
    return f"({show(part)})" if isinstance(part, And | Or) else show(part)


def literal(value: Value) -> str:
    """Return a value as it is written in a filter."""
    match value:
        case Text(text):
            return "'" + text.replace("'", "''") + "'"
        case Number(amount):
            # Without an exponent and without superfluous zeros; zero has no sign.
            shown = f"{amount:f}" if amount else "0"
            return shown.rstrip("0").rstrip(".") if "." in shown else shown
        case Instant(at):
            return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case Day(day):
            return day.isoformat()
        case Flag(flag):
            return "true" if flag else "false"
