"""A CSV export of use, from the first byte to stored records, against reading and storing the same rows unchecked.

    make bench BENCH=imports
    RECLAIM_TEST_POSTGRES_URL=... python benchmarks/imports.py --rows 1000000

The file is made up while it is sent, as a client would send it. One row in a hundred is bad, in turn: another encoding,
a formula, a cell too few, a number that is none. The scanner is the service as the host builds it, on PostgreSQL: the
file kept in parts, each row read, checked against the catalogue and summed with its likes, records and refusals
stored. The *ceiling* reads the same bytes with Python's `csv` and copies the cells of the good rows into a plain table.

Besides the ratio it holds the import to what it promises whatever the machine:

- good rows are kept and bad ones counted, all of them; the first thousand are listed with line and reason;
- the process grows by no more than `MOST_GROWTH` megabytes, wherever the peak is;
- while it runs, its counts show how far it is.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from _scratch import resident, scratch_database
from cryptography.fernet import Fernet

from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import SystemClock
from reclaim.common.service import Running
from reclaim.common.settings import Settings
from reclaim.connectors.registry import Registry
from reclaim.scanner import catalog_actions, import_actions, import_store, service
from reclaim.scanner.imports import read_wanted
from reclaim.scanner.ports import Deps
from reclaim.scanner.settings import ScannerSettings

FLOOR: Final = 0.01
AIM: Final = 0.05
MOST_GROWTH: Final = 100
"""Megabytes."""

LISTED: Final = 1_000
BAD_EVERY: Final = 100
AT_ONCE: Final = 1_000
HEADING: Final = b"User,Device,Product,File Name,Platform,Month,Seconds,Runs\n"
BAD: Final = (
    "zoë{n}@acme.example,PC-{n},,visio.exe,windows,2026-10,60,1\n".encode("cp1252"),
    b'"=HYPERLINK(""http://evil.example"")",PC-{n},,visio.exe,windows,2026-10,60,1\n',
    b"user{n}@acme.example,PC-{n},visio.exe,windows,2026-10,60,1\n",
    b"user{n}@acme.example,PC-{n},,visio.exe,windows,2026-10,many,1\n",
)


def rows(count: int) -> Iterator[bytes]:
    """Yield the file in pieces; its first good row is in UTF-8, so that the other encoding is the bad one."""
    yield HEADING
    yield "zoë@acme.example,PC,,visio.exe,windows,2026-10,60,1\n".encode()
    for begin in range(1, count, AT_ONCE):
        yield b"".join(
            BAD[n // BAD_EVERY % len(BAD)].replace(b"{n}", b"%d" % n)
            if n % BAD_EVERY == 0
            else b"user%d@acme.example,PC-%d,,visio.exe,windows,2026-%02d,%d,1\n" % (n, n, n % 10 + 1, n % 9_000)
            for n in range(begin, min(begin + AT_ONCE, count))
        )


async def sent(count: int) -> AsyncIterator[bytes]:
    """Yield the same, as it would come over the network."""
    for piece in rows(count):
        yield piece


async def imported(url: str, count: int) -> dict[str, Any]:
    """Have the real service read the file, and return what it did; seconds, megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            environment="test",
            secret_keys=["bench-0123456789abcdef0123456789abcdef"],
            sealing_keys=[Fernet.generate_key().decode()],
            data_dir=Path(folder),
            database_url=url,
        )
        clock, own = SystemClock(), ScannerSettings(_env_file=None)  # type: ignore[call-arg]
        running = Running.start(partial(service.build, settings=own), "scanner", settings, clock, InprocBus())
        sealer = running.service.jobs[0].run.args[0].sealer  # type: ignore[attr-defined]
        deps = Deps(running.database, clock, sealer, Registry(clock, settings.outgoing()), own)
        try:
            return await _imported(deps, running, count)
        finally:
            await running.close()


async def _imported(deps: Deps, running: Running, count: int) -> dict[str, Any]:
    product = {"key": "VISIO", "name": "Visio", "processes": ["windows:visio.exe"]}
    await catalog_actions.add_product(deps, product, author="benchmark")
    job = next(job for job in running.service.jobs if job.name == "import")
    progress: list[int] = []
    watched: list[str] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.2)
            async with deps.database.reading() as db:
                progress.extend([(await import_store.find(db, each)).rows for each in watched])

    watching = asyncio.create_task(watch())
    before, cpu, began = resident(), time.process_time(), time.perf_counter()
    wanted = read_wanted({"shape": "csv", "complete": True})
    watched.append((await import_actions.receive(deps, wanted, sent(count), author="benchmark")).id)
    while await job.run():
        pass
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    # The highest that this process ever was; it has done nothing else yet that could have been higher.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    async with deps.database.reading() as db:
        done = await import_store.find(db, watched[0])
        listed = len(await import_store.refusals(db, done.id))
        records = (await db.execute(sa.text("SELECT count(*) FROM usage_records"))).scalar_one()
    bad = (count - 1) // BAD_EVERY
    told = sorted(set(progress) - {0, count})
    problems = {
        f"the import is {done.status}: {done.problem}": done.status != "finished",
        f"{done.rows} rows of {count} were read": done.rows != count,
        f"{done.bad} rows were refused, and {bad} are bad": done.bad != bad,
        f"{listed} bad rows are listed": listed != min(bad, LISTED),
        f"{records} records are kept of {count - bad}": records != count - bad,
        f"the process grew by {peak - before:.0f} MB": peak - before > MOST_GROWTH,
        f"progress was not shown: {progress}": count >= 100_000 and len(told) < 3,
    }
    if broken := [what for what, wrong in problems.items() if wrong]:
        sys.exit("; ".join(broken))
    return {
        "rows": count,
        "refused": done.bad,
        "rows_a_second": count / seconds,
        "cpu_us_a_row": cpu / count * 1e6,
        "memory_before_mb": before,
        "memory_growth_mb": peak - before,
    }


async def bare(url: str, count: int) -> float:
    """Return the seconds that it takes to read the same rows with `csv` and to copy them into a plain table."""
    database = await asyncpg.connect(sa.make_url(url).set(drivername="postgresql").render_as_string(False))
    await database.execute("CREATE TABLE plain (a text, b text, c text, d text, e text, f text, g text, h text)")
    began = time.perf_counter()
    for piece in rows(count):
        lines = csv.reader(piece.decode("utf-8", "replace").splitlines())
        await database.copy_records_to_table("plain", records=[line for line in lines if len(line) == 8])
    seconds = time.perf_counter() - began
    await database.close()
    return seconds


async def measure(url: str, count: int) -> dict[str, Any]:
    """Run both, check what was promised, and return the figures.

    Raises:
        SystemExit: a promise was broken; there is no result then.
    """
    async with scratch_database(url, Path(service.__file__).parent / "migrations") as database:
        found = await imported(database, count)
        seconds = await bare(database, count)
    ceiling = count / seconds
    return {**found, "ceiling_a_second": ceiling, "ratio": found["rows_a_second"] / ceiling}


def main() -> None:
    """Measure, print, and fail below the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    url = os.environ.get("RECLAIM_TEST_POSTGRES_URL")
    if not url:
        sys.exit("RECLAIM_TEST_POSTGRES_URL is not set: run `make bench BENCH=imports`, which starts a PostgreSQL")
    found = asyncio.run(measure(url, arguments.rows))
    if arguments.output == "json":
        print(json.dumps(found))
    else:
        print(f"import   {found['rows_a_second']:>10,.0f} rows/s    {found['cpu_us_a_row']:,.0f} µs CPU a row")
        print(f"ceiling  {found['ceiling_a_second']:>10,.0f} rows/s")
        print(f"ratio    {found['ratio']:>10.3f}   floor {FLOOR}, aim {AIM}")
        print(f"refused  {found['refused']:>10,}   of {found['rows']:,}")
        print(f"memory   {found['memory_growth_mb']:>10.0f} MB above {found['memory_before_mb']:.0f} MB")
    if found["ratio"] < FLOOR:
        sys.exit("below the floor")


if __name__ == "__main__":
    main()
