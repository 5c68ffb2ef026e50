"""What was stored before tickets had a kind is still there afterwards, and means the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from reclaim.common import migrate
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import DeskChanged
from reclaim.common.db import Database
from reclaim.itsm_gateway import delivery_store, store, ticket_store, told_store
from reclaim.itsm_gateway.desks import place_of
from tests.support.itsm_gateway import NOW

VERSIONS = Path(ticket_store.__file__).parent / "migrations"
BEFORE = ("0001_first.py", "0002_webhooks.py", "0003_tickets.py")
TICKET = (
    'INSERT INTO ticket (case_id, desk_id, state, "values", dry_run, flagged_at, key, number, says, attempts, due) '
    "VALUES (:case, 'it', :state, '{}', false, :at, :case, :case, 'revoke', 0, 0)"
)
DESK = (
    "INSERT INTO desk (id, platform, settings, credentials, decisions, title, description, fields, asks, version, "
    "changed_at, changed_by) VALUES ('it', 'servicenow', :settings, '', '{}', '', '', '{}', true, 1, :at, 'Ann')"
)
ROUTE = "INSERT INTO case_route (case_id, through_the_desk) VALUES (:case, true)"
WORD = (
    "INSERT INTO ticket_word (event_id, case_id, closes, text, state, attempts, due) "
    "VALUES (:event, 'open', :closes, 'Words.', 'waiting', 0, 0)"
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    made: str = (
        f"sqlite+aiosqlite:///{tmp_path}/gateway.db"
        if request.param == "sqlite"
        else request.getfixturevalue("fresh_database")
    )
    return made


async def test_tickets_and_words_from_before_are_carried_over(url: str, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in BEFORE:
        shutil.copy(VERSIONS / name, old)
    database = Database(url, FixedClock(NOW))
    try:
        await migrate.upgrade(database.engine, old)
        async with database.engine.begin() as db:
            # SQLite keeps instants without their zone.
            at = NOW.replace(tzinfo=None) if db.dialect.name == "sqlite" else NOW
            await db.execute(sa.text(DESK), {"settings": '{"base_url": "https://now.example/", "table": ""}', "at": at})
            for state in ("open", "closed"):
                await db.execute(sa.text(TICKET), {"case": state, "state": state, "at": at})
                await db.execute(sa.text(ROUTE), {"case": state})
            for event, closes in (("e1", False), ("e2", True)):
                await db.execute(sa.text(WORD), {"event": event, "closes": closes})
        await migrate.upgrade(database.engine, VERSIONS)
        async with database.unit() as unit:
            tickets = await ticket_store.of_cases(unit.db, {"open", "closed"})
            (first,) = await ticket_store.claim_words(unit.db, "it", now=1, until=2, most=5)
            await ticket_store.settle_word(unit.db, first[0], state="told")
            (second,) = await ticket_store.claim_words(unit.db, "it", now=1, until=2, most=5)
            assert await delivery_store.deliveries(unit.db, limit=5) == []
            # The end of one was among the words that its ticket is told.
            assert await store.end(unit.db, set(), {"open", "closed"}) == {"open"}
            assert await store.named_desks(unit.db, {"open"}) == {"open": None}
            desk = await ticket_store.desk(unit.db, "it")
    finally:
        await database.close()
    assert desk
    assert (
        {one.place for one in tickets.values()}
        == {place_of(desk)}
        == {"servicenow at https://now.example, table incident"}
    )
    assert {case: (one.reference, one.kind, one.says, one.closed_since) for case, one in tickets.items()} == {
        "open": ("open", "question", "revoke", None),
        "closed": ("closed", "question", "revoke", 0),
    }
    assert [(word.event_id, word.act, word.reference) for word, _ in (first, second)] == [
        ("e1", "comment", "open"),
        ("e2", "end", "open"),
    ]


async def test_a_desk_that_is_connected_already_is_still_to_be_announced(url: str, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for path in VERSIONS.glob("0*.py"):
        if path.name < "0010":
            shutil.copy(path, old)
    database = Database(url, FixedClock(NOW))
    try:
        await migrate.upgrade(database.engine, old)
        async with database.engine.begin() as db:
            at = NOW.replace(tzinfo=None) if db.dialect.name == "sqlite" else NOW
            await db.execute(sa.text(DESK), {"settings": "{}", "at": at})
        await migrate.upgrade(database.engine, VERSIONS)
        async with database.reading() as reading:
            assert await told_store.untold(reading) == [
                DeskChanged(desk_id="it", platform="servicenow", asks=True, version=1)
            ]
    finally:
        await database.close()
