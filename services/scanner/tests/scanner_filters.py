"""Random filters and rows that provoke: no value, wildcards, letters that differ by case or fold, edges of days."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from reclaim.scanner.filters.fields import FIELDS, Kind
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
    Matches,
    Not,
    Number,
    Or,
    Related,
    Text,
    Value,
    Within,
)
from reclaim.scanner.known_seats import KnownSeat

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

TEXTS = [
    *("", " ", "Sales", "sales", "SALES", "Sales EMEA", "100%", "100", "%", "_", "a_b", "axb", "\\", "a\\b", "\\%"),
    *("[x]", "[", "]", "*", "?", "^", "a*b", "O'Brien", "''", '"', "ß", "ss", "İ", "i", "\u0131", "I", "é", "e\u0301"),
    *("Ärzte", "ärzte", "日本", "😀", "ﬀ", "ff", "\u00a0", "Z", "a", "~", "null", "true", "--", ";"),
]
NUMBERS = [Decimal(text) for text in ("0", "0.0001", "-1", "9.9999", "10", "10.0001", "25", "99999999999999.9999")]
DAYS = [date(2026, 11, 20), date(2026, 11, 19), date(2026, 2, 28), date(2024, 2, 29), date(2026, 12, 31)]
INSTANTS = [
    datetime(day.year, day.month, day.day, tzinfo=UTC) + step
    for day in DAYS
    for step in (timedelta(0), timedelta(microseconds=-1), timedelta(hours=23, minutes=59, microseconds=7))
] + [NOW, NOW - timedelta(days=30), NOW - timedelta(days=30, microseconds=1), NOW + timedelta(days=1)]
GROUPS = ["VIP", "vip", "All staff", "100%"]
BOSSES = ["p0", "p1", "p2", "p3", "p9", "p1@acme.example", "P1@acme.example", "nobody"]


def random_text(chance: random.Random) -> str:
    """Return a text of the pool, or a part of one."""
    text = chance.choice(TEXTS)
    if len(text) > 1 and chance.random() < 0.4:
        start = chance.randrange(len(text))
        text = text[start : start + chance.randint(1, 3)]
    return text


def random_value(chance: random.Random, kind: str) -> Value:
    match kind:
        case "text":
            return Text(random_text(chance))
        case "number":
            return Number(chance.choice(NUMBERS))
        case "flag":
            return Flag(chance.random() < 0.5)
        case _ if chance.random() < 0.5:
            return Day(chance.choice(DAYS))
    return Instant(chance.choice(INSTANTS))


def random_leaf(chance: random.Random, kind: Kind) -> Condition:
    field = chance.choice(list(FIELDS[kind].values()))
    choices: list[Callable[[], Condition]] = [lambda: IsNull(field.path, chance.random() < 0.5)]
    comparisons = COMPARISONS if field.type != "flag" else ("eq", "ne")
    choices += [lambda: Compare(field.path, chance.choice(comparisons), random_value(chance, field.type))] * 4
    if field.type in ("text", "number"):
        size = 60 if chance.random() < 0.02 else chance.randint(1, 4)
        choices += [lambda: Among(field.path, tuple(random_value(chance, field.type) for _ in range(size)))] * 2
    if field.type == "text":
        choices += [lambda: Matches(chance.choice(MATCHES), field.path, random_text(chance) or "%")] * 4
    if field.type == "instant":
        choices += [lambda: Within(field.path, chance.choice((1, 30, 3650)))] * 2
    if chance.random() < 0.05:
        how = chance.choice(RELATIONS)
        return Related(how, chance.choice(GROUPS if how == "in_group" else BOSSES))
    return chance.choice(choices)()


def random_tree(chance: random.Random, kind: Kind, levels: int = 3) -> Condition:
    if levels <= 1 or chance.random() < 0.45:
        return random_leaf(chance, kind)
    if chance.random() < 0.25:
        return Not(random_tree(chance, kind, levels - 1))
    parts = tuple(random_tree(chance, kind, levels - 1) for _ in range(chance.randint(2, 3)))
    return And(parts) if chance.random() < 0.5 else Or(parts)


def random_seat(chance: random.Random, kind: Kind, number: int) -> KnownSeat:
    """Return a seat of which any part that may be missing is missing now and then."""

    def maybe(value: Any) -> Any:
        return value if chance.random() < 0.7 else None

    installed = kind == "installed"
    return KnownSeat(
        kind=kind,
        product=chance.choice(("SFDC", "AUL")),
        product_name=random_text(chance),
        holder_id=f"p{number}",
        holder_name=random_text(chance),
        holder_email=maybe(f"p{number}@acme.example"),
        device_id=chance.choice(TEXTS) if installed else "",
        department=maybe(random_text(chance)),
        account_type=maybe("Standard"),
        active=maybe(chance.random() < 0.5),
        account_created_at=maybe(chance.choice(INSTANTS)),
        # p0 is the top; p7 and p8 lead in a circle; p9 to somebody nobody has read.
        manager_id={0: None, 7: "p8", 8: "p7", 9: "ghost"}.get(number, maybe(f"p{chance.randrange(12)}")),
        manager_name=maybe(random_text(chance)),
        manager_email=maybe("p1@acme.example"),
        price=maybe(chance.choice(NUMBERS)),
        currency=maybe(chance.choice(("USD", "EUR"))),
        granted_at=maybe(chance.choice(INSTANTS)),
        version=maybe(random_text(chance)) if installed else None,
        device_name=maybe(random_text(chance)) if installed else None,
        device_platform=maybe("windows") if installed else None,
        last_used_at=maybe(chance.choice(INSTANTS)),
        first_seen_at=chance.choice(INSTANTS),
    )
