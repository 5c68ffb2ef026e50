"""The database: exact values, one transaction a unit, and the difference between an outage and a wrong statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from libs.common.tests.common_world import NOW, Said, notice, sqlite_url
from reclaim.common import envelope
from reclaim.common.clock import FixedClock
from reclaim.common.db import (
    Amount,
    BigKey,
    Database,
    Json,
    Unit,
    UtcDateTime,
    among,
    insert_many,
    is_outage,
    prepared,
    update_many,
)
from reclaim.common.db import given as given_as

THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", BigKey, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime),
    sa.Column("amount", Amount),
    sa.Column("document", Json),
    sa.Column("number", sa.Integer),
    sa.Column("locked_by", sa.Text),
    sa.Column("body", sa.LargeBinary),
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, FixedClock(NOW))
    async with opened.engine.begin() as connection:
        await connection.run_sync(THINGS.metadata.create_all)
    yield opened
    await opened.close()


async def keep(database: Database, **values: object) -> None:
    async with database.unit() as unit:
        await unit.db.execute(sa.insert(THINGS), [values])


async def count(database: Database) -> int:
    async with database.reading() as db:
        return int((await db.execute(sa.select(sa.func.count()).select_from(THINGS))).scalar_one())


async def round_trip(database: Database, column: sa.Column[object], values: list[object]) -> list[object]:
    async with database.unit() as unit:
        await unit.db.execute(sa.delete(THINGS))
        await unit.db.execute(sa.insert(THINGS), [{column.name: value} for value in values])
        return list((await unit.db.execute(sa.select(column).order_by(THINGS.c.id))).scalars())


# ------------------------------------------------------------------------------------------- many rows

ROWS = [
    {
        "id": n,
        "at": NOW + timedelta(seconds=n, microseconds=n),
        "amount": Decimal(n) / 8,
        "document": {"n": [n, None, "\\"]},
        "locked_by": f"é{n} \\x00 {{}}[]\"'\n☃𝄞",
        "body": bytes([n % 256, 0, 92, 34]),
    }
    for n in range(1, 300)
]
ROWS.append({"id": 300, "at": None, "amount": None, "document": None, "locked_by": None, "body": None})


async def stored(database: Database) -> list[dict[str, object]]:
    async with database.reading() as db:
        rows = await db.execute(sa.select(THINGS).order_by(THINGS.c.id))
        return [dict(row) for row in rows.mappings()]


@pytest.mark.parametrize("first", ["as the first statement", "after another statement"])
async def test_many_rows_go_in_as_they_are(database: Database, first: str) -> None:
    """On PostgreSQL by COPY once a transaction has begun, by arrays before that."""
    async with database.unit() as unit:
        if first == "after another statement":
            await unit.db.execute(sa.text("SELECT 1"))
        await insert_many(unit.db, THINGS, ROWS, same={"number": 7})
        await insert_many(unit.db, THINGS, [])
    assert await stored(database) == [{**row, "number": 7} for row in ROWS]


@pytest.mark.parametrize("statement", [None, "SELECT 1"])
async def test_many_rows_go_with_their_transaction(database: Database, statement: str | None) -> None:
    async def fail() -> None:
        async with database.unit() as unit:
            if statement:
                await unit.db.execute(sa.text(statement))
            await insert_many(unit.db, THINGS, ROWS)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await fail()
    assert await count(database) == 0


async def test_who_is_cancelled_in_the_middle_of_a_statement_leaves_nothing_locked(database: Database) -> None:
    begun = asyncio.Event()

    def note(_db: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT"):
            begun.set()

    sa.event.listen(database.engine.sync_engine, "before_cursor_execute", note)

    async def write() -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.select(THINGS.c.id))
            await insert_many(unit.db, THINGS, ROWS, replacing=("id",))

    for turns in range(10):
        begun.clear()
        writing = asyncio.create_task(write())
        await asyncio.wait_for(begun.wait(), 10)
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        async with asyncio.timeout(10), database.unit() as unit:
            await unit.db.execute(sa.delete(THINGS))


async def test_many_rows_replace_those_with_their_key(database: Database) -> None:
    async with database.unit() as unit:
        await insert_many(unit.db, THINGS, ROWS[:200], same={"number": 1})
        await insert_many(unit.db, THINGS, ROWS[100:], same={"number": 2}, replacing=("id",))
    assert await stored(database) == [{**row, "number": 1 if row["id"] <= 100 else 2} for row in ROWS]


@pytest.mark.parametrize("how", ["copied", "replacing", "changed"])
async def test_a_document_that_is_null_is_no_missing_one_however_it_is_written(database: Database, how: str) -> None:
    nothing = {"id": 1, "document": None}
    async with database.unit() as unit:
        await unit.db.execute(sa.text("SELECT 1"))
        if how == "changed":
            await insert_many(unit.db, THINGS, ROWS[:1])
            await update_many(unit.db, THINGS, "id", [nothing])
        else:
            await insert_many(unit.db, THINGS, [nothing], replacing=() if how == "copied" else ("id",))
        missing = sa.select(sa.func.count()).where(THINGS.c.document.is_(sa.null()))
        assert (await unit.db.execute(missing)).scalar_one() == 0
    assert (await stored(database))[0]["document"] is None


async def test_columns_that_are_to_be_kept_stay_when_a_row_is_replaced(database: Database) -> None:
    ids = [{"id": n} for n in range(1, 5)]
    later = NOW + timedelta(days=1)
    async with database.unit() as unit:
        first = {"number": 1, "at": NOW, "locked_by": "old"}
        await insert_many(unit.db, THINGS, ids[:2], same=first, replacing=("id",))
        again = {"number": 2, "at": later, "locked_by": "new"}
        await insert_many(unit.db, THINGS, ids[:3], same=again, replacing=("id",), keeping=("number", "at"))
        # Nothing is left to replace: rows that are there stay as they are.
        await insert_many(unit.db, THINGS, ids, same={"number": 3}, replacing=("id",), keeping=("number",))
    found = [(row["number"], row["at"], row["locked_by"]) for row in await stored(database)]
    assert found == [(1, NOW, "new"), (1, NOW, "new"), (2, later, "new"), (3, None, None)]


async def test_a_row_is_not_replaced_by_an_older_one(database: Database) -> None:
    earlier, just = NOW - timedelta(days=1), NOW - timedelta(microseconds=1)
    async with database.unit() as unit:
        for number, at in ((1, NOW), (2, earlier), (3, NOW), (4, just)):
            await insert_many(
                unit.db, THINGS, [{"id": 1}], same={"number": number, "at": at}, replacing=("id",), unless_newer="at"
            )
    assert [(row["number"], row["at"]) for row in await stored(database)] == [(3, NOW)]


async def test_many_rows_are_changed_where_their_key_is(database: Database) -> None:
    async with database.unit() as unit:
        await insert_many(unit.db, THINGS, ROWS, same={"number": 1})
        changes = [{"id": n, "locked_by": f"by {n}", "body": b"\x00\xff"} for n in (5, 250, 9999)]
        await update_many(unit.db, THINGS, "id", changes, same={"number": 2, "at": NOW})
        await update_many(unit.db, THINGS, "id", [])
    found = {row["id"]: row for row in await stored(database) if row["number"] == 2}
    assert {key: (row["locked_by"], row["at"], row["body"]) for key, row in found.items()} == {
        5: ("by 5", NOW, b"\x00\xff"),
        250: ("by 250", NOW, b"\x00\xff"),
    }


@pytest.mark.parametrize("wrong", [{"at": NOW.replace(tzinfo=None)}, {"amount": Decimal("NaN")}, {"id": 1}])
async def test_one_wrong_row_of_many_leaves_nothing(database: Database, wrong: dict[str, object]) -> None:
    async def write() -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.text("SELECT 1"))
            await insert_many(unit.db, THINGS, [*ROWS, {**ROWS[0], "id": 999, **wrong}])

    with pytest.raises((exc.StatementError, asyncpg.PostgresError, ValueError)) as refused:
        await write()
    assert not is_outage(refused.value)
    assert await count(database) == 0


# ------------------------------------------------------------------------------------------- values

ROUND_TRIPS = hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# SQLite keeps ten-thousandths in 64 bits.
AMOUNTS = st.decimals(min_value=-922_000_000_000_000, max_value=922_000_000_000_000, places=4)
INSTANTS = st.datetimes(
    min_value=datetime(1900, 1, 1),  # noqa: DTZ001
    max_value=datetime(2999, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, *(timezone(timedelta(hours=hours)) for hours in (-11, 5.5, 14))]),
)


async def test_amounts_are_exact(database: Database) -> None:
    loop = asyncio.get_running_loop()

    @ROUND_TRIPS
    @given(st.lists(AMOUNTS, min_size=1, max_size=20))
    def try_it(amounts: list[Decimal]) -> None:
        kept = asyncio.run_coroutine_threadsafe(round_trip(database, THINGS.c.amount, list(amounts)), loop).result(30)
        assert kept == amounts
        assert all(isinstance(amount, Decimal) and amount.as_tuple().exponent == -4 for amount in kept)

    await asyncio.to_thread(try_it)


async def test_amounts_add_up_in_sql_without_losing_anything(database: Database) -> None:
    async with database.unit() as unit:
        rows = [{"amount": Decimal("0.1")}] * 3 + [{"amount": Decimal("-0.3001")}, {"amount": None}]
        await unit.db.execute(sa.insert(THINGS), rows)
        total = (await unit.db.execute(sa.select(sa.func.sum(THINGS.c.amount)))).scalar_one()
        assert total == Decimal("-0.0001")
        below = sa.select(sa.func.count()).where(THINGS.c.amount < Decimal("0.1"))
        assert (await unit.db.execute(below)).scalar_one() == 1
    async with database.reading() as db:
        assert None in (await db.execute(sa.select(THINGS.c.amount))).scalars().all()


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "sNaN"])
async def test_what_is_no_amount_is_refused(database: Database, amount: str) -> None:
    with pytest.raises(exc.StatementError, match="finite"):
        await keep(database, amount=Decimal(amount))


async def test_instants_come_back_the_same_and_in_utc(database: Database) -> None:
    loop = asyncio.get_running_loop()

    @ROUND_TRIPS
    @given(st.lists(INSTANTS, min_size=1, max_size=20))
    def try_it(instants: list[datetime]) -> None:
        kept = asyncio.run_coroutine_threadsafe(round_trip(database, THINGS.c.at, list(instants)), loop).result(30)
        assert kept == instants
        assert all(isinstance(instant, datetime) and instant.tzinfo is UTC for instant in kept)

    await asyncio.to_thread(try_it)


async def test_instants_are_compared_as_instants(database: Database) -> None:
    half_past_nine_in_the_east = datetime(2026, 11, 2, 14, 30, tzinfo=timezone(timedelta(hours=5)))
    for at in (NOW, half_past_nine_in_the_east, NOW + timedelta(hours=1)):
        await keep(database, at=at)
    async with database.reading() as db:
        ordered = (await db.execute(sa.select(THINGS.c.id).order_by(THINGS.c.at))).scalars().all()
        assert ordered == [1, 2, 3]
        until_half_past = sa.select(sa.func.count()).where(THINGS.c.at <= half_past_nine_in_the_east)
        assert (await db.execute(until_half_past)).scalar_one() == 2


async def test_a_naive_instant_is_refused(database: Database) -> None:
    with pytest.raises(exc.StatementError, match="an instant needs a time zone"):
        await keep(database, at=NOW.replace(tzinfo=None))
    with pytest.raises(exc.StatementError, match="an instant needs a time zone"):
        async with database.reading() as db:
            await db.execute(sa.select(THINGS).where(THINGS.c.at < NOW.replace(tzinfo=None)))


async def test_documents_come_back(database: Database) -> None:
    document = {"a": [1, None, {"é": True}], "b": "175.00"}
    assert await round_trip(database, THINGS.c.document, [document]) == [document]


async def test_a_list_of_any_length_is_one_bound_value(database: Database) -> None:
    for value in ("a", "b", "c"):
        await keep(database, locked_by=value)
    async with database.reading() as db:
        chosen = sa.select(sa.func.count()).select_from(THINGS).where(among(THINGS.c.locked_by, given_as("ids")))
        for names, expected in (([], 0), (["a", "c", "x"], 2), ([f"{n}" for n in range(20_000)] + ["b"], 1)):
            assert (await db.execute(chosen, {"ids": names})).scalar_one() == expected
            at_once = sa.select(sa.func.count()).where(among(THINGS.c.locked_by, names))
            assert (await db.execute(at_once)).scalar_one() == expected


async def test_two_lists_in_one_statement_are_kept_apart(database: Database) -> None:
    for value in ("a", "b", "c"):
        await keep(database, locked_by=value)
    async with database.reading() as db:
        either = sa.or_(among(THINGS.c.locked_by, ["a"]), among(THINGS.c.locked_by, ["c", "x"]))
        for condition, expected in ((either, ["a", "c"]), (~either, ["b"])):
            found = await db.execute(sa.select(THINGS.c.locked_by).where(condition).order_by(THINGS.c.locked_by))
            assert list(found.scalars()) == expected


async def test_a_prepared_insert_keeps_types_and_takes_what_is_new(database: Database) -> None:
    rows = [{"id": n, "at": NOW, "document": {"n": n, "quoted": "a 'b' \\c :d"}} for n in range(3)]
    async with database.unit() as unit:
        dialect = unit.db.dialect
        insert = sqlite.insert(THINGS) if dialect.name == "sqlite" else postgresql.insert(THINGS)
        statement = prepared(insert.on_conflict_do_nothing(), dialect, ["id", "at", "document"])
        await unit.db.execute(statement, rows[:2])
        await unit.db.execute(statement, [{**row, "document": None} for row in rows[:2]] + rows[2:])
        found = (await unit.db.execute(sa.select(THINGS.c["id", "at", "document"]).order_by(THINGS.c.id))).mappings()
        assert [dict(row) for row in found] == rows


# ------------------------------------------------------------------------------------------- units


async def test_a_unit_commits_once_and_wakes_after_that(said: Said) -> None:
    told: list[frozenset[str]] = []
    looks: list[asyncio.Task[int]] = []

    def woken(jobs: frozenset[str]) -> None:
        told.append(jobs)
        looks.append(asyncio.create_task(said.outbox.depth(said.database)))

    said.database.on_commit = woken
    async with said.database.unit() as unit:
        assert unit.now == NOW
        unit.emit(notice(1), notice(2))
        unit.emit(notice(3))
        unit.wake("mail")
        unit.wake("mail")
        await asyncio.sleep(0)
        assert told == []
    assert told == [frozenset({"mail", "relay"})]
    assert await looks[0] == 1, "the commit came first: one row, since they are of one type"
    async with said.database.unit() as unit:
        pass
    assert len(told) == 1, "a unit that did nothing wakes nobody"


async def test_a_unit_that_fails_leaves_nothing_and_wakes_nobody(said: Said) -> None:
    told: list[frozenset[str]] = []
    said.database.on_commit = told.append

    async def fail_with(failure: BaseException) -> None:
        async with said.database.unit() as unit:
            unit.emit(notice(1))
            unit.wake("mail")
            raise failure

    for failure in (RuntimeError("defect"), asyncio.CancelledError()):
        with pytest.raises(type(failure)):
            await fail_with(failure)
    assert await said.rows() == {}
    assert told == []


async def test_a_unit_whose_events_cannot_be_kept_leaves_nothing(database: Database) -> None:

    async def say() -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.insert(THINGS), [{"number": 1}])
            unit.emit(notice(1))

    with pytest.raises(RuntimeError, match="without an outbox"):
        await say()
    assert await count(database) == 0


async def test_units_do_not_see_one_anothers_half_done_work(database: Database) -> None:
    begun, looked = asyncio.Event(), asyncio.Event()

    async def writes() -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.insert(THINGS), [{"number": 1}])
            begun.set()
            await looked.wait()

    writing = asyncio.create_task(writes())
    await begun.wait()
    assert await count(database) == 0
    looked.set()
    await writing
    assert await count(database) == 1


async def test_reading_leaves_nothing_and_sees_one_state(database: Database) -> None:
    await keep(database, number=1)

    async def write(failure: Exception | None = None) -> None:
        async with database.reading() as db:
            await db.execute(sa.insert(THINGS), [{"number": 2}])
            if failure is not None:
                raise failure

    await write()
    with pytest.raises(RuntimeError):
        await write(RuntimeError())
    assert await count(database) == 1


async def test_many_writers_at_once_all_succeed(database: Database) -> None:
    async def increase() -> None:
        async with database.unit() as unit:
            row = sa.select(THINGS.c.number).where(THINGS.c.id == 1).with_for_update()
            number = (await unit.db.execute(row)).scalar_one()
            await asyncio.sleep(0)
            await unit.db.execute(sa.update(THINGS).where(THINGS.c.id == 1).values(number=number + 1))

    await keep(database, number=0)
    await asyncio.gather(*(increase() for _ in range(40)))
    async with database.reading() as db:
        assert (await db.execute(sa.select(THINGS.c.number))).scalar_one() == 40


async def test_two_processes_may_write_to_one_sqlite_file(tmp_path: Path) -> None:
    """Each opens the new file by itself: neither the switch to write-ahead logging nor a write may fail."""
    url = sqlite_url(tmp_path)
    several = [Database(url, FixedClock(NOW)) for _ in range(3)]

    async def write(database: Database) -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.text("CREATE TABLE IF NOT EXISTS t (n INTEGER)"))
        for _ in range(15):
            async with database.unit() as unit:
                n = (await unit.db.execute(sa.text("SELECT count(*) FROM t"))).scalar_one()
                await unit.db.execute(sa.text("INSERT INTO t VALUES (:n)"), {"n": n})

    await asyncio.gather(*(write(database) for database in several))
    async with several[0].reading() as db:
        assert (await db.execute(sa.text("SELECT count(DISTINCT n) FROM t"))).scalar_one() == 45
    for database in several:
        await database.close()


# ------------------------------------------------------------------------------------------- outages


async def fails_with(database: Database, **values: object) -> BaseException:
    with pytest.raises(Exception) as failed:  # noqa: PT011
        await keep(database, **values)
    return failed.value


async def test_a_wrong_statement_is_no_outage_whatever_its_words(database: Database) -> None:
    async with database.unit() as unit:
        await unit.db.execute(sa.text("CREATE TABLE strict (busy_since TEXT NOT NULL)"))
    for wrong in (
        "INSERT INTO strict VALUES (NULL)",
        "SELECT locked_until FROM strict",
        "SELECT 'database is locked' FROM nowhere",
        "nonsense",
    ):
        with pytest.raises(exc.DBAPIError) as refused:
            async with database.unit() as unit:
                await unit.db.execute(sa.text(wrong))
        assert not is_outage(refused.value), wrong
    assert not is_outage(await fails_with(database, number=2**80))
    assert not is_outage(await fails_with(database, locked_by="\ud800"))
    for other in (ValueError("locked"), KeyError("busy"), RuntimeError("disk is full")):
        assert not is_outage(other)


async def test_an_error_does_not_repeat_the_values_it_was_given(database: Database) -> None:
    with pytest.raises(exc.DBAPIError) as refused:
        async with database.unit() as unit:
            await unit.db.execute(sa.text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "203.0.113.7"})
    assert "203.0.113.7" not in str(refused.value)


async def test_a_locked_sqlite_file_is_an_outage(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path), FixedClock(NOW))
    impatient = Database(sqlite_url(tmp_path), FixedClock(NOW))
    async with database.unit() as unit:
        await unit.db.execute(sa.text("CREATE TABLE t (n INTEGER)"))
        async with impatient.reading() as db:
            await db.execute(sa.text("PRAGMA busy_timeout = 1"))
            with pytest.raises(exc.OperationalError) as refused:
                await db.execute(sa.text("INSERT INTO sqlite_sequence VALUES (1, 1)"))
        assert not is_outage(refused.value), "no such table: a wrong statement"
        with pytest.raises(exc.OperationalError) as locked:
            async with impatient.engine.connect() as connection:
                # Pooled: this is the connection that waits for a millisecond only.
                await connection.execute(sa.text("SELECT 1"))
        assert is_outage(locked.value)
    await impatient.close()
    await database.close()


async def test_a_sqlite_file_that_cannot_be_opened_is_an_outage(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    database = Database(sqlite_url(folder), FixedClock(NOW))
    folder.rmdir()
    with pytest.raises(exc.OperationalError) as gone:
        async with database.unit():
            pass
    assert is_outage(gone.value)
    await asyncio.sleep(0.1)  # the driver's thread ends by itself, and reports to this loop
    await database.close()


async def test_a_full_sqlite_file_is_an_outage(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path), FixedClock(NOW))

    async def fill() -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.text("PRAGMA max_page_count = 8"))
            await unit.db.execute(sa.text("CREATE TABLE t (b BLOB)"))
            await unit.db.execute(sa.text("INSERT INTO t VALUES (zeroblob(1000000))"))

    with pytest.raises(exc.OperationalError) as full:
        await fill()
    assert is_outage(full.value)
    await database.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://nobody@127.0.0.1:1/nowhere",
        "postgresql+asyncpg://nobody@/nowhere?host=/nonexistent",
        "postgresql+asyncpg://nobody@no-such-host.invalid/nowhere",
    ],
)
async def test_a_server_that_cannot_be_reached_is_an_outage(url: str) -> None:
    database = Database(url, FixedClock(NOW))
    with pytest.raises(OSError) as unreachable:  # noqa: PT011
        async with database.unit():
            pass
    assert is_outage(unreachable.value)
    await database.close()


async def end(database: Database, pid: int) -> None:
    async with database.unit() as unit:
        ended = await unit.db.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        assert ended.scalar_one()


@pytest.mark.servers
@pytest.mark.parametrize("moment", ["before a statement", "before a copy", "in a statement", "before the commit"])
async def test_a_backend_that_ends_in_mid_transaction_is_an_outage(emptied_database: str, moment: str) -> None:
    database, other = Database(emptied_database, FixedClock(NOW)), Database(emptied_database, FixedClock(NOW))
    woken: list[frozenset[str]] = []
    database.on_commit = woken.append
    async with other.engine.begin() as connection:
        await connection.run_sync(THINGS.metadata.create_all)

    async def write() -> None:
        async with database.unit() as unit:
            unit.wake("mail")
            await unit.db.execute(sa.insert(THINGS), [{"number": 1}])
            pid = int((await unit.db.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one())
            if moment == "in a statement":
                sleeping = asyncio.ensure_future(unit.db.execute(sa.text("SELECT pg_sleep(20)")))
                await asyncio.sleep(0.1)
                await end(other, pid)
                await sleeping
            await end(other, pid)
            if moment == "before a statement":
                await unit.db.execute(sa.insert(THINGS), [{"number": 2}])
            if moment == "before a copy":
                await insert_many(unit.db, THINGS, [{"number": 2}])

    with pytest.raises((exc.DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)) as cut:
        await write()
    assert is_outage(cut.value)
    assert woken == []
    assert await count(database) == 0, "and the next unit has a connection that works"
    await keep(database, number=3)
    await database.close()
    await other.close()


@pytest.mark.servers
async def test_a_deadlock_is_an_outage_for_the_one_that_gives_way(emptied_database: str) -> None:
    database = Database(emptied_database, FixedClock(NOW))
    async with database.engine.begin() as connection:
        await connection.run_sync(THINGS.metadata.create_all)
        await connection.execute(sa.insert(THINGS), [{"number": 0}, {"number": 0}])
    both = asyncio.Barrier(2)

    async def take(first: int, second: int) -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.text("SET LOCAL deadlock_timeout = '50ms'"))
            await unit.db.execute(sa.update(THINGS).where(THINGS.c.id == first).values(number=1))
            await both.wait()
            await unit.db.execute(sa.update(THINGS).where(THINGS.c.id == second).values(number=1))

    results = await asyncio.gather(take(1, 2), take(2, 1), return_exceptions=True)
    (failed,) = [result for result in results if result is not None]
    assert is_outage(failed)
    await database.close()


@pytest.mark.servers
async def test_one_connection_used_twice_at_once_is_a_defect_not_an_outage(emptied_database: str) -> None:
    database = Database(emptied_database, FixedClock(NOW))
    async with database.reading() as db:
        raw = (await db.get_raw_connection()).driver_connection
        sleeping = asyncio.ensure_future(raw.fetchval("SELECT pg_sleep(0.3)"))
        await asyncio.sleep(0.05)
        with pytest.raises(exc.InterfaceError) as clash:
            await db.execute(sa.text("SELECT 1"))
        assert not is_outage(clash.value)
        await sleeping
    await database.close()


async def test_a_pool_that_stays_empty_is_an_outage() -> None:
    assert is_outage(exc.TimeoutError("QueuePool limit reached"))
    assert is_outage(TimeoutError())


async def test_a_reading_sees_one_state_whatever_is_committed_meanwhile(database: Database) -> None:
    async with database.reading() as db:
        counted = sa.select(sa.func.count()).select_from(THINGS)
        before = (await db.execute(counted)).scalar_one()
        await keep(database, number=1)
        assert (await db.execute(counted)).scalar_one() == before
    assert await count(database) == before + 1


async def test_a_part_of_a_unit_is_taken_back_with_all_that_it_said_and_asked_for(said: Said) -> None:
    woken: list[frozenset[str]] = []
    said.database.on_commit = woken.append
    ended: list[str] = []

    async def end(what: str) -> None:
        ended.append(what)

    async def part(unit: Unit, what: str, *, fails: bool) -> None:
        async with unit.attempt():
            unit.emit(notice(what))
            unit.wake(what)
            unit.at_end(partial(end, what))
            if fails:
                await unit.db.execute(sa.text("SELECT no_such_column FROM outbox"))

    async with said.database.unit() as unit:
        await part(unit, "first", fails=False)
        with pytest.raises(exc.DBAPIError):
            await part(unit, "failing", fails=True)
        await part(unit, "last", fails=False)
    assert ended == ["first", "last"]
    assert woken == [{"first", "last", "relay"}]
    async with said.database.reading() as db:
        bodies = (await db.execute(sa.text("SELECT body FROM outbox"))).scalars()
        parts = envelope.split(envelope.join(list(bodies)))
    assert [part.data.case_id for part in parts] == ["first", "last"]  # type: ignore[union-attr]


async def test_what_is_left_for_the_end_runs_last_in_the_same_transaction(database: Database) -> None:
    order = []

    async def last() -> None:
        order.append("last")

    async with database.unit() as unit:
        unit.at_end(last)
        await unit.db.execute(sa.insert(THINGS), [{"number": 1}])
        order.append("first")
    assert order == ["first", "last"]

    async def fails() -> None:
        raise RuntimeError("at the end")

    async def open_and_fail() -> None:
        async with database.unit() as unit:
            await unit.db.execute(sa.insert(THINGS), [{"number": 2}])
            unit.at_end(fails)

    with pytest.raises(RuntimeError, match="at the end"):
        await open_and_fail()
    assert await count(database) == 1
