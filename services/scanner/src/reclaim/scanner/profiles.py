"""Integration profiles: what a connection offers, and the rule that is made for each part of it.

A connection that holds seats (*direct*) has a profile for each of its products; one with a sign-in log (*sso*) for each
application that somebody chose, together with the seats it is about. A profile comes with one rule in `needs_review`:
it can be previewed, and opens no case until a person activates it. Reading the connection again adds what is new and
touches nothing that is there. A profile that ends leaves its rule, paused and with the reason, and takes the rule's
open cases back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reclaim.common.db import Unit
from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.connectors.ports import Application, ConnectionProfile, Licence, UsageReader
from reclaim.connectors.registry import capabilities, has_log, must_hold_seats
from reclaim.scanner import catalog_actions, catalog_store, exclusion_store, profile_store, store, sync_store
from reclaim.scanner.domain import INSTALLED, next_status, read_terms
from reclaim.scanner.ports import Deps
from reclaim.scanner.profile_store import How, Profile
from reclaim.scanner.store import Connection, Rule
from reclaim.scanner.sync_store import SYNC, What
from reclaim.scanner.withdrawals import withdraw

UNUSED_FOR: Final[Mapping[How, int]] = {"direct": 60, "sso": 30}
"""Days without use after which a profile's rule flags a seat; a log tells of sign-ins only, and keeps them for less."""

MAKER: Final = "the integration"
"""Who made a rule that nobody has changed yet."""

_LONGEST_NAME: Final = 90
"""Characters of a rule's name, so that a number still fits behind it."""


# ------------------------------------------------------------------------------------------------ the rule


def first_terms(how: How, *, name: str, product: str, able: frozenset[str]) -> dict[str, Any]:
    """Return what a profile's rule says until a person has reviewed it: whatever nobody chose does least harm.

    `able` is what the connection with the seats can do. Silence keeps the seat, and the rule is a dry run.
    """
    return {
        "name": name,
        "products": [product],
        "inactive_days": UNUSED_FOR[how],
        "route": "email",
        "decision_days": 14,
        "on_timeout": "keep",
        "grace_days": 30,
        "dry_run": True,
        "reclaim_by": "deactivate" if {"freeze", "reclaim"} <= able else "task",
        # Who signs in past the log is not idle: where the system itself tells of use, that counts as well.
        "channels": [] if how == "direct" else ["ui", "sso"] if "usage" in able else ["sso"],
    }


async def _make_rule(
    unit: Unit, connection: Connection, seats: Connection, *, how: How, name: str, product: str
) -> Rule:
    """Make a profile's rule. The catalogue and both connections are locked."""
    through = "" if how == "direct" else " by sign-ins"
    wanted = f"{connection.name}: {name}, unused for {UNUSED_FOR[how]} days{through}"
    rule_name = await profile_store.free_name(unit.db, " ".join(wanted.split())[:_LONGEST_NAME])
    able = capabilities(seats.kind, seats.settings)
    terms = read_terms(first_terms(how, name=rule_name, product=product, able=frozenset(able)))
    rule = await store.add_rule(
        unit.db, connection_id=seats.id, terms=terms, author=MAKER, now=unit.now, status="needs_review"
    )
    await catalog_actions.follow(unit, rule, author=MAKER)
    return rule


# ------------------------------------------------------------------------------------------------ beginning


async def begin(unit: Unit, connection: Connection, *, by: str) -> None:
    """Have a new connection read for what it offers."""
    if is_direct(connection):
        await sync_store.add(unit.db, connection.id, "licences", source=connection.name, by=by, at_once=True)
        unit.wake(SYNC)
    if has_log(connection.kind):
        await sync_store.add(unit.db, connection.id, "usage", source=connection.name, by=by, at_once=False)


async def take_in(unit: Unit, connection: Connection, licences: Sequence[Licence]) -> int:
    """Make a profile for each product in use that has none yet; return how many. Those that are there stay as they are.

    A product nobody has a seat of gets one when somebody has.
    """
    known = {profile.key for profile in await profile_store.profiles(unit.db, connection.id)}
    added = 0
    for licence in sorted(licences, key=lambda licence: licence.product):
        if licence.used and licence.product not in known:
            rule = await _make_rule(
                unit, connection, connection, how="direct", name=licence.name, product=licence.product
            )
            await profile_store.put(
                unit.db,
                connection.id,
                licence.product,
                how="direct",
                name=licence.name,
                seats_id=connection.id,
                product=licence.product,
                rule_id=rule.id,
                by=MAKER,
                now=unit.now,
            )
            added += 1
    return added


async def sync_now(deps: Deps, connection_id: str, *, by: str) -> None:
    """Have a connection read again now: for new products, or for the sign-ins since the last time.

    Raises:
        NotFound: there is no such connection.
        Invalid: none of its applications was chosen yet, or there is nothing to read.
    """
    async with deps.database.unit() as unit:
        connection = await store.lock_connection(unit.db, connection_id)
        if not has_log(connection.kind) and not is_direct(connection):
            raise Invalid(f"Nothing is read from {connection.name} by itself: its rules are made by hand.")
        what: What = "usage" if has_log(connection.kind) else "licences"
        if what == "usage" and not await profile_store.profiles(unit.db, connection_id, ended=False):
            raise Invalid("Nothing is read from this log yet: choose applications first.", field="applications")
        await sync_store.add(unit.db, connection_id, what, source=connection.name, by=by, at_once=True)
        await sync_store.ask(unit.db, connection_id, what, by=by)
        unit.wake(SYNC)


# ------------------------------------------------------------------------------------------------ applications


@dataclass(frozen=True, slots=True)
class Offered:
    """An application of a sign-in log, and the profile that was made for it, if any; it may have ended."""

    application: Application
    profile: Profile | None

    @property
    def chosen(self) -> bool:
        return self.profile is not None and self.profile.ended_at is None


async def applications(deps: Deps, connection_id: str) -> list[Offered]:
    """Return the applications that a connection's log tells about, and those that were chosen and are gone.

    Raises:
        Invalid: the connection has no sign-in log.
        Transient, Permanent: it could not be asked.
    """
    async with deps.database.reading() as db:
        connection = await store.connection(db, connection_id)
        known = {profile.key: profile for profile in await profile_store.profiles(db, connection_id)}
    _must_have_log(connection)
    there = {app.id: app for app in await _applications(deps, connection)}
    gone = {
        key: Application(key, profile.name, active=False)
        for key, profile in known.items()
        if key not in there and profile.ended_at is None
    }
    found = sorted({**there, **gone}.values(), key=lambda app: (app.name.casefold(), app.id))
    return [Offered(app, known.get(app.id)) for app in found]


async def choose_application(
    deps: Deps, connection_id: str, application: str, *, seats_connection_id: str, product: str, by: str
) -> Profile:
    """Let an application's sign-ins count as use of a product, and make its rule; chosen again, it gets no second one.

    The log is read from as far back as it goes, so that the rule can be previewed.

    Raises:
        Invalid: there is no such application, or no such product among the seats.
        Conflict: it was chosen for other seats, or the product's seats are not this connection's alone.
        Transient, Permanent: one of the two systems could not be asked.
    """
    async with deps.database.reading() as db:
        connection = await store.connection(db, connection_id)
        seats = await store.connection(db, seats_connection_id)
    _must_have_log(connection)
    must_hold_seats(seats.kind, seats.settings)
    if not is_direct(seats):
        raise Invalid(f"{seats.name} lists what is installed: nobody signs in to that.", field="seats_connection_id")
    app = next((app for app in await _applications(deps, connection) if app.id == application), None)
    if app is None:
        raise Invalid(f"{connection.name} has no active application {application[:60]}.", field="application")
    async with deps.reader(seats) as reader:
        there = {licence.product for licence in await reader.licences()}
    if product not in there:
        raise Invalid(
            f"{seats.name} has no seats of {product[:60]!r}. It has: {', '.join(sorted(there))}.", field="product"
        )
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        await profile_store.lock_around(unit.db, connection_id, seats_connection_id)
        # Both are read again: either may have been removed while the systems were asked.
        connection = await store.connection(unit.db, connection_id)
        seats = await store.connection(unit.db, seats_connection_id)
        before = await profile_store.find(unit.db, connection_id, application)
        same = before is not None and (before.seats_connection_id, before.product) == (seats.id, product)
        if before is not None and before.ended_at is None:
            if same:
                return before
            raise Conflict(f"{app.name} counts for the seats of {before.product}. Take it back there first.")
        await _must_be_alone(unit, connection, app, seats, product)
        if before is None or not same:
            rule = await _make_rule(unit, connection, seats, how="sso", name=app.name, product=product)
            rule_id = rule.id
        else:
            rule_id = before.rule_id
        await profile_store.put(
            unit.db,
            connection_id,
            app.id,
            how="sso",
            name=app.name,
            seats_id=seats.id,
            product=product,
            rule_id=rule_id,
            by=by,
            now=unit.now,
        )
        await sync_store.add(unit.db, connection_id, "usage", source=connection.name, by=by, at_once=True)
        await sync_store.ask(unit.db, connection_id, "usage", by=by, anew=True)
        unit.wake(SYNC)
        found = await profile_store.find(unit.db, connection_id, application)
    assert found is not None
    return found


async def _must_be_alone(unit: Unit, connection: Connection, app: Application, seats: Connection, product: str) -> None:
    """Refuse what would mix up two sources or two systems: use is kept by the product's key alone."""
    for other in await profile_store.profiles(unit.db, connection.id, ended=False):
        if other.product == product and other.key != app.id:
            raise Conflict(f"The sign-ins of {other.name} count as use of {product} already: take that one back first.")
    if others := await profile_store.holders_of(unit.db, product, but=seats.id):
        raise Conflict(
            f"{', '.join(others)} has seats of {product} as well, and sign-ins to {app.name} would count for those "
            "too. Give the product of one of them another key on its connection."
        )


async def drop_application(deps: Deps, connection_id: str, application: str, *, by: str) -> int:
    """Let an application's sign-ins count no more: its rule is paused, and its open cases are taken back.

    Return how many. What was recorded stays.

    Raises:
        NotFound: it was not chosen.
    """
    async with deps.database.unit() as unit:
        await profile_store.lock_around(unit.db, connection_id)
        connection = await store.connection(unit.db, connection_id)
        profile = await profile_store.find(unit.db, connection_id, application)
        if profile is None or profile.ended_at is not None:
            raise NotFound(f"No application {application[:60]} was chosen on {connection.name}.")
        why = f"the application {profile.name} of {connection.name} is no longer a profile"
        return await _end(unit, [profile], why, by=by)


# ------------------------------------------------------------------------------------------------ the end


async def end_all(unit: Unit, connection: Connection, *, why: str, by: str) -> None:
    """End the profiles of a connection that is being removed, and those of logs that are about its seats.

    The rules and open cases of its own seats are left to whoever removes it. The connections are locked.
    """
    for profile in await profile_store.profiles(unit.db, ended=False):
        if profile.seats_connection_id == connection.id:
            await _forget(unit, [profile], why)
        elif profile.connection_id == connection.id:
            await _end(unit, [profile], why, by=by)
    await sync_store.remove(unit.db, connection.id)


async def _end(unit: Unit, profiles: Sequence[Profile], why: str, *, by: str) -> int:
    """End profiles; their rules stay, paused, and open nothing. Return how many open cases were taken back."""
    withdrawn = 0
    for profile in profiles:
        rule = await store.lock_rule(unit.db, profile.rule_id)
        status = next_status(rule.status, "pause") if rule.status == "active" else rule.status
        await store.set_status(unit.db, rule.id, status, unit.now, by=by, why=why)
        cases = await exclusion_store.open_seats(unit.db, rule_id=rule.id)
        withdrawn += withdraw(unit, [(case_id, why) for case_id, _seat in cases], kind="profile_removed", actor=by)
    await _forget(unit, profiles, why)
    return withdrawn


async def _forget(unit: Unit, profiles: Sequence[Profile], why: str) -> None:
    """Let profiles be no more, and their logs vouch for nothing that was theirs."""
    await profile_store.end(unit.db, profiles, why, unit.now)
    for profile in profiles:
        if profile.how == "sso" and (sync := await sync_store.find(unit.db, profile.connection_id, "usage")):
            await profile_store.forget_reports(unit.db, sync.source, {profile.product})


# ------------------------------------------------------------------------------------------------ the log


def usage_reader(deps: Deps, connection: Connection) -> UsageReader:
    """Open a stored connection's log; nothing is sent before its first call."""
    return deps.connectors.usage_reader(
        ConnectionProfile(
            id=connection.id,
            name=connection.name,
            kind=connection.kind,
            settings=connection.settings,
            credentials=deps.sealer.open(connection.credentials),
        )
    )


async def _applications(deps: Deps, connection: Connection) -> Sequence[Application]:
    reader = usage_reader(deps, connection)
    try:
        return await reader.applications()
    finally:
        await reader.close()


def is_direct(connection: Connection) -> bool:
    """Tell whether a connection has seats of a subscription: rules for installed software are made by hand."""
    return connection.kind != INSTALLED and "seats" in capabilities(connection.kind, connection.settings)


def _must_have_log(connection: Connection) -> None:
    if not has_log(connection.kind):
        raise Invalid(f"{connection.name} has no sign-in log, and so no applications to choose from.", field="kind")
