"""From a flagged case to a ticket and back: the real gateway, the real adapters, and simulated desks that misbehave."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseClosed, NoticeDelivered, NoticeFailed, Person, UserFlagged
from reclaim.common.host import Host
from reclaim.common.service import Runtime, Service
from reclaim.common.settings import Settings
from reclaim.connectors.itsm.profile import Tuning
from reclaim.itsm_gateway import ticket_store, ticketing
from reclaim.itsm_gateway.service import build
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.desks import freshservice, generic, jira, serval, servicenow
from reclaim.sandbox.desks.core import Desk, Ticket
from reclaim.sandbox.desks.pages import person_acts
from tests.support.itsm_gateway import KEY, NOW, SEALING, Site, flagged, life, secrets_of

QUICK = Tuning(connect_timeout=2, read_timeout=2, look_again=(0.0, 0.0), unknown_for=0.0)
PLATFORMS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "servicenow": ({"username": servicenow.USER}, {"password": servicenow.PASSWORD}),
    "jira": (
        {"email": jira.EMAIL, "service_desk_id": jira.SERVICE_DESK, "request_type_id": jira.REQUEST_TYPE},
        {"api_token": jira.TOKEN},
    ),
    "freshservice": ({"requester_email": "reclaim@example.com"}, {"api_key": freshservice.API_KEY}),
    "serval": (
        {"client_id": serval.CLIENT_ID, "team_id": serval.TEAM, "user_id": serval.USER},
        {"client_secret": serval.CLIENT_SECRET},
    ),
    "generic": ({}, {"secret": generic.SECRET}),
}


@dataclass
class World:
    """A gateway and the desks that it may be connected to."""

    site: Site
    sandbox: Sandbox
    platform: str = "freshservice"

    @property
    def desk(self) -> Desk:
        return self.sandbox.world.desks.by_name[self.platform]

    def entered(self, **more: Any) -> dict[str, Any]:
        settings, credentials = PLATFORMS[self.platform]
        address = {"base_url": f"{self.sandbox.url}/desks/{self.platform}"}
        return {"platform": self.platform, "settings": {**address, **settings}, "credentials": credentials, **more}

    async def connect(self, **more: Any) -> None:
        answer = await self.site.call("PUT", "/itsm-gateway/api/desks/it", role="admin", json=self.entered(**more))
        assert answer.status_code == 200, answer.text

    async def run(self, *names: str) -> None:
        """Let jobs do what there is to do, whatever their time."""
        for name in names:
            await self.make_due()
            job = next(job for job in self.site.running.service.jobs if job.name == name)
            await job.run()

    async def run_all(self) -> None:
        await self.run("open_tickets", "tell_tickets", "tell_tickets", "tell_tickets", "tell_tickets", "poll_tickets")
        await self.site.handle()

    async def make_due(self) -> None:
        async with self.site.running.database.unit() as unit:
            for table in (ticket_store.TICKET, ticket_store.TICKET_WORD):
                await unit.db.execute(sa.update(table).values(due=0))

    def tickets(self) -> list[Ticket]:
        return list(self.desk.tickets.values())

    def act(self, action: str, value: str = "") -> None:
        person_acts(self.desk, self.tickets()[0], action, value, "Ann Agent")

    async def decisions(self) -> list[tuple[str, str, str]]:
        return [(event.case_id, event.decision, event.channel) for event in await self.site.decisions()]

    def fault(self, kind: str, method: str, path: str, **more: Any) -> None:
        self.sandbox.world.faults.add(kind, method=method, path_regex=f"^/desks/{path}$", **more)


@asynccontextmanager
async def gateway(tmp_path: Path, database_url: str | None = None) -> AsyncIterator[World]:
    given = Settings(
        environment="test",
        data_dir=tmp_path,
        secret_keys=[KEY],
        sealing_keys=[SEALING],
        outgoing_allowed_hosts=["127.0.0.1"],
        **({"database_url": database_url} if database_url else {}),
    )

    def quick(runtime: Runtime) -> Service:
        return build(runtime, settings=secrets_of(), tuning=QUICK)

    host = Host(given, {"itsm-gateway": quick}, clock=FixedClock(NOW))
    await host.prepare()
    transport = httpx.ASGITransport(host.app)
    async with (
        Sandbox(clock=FixedClock(NOW), users=0) as sandbox,
        httpx.AsyncClient(transport=transport, base_url=given.public_url) as client,
    ):
        yield World(Site(host, client), sandbox)
        for running in host.running:
            await running.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    async with gateway(tmp_path, url) as made:
        yield made


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[World]:
    """On SQLite only, for what does not depend on the database."""
    async with gateway(tmp_path) as made:
        yield made


# The whole way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_a_case_becomes_a_ticket_whose_answer_decides_and_that_is_told_and_closed(
    small: World, platform: str
) -> None:
    world = small
    world.platform = platform
    await world.connect()
    await world.site.tell(flagged("c"))
    await world.run("open_tickets")
    (ticket,) = world.tickets()
    assert ticket.subject == "Keep or revoke: Sales Cloud for Ann Holder"
    assert "Unused for 60 days" in ticket.description
    said = await world.site.said()
    assert [(type(one), one.case_id) for one in said] == [(NoticeDelivered, "c")]  # type: ignore[attr-defined]
    await world.run("poll_tickets")
    assert await world.decisions() == []
    world.act("tag", "lr_revoke")
    for _ in range(2):
        await world.run("poll_tickets")
    assert await world.decisions() == [("c", "revoke", "itsm")]
    for event in life("c")[:3]:
        await world.site.tell(event)
    await world.run_all()
    assert [comment.text.split(".")[0] for comment in ticket.comments][:2] == [
        "The seat was frozen",
        "The seat was freed",
    ]
    assert world.desk.is_closed(ticket)
    assert len(ticket.comments) == 3


async def test_the_same_on_both_databases(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("a"), flagged("b", "both"), flagged("mailed", "email"))
    await world.run_all()
    assert len(world.tickets()) == 2
    world.act("tag", "lr_keep")
    await world.run_all()
    assert await world.decisions() == [("a", "keep", "itsm")]
    for case_id in ("a", "b"):
        await world.site.tell(CaseClosed(case_id=case_id, outcome="kept", reason="Kept.", closed_at=NOW))
    await world.run_all()
    assert all(world.desk.is_closed(ticket) for ticket in world.tickets())
    async with world.site.running.database.reading() as db:
        kept = await ticket_store.of_cases(db, {"a", "b", "mailed"})
    assert {case_id: ticket.state for case_id, ticket in kept.items()} == {"a": "closed", "b": "closed"}


async def test_a_ticket_is_opened_on_the_desk_that_its_rule_names(world: World) -> None:
    await world.connect()
    world.platform = "jira"
    answer = await world.site.call("PUT", "/itsm-gateway/api/desks/emea", role="admin", json=world.entered(asks=False))
    assert answer.status_code == 200, answer.text

    def named(case_id: str, desk: str | None) -> UserFlagged:
        event = flagged(case_id)
        return msgspec.structs.replace(event, policy=msgspec.structs.replace(event.policy, desk=desk))

    await world.site.tell(named("a", "emea"), named("b", None), named("c", "gone"))
    await world.run("open_tickets")
    (in_jira,) = world.tickets()
    world.platform = "freshservice"
    (elsewhere,) = world.tickets()
    assert {"a", "b"} == {_case_of(in_jira), _case_of(elsewhere)}
    assert _case_of(in_jira) == "a"
    (failed,) = [event for event in await world.site.said() if isinstance(event, NoticeFailed)]
    assert (failed.case_id, failed.reason) == ("c", "No service desk is connected as gone.")
    assert "connect that desk, or name another in the rule" in failed.remedy
    await world.run_all()
    assert [event.case_id for event in await world.site.said() if isinstance(event, NoticeFailed)] == ["c"]


def _case_of(ticket: Ticket) -> str:
    """Return the case that a ticket's description leads to."""
    found = re.search(r"/lifecycle/cases/(\w+)", ticket.description)
    assert found
    return found[1]


async def test_the_approver_is_the_requester(small: World) -> None:
    await small.connect()
    event = flagged("c")
    approver = Person(id="9", name="Mia Manager", email="mia@example.com")
    await small.site.tell(msgspec.structs.replace(event, approver=approver))
    await small.run("open_tickets")
    assert small.tickets()[0].requester == "mia@example.com"


async def test_a_dry_run_is_marked_on_its_ticket(small: World) -> None:
    await small.connect()
    event = flagged("c")
    await small.site.tell(msgspec.structs.replace(event, policy=msgspec.structs.replace(event.policy, dry_run=True)))
    await small.run("open_tickets")
    (ticket,) = small.tickets()
    assert ticket.subject.startswith("[DRY-RUN] ")
    assert "lr_test" in ticket.tags


# Trouble -------------------------------------------------------------------------------------------------------------


async def test_an_answer_that_was_lost_opens_no_second_ticket(world: World) -> None:
    await world.connect()
    world.desk.search_lag = 50
    world.fault("timeout_after_commit", "POST", "freshservice/api/v2/tickets")
    world.fault("server_unavailable", "GET", "freshservice/api/v2/tickets", times=4)
    await world.site.tell(flagged("c"))
    for _ in range(6):
        await world.run("open_tickets")
        assert len(world.tickets()) == 1
    assert [type(one) for one in await world.site.said()] == [NoticeDelivered]


async def test_a_claim_that_died_is_taken_over_and_finds_the_ticket(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    # The ticket is there, and whoever opened it died before it could say so.
    small.desk.open(subject="x", description="Reference: lr-case-c")
    async with small.site.running.database.unit() as unit:
        await ticket_store.claim(unit.db, "wanted", now=2**62, until=0, most=1)
    await small.run("open_tickets")
    assert len(small.tickets()) == 1


async def test_one_whose_lease_was_taken_over_writes_nothing(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("c"))
    async with world.site.running.database.unit() as unit:
        (slow,) = await ticket_store.claim(unit.db, "wanted", now=2**62, until=0, most=1)
        (fast,) = await ticket_store.claim(unit.db, "wanted", now=2**62, until=0, most=1)
        assert not await ticket_store.settle(unit.db, slow, state="failed")
        assert await ticket_store.settle(unit.db, fast, state="open", key="1")
        assert not await ticket_store.settle(unit.db, fast, state="failed")


async def test_a_storm_of_429_is_waited_out(small: World) -> None:
    await small.connect()
    small.sandbox.world.faults.add(
        "too_many_requests", path_regex="^/desks/freshservice", times=1, params={"retry_after": 600}
    )
    await small.site.tell(flagged("a"), flagged("b"))
    before = len(small.desk.called)
    for _ in range(3):
        await small.run("open_tickets")
    # Two at most were on their way when the first answer came.
    assert len(small.desk.called) - before <= 2
    async with small.site.running.database.reading() as db:
        waiting = await ticket_store.of_cases(db, {"a", "b"})
    assert {ticket.state for ticket in waiting.values()} <= {"wanted", "open"}
    assert any(
        "429" in (ticket.failure or "") or "fewer calls" in (ticket.failure or "") for ticket in waiting.values()
    )


async def test_credentials_that_are_taken_away_call_a_person_and_mending_them_opens_it(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    small.sandbox.world.faults.add("session_expired", path_regex="^/desks/freshservice", times=None)
    await small.run("open_tickets")
    (failed,) = await small.site.said()
    assert isinstance(failed, NoticeFailed)
    assert "401" in failed.reason
    assert "Mend the connection" in failed.remedy
    assert "401" in (await small.site.get("/itsm-gateway/api/requests/c"))["failure"]
    small.sandbox.world.faults.clear()
    answer = await small.site.call("POST", "/itsm-gateway/api/requests/c/open", role="operator")
    assert answer.status_code == 202
    await small.run("open_tickets")
    assert len(small.tickets()) == 1
    assert (await small.site.get("/itsm-gateway/api/requests/c"))["failure"] is None
    again = await small.site.call("POST", "/itsm-gateway/api/requests/c/open", role="operator")
    assert again.status_code == 409


async def test_words_are_told_in_order_however_often_the_first_fails(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.fault("server_unavailable", "POST", "freshservice/api/v2/tickets/[0-9]+/notes", times=2)
    for event in life("c")[:2]:
        await small.site.tell(event)
    for _ in range(5):
        await small.run("tell_tickets")
    texts = [comment.text for comment in small.tickets()[0].comments]
    assert [text.split(".")[0] for text in texts] == ["The seat was frozen", "The seat was freed"]


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_a_ticket_closed_without_an_answer_takes_nothing_away_and_is_listed(small: World, platform: str) -> None:
    small.platform = platform
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.act("close")
    await small.run("poll_tickets")
    assert await small.decisions() == []
    delivery = await small.site.delivery()
    assert delivery["state"] == "failed"
    assert "without an answer" in delivery["outcome"]


async def test_tags_that_disagree_take_nothing_away(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    for tag in ("lr_keep", "lr_revoke"):
        small.act("tag", tag)
    small.act("close")
    await small.run("poll_tickets")
    assert await small.decisions() == []


async def test_an_answer_that_changes_before_it_is_read_back_is_not_acted_on(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.act("tag", "lr_revoke")
    await small.run("poll_tickets")
    small.act("untag", "lr_revoke")
    assert await small.decisions() == []


async def test_without_a_desk_nobody_is_asked(small: World) -> None:
    await small.site.tell(flagged("c"))
    assert [type(one) for one in await small.site.said()] == [NoticeFailed]
    await small.run_all()
    assert small.tickets() == []


# Connecting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_a_desk_is_connected_tested_and_asked_for_its_fields(small: World, platform: str) -> None:
    small.platform = platform
    await small.connect()
    tested = await small.site.call("POST", "/itsm-gateway/api/desks/it/test", role="admin")
    assert [one for one in tested.json() if not one["ok"]] == []
    fields = await small.site.call("GET", "/itsm-gateway/api/desks/it/fields", role="admin")
    assert fields.json()
    shown = await small.site.get("/itsm-gateway/api/desks")
    for secret in PLATFORMS[platform][1].values():
        assert secret not in str(shown)
    async with small.site.running.database.reading() as db:
        (stored,) = await ticket_store.desks(db)
    assert all(secret not in repr(stored) for secret in PLATFORMS[platform][1].values())


async def test_the_platforms_say_what_is_entered(small: World) -> None:
    platforms = {one["name"]: one for one in await small.site.get("/itsm-gateway/api/platforms")}
    assert set(platforms) == set(PLATFORMS)
    secrets = [entry["name"] for entry in platforms["jira"]["entries"] if entry["secret"]]
    assert secrets == ["api_token"]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"platform": "remedy"}, 422, "remedy"),
        ({"title": "${nobody}"}, 422, "nobody"),
        ({"decisions": {"tags": {"lr_test": "revoke"}}}, 422, "lr_test"),
        ({"settings": {"base_url": "https://169.254.169.254", "requester_email": "a@b.example"}}, 422, "169.254"),
        ({"colour": "blue"}, 422, "colour"),
    ],
    ids=["platform", "template", "decisions", "address", "unknown"],
)
async def test_what_does_not_fit_is_not_stored(small: World, changes: dict[str, Any], status: int, said: str) -> None:
    answer = await small.site.call(
        "PUT", "/itsm-gateway/api/desks/it", role="admin", json={**small.entered(), **changes}
    )
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert await small.site.get("/itsm-gateway/api/desks") == []


async def test_credentials_stay_unless_they_would_go_elsewhere(small: World) -> None:
    await small.connect()
    kept = small.entered(title="Please look: ${holder_name}")
    del kept["credentials"]
    assert (await small.site.call("PUT", "/itsm-gateway/api/desks/it", role="admin", json=kept)).status_code == 200
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    assert small.tickets()[0].subject == "Please look: Ann Holder"
    kept["settings"] = {**kept["settings"], "base_url": "http://127.0.0.1:9/elsewhere"}
    moved = await small.site.call("PUT", "/itsm-gateway/api/desks/it", role="admin", json=kept)
    assert (moved.status_code, "credentials again" in moved.text) == (422, True)


async def test_only_an_administrator_connects(small: World) -> None:
    for role in ("viewer", "operator"):
        answer = await small.site.call("PUT", "/itsm-gateway/api/desks/it", role=role, json=small.entered())
        assert answer.status_code == 403


async def test_a_desk_that_is_gone_fails_its_tickets_with_a_remedy(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    assert (await small.site.call("DELETE", "/itsm-gateway/api/desks/it", role="admin")).status_code == 204
    await small.run("open_tickets")
    (failed,) = await small.site.said()
    assert isinstance(failed, NoticeFailed)


def test_patience_is_shorter_than_a_lease() -> None:
    assert ticketing.PATIENCE * 1000 < ticketing.LEASE
    assert sum(Tuning().look_again) < ticketing.PATIENCE


async def test_the_pages_show_the_ticket(small: World) -> None:
    assert "No service desk is connected" in await small.site.get("/itsm-gateway/")
    await small.connect()
    await small.site.tell(flagged("c"))
    assert "being opened" in await small.site.get("/itsm-gateway/")
    await small.run("open_tickets")
    assert "#301" in await small.site.get("/itsm-gateway/")
    page = await small.site.get("/itsm-gateway/requests/c")
    assert "/desks/freshservice/a/tickets/301" in page
    assert "What the ticket is told" in page
