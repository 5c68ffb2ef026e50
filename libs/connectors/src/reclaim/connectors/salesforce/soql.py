"""SOQL: queries as data, and the one place where a value becomes part of a query's text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Final
from urllib.parse import quote_plus

MAX_IDS: Final = 600
MAX_QUERY_BYTES: Final = 16_000
"""Salesforce refuses a GET whose URL is longer than 16,384 bytes; the rest is room for host and path."""

MAX_STRING: Final = 4_000
_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")
_ID: Final = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

Value = str | bool | int | date | datetime | None


@dataclass(frozen=True, slots=True)
class Query:
    """One query. `conditions` are joined by AND; each is made by the functions below, or written out in our code."""

    fields: str
    sobject: str
    conditions: tuple[str, ...] = ()
    group: str = ""
    order: str = ""
    limit: int | None = None

    def where(self, *conditions: str) -> Query:
        """Return the query with further conditions."""
        return replace(self, conditions=(*self.conditions, *conditions))

    def __str__(self) -> str:
        parts = ["SELECT", self.fields, "FROM", self.sobject]
        if self.conditions:
            parts += ["WHERE", " AND ".join(self.conditions)]
        if self.group:
            parts += ["GROUP BY", self.group]
        if self.order:
            parts += ["ORDER BY", self.order]
        if self.limit is not None:
            parts += ["LIMIT", str(self.limit)]
        return " ".join(parts)


def equal(field: str, value: Value) -> str:
    """Return the condition that a field has a value."""
    return f"{field} = {literal(value)}"


def at_least(field: str, value: Value) -> str:
    """Return the condition that a field has a value or a greater one."""
    return f"{field} >= {literal(value)}"


def greater(field: str, value: Value) -> str:
    """Return the condition that a field has a greater value."""
    return f"{field} > {literal(value)}"


def among(field: str, values: Collection[Value]) -> str:
    """Return the condition that a field has one of the values, of which there is at least one."""
    return f"{field} IN {literal(values)}"


def found_in(field: str, query: Query) -> str:
    """Return the condition that a field has a value which another query selects: a semi-join.

    Salesforce takes at most two in a query, only joined by AND, and none within another.
    """
    return f"{field} IN ({query})"


def literal(value: Value | Collection[Value]) -> str:
    """Return a value, or a list of values for `IN`, as SOQL; the text can never end its own literal.

    Raises:
        ValueError: a naive datetime, a control character that SOQL cannot write, a text over 4,000 characters, an
            empty list, or a type that SOQL has no literal for.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        text = value.translate(_ESCAPES)
        if _CONTROL.search(text):
            raise ValueError("SOQL cannot write a control character")
        if len(text) > MAX_STRING:
            raise ValueError(f"SOQL texts hold at most {MAX_STRING} characters")
        return f"'{text}'"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a datetime in SOQL needs a time zone")
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        parts = [literal(each) for each in value]
        if not parts:
            raise ValueError("an IN list cannot be empty: ask nothing instead")
        return f"({','.join(parts)})"
    raise ValueError(f"SOQL has no literal for a {type(value).__name__}")


def name(text: str) -> str:
    """Return the API name of an object, field or permission set, refused unless it is one.

    Raises:
        ValueError: it is not a name; names cannot be escaped, only checked.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not an API name: letters, digits and underscores only")
    return text


def is_id(text: str) -> bool:
    """Tell whether the text has the form of a record id (15 or 18 letters and digits)."""
    return bool(_ID.fullmatch(text))


def in_chunks(query: Query, field: str, ids: Sequence[str], *, most: int = MAX_IDS) -> Iterator[Query]:
    """Yield the query for the records whose field is one of the ids, as often as it takes to keep each URL short.

    Raises:
        ValueError: one of the ids is none.
    """
    for each in ids:
        if not is_id(each):
            raise ValueError(f"{each!r} is not a Salesforce id")
    one = "0" * 18
    first = _length(query.where(among(field, [one])))
    each_more = _length(query.where(among(field, [one, one]))) - first
    size = max(1, min(most, (MAX_QUERY_BYTES - first) // each_more))
    for start in range(0, len(ids), size):
        yield query.where(among(field, ids[start : start + size]))


def in_chunks_of_texts(query: Query, field: str, texts: Sequence[str]) -> Iterator[Query]:
    """Yield the query for the records whose field is one of the texts, as often as it takes to keep each URL short.

    Texts differ in length, so each counts with its own; one that is too long by itself still gets a query.

    Raises:
        ValueError: one of the texts is none that SOQL can write.
    """
    bare = _length(query.where(among(field, [""])))
    chunk: list[str] = []
    length = bare
    for text in texts:
        more = len(quote_plus(f",{literal(text)}"))
        if chunk and length + more > MAX_QUERY_BYTES:
            yield query.where(among(field, chunk))
            chunk, length = [], bare
        chunk.append(text)
        length += more
    if chunk:
        yield query.where(among(field, chunk))


def _length(query: Query) -> int:
    """Return how many bytes of a URL a query takes."""
    return len(quote_plus(str(query)))
