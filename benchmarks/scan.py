"""A whole scan of a large org, from the first call to stored cases, against asking the org the same and nothing else.

    make bench BENCH=scan
    RECLAIM_TEST_POSTGRES_URL=... python benchmarks/scan.py --users 200000

The simulated org is a process of its own, spoken to over HTTP. The scanner is the service as the host builds it, on
PostgreSQL: licences, the survey for the ten checks, every seat judged, and for each one that is flagged a case and its
event, stored, with the garbage collector as the host sets it at its start. The *ceiling* is a bare client that asks
every question that the scan asked, by the org's own log, one after the other, follows the pages, decodes the JSON and
does nothing with it. Most of that is the org's time.

Besides the ratio it holds the scan to what it promises whatever the machine:

- the org's own request log has at most users / 2,000 calls, and `EACH_CHECK` for every check;
- the process grows by no more than `MOST_GROWTH` megabytes, wherever the peak is;
- while it runs, its counts show how far it is;
- exactly those are flagged whom the org expects to be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import sqlalchemy as sa
from _scratch import resident, scratch_database
from cryptography.fernet import Fernet

from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import SystemClock
from reclaim.common.host import settle_collector
from reclaim.common.service import Running
from reclaim.common.settings import Settings
from reclaim.connectors.checks import CHECKS
from reclaim.connectors.registry import Registry
from reclaim.scanner import actions, service, store
from reclaim.scanner.ports import Deps
from reclaim.scanner.settings import ScannerSettings

FLOOR: Final = 0.3
AIM: Final = 0.5
ROWS_A_PAGE: Final = 2_000
EACH_CHECK: Final = 6
"""Calls that a check may take whatever the number of users: its readings, each of a few pages."""

MOST_GROWTH: Final = 100
"""Megabytes."""

TERMS: Final[dict[str, Any]] = {
    "name": "Idle seats",
    "products": ["SFDC"],
    "inactive_days": 90,
    "route": "email",
    "decision_days": 7,
    "on_timeout": "escalate",
    "grace_days": 14,
}


@dataclass
class Org:
    """The simulated org as the benchmark talks to it, beside the product."""

    url: str
    client_id: str
    client_secret: str
    http: httpx.AsyncClient

    async def control(self, call: str, **params: Any) -> Any:
        answer = await self.http.get(f"{self.url}/sandbox/api/{call}", params=params)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content)

    async def calls(self, since: int) -> list[dict[str, Any]]:
        """Return the API calls after one, as the org logged them."""
        found: list[dict[str, Any]] = await self.control("request-log", since=since, path="/services/data/")
        return found

    async def last_call(self) -> int:
        log = await self.control("request-log", since=0)
        return int(log[-1]["seq"]) if log else 0


@asynccontextmanager
async def simulated(users: int) -> AsyncIterator[Org]:
    """Start an org of so many users as a process of its own, and stop it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reclaim.sandbox", "--port", "0", "--smtp-port", "0", "--users", str(users)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        first = (await process.stdout.readline()).decode().split()
        _, url, _, _, client_id, _, secret = first
        async with httpx.AsyncClient(timeout=120, trust_env=False) as http:
            yield Org(url, client_id, secret, http)
    finally:
        process.terminate()
        await process.wait()


async def asked_again(org: Org, calls: list[dict[str, Any]]) -> float:
    """Return in how many seconds a bare client has the answers to these calls, pages that follow included."""
    token = await org.http.post(
        f"{org.url}/services/oauth2/token",
        data={"grant_type": "client_credentials", "client_id": org.client_id, "client_secret": org.client_secret},
    )
    headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
    began = time.perf_counter()
    for call in calls:
        path, params = call["path"], {"q": call["query"]}
        while call["query"] and path:
            answer = await org.http.get(org.url + path, params=params, headers=headers)
            path, params = msgspec.json.decode(answer.content).get("nextRecordsUrl"), {}
    return time.perf_counter() - began


def about(calls: list[dict[str, Any]]) -> Counter[str]:
    """Return how many calls there were by the object asked for; those for pages that follow name none."""
    named = (re.search(r"\bFROM (\w+)", call["query"] or "") for call in calls)
    return Counter(found[1] if found else "following pages" for found in named)


@dataclass
class Scanned:
    """What one scan did. `cpu` is seconds of this process, memory is megabytes, `since` the org's last call before."""

    seconds: float
    cpu: float
    before: float
    peak: float
    since: int
    run: store.Run
    progress: list[int] = field(default_factory=list)
    holders: set[str] = field(default_factory=set)


async def scan(url: str, org: Org) -> Scanned:
    """Scan the org by the real service on a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            environment="test",
            secret_keys=["bench-0123456789abcdef0123456789abcdef"],
            sealing_keys=[Fernet.generate_key().decode()],
            data_dir=Path(folder),
            database_url=url,
            outgoing_allowed_hosts=["127.0.0.1"],
        )
        clock, own = SystemClock(), ScannerSettings(_env_file=None)  # type: ignore[call-arg]
        running = Running.start(partial(service.build, settings=own), "scanner", settings, clock, InprocBus())
        sealer = running.service.jobs[0].run.args[0].sealer  # type: ignore[attr-defined]
        deps = Deps(running.database, clock, sealer, Registry(clock, settings.outgoing()), own)
        try:
            return await _scanned(deps, running, org)
        finally:
            await running.close()


async def _scanned(deps: Deps, running: Running, org: Org) -> Scanned:
    connection = await actions.add_connection(
        deps,
        name="Simulated",
        kind="salesforce",
        settings={"instance_url": org.url, "client_id": org.client_id},
        credentials={"client_secret": org.client_secret},
    )
    rule = await actions.add_rule(deps, connection.id, TERMS, author="benchmark")
    await actions.activate_rule(deps, rule.id)
    run = await actions.start_scan(deps, rule.id, dry_run=False, accept_population=False, asked_by="benchmark")
    # Activating the rule has tested the connection: those calls are not the scan's.
    since = await org.last_call()
    progress: list[int] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.5)
            async with deps.database.reading() as db:
                progress.append((await store.run(db, run.id)).percent)

    settle_collector()
    before, cpu, began = resident(), time.process_time(), time.perf_counter()
    watching = asyncio.create_task(watch())
    await next(job for job in running.service.jobs if job.name == "scan").run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    # The highest that this process ever was; it has done nothing else yet that could have been higher.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    async with deps.database.reading() as db:
        done = await store.run(db, run.id)
        holders = set((await db.execute(sa.select(store.CANDIDATES.c.holder_id))).scalars())
    return Scanned(seconds, cpu, before, peak, since, done, progress, holders)


async def measure(url: str, users: int) -> dict[str, Any]:
    """Run everything, check what was promised, and return the figures.

    Raises:
        SystemExit: a promise was broken; there is no result then.
    """
    async with simulated(users) as org, scratch_database(url, Path(service.__file__).parent / "migrations") as database:
        found = await scan(database, org)
        calls = await org.calls(found.since)
        ceiling = await asked_again(org, calls)
        expected = {each["id"] for each in await org.control("users", expect="reclaimable")}
    seats = found.run.seen
    pages = -(-seats // ROWS_A_PAGE)
    allowed = pages + EACH_CHECK * len(CHECKS)
    told = sorted(set(found.progress) - {0, 100})
    problems = {
        f"the scan is {found.run.status}: {found.run.reason}": found.run.status != "finished",
        "others were flagged than the org expects": found.holders != expected,
        f"{len(calls)} calls, and {allowed} are allowed: {dict(about(calls))}": len(calls) > allowed,
        f"the process grew by {found.peak - found.before:.0f} MB": found.peak - found.before > MOST_GROWTH,
        f"progress was not shown: {found.progress}": len(told) < 3,
    }
    if broken := [what for what, wrong in problems.items() if wrong]:
        sys.exit("; ".join(broken))
    return {
        "seats": seats,
        "flagged": found.run.flagged,
        "seats_a_second": seats / found.seconds,
        "ceiling_a_second": seats / ceiling,
        "ratio": ceiling / found.seconds,
        "cpu_us_a_seat": found.cpu / seats * 1e6,
        "calls": len(calls),
        "calls_allowed": allowed,
        "calls_by_object": dict(about(calls).most_common()),
        "memory_before_mb": found.before,
        "memory_growth_mb": found.peak - found.before,
        "progress": told,
    }


def main() -> None:
    """Measure, print, and fail below the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    url = os.environ.get("RECLAIM_TEST_POSTGRES_URL")
    if not url:
        sys.exit("RECLAIM_TEST_POSTGRES_URL is not set: run `make bench BENCH=scan`, which starts a PostgreSQL")
    found = asyncio.run(measure(url, arguments.users))
    if arguments.output == "json":
        print(json.dumps(found))
    else:
        print(f"scan     {found['seats_a_second']:>10,.0f} seats/s   {found['cpu_us_a_seat']:,.0f} µs CPU a seat")
        print(f"ceiling  {found['ceiling_a_second']:>10,.0f} seats/s")
        print(f"ratio    {found['ratio']:>10.2f}   floor {FLOOR}, aim {AIM}")
        print(f"calls    {found['calls']:>10,}   for {found['seats']:,} seats; allowed {found['calls_allowed']:,}")
        print(f"memory   {found['memory_growth_mb']:>10.0f} MB above {found['memory_before_mb']:.0f} MB")
        print(f"flagged  {found['flagged']:>10,}")
    if found["ratio"] < FLOOR:
        sys.exit("below the floor")


if __name__ == "__main__":
    main()
