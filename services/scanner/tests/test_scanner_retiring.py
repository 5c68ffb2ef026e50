"""A source that is no more: retired by a person with a reason, and stale no longer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.scanner import actions, import_store, retiring, usage_store
from reclaim.scanner.domain import USAGE
from services.scanner.tests.feeds_world import connect_log, give_log
from services.scanner.tests.scanner_world import NOON, Scanner, Served
from services.scanner.tests.test_scanner_acceptance_usage import UNDER_20, complete, feed, inventory, on, used
from services.scanner.tests.test_scanner_pages import Browser, admin, text_of  # noqa: F401
from services.scanner.tests.test_scanner_scan import ready, scanned


async def sources(scanner: Scanner) -> list[tuple[str, bool]]:
    async with scanner.deps.database.reading() as db:
        said = await usage_store.sources(db, scanner.clock.now())
        listed = await import_store.inventories(db, scanner.clock.now())
    return sorted((one.source, one.stale) for one in (*said, *listed))


async def test_a_retired_source_is_stale_no_longer_and_proves_nothing(both: Scanner) -> None:
    rule = await ready(both, **UNDER_20)
    await feed(both, *(used(user, 1) for user in ("u00001", "u00002")), report=complete())
    await inventory(both, on("PC-1"), source="agent")
    assert (await scanned(both, rule, dry_run=True)).missing == {}
    both.clock.advance(timedelta(days=30))
    assert await sources(both) == [("agent", True), ("agent", True)]
    done = await retiring.retire(both.deps, "agent", "replaced by Intune", by="otto")
    assert (done.source, done.retired_by, done.retired_at) == ("agent", "otto", both.clock.now())
    assert await sources(both) == []
    run = await scanned(both, rule)
    assert (run.flagged, run.stale) == (0, [])
    assert "No source reports the use of SFDC" in run.missing["usage of SFDC"]
    assert USAGE in run.left_alone
    assert len(await both.rows("SELECT * FROM usage_records")) == 2, "its records stay"
    assert await both.rows("SELECT * FROM installations") == []
    async with both.deps.database.reading() as db:
        assert await retiring.retired(db) == [done]
    await feed(both, report=complete(now=both.clock.now()))
    async with both.deps.database.reading() as db:
        assert await retiring.retired(db) == [], "it spoke again"


async def test_what_cannot_be_retired_says_why(scanner: Scanner) -> None:
    with pytest.raises(NotFound, match="No source 'agent'"):
        await retiring.retire(scanner.deps, "agent", "gone", by="otto")
    await inventory(scanner, on("PC-1"))
    with pytest.raises(Invalid, match="Say why"):
        await retiring.retire(scanner.deps, "sccm", " ", by="otto")
    await actions.add_connection(
        scanner.deps, name="Desktops", kind="installed", settings={"sources": "sccm"}, credentials={}, test=False
    )
    with pytest.raises(Conflict, match="Desktops names sccm among its feeds"):
        await retiring.retire(scanner.deps, "sccm", "gone", by="otto")
    give_log(scanner)
    log = await connect_log(scanner)
    with pytest.raises(Conflict, match="read by Reclaim itself"):
        await retiring.retire(scanner.deps, log.name, "gone", by="otto")


async def test_a_source_is_retired_on_its_page_and_over_the_api(admin: Browser, served: Served) -> None:  # noqa: F811
    await feed(served.scanner, report=complete())
    await feed(served.scanner, report=complete(source="old"))
    page = await admin.follow("/scanner/sources/retire", {"retire": "agent", "reason": "replaced by Intune"})
    assert "replaced by Intune" in text_of(page)
    refused = await admin.post("/scanner/sources/retire", {"retire": "agent", "reason": "again"}, status=404)
    assert "has said anything" in text_of(refused.text)
    body = {"source": "old", "reason": "switched off"}
    await served.api("viewer")("POST", "/usage/sources/retire", 403, json=body)
    done = await served.api("operator")("POST", "/usage/sources/retire", json=body)
    assert (done["retired_by"], done["retired_at"]) == ("the-operator", NOON.isoformat().replace("+00:00", "Z"))
    listed = await served.api("viewer")("GET", "/usage/sources/retired")
    assert sorted(one["source"] for one in listed) == ["agent", "old"]
    assert await served.api("viewer")("GET", "/usage/sources") == []
