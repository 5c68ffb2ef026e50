"""From a flagged case to a ticket and back: the real gateway, the real adapters, and simulated desks that misbehave."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CaseClosed,
    CheaperLicence,
    CheckFinding,
    FulfilmentReported,
    NoticeDelivered,
    NoticeFailed,
    Person,
    Route,
    TicketUndecided,
    UserFlagged,
)
from reclaim.common.errors import Conflict
from reclaim.common.outgoing import Outgoing
from reclaim.common.security import Sealer
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.itsm.freshservice import Freshservice
from reclaim.connectors.itsm.ports import ReadDecision, ServiceDesk, TicketRef
from reclaim.connectors.itsm.profile import Tuning
from reclaim.itsm_gateway import deliveries, desks, setup, ticket_store, ticketing
from reclaim.itsm_gateway.desks import Desks
from reclaim.sandbox.desks import jira
from reclaim.sandbox.desks.core import PRODUCT
from reclaim.sandbox.desks.pages import person_acts
from tests.support.itsm_desks import CLOSING, LAST_CALL, PLATFORMS, World, case_of, gateway
from tests.support.itsm_gateway import NOW, SEALING, answer, flagged, life, signed, task


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
    assert [comment.text.split(".")[0] for comment in ticket.comments] == ["The seat was frozen", "The seat was freed"]
    assert world.desk.is_closed(ticket)


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

    await world.site.tell(on_desk("a", "emea"), on_desk("b", None), on_desk("c", "gone"))
    await world.run("open_tickets")
    (in_jira,) = world.tickets()
    world.platform = "freshservice"
    (elsewhere,) = world.tickets()
    assert {"a", "b"} == {case_of(in_jira), case_of(elsewhere)}
    assert case_of(in_jira) == "a"
    (failed,) = [event for event in await world.site.said() if isinstance(event, NoticeFailed)]
    assert (failed.case_id, failed.reason) == ("c", "No service desk is connected as gone.")
    assert "connect that desk, or name another in the rule" in failed.remedy
    await world.run_all()
    assert [event.case_id for event in await world.site.said() if isinstance(event, NoticeFailed)] == ["c"]


def on_desk(case_id: str, desk: str | None, route: Route = "itsm") -> UserFlagged:
    """Return a case whose rule names a desk."""
    event = flagged(case_id, route)
    return msgspec.structs.replace(event, policy=msgspec.structs.replace(event.policy, desk=desk))


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
        await ticket_store.claim(unit.db, "wanted", "it", now=2**62, until=0, most=1)
    await small.run("open_tickets")
    assert len(small.tickets()) == 1


async def test_one_whose_lease_was_taken_over_writes_nothing(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("c"))
    async with world.site.running.database.unit() as unit:
        (slow,) = await ticket_store.claim(unit.db, "wanted", "it", now=2**62, until=0, most=1)
        (fast,) = await ticket_store.claim(unit.db, "wanted", "it", now=2**62, until=0, most=1)
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
    shown = await small.site.get("/itsm-gateway/requests/c")
    assert "not opened" in shown
    assert "being opened" not in shown
    small.sandbox.world.faults.clear()
    answer = await small.site.call("POST", "/itsm-gateway/api/requests/c/open", role="operator")
    assert answer.status_code == 202
    await small.run("open_tickets")
    assert len(small.tickets()) == 1
    assert (await small.site.get("/itsm-gateway/api/requests/c"))["failure"] is None
    again = await small.site.call("POST", "/itsm-gateway/api/requests/c/open", role="operator")
    assert again.status_code == 409


async def test_credentials_that_are_taken_away_in_mid_flow_lose_nothing_and_show_on_the_console(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"), flagged("d"))
    await small.run("open_tickets")
    small.sandbox.world.faults.add("session_expired", path_regex="^/desks/freshservice", times=None)
    small.act("tag", "lr_revoke")
    await small.site.tell(life("d")[0], flagged("e"))
    await small.run("poll_tickets", "tell_tickets", "open_tickets")
    page = await small.site.get("/itsm-gateway/")
    for what in ("read", "told", "opened"):
        assert f"of it could not be {what}" in page
    assert "Enter the credentials again." in page
    assert "Mend the connection" not in page, "that is for an administrator"
    assert "cannot be used just now" in await small.site.get("/itsm-gateway/requests/c")
    small.sandbox.world.faults.clear()
    await small.connect()
    for name in ("open_tickets", "tell_tickets", "poll_tickets"):
        job = next(job for job in small.site.running.service.jobs if job.name == name)
        await job.run()
    assert await small.decisions() == [("c", "revoke", "itsm")]
    assert len(small.tickets()) == 3
    assert "The seat was frozen" in small.tickets()[1].comments[-1].text
    assert "could not be" not in await small.site.get("/itsm-gateway/")


async def mended_under_way(world: World, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let jobs run into credentials that are no longer accepted, while a person enters the new ones."""
    found = Desks._connected

    async def and_then_it_is_mended(self: Desks, desk_id: str) -> Any:
        known = await found(self, desk_id)
        monkeypatch.undo()
        await world.connect()
        return known

    for name in names:
        await world.make_due()
        monkeypatch.setattr(Desks, "_connected", and_then_it_is_mended)
        world.fault("session_expired", "GET", "freshservice/.*")
        job = next(job for job in world.site.running.service.jobs if job.name == name)
        await job.run()
        await job.run()


async def test_what_was_under_way_while_its_desk_was_mended_is_tried_again_by_itself(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await mended_under_way(small, monkeypatch, "open_tickets")
    (ticket,) = small.tickets()
    assert not [event for event in await small.site.said() if isinstance(event, NoticeFailed)]
    await small.site.tell(task("c"), life("c")[0])
    await mended_under_way(small, monkeypatch, "tell_tickets", "tell_tickets")
    assert "The seat was frozen" in ticket.comments[-1].text
    small.act("reopen")
    await small.time_passes()
    await mended_under_way(small, monkeypatch, "poll_tickets")
    await mended_under_way(small, monkeypatch, "handle_deliveries")
    async with small.site.running.database.unit() as unit:
        await unit.db.execute(sa.text("UPDATE webhook_delivery SET due = 0"))
    assert await small.decisions() == [("c", "keep", "itsm")]
    assert "could not be" not in await small.site.get("/itsm-gateway/")


async def test_mending_a_desk_opens_no_ticket_of_a_case_that_has_ended(small: World) -> None:
    await small.connect()
    small.sandbox.world.faults.add("request_limit", path_regex="^/desks/freshservice", times=None)
    await small.site.tell(flagged("ended"), flagged("open"))
    await small.run("open_tickets")
    await small.site.tell(CaseClosed(case_id="ended", outcome="kept", reason="On its page.", closed_at=NOW))
    small.sandbox.world.faults.clear()
    await small.connect()
    await small.run("open_tickets")
    assert [ticket.tags for ticket in small.tickets()] == [["lr-case-open"]]


async def test_mending_a_desk_tells_a_ticket_nothing_that_its_end_has_overtaken(world: World) -> None:
    await asked_to_free(world, "email")
    world.act("close")
    await world.run("poll_tickets")
    await world.site.handle()
    world.fault("request_limit", "PUT", "freshservice/api/v2/tickets/[0-9]+", times=1)
    await world.site.tell(task("c", "Try once more."))
    await world.run("tell_tickets")
    for event in life("c")[1:3]:
        await world.site.tell(event)
    await world.run("tell_tickets", "tell_tickets")
    (ticket,) = world.tickets()
    said = len(ticket.comments)
    assert world.desk.is_closed(ticket)
    await world.connect()
    await world.run("tell_tickets", "tell_tickets")
    assert (world.desk.is_closed(ticket), len(ticket.comments)) == (True, said)
    assert "could not be told" not in await world.site.get("/itsm-gateway/")


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


@pytest.mark.parametrize("tags", [(), ("lr_keep", "lr_revoke")], ids=["none", "two"])
async def test_a_ticket_that_decides_nothing_is_told_once_how_to_answer(small: World, tags: tuple[str, ...]) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    for tag in tags:
        small.act("tag", tag)
    small.act("close")
    for _ in range(3):
        await small.run("poll_tickets")
        await small.site.handle()
        await small.run("tell_tickets")
    (comment,) = small.tickets()[0].comments
    assert "set one tag (label) on this ticket: lr_keep" in comment.text
    assert "the time to answer runs on" in comment.text
    assert "nothing is taken away" not in comment.text + small.tickets()[0].description


CHEAPER = CheaperLicence(product="chatter-free", product_name="Chatter Free")


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_a_downgrade_is_offered_where_there_is_a_cheaper_licence_and_means_revoke_elsewhere(
    small: World, platform: str
) -> None:
    small.platform = platform
    await small.connect()
    asked = flagged("with")
    await small.site.tell(
        msgspec.structs.replace(asked, policy=msgspec.structs.replace(asked.policy, downgrade_to=CHEAPER)),
        flagged("without"),
    )
    await small.run("open_tickets")
    tickets = {ticket.description.split("lr-case-")[1].split()[0]: ticket for ticket in small.tickets()}
    assert "lr_downgrade" in tickets["with"].description
    assert "lr_downgrade" not in tickets["without"].description
    assert "lr_keep or lr_revoke" in tickets["without"].description
    for number in (0, 1):
        small.act("tag", "lr_downgrade", ticket=number)
    for _ in range(2):
        await small.run("poll_tickets")
        decided = sorted(await small.decisions())
        assert decided == [("with", "downgrade", "itsm"), ("without", "revoke", "itsm")]
    assert not [event for event in await small.site.said() if isinstance(event, TicketUndecided)]
    await small.run("tell_tickets", "tell_tickets")
    assert not tickets["with"].comments
    (said,) = tickets["without"].comments
    assert "taken as revoke" in said.text
    read = [await small.site.get(f"/itsm-gateway/deliveries/{number}") for number in (1, 2)]
    assert all("by reading the ticket" in page and "Verified with" not in page for page in read)


async def test_a_question_that_is_closed_as_done_calls_a_person_and_says_so(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.act("tag", "lr_done")
    small.act("close")
    for _ in range(2):
        await small.run("poll_tickets")
        await small.site.handle()
    (undecided,) = [event for event in await small.site.said() if isinstance(event, TicketUndecided)]
    assert "a task was carried out" in undecided.reason
    await small.run("tell_tickets")
    (comment,) = small.tickets()[0].comments
    assert "This is no answer yet" in comment.text


async def test_our_closing_of_a_question_that_says_done_is_nothing_for_a_person(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    small.act("tag", "lr_done")
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets")
    assert small.desk.is_closed(small.tickets()[0])
    _, secret = await small.site.secret("it", "freshservice")
    body = b'{"ticket_id": "301", "tags": "lr-case-c,lr_done"}'
    await small.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    await small.site.handle()
    shown = await small.site.get("/itsm-gateway/api/deliveries")
    assert [one["state"] for one in shown["deliveries"]] == ["ignored"]


async def test_a_ticket_that_its_desk_does_not_find_yet_is_not_left_open_after_the_end_of_its_case(
    small: World,
) -> None:
    small.platform = "jira"
    await small.connect()
    await small.site.tell(flagged("c"))
    small.sandbox.world.desks.jira.search_lag = 5
    small.fault("timeout_after_commit", "POST", "jira/rest/servicedeskapi/request")
    await small.run("open_tickets")
    (ticket,) = small.tickets()
    await small.site.tell(CaseClosed(case_id="c", outcome="kept", reason="By mail.", closed_at=NOW))
    for _ in range(6):
        await small.run("open_tickets", "tell_tickets")
    assert small.desk.is_closed(ticket)


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


async def test_an_answer_that_nobody_foresaw_keeps_no_other_ticket_from_being_read(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"), flagged("d"))
    await small.run("open_tickets")
    read = Freshservice.read_decision

    async def stumbles(desk: Freshservice, ref: TicketRef) -> ReadDecision:
        if ref.key == "301":
            raise ValueError("an answer that nobody foresaw")
        return await read(desk, ref)

    monkeypatch.setattr(Freshservice, "read_decision", stumbles)
    for ticket in (0, 1):
        small.act("tag", "lr_keep", ticket=ticket)
    await small.run("poll_tickets")
    monkeypatch.undo()
    assert "could not be read (ValueError)" in await small.site.get("/itsm-gateway/")
    assert len(await small.decisions()) == 1
    await small.run("poll_tickets")
    assert sorted(await small.decisions()) == [("c", "keep", "itsm"), ("d", "keep", "itsm")]


async def test_a_name_with_a_nul_is_kept_without_it(world: World) -> None:
    world.platform = "generic"
    await world.connect()
    await world.site.tell(flagged("c"))
    await world.run("open_tickets")
    person_acts(world.desk, world.tickets()[0], "tag", "lr_keep", "Ann\0 Agent")
    await world.run("poll_tickets")
    assert [event.actor for event in await world.site.decisions()] == ["Ann Agent"]


async def test_without_a_desk_nobody_is_asked(small: World) -> None:
    await small.site.tell(flagged("c"))
    assert [type(one) for one in await small.site.said()] == [NoticeFailed]
    await small.run_all()
    assert small.tickets() == []


# Webhooks on bad roads -----------------------------------------------------------------------------------------------


async def hooked(world: World, **more: Any) -> str:
    """Connect a desk whose webhooks are kept back; return the secret that they are signed with."""
    await world.connect(**more)
    _, secret = await world.site.secret("it", world.platform)
    world.desk.hooks.url, world.desk.hooks.secret, world.desk.hooks.hold = "http://gateway.example", secret, True
    await world.site.tell(flagged("c"))
    await world.run("open_tickets")
    world.desk._waiting.clear()
    return secret


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("road", ["twice", "backwards", "half-lost"])
async def test_webhooks_that_are_repeated_reordered_or_lost_decide_once_what_the_ticket_says(
    small: World, platform: str, road: str
) -> None:
    small.platform = platform
    await hooked(small)
    # Contradictory: the first answer is taken back before anybody has heard it.
    for action, tag in [("tag", "lr_keep"), ("untag", "lr_keep"), ("tag", "lr_revoke"), ("close", "")]:
        small.act(action, tag)
    sent = list(small.desk._waiting)
    assert sent
    arriving = {"twice": [*sent, *sent], "backwards": sent[::-1], "half-lost": sent[1::2]}[road]
    for hook in arriving:
        assert (await small.site.post("it", hook.body, hook.headers)).status_code == 202
    assert await small.decisions() in ([("c", "revoke", "itsm")], [])
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "revoke", "itsm")]


async def test_jira_a_field_that_the_site_added_decides_by_its_webhook(small: World) -> None:
    small.platform = "jira"
    rules = {"decision_field": jira.DECISION_FIELD, "values": {"Revoke": "revoke"}}
    await hooked(small, decisions=rules)
    small.act("set", f"{jira.DECISION_FIELD}=Revoke")
    (hook,) = small.desk._waiting
    (changed,) = msgspec.json.decode(hook.body)["changelog"]["items"]
    assert (changed["field"], changed["fieldId"]) == ("Decision", jira.DECISION_FIELD)
    assert (await small.site.post("it", hook.body, hook.headers)).status_code == 202
    assert await small.decisions() == [("c", "revoke", "itsm")]


async def test_our_own_closing_and_its_webhooks_decide_nothing(small: World) -> None:
    await hooked(small)
    small.act("tag", "lr_revoke")
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "revoke", "itsm")]
    small.desk._waiting.clear()
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets")
    await small.time_passes()
    echoes = list(small.desk._waiting)
    assert echoes, "closing a ticket sends a webhook"
    for hook in echoes:
        await small.site.post("it", hook.body, hook.headers)
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "revoke", "itsm")]


async def test_servicenow_who_decided_is_who_set_the_tag_and_who_appealed_is_who_reopened(small: World) -> None:
    small.platform = "servicenow"
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    (ticket,) = small.tickets()
    person_acts(small.desk, ticket, "tag", "lr_revoke", "Ann Agent")
    small.desk.say(ticket, "A note of our own.", public=False, by=PRODUCT)
    await small.run("poll_tickets")
    await small.site.handle()
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets")
    await small.time_passes()
    person_acts(small.desk, ticket, "reopen", "", "Bob Broker")
    await small.run("poll_tickets")
    said = await small.site.decisions()
    assert [(one.decision, one.actor) for one in said] == [("revoke", "Ann Agent"), ("keep", "Bob Broker")]


# Tasks ---------------------------------------------------------------------------------------------------------------


async def asked_to_free(world: World, route: Route = "itsm") -> int:
    """Bring a case to where a person has to free its seat; return which ticket has the task."""
    await world.connect()
    await world.site.tell(flagged("c", route))
    await world.run("open_tickets")
    await world.site.tell(task("c"))
    await world.run("open_tickets", "tell_tickets")
    return len(world.tickets()) - 1


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_a_task_is_a_ticket_of_its_own_and_done_frees_the_seat_once(small: World, platform: str) -> None:
    small.platform = platform
    number = await asked_to_free(small)
    question, its_task = small.tickets()
    assert number == 1
    assert its_task.subject == "Free the seat: Sales Cloud for Ann Holder"
    assert "Take the seat of Ann Holder back." in its_task.description
    assert "lr_done" in its_task.description.replace("\\", "")
    assert "Take the seat of Ann Holder back." in question.comments[0].text
    small.act("tag", "lr_done", ticket=1)
    await small.run("poll_tickets")
    assert await small.reports() == [], "it is still open"
    small.act("close", ticket=1)
    for _ in range(3):
        await small.run("poll_tickets")
        await small.site.handle()
    reports = await small.reports()
    assert [(case_id, done) for case_id, done, _ in reports] == [("c", True)]
    assert await small.decisions() == []


async def test_a_task_is_done_on_both_databases_whatever_the_question_was_asked_by(world: World) -> None:
    assert await asked_to_free(world, "email") == 0
    world.act("tag", "lr_done")
    world.act("close")
    await world.run("poll_tickets")
    assert [(case_id, done) for case_id, done, _ in await world.reports()] == [("c", True)]
    for event in life("c")[1:3]:
        await world.site.tell(event)
    await world.run_all()
    assert [comment.text.split(".")[0] for comment in world.tickets()[0].comments] == ["The seat was freed"]


async def test_a_task_that_is_closed_without_the_tag_calls_a_person_and_can_be_asked_anew(small: World) -> None:
    await asked_to_free(small)
    small.act("close", ticket=1)
    for _ in range(2):
        await small.run("poll_tickets")
        await small.site.handle()
    assert [(case_id, done) for case_id, done, _ in await small.reports()] == [("c", False)]
    await small.site.tell(task("c", "Try once more."))
    await small.run("open_tickets", "tell_tickets", "tell_tickets")
    again = small.tickets()[1]
    assert not small.desk.is_closed(again)
    assert "Try once more." in again.comments[-1].text
    assert len(small.tickets()) == 2
    await small.run("poll_tickets")
    assert len(await small.reports()) == 1, "our own reopening says nothing"
    small.act("close", ticket=1)
    await small.run("poll_tickets")
    assert [done for _, done, _ in await small.reports()] == [False, False]
    small.act("tag", "lr_done", ticket=1)
    await small.run("poll_tickets")
    assert [done for _, done, _ in await small.reports()] == [False, False, True]


async def test_a_dry_run_gives_nobody_a_task(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c", "email"), task("c", dry_run=True))
    await small.run("open_tickets")
    assert small.tickets() == []


async def test_a_task_whose_ticket_cannot_be_opened_calls_a_person(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c", "email"))
    small.sandbox.world.faults.add("request_limit", path_regex="^/desks/freshservice", times=None)
    await small.site.tell(task("c"))
    await small.run("open_tickets")
    (report,) = [event for event in await small.site.said() if isinstance(event, FulfilmentReported)]
    assert (report.done, "no ticket could be opened" in report.note) == (False, True)
    small.sandbox.world.faults.clear()
    await small.site.tell(task("c", "Once more."))
    await small.run("open_tickets")
    assert len(small.tickets()) == 1


@pytest.mark.parametrize("route", ["itsm", "email"])
async def test_a_task_goes_to_the_desk_that_its_rule_names(world: World, route: Route) -> None:
    await world.connect()
    world.platform = "jira"
    answer = await world.site.call("PUT", "/itsm-gateway/api/desks/emea", role="admin", json=world.entered(asks=False))
    assert answer.status_code == 200, answer.text
    await world.site.tell(on_desk("c", "emea", route))
    await world.run("open_tickets")
    await world.site.tell(task("c"))
    await world.run("open_tickets")
    assert world.tickets()[-1].subject == "Free the seat: Sales Cloud for Ann Holder"
    world.platform = "freshservice"
    assert world.tickets() == []


async def test_a_task_stays_on_the_desk_where_its_case_was_asked(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.platform = "jira"
    await small.site.call("PUT", "/itsm-gateway/api/desks/other", role="admin", json=small.entered())
    await small.site.tell(task("c"))
    await small.run("open_tickets")
    assert small.tickets() == []
    small.platform = "freshservice"
    assert len(small.tickets()) == 2


async def test_a_task_that_no_desk_can_have_calls_a_person(world: World) -> None:
    await world.site.tell(flagged("a"), on_desk("b", "gone", "email"), flagged("c", "email"))
    await world.site.tell(task("a"), task("b"), task("c"), task("a", dry_run=True))
    reports = [event for event in await world.site.said() if isinstance(event, FulfilmentReported)]
    # One that is asked by mail, without a desk, is in the lifecycle's list of tasks.
    assert [(event.case_id, event.done, event.note) for event in reports] == [
        ("a", False, "no ticket could be opened: No service desk is connected."),
        ("b", False, "no ticket could be opened: No service desk is connected as gone."),
    ]


async def test_a_task_whose_ticket_was_deleted_calls_a_person_once(world: World) -> None:
    await asked_to_free(world, "email")
    world.desk.tickets.clear()
    for _ in range(3):
        await world.run("poll_tickets")
        assert [done for _, done, _ in await world.reports()] == [False]
    (report,) = [event for event in await world.site.said() if isinstance(event, FulfilmentReported)]
    assert "the ticket of the task is gone" in report.note
    assert "404" in await world.site.get("/itsm-gateway/"), "it stays on the console"


async def test_a_question_whose_ticket_was_deleted_is_listed_once_and_still_unheard(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    deleted = dict(small.desk.tickets)
    small.desk.tickets.clear()
    for _ in range(2):
        await small.run("poll_tickets")
        await small.site.handle()
    assert (await small.site.delivery())["state"] == "failed"
    assert len((await small.site.get("/itsm-gateway/api/deliveries"))["deliveries"]) == 1
    async with small.site.running.database.reading() as db:
        assert (await ticket_store.of_cases(db, {"c"}))["c"].says is None
    small.desk.tickets.update(deleted)
    small.act("tag", "lr_keep")
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "keep", "itsm")]


async def test_a_task_that_was_done_on_the_cases_page_closes_its_ticket_and_that_is_no_news(world: World) -> None:
    await asked_to_free(world, "email")
    _, secret = await world.site.secret("it", "freshservice")
    for event in life("c")[1:3]:
        await world.site.tell(event)
    await world.run("tell_tickets", "tell_tickets")
    (ticket,) = world.tickets()
    assert world.desk.is_closed(ticket)
    body = b'{"ticket_id": "301", "tags": "lr-case-c-task"}'
    await world.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    assert await world.reports() == []
    assert "The case has ended" in (await world.site.delivery())["outcome"]
    await world.time_passes()
    world.act("reopen")
    body += b" "
    await world.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    assert await world.reports() == []
    await world.run("tell_tickets")
    assert "ask an operator of Reclaim to reactivate" in ticket.comments[-1].text


async def test_a_task_can_be_kept_instead(small: World) -> None:
    await asked_to_free(small)
    small.act("tag", "lr_keep", ticket=1)
    small.act("close", ticket=1)
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "keep", "itsm")]
    assert await small.reports() == []


async def test_what_a_ticket_says_while_it_is_marked_as_a_test_is_heard_once_it_is_not(world: World) -> None:
    await asked_to_free(world)
    for ticket, tags in enumerate((("lr_test", "lr_revoke"), ("lr_test", "lr_done"))):
        for tag in tags:
            world.act("tag", tag, ticket=ticket)
    world.act("close", ticket=1)
    _, secret = await world.site.secret("it", "freshservice")
    for number, reference in ((301, "c"), (302, "c-task")):
        body = f'{{"ticket_id": "{number}", "tags": "lr-case-{reference}"}}'.encode()
        await world.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    for _ in range(2):
        await world.run("poll_tickets")
        assert (await world.decisions(), await world.reports()) == ([], [])
    listed = (await world.site.get("/itsm-gateway/api/deliveries"))["deliveries"]
    assert [one["state"] for one in listed] == ["ignored", "ignored"], "polls add none"
    for ticket in (0, 1):
        world.act("untag", "lr_test", ticket=ticket)
    await world.run("poll_tickets")
    assert await world.decisions() == [("c", "revoke", "itsm")]
    assert [done for _, done, _ in await world.reports()] == [True]


async def test_a_ticket_that_is_reopened_as_a_test_appeals_once_it_is_none(small: World) -> None:
    await frozen(small)
    small.act("tag", "lr_test")
    small.act("reopen")
    await small.run("poll_tickets")
    assert len(await small.decisions()) == 1
    small.act("untag", "lr_test")
    await small.run("poll_tickets")
    assert [decision for _, decision, _ in await small.decisions()] == ["revoke", "keep"]


async def test_a_ticket_that_is_reopened_as_a_test_holds_the_end_of_its_case_up_no_longer(small: World) -> None:
    await frozen(small)
    small.act("tag", "lr_test")
    small.act("reopen")
    for event in life("c")[1:3]:
        await small.site.tell(event)
    await small.run("tell_tickets", "tell_tickets")
    assert small.desk.is_closed(small.tickets()[0])


def kept(case_id: str) -> CaseClosed:
    return CaseClosed(case_id=case_id, outcome="kept", reason="On its page.", closed_at=NOW)


async def test_a_task_that_is_heard_after_the_end_of_its_case_is_given_to_nobody(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("a", "email"), flagged("c", "email"))
    # Events of a kind are handled together, so that the end of `c` is heard before what was asked for it.
    await world.site.tell(kept("a"), task("c"), kept("c"))
    await world.run("open_tickets")
    assert world.tickets() == []


async def test_the_ticket_of_a_task_is_not_reopened_after_the_end_of_its_case(world: World) -> None:
    await asked_to_free(world, "email")
    await world.site.tell(kept("c"))
    await world.site.tell(task("c", "Once more."))
    await world.run("tell_tickets", "tell_tickets", "open_tickets")
    (ticket,) = world.tickets()
    assert world.desk.is_closed(ticket)
    assert "Once more." not in ticket.comments[-1].text


async def test_a_ticket_is_not_opened_once_its_case_has_ended(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("c"), flagged("m", "email"))
    await world.site.tell(task("m"))
    await world.site.tell(kept("c"), kept("m"))
    await world.run("open_tickets", "tell_tickets")
    assert world.tickets() == []
    assert await world.site.said() == []
    async with world.site.running.database.reading() as db:
        settled = await ticket_store.referred(db, {"c", "m-task"})
    assert {reference: ticket.state for reference, ticket in settled.items()} == {"c": "closed", "m-task": "closed"}


async def test_a_ticket_whose_opening_was_not_answered_is_closed_when_its_case_has_ended(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    small.desk.search_lag = 50
    small.fault("timeout_after_commit", "POST", "freshservice/api/v2/tickets")
    small.fault("server_unavailable", "GET", "freshservice/api/v2/tickets", times=None)
    await small.run("open_tickets")
    (ticket,) = small.tickets()
    await small.site.tell(kept("c"))
    small.sandbox.world.faults.clear()
    ticket.unseen = 0
    await small.run("open_tickets", "tell_tickets")
    assert small.desk.is_closed(ticket)
    assert await small.site.said() == [], "nobody waits to hear that it was asked"


# Reopening -----------------------------------------------------------------------------------------------------------


async def frozen(world: World, *, answered: bool = True) -> None:
    """Bring a case into its grace: answered on its ticket, or by mail."""
    await world.connect()
    await world.site.tell(flagged("c", "both"))
    await world.run("open_tickets")
    if answered:
        world.act("tag", "lr_revoke")
        world.act("close")
        await world.run("poll_tickets")
        await world.site.handle()
    await world.site.tell(life("c")[0])
    await world.run("tell_tickets")
    await world.time_passes()


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("answered", [True, False], ids=["closed-by-people", "closed-by-us"])
async def test_a_ticket_that_is_reopened_in_grace_is_an_appeal_once(
    small: World, platform: str, answered: bool
) -> None:
    small.platform = platform
    await frozen(small, answered=answered)
    (ticket,) = small.tickets()
    assert small.desk.is_closed(ticket)
    assert "reopens this ticket" in ticket.comments[-1].text
    before = await small.decisions()
    await small.run("poll_tickets")
    assert await small.decisions() == before, "closing it is no news"
    small.act("reopen")
    for _ in range(3):
        await small.run("poll_tickets")
        await small.site.handle()
    assert (await small.decisions())[len(before) :] == [("c", "keep", "itsm")]


async def test_a_reopening_is_an_appeal_on_both_databases(world: World) -> None:
    await frozen(world)
    world.act("reopen")
    await world.run("poll_tickets")
    assert (await world.decisions())[-1] == ("c", "keep", "itsm")


async def test_a_ticket_that_reads_as_open_right_after_it_was_closed_is_read_once_more(small: World) -> None:
    await frozen(small)
    async with small.site.running.database.unit() as unit:
        just_now = wall_milliseconds()
        await unit.db.execute(sa.update(ticket_store.TICKET).values(closed_since=just_now))
    small.act("reopen")
    await small.run("poll_tickets")
    assert len(await small.decisions()) == 1
    assert (await small.site.get("/itsm-gateway/api/deliveries?limit=1"))["deliveries"][0]["state"] == "waiting"


async def test_reopening_after_the_seat_was_freed_is_told_what_to_do(small: World) -> None:
    await frozen(small)
    for event in life("c")[1:3]:
        await small.site.tell(event)
    await small.run("tell_tickets", "tell_tickets")
    await small.time_passes()
    small.act("reopen")
    _, secret = await small.site.secret("it", "freshservice")
    body = b'{"ticket_id": "301", "tags": "lr-case-c,lr_revoke"}'
    answered = await small.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    assert answered.status_code == 202
    # Whether it was made in time, the case itself says.
    assert (await small.decisions())[-1] == ("c", "keep", "itsm")
    await small.run("tell_tickets")
    assert "ask an operator of Reclaim to reactivate" in small.tickets()[0].comments[-1].text


async def test_reopening_after_a_case_was_kept_takes_nothing_away(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    await small.site.tell(CaseClosed(case_id="c", outcome="kept", reason="By mail.", closed_at=NOW))
    await small.run("tell_tickets")
    (ticket,) = small.tickets()
    assert small.desk.is_closed(ticket)
    await small.time_passes()
    small.act("reopen")
    small.act("tag", "lr_revoke")
    _, secret = await small.site.secret("it", "freshservice")
    body = b'{"ticket_id": "301", "tags": "lr-case-c,lr_revoke"}'
    await small.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    assert await small.decisions() == []
    await small.run("tell_tickets")
    assert "nothing was taken away" in ticket.comments[-1].text


async def test_a_ticket_that_was_reopened_is_heard_before_it_is_closed_again(world: World) -> None:
    await frozen(world)
    (ticket,) = world.tickets()
    world.act("reopen")
    for event in life("c")[1:3]:
        await world.site.tell(event)
    await world.run("tell_tickets", "tell_tickets")
    assert not world.desk.is_closed(ticket)
    assert (await world.decisions())[-1] == ("c", "keep", "itsm")
    await world.run("tell_tickets", "tell_tickets")
    assert world.desk.is_closed(ticket)
    assert len(await world.decisions()) == 2, "once"


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("done", [True, False], ids=["closed", "not-closed"])
async def test_a_ticket_that_was_reopened_before_we_knew_that_we_had_closed_it_is_an_appeal(
    small: World, platform: str, done: bool
) -> None:
    """The desk closes it and its answer is lost; its people reopen it; only then is the closing tried again."""
    small.platform = platform
    await small.connect()
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    (ticket,) = small.tickets()
    kind, method, path = CLOSING[platform]
    question = {"object_name": "ticket.close"} if platform == "generic" else {}
    small.fault(kind if done else "server_unavailable", method, path, **question)
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets")
    assert small.desk.is_closed(ticket) is done
    if done:
        small.act("reopen")
    for _ in range(3):
        await small.run("tell_tickets")
        await small.time_passes()
        await small.run("poll_tickets")
        await small.site.handle()
    assert await small.decisions() == ([("c", "keep", "itsm")] if done else []), (
        "an appeal, once, and only if it is one"
    )
    assert small.desk.is_closed(ticket) is not done
    assert len([said for said in ticket.comments if "The seat was frozen" in said.text]) <= 1
    assert ticket.comments or platform == "generic", "a generic desk has said the word with the closing that was lost"


async def test_what_a_ticket_says_by_our_ending_it_is_no_decision(small: World) -> None:
    """With *needs close* a tag becomes an answer by the closing, and that is ours."""
    await small.connect(decisions={"needs_close": True})
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    small.act("tag", "lr_revoke")
    await small.site.tell(CaseClosed(case_id="c", outcome="kept", reason="By mail.", closed_at=NOW))
    await small.run("tell_tickets")
    assert small.desk.is_closed(small.tickets()[0])
    _, secret = await small.site.secret("it", "freshservice")
    body = b'{"ticket_id": "301", "tags": "lr-case-c,lr_revoke"}'
    await small.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    assert await small.decisions() == []


@pytest.mark.parametrize("platform", sorted(set(PLATFORMS) - {"serval"}))
async def test_a_reopening_counts_from_when_it_was_made(small: World, platform: str) -> None:
    small.platform = platform
    await frozen(small)
    small.act("reopen")
    clock = small.site.running.database.clock
    assert isinstance(clock, FixedClock)
    clock.advance(timedelta(hours=3))
    await small.run("poll_tickets")
    await small.site.handle()
    assert (await small.site.decisions())[-1].decided_at == NOW


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_a_closing_that_the_desk_did_not_do_makes_no_appeal(small: World, platform: str) -> None:
    small.platform = platform
    await small.connect()
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    small.desk.keeps_open = True
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets")
    assert "still open" in await small.site.get("/itsm-gateway/")
    await small.time_passes()
    for _ in range(2):
        await small.run("poll_tickets")
        assert await small.decisions() == []
    small.desk.keeps_open = False
    await small.connect()  # somebody has mended it
    await small.run("tell_tickets")
    await small.time_passes()
    await small.run("poll_tickets")
    assert await small.decisions() == []
    assert small.desk.is_closed(small.tickets()[0])


async def test_an_end_that_could_not_be_told_makes_no_appeal(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("c", "both"))
    await world.run("open_tickets")
    world.fault("request_limit", "PUT", "freshservice/api/v2/tickets/[0-9]+")
    for event in life("c")[1:3]:
        await world.site.tell(event)
    await world.run("tell_tickets", "tell_tickets")
    assert "could not be told" in await world.site.get("/itsm-gateway/")
    await world.time_passes()
    world.act("tag", "lr_revoke")
    _, secret = await world.site.secret("it", "freshservice")
    body = b'{"ticket_id": "301", "tags": "lr-case-c,lr_revoke"}'
    await world.site.post("it", body, {"x-reclaim-secret": secret, "content-type": "application/json"})
    assert "keep" not in [decision for _, decision, _ in await world.decisions()]


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("stage", [0, 1], ids=["closing", "comment"])
async def test_a_word_whose_answer_was_lost_is_said_once(small: World, platform: str, stage: int) -> None:
    small.platform = platform
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    for event in life("c")[:stage]:
        await small.site.tell(event)
        await small.run("tell_tickets")
    said = len(small.tickets()[0].comments)
    # A generic desk has one address for all its questions.
    question = {"object_name": ("ticket.close", "ticket.comment")[stage]} if platform == "generic" else {}
    small.fault(*LAST_CALL[platform], **question)
    await small.site.tell(life("c")[stage])
    await small.run("tell_tickets")
    assert small.desk.called[-1].fault or platform != "generic", "it is the last question that was not answered"
    for _ in range(2):
        await small.run("tell_tickets")
    assert len(small.tickets()[0].comments) == said + 1
    async with small.site.running.database.reading() as db:
        states = set((await db.execute(sa.select(ticket_store.TICKET_WORD.c.state))).scalars())
    assert states == {"told"}


async def test_the_answer_tells_which_tags_the_desk_reads(small: World) -> None:
    rules = {"tags": {"behalten": "keep", "weg": "revoke"}, "decision_field": "type", "values": {"Gone": "revoke"}}
    await small.connect(decisions=rules)
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    (ticket,) = small.tickets()
    assert "behalten or weg, or choose Gone in the field type" in ticket.description


WARNING = CheckFinding(check="service_account", outcome="warn", evidence="It may run an integration.")


@pytest.mark.parametrize("named", [True, False], ids=["named", "not-named"])
async def test_what_the_checks_warn_of_stands_in_the_ticket(small: World, named: bool) -> None:
    await small.connect(**({} if named else {"description": "Keep ${holder_name}?"}))
    passed = CheckFinding(check="exempt", outcome="pass", evidence="Not exempt.")
    await small.site.tell(msgspec.structs.replace(flagged("c"), findings=(WARNING, passed)))
    await small.run("open_tickets")
    (ticket,) = small.tickets()
    assert "Please note:" in ticket.description
    assert "Service account: It may run an integration." in ticket.description
    assert "Not exempt" not in ticket.description


async def test_a_mapped_field_takes_what_the_case_says(small: World) -> None:
    fields = {"department_name": "${department} / ${product_name}", "priority": 3}
    small.platform = "generic"
    await small.connect(fields=fields)
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    assert small.tickets()[0].fields == {"department_name": "Sales / Sales Cloud", "priority": 3}


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
        ({"fields": {"type": "${nobody}"}}, 422, "nobody"),
        ({"decisions": {"tags": {"lr_test": "revoke"}}}, 422, "lr_test"),
        ({"settings": {"base_url": "https://169.254.169.254", "requester_email": "a@b.example"}}, 422, "169.254"),
        ({"colour": "blue"}, 422, "colour"),
    ],
    ids=["platform", "template", "field", "decisions", "address", "unknown"],
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


@pytest.mark.parametrize("job", [ticketing, deliveries], ids=["tickets, words and polls", "deliveries"])
def test_giving_up_all_that_was_claimed_takes_less_than_a_lease(job: ModuleType) -> None:
    rounds = math.ceil(job.CLAIM / job.AT_ONCE)
    # What became of them is written within the lease as well.
    patience = job.PATIENCE + getattr(job, "LAST_LOOK", 0)
    assert rounds * patience * 1000 + 30_000 < job.LEASE
    assert sum(Tuning().look_again) < job.PATIENCE


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


# One desk is not another ---------------------------------------------------------------------------------------------


async def test_a_tickets_key_is_not_read_on_another_desk(small: World) -> None:
    small.platform = "jira"
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.platform = "freshservice"
    other = await small.site.call("PUT", "/itsm-gateway/api/desks/other", role="admin", json=small.entered(asks=False))
    assert other.status_code == 200
    # The ticket of somebody else has the same key there.
    small.desk.open(subject="Not ours", description="")
    async with small.site.running.database.unit() as unit:
        await unit.db.execute(sa.update(ticket_store.TICKET).values(key="301", number="#301"))
    small.act("tag", "lr_revoke")
    _, secret = await small.site.secret("other", "freshservice")
    body = b'{"ticket_id": "301", "tags": "lr-case-c,lr_revoke"}'
    sent = {"x-reclaim-secret": secret, "content-type": "application/json"}
    assert (await small.site.post("other", body, sent)).status_code == 202
    assert await small.decisions() == []
    assert "is on the desk it" in (await small.site.delivery())["outcome"]


@pytest.mark.parametrize("setting", ["base_url", "workspace_id"])
async def test_a_desk_does_not_move_away_from_its_open_tickets(small: World, setting: str) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    moved = small.entered()
    moved["settings"][setting] = {"base_url": f"{small.sandbox.url}/desks/generic", "workspace_id": "7"}[setting]
    put = ("PUT", "/itsm-gateway/api/desks/it")
    refused = await small.site.call(*put, role="admin", json=moved)
    assert (refused.status_code, "it has 1 ticket that would be" in refused.text) == (409, True), refused.text
    await small.site.tell(CaseClosed(case_id="c", outcome="kept", reason="By mail.", closed_at=NOW))
    assert (await small.site.call(*put, role="admin", json=moved)).status_code == 409, "its end is not told yet"
    await small.run("tell_tickets")
    assert (await small.site.call(*put, role="admin", json=moved)).status_code == 200


async def test_storing_a_desk_leaves_calls_in_flight_alone(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    connected = Desks.connected
    changed = False

    async def meanwhile(these: Desks, desk_id: str) -> ServiceDesk:
        nonlocal changed
        found = await connected(these, desk_id)
        if not changed:
            changed = True
            await small.connect(title="Another title")
            await connected(these, desk_id)
        return found

    monkeypatch.setattr(Desks, "connected", meanwhile)
    await small.run("open_tickets")
    assert [type(one) for one in await small.site.said()] == [NoticeDelivered]


def test_a_client_outlasts_every_call_that_it_carries() -> None:
    assert max(ticketing.PATIENCE, deliveries.PATIENCE, setup.PATIENCE) < desks.IN_FLIGHT


async def test_of_two_who_change_a_desk_at_once_the_second_is_told(world: World) -> None:
    await world.connect()
    database = world.site.running.database
    async with database.reading() as db:
        stored = await ticket_store.desk(db, "it")
    assert stored
    async with database.unit() as unit:
        assert await ticket_store.save_desk(unit.db, replace(stored, title="First", version=2))
    async with database.unit() as unit:
        assert not await ticket_store.save_desk(unit.db, replace(stored, title="Second", version=2))
    these = Desks(database, Sealer([SEALING]), Outgoing(("127.0.0.1",)))
    for read in (stored, replace(stored, version=0)):
        with pytest.raises(Conflict, match="Somebody else has changed it"):
            async with database.unit() as unit:
                await these.store(unit, read, "Ann")
    async with database.reading() as db:
        kept = await ticket_store.desk(db, "it")
    assert (kept.title, kept.version) == ("First", 2) if kept else False


async def test_whoever_changes_a_desk_does_not_let_it_ask_again_unawares(small: World) -> None:
    await small.connect()
    database = small.site.running.database
    async with database.reading() as db:
        read = await ticket_store.desk(db, "it")
    assert read
    await small.site.call("PUT", "/itsm-gateway/api/desks/other", role="admin", json=small.entered())
    async with database.unit() as unit:
        assert not await ticket_store.save_desk(unit.db, replace(read, version=2))
        assert await ticket_store.asking(unit.db) == "other"


@pytest.mark.parametrize("by", ["api", "console"])
async def test_nobody_is_taken_at_their_word_for_a_desk_that_was_disconnected(small: World, by: str) -> None:
    small.platform = "generic"
    await small.connect()
    _, secret = await small.site.secret("it", "generic")
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    if by == "api":
        await small.site.call("DELETE", "/itsm-gateway/api/desks/it", role="admin")
    else:
        await small.site.call("POST", "/itsm-gateway/setup/it/disconnect", role="admin")
    body = msgspec.json.encode(answer("c"))
    assert (await small.site.post("it", body, signed(secret, body))).status_code == 401
    # Not even with a new secret: the case has a ticket.
    _, secret = await small.site.secret("it", "generic")
    assert (await small.site.post("it", body, signed(secret, body))).status_code == 202
    assert await small.decisions() == []
    assert "No service desk is connected as it" in (await small.site.delivery())["outcome"]
