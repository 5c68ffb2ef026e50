"""Acceptance: an application over SCIM 2.0, on a server of somebody else's, and a sign-in log beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from libs.connectors.tests.connectors_worlds import HERE, QUICK_SCIM, Scim
from libs.connectors.tests.scim_server import TOKEN, ScimServer
from reclaim.common.contracts import UserFlagged
from reclaim.connectors import scim
from reclaim.connectors.ports import ConnectionProfile
from reclaim.scanner import actions, store
from reclaim.scanner.scan import Preview, preview
from reclaim.scanner.store import Connection, Rule
from reclaim.scanner.usage import CHANNELS, Report, Window
from reclaim.scanner.usage_store import add_report
from services.scanner.tests.feeds_world import DAY, choose, connect_log, give_log, sync
from services.scanner.tests.scanner_world import NOON, Scanner

ELSEWHERE = ["sso", "api", "mobile"]


@pytest.fixture
def wiki() -> Iterator[Scim]:
    server = ScimServer()
    yield Scim(server)
    server.close()


async def connect_wiki(scanner: Scanner, wiki: Scim) -> Connection:
    """Connect the application as a person does: it is tried first."""

    def reader(profile: ConnectionProfile) -> scim.ScimReader:
        return scim.open_reader(profile, scanner.clock, QUICK_SCIM, outgoing=HERE)

    scanner.connectors.reader = reader  # type: ignore[method-assign]
    return await actions.add_connection(
        scanner.deps,
        name="Wiki",
        kind="scim",
        settings={
            "base_url": wiki.server.url,
            "product": "wiki",
            "product_name": "Wiki",
            "run_as": wiki.run_as,
            "user_filter": 'userType eq "Employee"',
            "administrator_filter": 'userType eq "Service"',
            "integration_filter": "none",
            "accept_unseen_work": "true",
            "allow_http": "true",
        },
        credentials={"token": TOKEN},
    )


async def shown(scanner: Scanner, connection: Connection, rule: Rule) -> Preview:
    return await preview(scanner.deps, connection, rule.terms, rule.id)


async def rules(scanner: Scanner) -> dict[int, Rule]:
    """Return the rules by after how many days a seat counts as unused."""
    async with scanner.deps.database.reading() as db:
        return {rule.terms.inactive_days: rule for rule in await store.rules(db)}


async def test_an_application_over_scim_flags_whom_sources_prove_idle_and_is_never_written_to(
    scanner: Scanner, wiki: Scim
) -> None:
    busy, idle, off = wiki.add(), wiki.add(), wiki.add(active=False)
    address = {holder: str(wiki.server.user(holder)["userName"]) for holder in (busy, idle, off)}
    log = give_log(scanner)
    log.sign_in(address[busy], "wiki", at=NOON - DAY)
    log.sign_in(address[idle], "wiki", at=NOON - 40 * DAY)
    sso = await connect_log(scanner)
    connection = await connect_wiki(scanner, wiki)
    await sync(scanner)
    direct = (await rules(scanner))[60]
    assert (direct.status, direct.terms.products, direct.terms.dry_run) == ("needs_review", ("wiki",), True)
    assert direct.terms.reclaim_by == "task", "nothing says that switching an account off can be undone"
    before = await shown(scanner, connection, direct)
    assert (before.tally.seen, before.tally.flagged) == (2, 0), "SCIM tells no last use, and unknown flags nobody"
    assert "last_seen_elsewhere" in before.tally.missing

    await choose(scanner, sso, "wiki", connection, "wiki")
    await sync(scanner)
    by_log = (await rules(scanner))[30]
    assert (by_log.status, by_log.terms.channels) == ("needs_review", ("sso",))
    assert (await shown(scanner, connection, by_log)).tally.flagged == 0, "whoever uses its API need not sign in"

    report = Report(
        source="vendor",
        product="wiki",
        period=Window(NOON - 400 * DAY, NOON),
        heard_at=NOON,
        channels=frozenset(CHANNELS),
        timed=False,
    )
    async with scanner.deps.database.unit() as unit:
        await add_report(unit.db, report)
    by_log = await actions.change_rule(
        scanner.deps, by_log.id, {"channels": ELSEWHERE, "most_flagged_share": 100}, author="otto"
    )
    after = await shown(scanner, connection, by_log)
    assert [found.seat.holder.id for found in after.found] == [idle]
    await actions.activate_rule(scanner.deps, by_log.id, by="anna")
    await actions.start_scan(scanner.deps, by_log.id, dry_run=False, accept_population=False, asked_by="otto")
    await scanner.scan_all()
    assert [event.seat.holder.id for event in await scanner.said(UserFlagged)] == [idle]
    assert wiki.writes() == 0
