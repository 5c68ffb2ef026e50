"""SQL and memory give the same answer to the same filter, on both databases: the standing fuzz test."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import migrate
from reclaim.common.db import Database
from reclaim.connectors.ports import Members
from reclaim.scanner import known_seats, service
from reclaim.scanner.filters import compile_memory, compile_sql, show
from reclaim.scanner.filters.fields import KINDS, Kind
from reclaim.scanner.filters.tree import Among, And, Compare, Matches, Not, Number, Or, Related, Text
from reclaim.scanner.known_seats import KNOWN_SEATS, Holders, KnownSeat
from services.scanner.tests.scanner_filters import GROUPS, NOW, random_seat, random_tree

FILTERS = 10_000
"""Random filters of each kind of software; with two kinds 20,000 on each database."""
AT_ONCE = 100
SEATS = 36


@asynccontextmanager
async def database(tmp_path: Path, url: str | None) -> AsyncIterator[Database]:
    opened = Database(url or f"sqlite+aiosqlite:///{tmp_path}/scanner.db")
    await migrate.upgrade(opened.engine, Path(service.__file__).parent / "migrations")
    try:
        yield opened
    finally:
        await opened.close()


def random_groups(chance: random.Random) -> dict[str, Members]:
    """Return who is in the groups, of which one was not read and one is in doubt."""
    people = [f"p{number}" for number in range(SEATS)]
    *read, doubtful, _unread = GROUPS
    found = {name: Members(frozenset(chance.sample(people, chance.randrange(SEATS)))) for name in read}
    return found | {doubtful: Members(frozenset(chance.sample(people, SEATS // 3)), doubt="it has a role in it")}


async def staged(opened: Database, chance: random.Random, kind: Kind) -> tuple[list[KnownSeat], dict[str, Members]]:
    """Store random seats by the way that a scan takes, and the members of groups; return both."""
    seats = [random_seat(chance, kind, number) for number in range(SEATS)]
    async with opened.unit() as unit:
        await known_seats.remember(unit.db, "c1", seats, NOW)
        groups = random_groups(chance)
        await known_seats.set_members(unit.db, "c1", groups, NOW)
        # A namesake on another connection, who is in every group and reports to everybody.
        await known_seats.remember(
            unit.db, "c2", [random_seat(random.Random(1), kind, number) for number in (3, 4)], NOW
        )
        everybody = Members(frozenset(f"p{number}" for number in range(SEATS)))
        await known_seats.set_members(unit.db, "c2", dict.fromkeys(GROUPS, everybody), NOW)
    return seats, groups


@pytest.mark.timeout(400)  # on an idle core it takes a fraction of a minute
@pytest.mark.parametrize("kind", KINDS)
async def test_twenty_thousand_random_filters_answer_the_same_in_sql_and_in_memory(
    kind: Kind, tmp_path: Path, database_url: str | None
) -> None:
    chance = random.Random(f"reclaim {kind}")
    answers: Counter[bool | None] = Counter()
    async with database(tmp_path, database_url) as opened:
        seats, groups = await staged(opened, chance, kind)
        async with opened.reading() as db:
            above = await known_seats.superiors(db, "c1", {seat.holder_id for seat in seats})
            held = Holders(groups, above)
            rows = {seat.holder_id: known_seats.filter_row(seat, held) for seat in seats}
            source = known_seats.source(db, kind)
            here = sa.select(KNOWN_SEATS.c.holder_id).where(KNOWN_SEATS.c.connection_id == "c1")
            for _ in range(0, FILTERS, AT_ONCE):
                trees = [random_tree(chance, kind, chance.choice((1, 2, 2, 3))) for _ in range(AT_ONCE)]
                asked = [compile_sql(tree, source, NOW).label(f"f{at}") for at, tree in enumerate(trees)]
                found = {row[0]: row[1:] for row in await db.execute(here.add_columns(*asked))}
                assert len(found) == SEATS
                for at, tree in enumerate(trees):
                    answer = compile_memory(tree, NOW)
                    for holder, row in rows.items():
                        expected, got = answer(row), found[holder][at]
                        assert got == expected, f"{show(tree)}\nof {row}\nmemory {expected}, SQL {got}"
                        answers[expected] += 1
    assert sum(answers.values()) == FILTERS * SEATS
    assert min(answers[value] for value in (True, False, None)) > FILTERS, f"a dull fuzz proves little: {answers}"


async def test_counting_over_the_register_is_what_memory_says(tmp_path: Path, database_url: str | None) -> None:
    chance = random.Random(3)
    tree = Or((Compare("price", "gt", Number(Decimal(10))), Matches("contains", "user/department", "Sa")))
    async with database(tmp_path, database_url) as opened:
        seats, _groups = await staged(opened, chance, "subscription")
        async with opened.reading() as db:
            others = [random_seat(random.Random(1), "subscription", number) for number in (3, 4)]
            rows = [known_seats.filter_row(seat) for seat in (*seats, *others)]
            expected = Counter(compile_memory(tree, NOW)(row) for row in rows)
            matched = await known_seats.match(db, tree, "subscription", NOW)
    assert (matched.chosen, matched.left, matched.unknown) == (expected[True], expected[False], expected[None])
    assert matched.chosen
    assert matched.unknown


async def test_no_value_of_a_filter_becomes_sql(tmp_path: Path, database_url: str | None) -> None:
    nasty = "x') OR 1=1 --"
    tree = And(
        (
            Compare("user/department", "eq", Text(nasty)),
            Among("user/name", (Text(nasty),)),
            Matches("startswith", "user/email", nasty),
            Not(Related("in_group", nasty)),
            Related("reports_to", nasty),
        )
    )
    async with database(tmp_path, database_url) as opened, opened.reading() as db:
        answer = compile_sql(tree, known_seats.source(db, "subscription"), NOW)
        assert nasty not in str(sa.select(answer).compile(opened.engine))
        assert (await known_seats.match(db, tree, "subscription", NOW)).chosen == 0


async def test_a_seat_that_is_read_again_keeps_when_it_was_first_seen(tmp_path: Path, database_url: str | None) -> None:
    seat = KnownSeat(product="SFDC", product_name="Sales", holder_id="p1", holder_name="Ann", manager_id="p2")
    later = NOW + timedelta(days=9)
    async with database(tmp_path, database_url) as opened:
        async with opened.unit() as unit:
            await known_seats.remember(unit.db, "c1", [seat], NOW)
        async with opened.unit() as unit:
            renamed = KnownSeat(product="SFDC", product_name="Sales", holder_id="p1", holder_name="Anne")
            boss = KnownSeat(product="SFDC", product_name="Sales", holder_id="p2", holder_name="Bea", manager_id="p3")
            await known_seats.remember(unit.db, "c1", [renamed, boss], later)
        async with opened.reading() as db:
            rows = {row.holder_id: row for row in await db.execute(sa.select(KNOWN_SEATS))}
            above = await known_seats.superiors(db, "c1", {"p1", "p2", "p4"})
            seen = await known_seats.first_seen(db, "c1", {"p1", "p2", "p4"})
    assert {key: since.at for key, since in seen.items()} == {("SFDC", "p1", ""): NOW, ("SFDC", "p2", ""): later}
    assert (rows["p1"].holder_name, rows["p1"].first_seen_at, rows["p1"].last_seen_at) == ("Anne", NOW, later)
    assert above["p1"].names == frozenset()
    assert above["p1"].complete
    assert above["p2"].names == {"p3"}
    assert not above["p2"].complete, "who is above p3 was never read"
    assert "p4" not in above


async def test_a_group_is_counted_as_it_was_last_read(tmp_path: Path, database_url: str | None) -> None:
    tree = Related("in_group", "VIP")
    seats = [KnownSeat(product="SFDC", product_name="Sales", holder_id=one, holder_name=one) for one in ("p1", "p2")]

    async def matched(db: AsyncConnection) -> tuple[int, int, int]:
        found = await known_seats.match(db, tree, "subscription", NOW)
        return found.chosen, found.left, found.unknown

    async with database(tmp_path, database_url) as opened, opened.unit() as unit:
        await known_seats.remember(unit.db, "c1", seats, NOW)
        assert await matched(unit.db) == (0, 0, 2), "nobody has read it"
        await known_seats.set_members(unit.db, "c1", {"VIP": Members(frozenset({"p1"}))}, NOW)
        assert await matched(unit.db) == (1, 1, 0)
        await known_seats.set_members(unit.db, "c1", {"VIP": Members(frozenset({"p2"}), doubt="a role")}, NOW)
        assert await matched(unit.db) == (1, 0, 1)
        await known_seats.set_members(unit.db, "c1", {"VIP": Members()}, NOW)
        assert await matched(unit.db) == (0, 2, 0)


async def test_two_readings_at_once_keep_the_members_of_one_group(tmp_path: Path, database_url: str | None) -> None:
    async with database(tmp_path, database_url) as opened:

        async def read(*people: str) -> None:
            async with opened.unit() as unit:
                await known_seats.set_members(unit.db, "c1", {"VIP": Members(frozenset(people))}, NOW)

        for before in ("p1", "p2"):  # of a group that is new, and of one that was read before
            async with opened.unit() as first:
                await known_seats.set_members(first.db, "c1", {"VIP": Members(frozenset({before, "p3"}))}, NOW)
                second = asyncio.create_task(read("p3", "p4"))
                await asyncio.sleep(0.2)
            await second
            async with opened.reading() as db:
                assert set((await db.execute(sa.select(known_seats.MEMBERSHIPS.c.person_id))).scalars()) == {"p3", "p4"}
