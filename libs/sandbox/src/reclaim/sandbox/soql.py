"""SOQL text to a tree, by the grammar beside this file; whatever it does not hold is refused as MALFORMED_QUERY."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from lark import Lark, Token, Transformer, UnexpectedInput
from lark.exceptions import VisitError

from .errors import SalesforceError

MAX_QUERY = 100_000
"""Characters in a query."""
MAX_STRING = 4_000
"""Characters in one string of a WHERE clause."""

LiteralKind = Literal["string", "number", "datetime", "date", "interval", "boolean", "null"]

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", '"': '"', "'": "'", "\\": "\\"}
_LIKE_FLAGS = re.IGNORECASE | re.DOTALL
_ONE_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'")


@dataclass(frozen=True, slots=True)
class Value:
    """A literal: its kind, and its text without quotes but with its escapes."""

    kind: LiteralKind
    text: str


@dataclass(frozen=True, slots=True)
class Path:
    """A field, or a field reached through relationships."""

    text: str

    @property
    def parts(self) -> list[str]:
        return self.text.split(".")


@dataclass(frozen=True, slots=True)
class Call:
    """An aggregate function; only COUNT may stand without a field."""

    function: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Item:
    """One column of the result."""

    what: Path | Call
    alias: str | None


@dataclass(frozen=True, slots=True)
class Compare:
    """A field against one literal (`=`, `!=`, `<`, `<=`, `>`, `>=`, `LIKE`) or several (`IN`, `NOT IN`)."""

    path: Path
    operator: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """A semi-join, or with `negated` an anti-join."""

    path: Path
    query: Query
    negated: bool


@dataclass(frozen=True, slots=True)
class Logic:
    """`AND` or `OR` over conditions, or `NOT` over one."""

    operator: Literal["AND", "OR", "NOT"]
    parts: tuple[Condition, ...]


Condition = Compare | Join | Logic


@dataclass(frozen=True, slots=True)
class Ordering:
    what: Path | Call
    descending: bool
    nulls_last: bool


@dataclass(frozen=True, slots=True)
class Query:
    items: tuple[Item, ...]
    object: str
    where: Condition | None
    group: tuple[Path, ...]
    order: tuple[Ordering, ...]
    limit: int | None
    offset: int | None


def malformed(message: str) -> SalesforceError:
    """Return the refusal of a query that is not understood."""
    return SalesforceError("MALFORMED_QUERY", message)


def too_complicated() -> SalesforceError:
    """Return the refusal of a query that nests too deeply."""
    return SalesforceError("QUERY_TOO_COMPLICATED", "the conditions of the query nest too deeply")


def unescape(text: str) -> str:
    """Return the characters that a string literal stands for, outside LIKE."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            raise malformed(f"Illegal character sequence '\\{code}' in string literal")
        return _ESCAPES[code]

    return _ESCAPE.sub(one, text) if "\\" in text else text


def like_pattern(text: str) -> re.Pattern[str]:
    """Return the pattern a LIKE literal matches: `%` is any run, `_` any one character, in any case."""
    parts = [""]
    at = 0
    while at < len(text):
        width = 1
        if text[at] == "%":
            parts.append("")
        elif text[at] == "_":
            parts[-1] += "."
        elif text[at] != "\\":
            parts[-1] += re.escape(text[at])
        else:
            width = 6 if re.match(r"\\u[0-9a-fA-F]{4}", text[at : at + 6]) else 2
            escaped = text[at : at + width]
            parts[-1] += re.escape(escaped[1] if escaped[1] in "%_" else unescape(escaped))
        at += width
    first, *rest = parts
    if not rest:
        return re.compile(first, _LIKE_FLAGS)
    *middle, last = rest
    # Each part between two % settles for its first place: atomic, so that no pattern can make the match hang.
    inner = "".join(f"(?>.*?{part})" for part in middle if part)
    return re.compile(f"{first}{inner}.*{last}", _LIKE_FLAGS)


def _string(token: str) -> Value:
    text = token[1:-1]
    if len(text) > MAX_STRING:
        raise malformed(f"a string in the WHERE clause holds more than {MAX_STRING} characters")
    return Value("string", text)


class _Build(Transformer[Token, Query]):
    """Turns the parser's tree into ours; one method for each rule and terminal that carries meaning."""

    def PATH(self, token: Token) -> Path:  # noqa: N802
        return Path(str(token))

    def STRING(self, token: Token) -> Value:  # noqa: N802
        return _string(str(token))

    def STRINGS(self, token: Token) -> tuple[Value, ...]:  # noqa: N802
        return tuple(_string(each) for each in _ONE_STRING.findall(str(token)))

    def NUMBER(self, token: Token) -> Value:  # noqa: N802
        return Value("number", str(token))

    def DATETIME(self, token: Token) -> Value:  # noqa: N802
        return Value("datetime", str(token).upper())

    def DATE(self, token: Token) -> Value:  # noqa: N802
        return Value("date", str(token))

    def DATE_WORD(self, token: Token) -> Value:  # noqa: N802
        return Value("interval", str(token).upper())

    DATE_COUNT = DATE_WORD

    def TRUE(self, token: Token) -> Value:  # noqa: N802
        return Value("boolean", str(token).lower())

    FALSE = TRUE

    def NULL(self, token: Token) -> Value:  # noqa: N802
        return Value("null", str(token).lower())

    def column(self, children: list[Any]) -> Path:
        return children[0]  # type: ignore[no-any-return]

    def call(self, children: list[Any]) -> Call:
        return Call(children[0].text.upper(), children[1])

    def aliased(self, children: list[Any]) -> Item:
        return Item(children[0], children[1].text)

    def values(self, children: list[Any]) -> tuple[Value, ...]:
        return tuple(children)

    def subquery(self, children: list[Any]) -> Query:
        return children[0]  # type: ignore[no-any-return]

    def compare(self, children: list[Any]) -> Compare:
        path, operator, value = children
        return Compare(path, "!=" if operator == "<>" else str(operator), (value,))

    def like(self, children: list[Any]) -> Compare:
        return Compare(children[0], "LIKE", (children[1],))

    def in_list(self, children: list[Any]) -> Condition:
        return _membership(children[0], children[1], negated=False)

    def not_in_list(self, children: list[Any]) -> Condition:
        return _membership(children[0], children[1], negated=True)

    def and_chain(self, children: list[Any]) -> Logic:
        return Logic("AND", tuple(children))

    def or_chain(self, children: list[Any]) -> Logic:
        return Logic("OR", tuple(children))

    def negation(self, children: list[Any]) -> Logic:
        return Logic("NOT", tuple(children))

    def where(self, children: list[Any]) -> dict[str, Any]:
        return {"where": children[0]}

    def group(self, children: list[Any]) -> dict[str, Any]:
        return {"group": tuple(children)}

    def ordering(self, children: list[Any]) -> Ordering:
        what, direction, nulls = children
        return Ordering(
            what,
            descending=direction is not None and direction.type == "DESC",
            nulls_last=nulls is not None and nulls.type == "NULLS_LAST",
        )

    def order(self, children: list[Any]) -> dict[str, Any]:
        return {"order": tuple(children)}

    def limit(self, children: list[Any]) -> dict[str, Any]:
        return {"limit": _whole(children[0])}

    def offset(self, children: list[Any]) -> dict[str, Any]:
        return {"offset": _whole(children[0])}

    def query(self, children: list[Any]) -> Query:
        items: list[Item] = []
        clauses: dict[str, Any] = {"where": None, "group": (), "order": (), "limit": None, "offset": None}
        name = ""
        for child in children:
            if isinstance(child, Item):
                items.append(child)
            elif isinstance(child, dict):
                clauses.update(child)
            elif isinstance(child, Call | Path):
                items.append(Item(child, None))
        # The object's name is the last bare path: the items all stand before it.
        name_item = items.pop()
        if isinstance(name_item.what, Path):
            name = name_item.what.text
        return Query(items=tuple(items), object=name, **clauses)


def _whole(token: Token) -> int:
    if len(token) > 9:
        raise SalesforceError("NUMBER_OUTSIDE_VALID_RANGE", f"{token} is too large a number")
    return int(token)


def _membership(path: Path, among: Query | tuple[Value, ...], *, negated: bool) -> Condition:
    if isinstance(among, Query):
        return Join(path, among, negated)
    return Compare(path, "NOT IN" if negated else "IN", among)


@cache
def _parser() -> Lark:
    grammar = files(__package__ or __name__).joinpath("soql.lark").read_text()
    return Lark(grammar, start="query", parser="lalr", lexer="contextual", maybe_placeholders=True)


def parse(text: str) -> Query:
    """Return the tree of a query.

    Raises:
        SalesforceError: MALFORMED_QUERY with the row and column of what was not understood.
    """
    if len(text) > MAX_QUERY:
        raise malformed(f"SOQL statements cannot be longer than {MAX_QUERY} characters.")
    try:
        return _Build().transform(_parser().parse(text))
    except UnexpectedInput as error:
        raise malformed(_pointing(text, error)) from None
    except VisitError as error:
        if isinstance(error.orig_exc, SalesforceError):
            raise error.orig_exc from None
        if isinstance(error.orig_exc, RecursionError):
            raise too_complicated() from None
        raise
    except RecursionError:
        raise too_complicated() from None


def _pointing(text: str, error: UnexpectedInput) -> str:
    """Say where in the text the parser stopped, and at what."""
    place: int | None = error.pos_in_stream
    # At the end of the text the parser names no place.
    at = place if place is not None and place >= 0 else len(text)
    found = re.match(r"\s*('[^']*'?|[\w.:]+|\S)", text[at:])
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    start = max(text.rfind("\n", 0, at) + 1, at - 30)
    near = text[start : at + 30].split("\n")[0]
    token = found[1][:60] if found else "<EOF>"
    return f"\n{near}\n{' ' * (at - start)}^\nERROR at Row:{line}:Column:{column}\nunexpected token: '{token}'"
