"""Savings' projection on PostgreSQL, against a plain INSERT ... SELECT of the same tables in the same run.

    make bench BENCH=projection
    RECLAIM_TEST_POSTGRES_URL=... python benchmarks/projection.py --events 1000000

- *ceiling*: one transaction that fills the three reporting tables from the whole log, with nothing to resume and no
  conflict to look for.
- *rebuild*: the service's own, in chunks that are committed one by one, and the swap; at least 0.5 of the ceiling.
- *live*: the newest 500 events at a time, each batch a transaction on the full tables; at least 0.2 of the rebuild.
- *append*: the same with the log itself being written, as the event handler does it; for information.

Everything takes its turn in every round, and a ratio is the median of the rounds' ratios, so that a machine that is
busy for a while slows both sides of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa

from reclaim.common import migrate
from reclaim.common.clock import FixedClock
from reclaim.common.db import Database, open_engine
from reclaim.savings import jobs, service, store
from reclaim.savings.domain import Entry

MIGRATIONS = Path(service.__file__).parent / "migrations"
BATCH = 500
GOALS = {"rebuild_to_ceiling": (0.5, 0.7), "live_to_rebuild": (0.2, 0.3)}
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)

FILL = """
INSERT INTO event_log
    (position, event_id, case_id, kind, connection_id, product, product_name, department, rule_id, rule_name,
     currency, monthly, occurred_at, day, dry_run)
SELECT n, 'event-' || n, 'case-' || lpad(seat::text, 12, '0'),
       CASE n % 2 WHEN 0 THEN 'frozen' ELSE 'reclaimed' END, 'org-1',
       'product-' || seat % 20, 'Product ' || seat % 20, 'department-' || seat % 30,
       CASE n % 2 WHEN 1 THEN 'rule-' || seat % 5 END, CASE n % 2 WHEN 1 THEN 'Rule ' || seat % 5 END,
       CASE seat % 3 WHEN 0 THEN 'EUR' ELSE 'USD' END, 25 + seat % 300, at, at::date, false
FROM (SELECT n, n / 2 + CASE n % 2 WHEN 0 THEN CAST(:lag AS bigint) ELSE 0 END AS seat,
             timestamptz '2026-01-01 00:00Z' + n / 3000 % 324 * interval '1 day' AS at
      FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n) AS numbered
"""
"""Freezes and, `lag` cases later, reclaims take turns: 3,000 events a day, 20 products, 30 departments.

Case ids ascend, as the real ones do.
"""

LAG = 20_000
"""Cases between a seat's freeze and its reclaim: in half a million a year, those of two weeks."""


@asynccontextmanager
async def scratch_database(admin_url: str) -> AsyncIterator[Database]:
    """Give a database of its own on the server, with the service's tables; it is gone afterwards."""
    name = f"reclaim_bench_{uuid.uuid4().hex[:8]}"
    admin = open_engine(admin_url)
    async with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql(f"CREATE DATABASE {name}")
        database = Database(
            sa.make_url(admin_url).set(database=name).render_as_string(hide_password=False), FixedClock(NOW)
        )
        try:
            await migrate.upgrade(database.engine, MIGRATIONS)
            yield database
        finally:
            await database.close()
            await connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.dispose()


async def fill(database: Database, first: int, last: int) -> None:
    """Write events straight into the log."""
    async with database.unit() as unit:
        await unit.db.execute(sa.text(FILL), {"first": first, "last": last, "lag": LAG})
        await unit.db.execute(sa.update(store.LOG_HEAD).values(position=last))
    async with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("ANALYZE event_log")


async def ceiling(database: Database, events: int) -> float:
    """Return events a second of the plain INSERT ... SELECT, which is rolled back."""
    sources = (store.daily_rows(), store.seat_rows(), store.name_rows(sa.true()))
    async with database.reading() as db:
        await store.create_fresh(db)
        await db.exec_driver_sql("SET LOCAL work_mem = '64MB'")
        began = time.perf_counter()
        for table, source in zip(store.FRESH.tables(), sources, strict=True):
            await db.execute(sa.insert(table).from_select([column.name for column in table.c], source))
        return events / (time.perf_counter() - began)


async def rebuild(database: Database, events: int) -> float:
    """Return events a second of the service's rebuild."""
    began = time.perf_counter()
    await jobs.rebuild(database, requested_by="benchmark")
    return events / (time.perf_counter() - began)


async def live(database: Database, after: int, events: int) -> float:
    """Return events a second of projecting batches that are in the log already."""
    await fill(database, after + 1, after + events)
    began = time.perf_counter()
    for start in range(after, after + events, BATCH):
        async with database.unit() as unit:
            await store.project(unit.db, store.LIVE, "live", after=start, upto=start + BATCH)
    return events / (time.perf_counter() - began)


async def append(database: Database, label: str, events: int) -> float:
    """Return events a second of appending batches to the log and projecting them."""
    batches = [[_entry(f"{label}-{n}", n) for n in range(start, start + BATCH)] for start in range(0, events, BATCH)]
    began = time.perf_counter()
    for batch in batches:
        async with database.unit() as unit:
            await store.append(unit.db, batch)
    return events / (time.perf_counter() - began)


def _entry(identity: str, n: int) -> Entry:
    return Entry(
        event_id=identity,
        case_id=identity,
        kind="reclaimed",
        connection_id="org-1",
        product=f"product-{n % 20}",
        product_name=f"Product {n % 20}",
        department=f"department-{n % 30}",
        rule_id=f"rule-{n % 5}",
        rule_name=f"Rule {n % 5}",
        currency="USD",
        monthly=Decimal(25 + n % 300),
        occurred_at=NOW,
        dry_run=False,
    )


async def measure(url: str, events: int, rounds: int) -> dict[str, float]:
    """Run everything; return the median rates and their ratios.

    Raises:
        SystemExit: the tables are not what the log gives.
    """
    live_events = max(BATCH, events // 20 // BATCH * BATCH)
    rates: dict[str, list[float]] = {"ceiling": [], "rebuild": [], "live": [], "append": []}
    async with scratch_database(url) as database:
        total = events
        await fill(database, 1, total)
        for number in range(rounds):
            rates["ceiling"].append(await ceiling(database, total))
            rates["rebuild"].append(await rebuild(database, total))
            rates["live"].append(await live(database, total, live_events))
            rates["append"].append(await append(database, f"appended-{number}", live_events))
            total += 2 * live_events
            latest = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
            print(f"round {number + 1} of {rounds}, events/s: {latest}", file=sys.stderr)
        async with database.reading() as db:
            if not (await store.verify(db)).ok:
                sys.exit("the reporting tables are not what the log gives")

    def ratio(of: str, to: str) -> float:
        return statistics.median(one / other for one, other in zip(rates[of], rates[to], strict=True))

    return {
        **{name: statistics.median(values) for name, values in rates.items()},
        "rebuild_to_ceiling": ratio("rebuild", "ceiling"),
        "live_to_rebuild": ratio("live", "rebuild"),
    }


def main() -> None:
    """Measure, print, and fail below a floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    url = os.environ.get("RECLAIM_TEST_POSTGRES_URL")
    if not url:
        sys.exit("RECLAIM_TEST_POSTGRES_URL is not set: run `make bench BENCH=projection`, which starts a PostgreSQL")
    found = asyncio.run(measure(url, arguments.events, arguments.rounds))
    if arguments.output == "json":
        print(json.dumps(found))
    else:
        for name in ("ceiling", "rebuild", "live", "append"):
            print(f"{name:<20}{found[name]:>14,.0f} events/s")
        for name, (floor, aim) in GOALS.items():
            print(f"{name:<20}{found[name]:>14.2f}   floor {floor}, aim {aim}")
    if any(found[name] < floor for name, (floor, _) in GOALS.items()):
        sys.exit("below the floor")


if __name__ == "__main__":
    main()
