"""Reads connections again and again: new products of those with seats, new sign-ins of those with a log.

A log is read a day at a time, and a day's records and the place reached commit together. So a process that dies at any
moment loses nothing, and whoever goes on reads at most one day twice, whose records replace themselves. Only a pass
that came to its end reports what is now complete; until then nobody's absence is proven by it. Every call to the
outside is made with no transaction open.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from opentelemetry import metrics
from sqlalchemy.exc import SQLAlchemyError

from reclaim.common.db import Unit, is_outage
from reclaim.common.errors import Permanent, Transient
from reclaim.common.service import Job
from reclaim.common.timing import backoff
from reclaim.connectors.ports import UsagePage
from reclaim.scanner import (
    catalog_store,
    leases,
    profile_store,
    profiles,
    store,
    sync_store,
    usage_store,
)
from reclaim.scanner.ports import Deps
from reclaim.scanner.profile_store import Profile
from reclaim.scanner.store import LeaseLost
from reclaim.scanner.sync_store import SYNC, Claimed
from reclaim.scanner.usage import Report, UsageRecord, Window
from reclaim.scanner.usage_store import COUNT_UNMATCHED

log = logging.getLogger(__name__)

FURTHEST: Final = timedelta(days=90)
"""How far back the first reading of a log goes; no log that is read here keeps more."""

MEASURED_EVERY: Final = 30.0

_troubled = metrics.get_meter("reclaim.scanner").create_gauge(
    "reclaim_failing_syncs", description="Connections whose last reading failed"
)


def jobs(deps: Deps) -> tuple[Job, ...]:
    """Return the jobs of synchronisations."""
    return (
        Job(SYNC, partial(sync, deps), every=5.0),
        Job("measure_syncs", partial(measure, deps), every=MEASURED_EVERY),
    )


async def measure(deps: Deps) -> bool:
    """Count the connections that could not be read."""
    async with deps.database.reading() as db:
        _troubled.set(sum(one.problem is not None for one in await sync_store.syncs(db)))
    return False


async def sync(deps: Deps) -> bool:
    """Work on one synchronisation that is due, or whose process died; return whether there was one."""
    async with deps.database.reading() as db:
        if not await sync_store.anything_to_claim(db):
            return False
    async with deps.database.unit() as unit:
        claimed = await sync_store.claim(unit.db, lease_seconds=deps.settings.lease_seconds, now=unit.now)
    if claimed is None:
        return False

    async def prolong() -> None:
        async with deps.database.unit() as unit:
            await sync_store.update(unit.db, claimed, sync_store.lease_until(deps.settings.lease_seconds))

    source = claimed.sync.source
    try:
        async with leases.kept(prolong, seconds=deps.settings.lease_seconds, what=f"the reading of {source}"):
            await (_read_log if claimed.sync.what == "usage" else _read_licences)(deps, claimed)
    except LeaseLost:
        log.warning("the reading of %s is another process's now, or was asked for anew", source)
    except asyncio.CancelledError:
        await _hand_back(deps, claimed)
        raise
    except Exception as error:
        if is_outage(error):
            raise
        await _put_off(deps, claimed, error)
    return True


async def _put_off(deps: Deps, claimed: Claimed, error: Exception) -> None:
    """Write down what went wrong, and when it is tried again: soon where that can help, else at the usual time."""
    source, wait = claimed.sync.source, deps.settings.sync_seconds
    remedy = "Mend that and test the connection; it is read again by itself, or at once with Read now."
    match error:
        case Transient():
            wait = min(wait, backoff(claimed.attempt, first=deps.settings.first_wait_seconds, most=wait))
            remedy = "It is tried again by itself, and goes on where it came to."
            problem = str(error)
            log.warning("%s could not be read and is tried again in %.0f s: %s", source, wait, error)
        case Permanent():
            problem = str(error)
            log.warning("%s could not be read, and a person has to look: %s", source, error)
        case _:
            problem = f"An error on our side: {type(error).__name__}."
            remedy = "Give the log of this moment to whoever looks after Reclaim."
            log.error("%s could not be read", source, exc_info=error)
    async with deps.database.unit() as unit:
        try:
            await sync_store.update(unit.db, claimed, sync_store.put_off(unit.now, wait, problem, remedy))
        except LeaseLost:
            log.warning("the reading of %s is another process's now", source)


async def _hand_back(deps: Deps, claimed: Claimed) -> None:
    """Let another process go on at once, instead of when the lease ends."""
    try:
        async with deps.database.unit() as unit:
            await sync_store.update(unit.db, claimed, sync_store.handed_back())
    except (LeaseLost, SQLAlchemyError, OSError) as error:
        log.warning("the reading of %s was not handed back and waits for its lease: %s", claimed.sync.source, error)


# ------------------------------------------------------------------------------------------------ products


async def _read_licences(deps: Deps, claimed: Claimed) -> None:
    async with deps.database.reading() as db:
        connection = await store.connection(db, claimed.sync.connection_id)
    async with deps.reader(connection) as reader:
        licences = await reader.licences()
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        # NotFound if it was removed meanwhile: no rule is made then.
        connection = await store.lock_connection(unit.db, connection.id)
        added = await profiles.take_in(unit, connection, licences)
        done = sync_store.succeeded(unit.now, again_after=deps.settings.licences_seconds)
        await sync_store.update(unit.db, claimed, {**done, "records": added})
    log.info("%s has %d products, %d of them new", connection.name, len(licences), added)


# ------------------------------------------------------------------------------------------------ a sign-in log


async def _read_log(deps: Deps, claimed: Claimed) -> None:
    async with deps.database.reading() as db:
        connection = await store.connection(db, claimed.sync.connection_id)
        chosen = await profile_store.profiles(db, connection.id, ended=False)
    if not chosen:
        async with deps.database.unit() as unit:
            rest = sync_store.succeeded(unit.now, again_after=deps.settings.sync_seconds)
            await sync_store.update(unit.db, claimed, {**rest, "cursor": None, "look_at": None})
        return
    reader = profiles.usage_reader(deps, connection)
    try:
        cursor = claimed.sync.cursor or deps.clock.now() - FURTHEST
        covers = reader.coverage(cursor)
        since = claimed.sync.since or covers.since
        if covers.since > cursor:
            # The log has forgotten what lies between: what is complete begins anew after that.
            since = covers.since
        async with deps.database.unit() as unit:
            begun = {"since": since, "until": covers.until, "cursor": max(cursor, covers.since)}
            await sync_store.update(unit.db, claimed, begun)
        products = {profile.key: profile for profile in chosen}
        async for page in reader.usage(max(cursor, covers.since), only=list(products)):
            async with deps.database.unit() as unit:
                await _keep(deps, unit, claimed, page, products)
    finally:
        await reader.close()
    async with deps.database.unit() as unit:
        for profile in await profile_store.profiles(unit.db, connection.id, ended=False):
            await _vouch(unit, claimed.sync.source, profile, since=since, until=covers.until)
        done = sync_store.succeeded(unit.now, again_after=deps.settings.sync_seconds)
        # The day that is not over is read whole again the next time.
        await sync_store.update(unit.db, claimed, {**done, "cursor": _day(covers.until)})
        unit.wake(COUNT_UNMATCHED)
    log.info("%s was read until %s", claimed.sync.source, covers.until)


async def _keep(deps: Deps, unit: Unit, claimed: Claimed, page: UsagePage, products: dict[str, Profile]) -> None:
    """Keep one day of a log, and that it was read."""
    records = [
        UsageRecord(
            user=record.user or "",
            product=products[record.product].product,
            period_start=record.period_start,
            period_end=record.period_end,
            channel=record.channel,
            runs=record.runs or 0,
            last_used_at=record.last_used_at,
        )
        for record in page.records
        if record.product in products
    ]
    progress = sync_store.read_on(
        page.day, records=len(records), failed=page.failed, lease_seconds=deps.settings.lease_seconds
    )
    await sync_store.update(unit.db, claimed, progress)
    taken = await usage_store.add_records(unit.db, claimed.sync.source, records, heard_at=unit.now)
    for place, reason in taken.refused.items():
        log.warning("%s: a sign-in of %s is left out: %s", claimed.sync.source, records[place].product, reason)
    for application in page.unattributed:
        if profile := products.get(application):
            await profile_store.hide(unit.db, profile.id, page.day + timedelta(days=1))


async def _vouch(unit: Unit, source: str, profile: Profile, *, since: datetime, until: datetime) -> None:
    """Report for which time every sign-in to an application is kept now.

    Days on which somebody signed in without a name are reported apart: nobody's absence is proven on them, and what
    comes after them is as good as before.
    """
    covered_since = since
    if profile.covered_since is not None and profile.covered_until is not None and profile.covered_until >= since:
        covered_since = profile.covered_since
    hidden_until = profile.hidden_until
    if hidden_until is not None and hidden_until > covered_since:
        await usage_store.add_report(
            unit.db, _report(source, profile, covered_since, min(hidden_until, until), unit.now, anonymised=True)
        )
        if hidden_until <= until:
            covered_since = hidden_until
    if hidden_until is None or hidden_until <= covered_since < until:
        await usage_store.add_report(unit.db, _report(source, profile, covered_since, until, unit.now))
    await profile_store.change(unit.db, profile.id, covered_since=covered_since, covered_until=until)


def _report(
    source: str, profile: Profile, start: datetime, end: datetime, now: datetime, *, anonymised: bool = False
) -> Report:
    return Report(
        source=source,
        product=profile.product,
        period=Window(start, end),
        heard_at=now,
        channels=frozenset({"sso"}),
        timed=False,
        anonymised=anonymised,
    )


def _day(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
