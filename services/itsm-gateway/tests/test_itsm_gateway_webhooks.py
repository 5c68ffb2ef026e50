"""Decisions in by webhook: only what a connection's sender really sent counts, once, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from reclaim.common.contracts import DecisionReceived
from reclaim.common.errors import Permanent, Transient
from reclaim.common.security import Sealer
from reclaim.common.timing import wall_milliseconds
from reclaim.itsm_gateway import deliveries, delivery_store, hints, intake, jobs, keyring, store, webhooks
from reclaim.itsm_gateway.handlers import Deps
from reclaim.itsm_gateway.intake import Together
from reclaim.itsm_gateway.ports import Says, TicketState
from reclaim.itsm_gateway.settings import ItsmGatewaySettings
from reclaim.itsm_gateway.verdicts import Facts, Verdict
from reclaim.itsm_gateway.webhooks import Key
from tests.support.itsm_gateway import (
    FOREIGN,
    NEW,
    NOW,
    OLD,
    SEALING,
    FakeDesk,
    Site,
    answer,
    by_jira,
    flagged,
    life,
    of_jira,
    secrets_of,
    signed,
    started,
    whsec,
)

JIRA, STATIC = "jira-secret-of-thirty-two-letters", "freshservice-secret-of-many-letters"


# ------------------------------------------------------------------------------------------------ generic senders


@pytest.mark.parametrize("secret", [NEW, OLD])
async def test_a_signed_webhook_decides_once(site: Site, secret: str) -> None:
    await site.tell(flagged("c"))
    first = await site.send(secret, answer())
    again = await site.send(secret, answer())
    assert (first.status_code, first.json()) == (202, {"status": "accepted"})
    assert (again.status_code, again.json()) == (202, {"status": "already_taken"})
    decided = DecisionReceived(
        case_id="c", decision="revoke", channel="itsm", actor="mia@example.com", reason="left", decided_at=NOW
    )
    assert await site.decisions() == [decided]
    shown = await site.get("/itsm-gateway/api/requests/c")
    assert [step["text"] for step in shown["timeline"]] == ["mia@example.com decided: revoke. left"]
    assert (await site.delivery())["state"] == "taken"


async def test_the_same_webhook_many_times_at_once_decides_once(site: Site) -> None:
    await site.tell(flagged("c"))
    answers = await asyncio.gather(*(site.send(NEW, answer()) for _ in range(16)))
    assert sorted(one.json()["status"] for one in answers) == ["accepted"] + ["already_taken"] * 15
    assert len(await site.decisions()) == 1


async def test_a_replay_is_known_after_a_restart(tmp_path: Path) -> None:
    jira = of_jira("lr-case-c", "lr_keep")
    async with started(tmp_path, secrets_of(NEW)) as site:
        await site.tell(flagged("c"))
        await site.secret("it", "jira", JIRA)
        await site.send(NEW, answer())
        assert (await site.post("it", jira, by_jira(JIRA, jira))).json() == {"status": "accepted"}
    async with started(tmp_path, secrets_of(NEW)) as site:
        assert (await site.send(NEW, answer())).json() == {"status": "already_taken"}
        assert (await site.post("it", jira, by_jira(JIRA, jira))).json() == {"status": "already_taken"}


async def test_what_is_not_signed_is_refused_alike(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await site.tell(flagged("c"))
    await site.secret("it", "jira", JIRA)
    await site.secret("fresh", "freshservice", STATIC)
    raw = json.dumps(answer()).encode()
    good = signed(NEW, raw)
    jira = of_jira("lr-case-c")
    stale = of_jira("lr-case-c", at=datetime.now(UTC) - timedelta(hours=25))
    ahead = of_jira("lr-case-c", at=datetime.now(UTC) + timedelta(minutes=6))
    attempts: list[tuple[str, bytes, dict[str, str]]] = [
        ("desk", raw, signed(FOREIGN, raw)),
        ("unknown", raw, good),
        ("empty", raw, good),
        ("a/b", raw, good),
        ("", raw, good),
        ("desk", raw.replace(b"revoke", b"keep__"), good),
        ("desk", raw, signed(NEW, raw, at=datetime.now(UTC) - timedelta(minutes=6))),
        ("desk", raw, signed(NEW, raw, at=datetime.now(UTC) + timedelta(minutes=6))),
        ("desk", raw, {**good, "webhook-id": "msg_2"}),
        ("desk", raw, {**good, "webhook-id": "x" * 300}),
        ("desk", raw, {**good, "webhook-id": "msg 1"}),
        ("desk", raw, {**good, "webhook-timestamp": "soon"}),
        ("desk", raw, {**good, "webhook-timestamp": "nan"}),
        ("desk", raw, {**good, "webhook-timestamp": good["webhook-timestamp"] + ".0"}),
        ("desk", raw, {**good, "webhook-timestamp": "+" + good["webhook-timestamp"]}),
        ("desk", raw, {**good, "webhook-signature": "v1"}),
        ("desk", raw, {**good, "webhook-signature": "v1,a"}),
        ("desk", raw, {**good, "webhook-signature": good["webhook-signature"].rstrip("=")}),
        ("desk", raw, {**good, "webhook-signature": "v2" + good["webhook-signature"][2:]}),
        ("desk", raw, {**good, "webhook-signature": good["webhook-signature"].replace(",", ",\t")}),
        ("desk", raw, {**good, "webhook-signature": good["webhook-signature"] + " rubbish"}),
        ("desk", raw, {**good, "webhook-signature": "v1,é".encode().decode("latin-1")}),
        ("desk", raw, {}),
        ("desk", b"\xff\xfe", good),
        ("desk", b"", good),
        ("desk", jira, by_jira(JIRA, jira)),
        ("it", raw, good),
        ("it", jira, by_jira("another-secret-of-thirty-two-letters", jira)),
        ("it", jira, {"x-hub-signature": by_jira(JIRA, jira)["x-hub-signature"].upper()}),
        ("it", jira, {"x-hub-signature": "sha1=" + "0" * 40}),
        ("it", jira, {**by_jira(JIRA, jira), "x-atlassian-webhook-identifier": "x" * 300}),
        ("it", jira + b" ", by_jira(JIRA, jira)),
        ("it", stale, by_jira(JIRA, stale)),
        ("it", ahead, by_jira(JIRA, ahead)),
        ("it", b"{}", by_jira(JIRA, b"{}")),
        ("fresh", b'{"ticket_id": 1}', {"x-reclaim-secret": STATIC + "x"}),
        ("fresh", b'{"ticket_id": 1}', {"x-reclaim-secret": ""}),
        ("fresh", b'{"ticket_id": 1}', {}),
    ]
    answers = set()
    for connection, body, headers in attempts:
        response = await site.post(connection, body, {**headers, "accept": "text/plain"})
        answers.add((response.status_code, response.headers["content-type"], response.text))
    ((status, kind, text),) = answers
    assert (status, kind) == (401, "application/problem+json")
    assert "valid for this connection" in json.loads(text)["detail"]
    assert "no secret is configured" in caplog.text
    for secret in (NEW, JIRA, STATIC):
        assert secret not in caplog.text
    assert await site.decisions() == []
    assert (await site.get("/itsm-gateway/api/deliveries"))["deliveries"] == []


async def test_a_header_that_stands_twice_proves_nothing(site: Site) -> None:
    await site.tell(flagged("c"))
    raw = json.dumps(answer()).encode()
    for name, value in signed(NEW, raw).items():
        if name != "content-type":
            twice = [*signed(NEW, raw).items(), (name, value)]
            response = await site.client.post("/itsm-gateway/webhooks/desk", content=raw, headers=twice)
            assert response.status_code == 401, name


async def test_one_of_several_signatures_is_enough(site: Site) -> None:
    """A sender that replaces its secret signs with both; one that knows another version signs in that as well."""
    await site.tell(flagged("c"))
    raw = json.dumps(answer()).encode()
    good = signed(NEW, raw)
    several = f"v1a,abc= {signed(FOREIGN, raw)['webhook-signature']} {good['webhook-signature']}"
    assert (await site.post("desk", raw, {**good, "webhook-signature": several})).json() == {"status": "accepted"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_a_post_is_a_webhook(site: Site, method: str) -> None:
    await site.tell(flagged("c"))
    raw = json.dumps(answer()).encode()
    response = await site.client.request(method, "/itsm-gateway/webhooks/desk", content=raw, headers=signed(NEW, raw))
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert await site.decisions() == []


async def test_an_answer_says_nothing_to_caches_and_frames(site: Site) -> None:
    response = await site.send(NEW, answer())
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_large_body_is_not_read(site: Site) -> None:
    large = b"x" * (webhooks.LARGEST_BODY + 1)
    assert (await site.send(NEW, large)).status_code == 413
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 4096
            yield b"x" * 4096

    response = await site.client.post("/itsm-gateway/webhooks/desk", content=endless())
    assert response.status_code == 413
    assert read <= webhooks.LARGEST_BODY + 2 * 4096
    just_fits = await site.send(NEW, b"x" * webhooks.LARGEST_BODY)
    assert just_fits.status_code == 422


async def test_a_sender_that_goes_away_is_heard_no_further(site: Site) -> None:
    sent: list[Any] = []
    parts = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}],
    )

    async def receive() -> Any:
        return next(parts)

    async def send(message: Any) -> None:
        sent.append(message)

    door = site.running.service.doors[intake.PATH]
    await door({"type": "http", "method": "POST", "path": "/x/webhooks/desk", "headers": []}, receive, send)
    assert sent == []


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"not json",
        json.dumps({"case_id": "c"}).encode(),
        json.dumps(answer(decision="timeout")).encode(),
        json.dumps(answer(actor="")).encode(),
        json.dumps(answer(more="x")).encode(),
        json.dumps(answer(reason="a\x00b")).encode(),
        json.dumps(answer(reason="x" * 2001)).encode(),
        b'{"a":' * 5000,
    ],
    ids=["list", "text", "short", "decision", "actor", "more", "nul", "long", "deep"],
)
async def test_a_signed_body_that_does_not_fit_is_kept_and_its_sender_told(site: Site, body: bytes) -> None:
    await site.tell(flagged("c"))
    for _ in range(2):
        response = await site.send(NEW, body)
        assert response.status_code == 422
        assert "case_id, decision (keep, revoke or downgrade), actor" in response.json()["detail"]
    [kept] = (await site.get("/itsm-gateway/api/deliveries?state=failed"))["deliveries"]
    assert "does not fit" in kept["outcome"]
    replayed = await site.call("POST", f"/itsm-gateway/api/deliveries/{kept['number']}/replay", role="operator")
    assert replayed.status_code == 422, "it still does not fit"
    assert (await site.send(NEW, answer())).json() == {"status": "accepted"}, "the id was not used up"


async def test_a_trial_is_listed_and_decides_nothing(site: Site) -> None:
    assert (await site.send(NEW, {"test": "hello"})).json() == {"status": "accepted"}
    assert await site.decisions() == []
    shown = await site.delivery()
    assert (shown["state"], shown["reason"]) == ("ignored", "hello")


@pytest.mark.parametrize("case_id", ["unknown", "mailed"])
async def test_a_webhook_for_no_case_of_the_desk_is_kept_for_a_person(site: Site, case_id: str) -> None:
    await site.tell(flagged("mailed", "email"))
    assert (await site.send(NEW, answer(case_id))).json() == {"status": "accepted"}
    assert await site.decisions() == []
    shown = await site.delivery()
    assert (shown["state"], shown["case_id"], shown["says"]) == ("failed", case_id, "revoke")
    assert "No case" in shown["outcome"]


async def test_an_operator_replays_what_failed_and_it_decides_once(site: Site) -> None:
    await site.send(NEW, answer("late"))
    await site.handle()
    await site.tell(flagged("late"))
    path = "/itsm-gateway/api/deliveries/1/replay"
    assert (await site.call("POST", path)).status_code == 403
    assert (await site.call("POST", path, role="operator")).json()["state"] == "waiting"
    assert (await site.call("POST", path, role="operator")).status_code == 409
    assert [event.case_id for event in await site.decisions()] == ["late"]
    assert (await site.call("POST", path, role="operator")).status_code == 409
    assert len(await site.decisions()) == 1
    assert (await site.delivery())["replayed_by"] == "otto"
    assert (await site.call("POST", "/itsm-gateway/api/deliveries/99/replay", role="operator")).status_code == 404


async def test_what_was_read_only_after_a_correction_can_be_replayed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a release could not read, the next one can: the body was kept for it."""
    await site.tell(flagged("c"))
    read = hints.read

    def too_strict(*_: object) -> None:
        raise hints.Invalid("not in this release")

    monkeypatch.setattr(hints, "read", too_strict)
    assert (await site.send(NEW, answer())).status_code == 422
    monkeypatch.setattr(hints, "read", read)
    await site.call("POST", "/itsm-gateway/api/deliveries/1/replay", role="operator")
    assert [event.decision for event in await site.decisions()] == ["revoke"]
    async with site.running.database.reading() as db:
        assert await delivery_store.body(db, 1) is None


async def test_what_failed_can_be_set_aside(site: Site) -> None:
    await site.send(NEW, answer("nobody"))
    await site.handle()
    path = "/itsm-gateway/api/deliveries/1/set-aside"
    done = await site.call("POST", path, role="operator")
    assert (done.json()["state"], done.json()["outcome"][:17]) == ("ignored", "Set aside by otto")
    assert (await site.call("POST", path, role="operator")).status_code == 409


# ------------------------------------------------------------------------------------------------ faults of ours


async def test_while_the_database_is_away_the_sender_is_asked_to_come_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.tell(flagged("c"))
    enter = delivery_store.enter

    async def away(*_: object) -> None:
        raise OperationalError("", {}, OSError("gone"), connection_invalidated=True)

    monkeypatch.setattr(delivery_store, "enter", away)
    answers = await asyncio.gather(*(site.send(NEW, answer(), webhook_id=f"m{n}") for n in range(4)))
    assert {(one.status_code, one.headers["retry-after"]) for one in answers} == {(503, "5")}
    monkeypatch.setattr(delivery_store, "enter", enter)
    assert (await site.send(NEW, answer(), webhook_id="m1")).json() == {"status": "accepted"}


async def test_a_defect_is_a_500_and_says_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("inside information")

    monkeypatch.setattr(hints, "read", broken)
    response = await site.send(NEW, answer())
    assert response.status_code == 500
    assert "inside" not in response.text


async def test_waiting_items_share_a_transaction_and_each_hears_of_its_own() -> None:
    batches: list[list[int]] = []
    going = asyncio.Event()

    async def commit(items: Any) -> list[int]:
        batches.append(list(items))
        await going.wait()
        if 13 in items:
            raise ValueError("unlucky")
        return [10 * item for item in items]

    together: Together[int, int] = Together(commit)
    first = asyncio.create_task(together.submit(1))
    await asyncio.sleep(0)
    others = [asyncio.create_task(together.submit(n)) for n in (2, 13, 3)]
    await asyncio.sleep(0)
    going.set()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert batches == [[1], [2, 13, 3], [2], [13], [3]]
    assert [results[0], results[1], results[3]] == [10, 20, 30]
    assert isinstance(results[2], ValueError)
    await together.close()


async def test_what_waits_is_bounded() -> None:
    async def never(_items: Any) -> list[int]:
        await asyncio.Event().wait()
        return []

    together: Together[int, int] = Together(never)
    waiting = [asyncio.create_task(together.submit(n)) for n in range(intake.MOST_WAITING + 1)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(together.submit(n)) for n in range(intake.MOST_TOGETHER + 1)]
    await asyncio.sleep(0)
    assert any(one.done() and isinstance(one.exception(), intake.Busy) for one in waiting)
    assert together._task is not None
    together._task.cancel()
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


# ------------------------------------------------------------------------------------------------ service desks


Desk = Callable[..., Any]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Site, FakeDesk]]:
    """A gateway with a desk in memory, and a connection `it` that is Jira's."""
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    fake = FakeDesk()
    async with started(tmp_path, secrets_of(NEW), url, desks=fake) as site:
        await site.secret("it", "jira", JIRA)
        yield site, fake
    assert fake.opened == 0


async def from_jira(site: Site, *labels: str, identifier: str = "jira-1", **more: Any) -> dict[str, str]:
    body = of_jira(*labels, **more)
    response = await site.post("it", body, by_jira(JIRA, body, identifier))
    assert response.status_code == 202, response.text
    told: dict[str, str] = response.json()
    return told


@pytest.mark.parametrize("connection", ["it", "fresh"])
async def test_a_body_of_boxes_in_boxes_is_no_fault_of_ours(desk: tuple[Site, FakeDesk], connection: str) -> None:
    site, _ = desk
    await site.secret("fresh", "freshservice", STATIC)
    deep = b"[" * 20_000 + b"]" * 20_000
    body = of_jira("lr-case-c")[:-1] + b', "ticket_id": 1, "deep": ' + deep + b"}"
    headers = by_jira(JIRA, body, "jira-1") if connection == "it" else {"x-reclaim-secret": STATIC}
    assert 400 <= (await site.post(connection, body, headers)).status_code < 500


async def test_the_ticket_decides_and_not_the_webhook(desk: tuple[Site, FakeDesk]) -> None:
    site, fake = desk
    await site.tell(flagged("c"))
    fake.tickets["c"] = TicketState("IT-42", "keep", actor="Mia")
    assert await from_jira(site, "lr-case-c", "lr_revoke") == {"status": "accepted"}
    assert (await site.delivery())["says"] == "revoke"
    [decided] = await site.decisions()
    assert (decided.decision, decided.actor, decided.reason) == ("keep", "Mia", "Ticket IT-42")
    assert fake.asked == ["c"]
    assert (await site.delivery())["says"] == "keep"


async def test_what_the_ticket_said_before_is_an_echo_and_a_change_of_mind_is_none(
    desk: tuple[Site, FakeDesk],
) -> None:
    site, fake = desk
    await site.tell(flagged("c"))
    said: tuple[Says, ...] = ("revoke", "revoke", "keep", "keep", "revoke")
    for number, says in enumerate(said):
        fake.tickets["c"] = TicketState("IT-42", says)
        await from_jira(site, "lr-case-c", identifier=f"jira-{number}", sequence=number)
        await site.handle()
    assert [event.decision for event in await site.decisions()] == ["revoke", "keep", "revoke"]
    states = [one["state"] for one in (await site.get("/itsm-gateway/api/deliveries"))["deliveries"]]
    assert states == ["taken", "ignored", "taken", "ignored", "taken"]


@pytest.mark.parametrize(
    ("state", "becomes", "why"),
    [
        (TicketState("IT-42", "open"), "ignored", "no answer yet"),
        (TicketState("IT-42", "undecided", "Two answers disagree."), "failed", "Two answers disagree."),
        (TicketState("IT-42", "revoke", test=True), "ignored", "marked as a test"),
        (TicketState("IT-42", "done"), "failed", "say so on the task's own ticket"),
        (None, "failed", "no ticket of case c"),
    ],
    ids=["open", "undecided", "test", "done", "gone"],
)
async def test_a_ticket_that_decides_nothing(
    desk: tuple[Site, FakeDesk], state: TicketState | None, becomes: str, why: str
) -> None:
    site, fake = desk
    await site.tell(flagged("c"))
    if state is not None:
        fake.tickets["c"] = state
    await from_jira(site, "lr-case-c", "lr_revoke")
    assert await site.decisions() == []
    shown = await site.delivery()
    assert shown["state"] == becomes
    assert why in shown["outcome"]


async def test_a_ticket_that_we_closed_ourselves_is_no_answer(desk: tuple[Site, FakeDesk]) -> None:
    """The decision came by mail, the seat was frozen, and the ticket closed without an answer on it."""
    site, fake = desk
    await site.tell(flagged("c", "both"))
    await site.tell(life("c")[0])
    fake.tickets["c"] = TicketState("IT-42", "undecided", "The ticket was closed without an answer.")
    await from_jira(site, "lr-case-c")
    assert await site.decisions() == []
    shown = await site.delivery()
    assert (shown["state"], shown["outcome"]) == ("ignored", "The case has moved on without ticket IT-42.")


async def test_a_desk_that_is_away_is_asked_again_and_in_the_end_a_person(
    desk: tuple[Site, FakeDesk], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, fake = desk
    monkeypatch.setattr("reclaim.itsm_gateway.deliveries.FIRST_RETRY", 0.0)
    monkeypatch.setattr("reclaim.itsm_gateway.deliveries.MOST_ATTEMPTS", 3)
    await site.tell(flagged("c"))
    fake.trouble = Transient("The desk asks for fewer calls.")
    await from_jira(site, "lr-case-c", "lr_revoke")
    await site.handle()
    assert fake.asked == ["c"] * 3
    shown = await site.delivery()
    assert (shown["state"], shown["outcome"]) == ("failed", "The desk asks for fewer calls.")
    fake.trouble, fake.tickets["c"] = None, TicketState("IT-42", "revoke", actor="Mia")
    await site.call("POST", "/itsm-gateway/api/deliveries/1/replay", role="operator")
    assert [event.decision for event in await site.decisions()] == ["revoke"]


@pytest.mark.parametrize("trouble", [Permanent("The desk refuses our credentials."), RuntimeError("a defect")])
async def test_one_ticket_in_trouble_holds_up_no_other(desk: tuple[Site, FakeDesk], trouble: Exception) -> None:
    site, fake = desk
    await site.tell(flagged("c"), flagged("d"))
    await from_jira(site, "lr-case-c")
    fake.trouble = trouble
    await site.send(NEW, answer("d"))
    assert [event.case_id for event in await site.decisions()] == ["d"]


async def test_one_delivery_that_cannot_be_settled_takes_no_other_back_with_it(
    desk: tuple[Site, FakeDesk], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, fake = desk
    await site.tell(flagged("c"), flagged("d"))
    judge = deliveries.verdicts.judge

    def stumbles(facts: Facts) -> Verdict:
        if facts.delivery.case_id == "c":
            raise ValueError("an answer that nobody foresaw")
        return judge(facts)

    monkeypatch.setattr(deliveries.verdicts, "judge", stumbles)
    fake.tickets["c"] = TicketState("IT-42", "revoke", actor="Mia")
    await from_jira(site, "lr-case-c")
    await site.send(NEW, answer("d"))
    assert [event.case_id for event in await site.decisions()] == ["d"]
    shown = await site.delivery()
    assert (shown["state"], "could not be settled (ValueError)" in shown["outcome"]) == ("waiting", True)
    monkeypatch.setattr(deliveries, "MOST_ATTEMPTS", 2)
    async with site.running.database.unit() as unit:
        await unit.db.execute(sa.update(delivery_store.WEBHOOK_DELIVERY).values(due=0))
    await site.handle()
    assert (await site.delivery())["state"] == "failed"


async def test_without_a_desk_no_webhook_of_a_ticket_takes_a_seat_away(tmp_path: Path) -> None:
    async with started(tmp_path, secrets_of(NEW)) as site:
        await site.tell(flagged("c"))
        await site.secret("it", "jira", JIRA)
        await from_jira(site, "lr-case-c", "lr_revoke")
        assert await site.decisions() == []
        shown = await site.delivery()
        assert shown["state"] == "failed"
        assert "No service desk is connected as it" in shown["outcome"]


async def test_a_delivery_that_was_handled_by_somebody_else_meanwhile_is_left_alone(
    desk: tuple[Site, FakeDesk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes: the first one's lease ran out while it read the ticket."""
    site, fake = desk
    monkeypatch.setattr("reclaim.itsm_gateway.deliveries.LEASE", 0)
    await site.tell(flagged("c"))
    fake.tickets["c"] = TicketState("IT-42", "revoke")
    await from_jira(site, "lr-case-c")
    job = next(job for job in site.running.service.jobs if job.name == "handle_deliveries")
    await asyncio.gather(job.run(), job.run(), job.run())
    assert len(await site.decisions()) == 1


def test_a_lease_outlives_the_tickets_that_do_not_answer() -> None:
    rounds = deliveries.CLAIM / deliveries.AT_ONCE
    assert rounds * deliveries.PATIENCE * 1000 < deliveries.LEASE


async def test_a_jira_webhook_under_another_identifier_is_the_same_one(desk: tuple[Site, FakeDesk]) -> None:
    """The identifier is not signed; the body is."""
    site, _fake = desk
    await site.tell(flagged("c"))
    body = of_jira("lr-case-c", "lr_keep")
    statuses = [
        (await site.post("it", body, by_jira(JIRA, body, identifier))).json()["status"]
        for identifier in ("one", "one", "two", "")
    ]
    again = of_jira("lr-case-c", "lr_keep", retried=True)
    statuses.append((await site.post("it", again, by_jira(JIRA, again, "one"))).json()["status"])
    assert statuses == ["accepted", *["already_taken"] * 4]


@pytest.mark.parametrize(
    "body",
    [
        of_jira("lr_revoke", "other"),
        of_jira("lr-case-c", changed="Comment"),
        of_jira("lr-case-c", webhookEvent="comment_created"),
        of_jira("lr-case-c", webhookEvent="jira:issue_created"),
        of_jira("lr-case-c", issue=None),
    ],
    ids=["foreign", "comment", "comment event", "created", "no issue"],
)
async def test_what_is_no_answer_on_a_ticket_of_ours_is_not_kept(desk: tuple[Site, FakeDesk], body: bytes) -> None:
    site, fake = desk
    response = await site.post("it", body, by_jira(JIRA, body))
    assert (response.status_code, response.json()) == (202, {"status": "ignored"})
    assert (await site.get("/itsm-gateway/api/deliveries"))["deliveries"] == []
    assert fake.asked == []


async def test_a_ticket_of_two_cases_is_a_persons(desk: tuple[Site, FakeDesk]) -> None:
    site, fake = desk
    await site.tell(flagged("c"), flagged("d"))
    await from_jira(site, "lr-case-c", "lr-case-d", "lr_revoke")
    assert await site.decisions() == []
    assert "names no case, or more than one" in (await site.delivery())["outcome"]
    assert fake.asked == []


async def test_freshservice_only_hints(desk: tuple[Site, FakeDesk]) -> None:
    site, fake = desk
    await site.secret("fresh", "freshservice", STATIC)
    await site.tell(flagged("c"))
    fake.tickets["c"] = TicketState("42", "open")
    body = json.dumps({"ticket_id": 42, "tags": "lr-case-c, lr_revoke", "subject": "x"}).encode()
    headers = {"x-reclaim-secret": STATIC}
    assert (await site.post("fresh", body, headers)).json() == {"status": "accepted"}
    assert await site.decisions() == []
    assert fake.asked == ["c"]
    foreign = json.dumps({"ticket_id": 43, "tags": ["printer"]}).encode()
    assert (await site.post("fresh", foreign, headers)).json() == {"status": "ignored"}


@pytest.mark.parametrize("platform", ["servicenow", "serval"])
async def test_a_desk_that_signs_by_the_standard(desk: tuple[Site, FakeDesk], platform: str) -> None:
    site, fake = desk
    _, secret = await site.secret("std", platform)
    await site.tell(flagged("c"))
    fake.tickets["c"] = TicketState("INC7", "downgrade", actor="Mia")
    told = await site.send(secret, {"case_id": "c", "ticket": "INC7", "decision": "revoke"}, connection="std")
    assert told.json() == {"status": "accepted"}
    assert [event.decision for event in await site.decisions()] == ["downgrade"]
    assert (await site.send(secret, answer(), connection="std", webhook_id="m2")).status_code == 422


# ------------------------------------------------------------------------------------------------ secrets


async def test_a_secret_is_shown_once_and_sealed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    made_id, secret = await site.secret("new", "generic")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    await site.tell(flagged("c"))
    assert (await site.send(secret, answer(), connection="new")).json() == {"status": "accepted"}
    [listed] = await site.get("/itsm-gateway/api/webhook-secrets")
    assert (listed["id"], listed["connection_id"], listed["platform"]) == (made_id, "new", "generic")
    assert listed["created_by"] == "anna"
    assert listed["last_used_at"] is not None
    async with site.running.database.reading() as db:
        kept = (await db.execute(sa.select(delivery_store.WEBHOOK_SECRET))).one()
    for shown in (str(listed), str(kept), caplog.text, await site.get("/itsm-gateway/secrets")):
        assert secret not in shown
        assert secret.removeprefix("whsec_") not in shown


async def test_two_secrets_are_active_while_one_is_replaced(site: Site) -> None:
    old_id, old = await site.secret("rotating", "generic")
    _, new = await site.secret("rotating", "generic")
    third = await site.call(
        "POST",
        "/itsm-gateway/api/webhook-secrets",
        role="admin",
        json={"connection_id": "rotating", "platform": "generic"},
    )
    assert third.status_code == 409
    await site.tell(flagged("c"))
    for number, secret in enumerate((old, new)):
        sent = await site.send(secret, answer(), connection="rotating", webhook_id=f"m{number}")
        assert sent.json() == {"status": "accepted"}
    dropped = await site.call("DELETE", f"/itsm-gateway/api/webhook-secrets/{old_id}", role="admin")
    assert dropped.status_code == 204
    assert (await site.send(old, answer(), connection="rotating", webhook_id="m3")).status_code == 401
    assert (await site.send(new, answer(), connection="rotating", webhook_id="m4")).status_code == 202
    gone = await site.call("DELETE", f"/itsm-gateway/api/webhook-secrets/{old_id}", role="admin")
    assert gone.status_code == 404


async def test_two_additions_at_once_make_no_third(site: Site) -> None:
    given = {"connection_id": "race", "platform": "generic"}
    answers = await asyncio.gather(
        *(site.call("POST", "/itsm-gateway/api/webhook-secrets", role="admin", json=given) for _ in range(6))
    )
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {201, 409}
    assert len(await site.get("/itsm-gateway/api/webhook-secrets")) == statuses.count(201) <= 2


async def test_a_secret_dropped_elsewhere_verifies_nothing_from_then_on(site: Site) -> None:
    """Another process drops it: this one still has it in memory, and must not accept by it."""
    secret_id, secret = await site.secret("new", "generic")
    await site.tell(flagged("c"))
    assert (await site.send(secret, answer(), connection="new")).status_code == 202
    async with site.running.database.unit() as unit:
        await delivery_store.drop_secret(unit.db, secret_id)
    for body in (answer(), {"odd": 1}):
        response = await site.send(secret, body, connection="new", webhook_id="m2")
        assert (response.status_code, response.json()["title"]) == (401, "Not accepted")
    assert len(await site.decisions()) == 1


async def test_a_secret_added_elsewhere_counts_within_a_second(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "FRESH_FOR", 0.0)
    await site.tell(flagged("c"))
    secret = whsec("z")
    assert (await site.send(secret, answer(), connection="new")).status_code == 401
    sealed = Sealer([SEALING])
    stored = delivery_store.StoredSecret("s-1", "new", "generic", sealed.seal({"secret": secret}), NOW, "anna")
    async with site.running.database.unit() as unit:
        await delivery_store.add_secret(unit.db, stored, 0)
    assert (await site.send(secret, answer(), connection="new")).status_code == 202


async def test_a_secret_that_no_key_opens_refuses_and_harms_no_other(site: Site) -> None:
    stored = delivery_store.StoredSecret("s-1", "new", "generic", "gAAAA-rubbish", NOW, "anna")
    async with site.running.database.unit() as unit:
        await delivery_store.add_secret(unit.db, stored, 0)
    await site.tell(flagged("c"))
    assert (await site.send(NEW, answer(), connection="new")).status_code == 401
    assert (await site.send(NEW, answer())).status_code == 202


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"platform": "jira", "secret": "short"}, 422),
        ({"platform": "jira", "secret": "with spaces in it, and long enough"}, 422),
        ({"platform": "generic", "secret": "not-a-standard-webhooks-secret-at-all"}, 422),
        ({"platform": "generic", "secret": "whsec_c2hvcnQ="}, 422),
        ({"platform": "generic", "connection_id": "a/b"}, 422),
        ({"platform": "generic", "connection_id": ""}, 422),
        ({"platform": "generic", "connection_id": "x" * 201}, 422),
        ({"platform": "fax"}, 422),
        ({"platform": "generic", "secret": NEW}, 409),
        ({"platform": "jira", "connection_id": "desk"}, 409),
    ],
)
async def test_a_secret_that_does_not_fit_is_not_stored(site: Site, given: dict[str, str], status: int) -> None:
    body = {"connection_id": "new", **given}
    refused = await site.call("POST", "/itsm-gateway/api/webhook-secrets", role="admin", json=body)
    assert refused.status_code == status, refused.text
    assert given.get("secret", "nothing") not in refused.text
    assert await site.get("/itsm-gateway/api/webhook-secrets") == []


async def test_only_an_administrator_changes_secrets(site: Site) -> None:
    given = {"connection_id": "new", "platform": "generic"}
    for role in ("viewer", "operator"):
        made = await site.call("POST", "/itsm-gateway/api/webhook-secrets", role=role, json=given)  # type: ignore[arg-type]
        assert made.status_code == 403
        gone = await site.call("DELETE", "/itsm-gateway/api/webhook-secrets/x", role=role)  # type: ignore[arg-type]
        assert gone.status_code == 403


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_c2hvcnQ=", "not-a-secret", base64.b64encode(b"x" * 32).decode()]
)
def test_a_secret_that_is_none_is_refused_at_start_up(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("RECLAIM_ITSM_GATEWAY_WEBHOOK_SECRETS", json.dumps({"desk": [secret]}))
    with pytest.raises(ValidationError, match="'desk' is no Standard Webhooks secret") as refused:
        ItsmGatewaySettings()
    assert not secret or f"'{secret}'" not in str(refused.value), "a secret is not repeated"


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLAIM_ITSM_GATEWAY_WEBHOOK_SECRETS", json.dumps({"desk": [NEW, OLD]}))
    read = ItsmGatewaySettings()
    assert read.secrets() == {"desk": [NEW, OLD]}
    assert NEW not in repr(read)
    assert NEW not in repr(Key(None, "generic", NEW))


# ------------------------------------------------------------------------------------------------ what is altered


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "body"]),
    at=st.integers(0, 200),
    byte=st.integers(0, 255),
)
def test_no_altered_webhook_passes(part: str, at: int, byte: int) -> None:
    body = json.dumps(answer()).encode()
    headers = signed(NEW, body)
    original = body if part == "body" else headers[part].encode()
    changed = bytearray(original)
    changed[at % len(changed)] = byte
    if part == "body":
        body = bytes(changed)
    else:
        headers[part] = changed.decode("latin-1")
    keys = [Key(None, "generic", OLD), Key(None, "generic", NEW)]
    verified = True
    try:
        webhooks.verify("desk", keys, body, headers, wall_milliseconds())
    except webhooks.Refused:
        verified = False
    assert verified == (bytes(changed) == original), "of a signed thing only one spelling is valid"


# ------------------------------------------------------------------------------------------------ housekeeping


async def test_old_ledger_entries_go_and_what_needs_a_person_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.tell(flagged("c"))
    await site.send(NEW, answer())
    await site.send(NEW, answer("nobody"), webhook_id="m2")
    await site.handle()
    deps = Deps(site.running.database, secrets_of(NEW))

    async def entries() -> int:
        async with site.running.database.reading() as db:
            return len((await db.execute(sa.select(store.WEBHOOK_LEDGER))).all())

    await jobs.forget_webhooks(deps)
    assert await entries() == 2
    later = jobs.wall_milliseconds() + (jobs.LEDGER_DAYS + 1) * 86_400_000
    monkeypatch.setattr(jobs, "wall_milliseconds", lambda: later)
    await jobs.forget_webhooks(deps)
    assert await entries() == 0
    assert jobs.LEDGER_DAYS * 86_400_000 > webhooks.PAST + webhooks.AHEAD, "the ledger outlives what is still valid"
    site.host.clock.advance(timedelta(days=91))  # type: ignore[attr-defined]
    forget = next(job for job in site.running.service.jobs if job.name == "forget_deliveries")
    assert not await forget.run()
    left = (await site.get("/itsm-gateway/api/deliveries"))["deliveries"]
    assert [one["state"] for one in left] == ["failed"]


async def test_deliveries_are_paged_and_filtered(site: Site) -> None:
    await site.tell(flagged("c"))
    await site.secret("other", "generic", FOREIGN)
    for number in range(3):
        await site.send(NEW, answer(f"nobody-{number}"), webhook_id=f"m{number}")
    await site.send(FOREIGN, answer("c"), connection="other")
    await site.handle()
    first = await site.get("/itsm-gateway/api/deliveries?limit=3")
    second = await site.get(f"/itsm-gateway/api/deliveries?limit=3&before={first['next_before']}")
    assert [one["number"] for one in first["deliveries"] + second["deliveries"]] == [4, 3, 2, 1]
    assert second["next_before"] is None
    assert first["counts"] == {"waiting": 0, "taken": 1, "ignored": 0, "failed": 3}
    for query, numbers in (("state=taken", [4]), ("connection_id=desk", [3, 2, 1]), ("case_id=nobody-1", [2])):
        found = await site.get(f"/itsm-gateway/api/deliveries?{query}")
        assert [one["number"] for one in found["deliveries"]] == numbers
