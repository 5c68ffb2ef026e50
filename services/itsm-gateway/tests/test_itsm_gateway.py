"""The gateway: what goes through the desk is kept and said to be unasked, and only a signed webhook decides."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook

from reclaim.common import envelope, migrate
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CaseClosed,
    CaseEvent,
    DecisionReceived,
    Event,
    FulfilmentRequested,
    NoticeFailed,
    Person,
    Policy,
    Route,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
    UserRestored,
)
from reclaim.common.host import Host
from reclaim.common.service import Running, Runtime, Service
from reclaim.common.settings import Settings
from reclaim.itsm_gateway import jobs, store, webhooks
from reclaim.itsm_gateway.handlers import Deps
from reclaim.itsm_gateway.service import build
from reclaim.itsm_gateway.settings import ItsmGatewaySettings
from reclaim.web.auth import issue_api_token, undeclared_routes

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "k" * 32
SEAT = Seat(
    connection_id="org-1",
    product="sales-cloud",
    product_name="Sales Cloud",
    holder=Person(id="005", name="Ann Holder", email="ann@example.com"),
    department="Sales",
)


def whsec(letter: str) -> str:
    return "whsec_" + base64.b64encode(letter.encode() * 32).decode()


OLD, NEW, FOREIGN = whsec("o"), whsec("n"), whsec("f")


def flagged(case_id: str, route: Route = "itsm", *, rule_name: str = "Unused for 60 days") -> UserFlagged:
    policy = Policy(
        rule_id="r-1",
        rule_version=1,
        rule_name=rule_name,
        inactive_days=60,
        route=route,
        decision_days=7,
        on_timeout="keep",
        grace_days=14,
        hand_over=True,
        dry_run=False,
    )
    return UserFlagged(
        case_id=case_id, seat=SEAT, approver=None, policy=policy, findings=(), last_used_at=None, flagged_at=NOW
    )


def life(case_id: str) -> list[CaseEvent]:
    """What follows a flag, to the very end."""
    rule: dict[str, Any] = {"rule_id": "r-1", "rule_name": "Unused for 60 days"}
    later = [NOW + timedelta(days=days) for days in range(10)]
    return [
        UserFrozen(
            case_id=case_id,
            seat=SEAT,
            decision="revoke",
            frozen_at=later[1],
            grace_ends_at=later[5],
            dry_run=False,
        ),
        SeatReclaimed(
            case_id=case_id,
            seat=SEAT,
            **rule,
            method="deactivate",
            records_transferred=1,
            reclaimed_at=later[5],
            dry_run=False,
        ),
        CaseClosed(case_id=case_id, outcome="reclaimed", reason="", closed_at=later[6]),
        SeatReactivated(
            case_id=case_id,
            seat=SEAT,
            **rule,
            actor="Otto",
            reason="She is back.",
            reactivated_at=later[7],
            dry_run=False,
        ),
    ]


@dataclass
class Site:
    host: Host
    client: httpx.AsyncClient

    @property
    def running(self) -> Running:
        return self.host.running[0]

    async def tell(self, *events: CaseEvent) -> None:
        bodies = [envelope.encode(event, source="lifecycle", time=NOW) for event in events]
        await self.running.inbox.receive([envelope.join(bodies)])

    async def said(self) -> list[Event]:
        async with self.running.database.reading() as db:
            bodies = (await db.execute(sa.text("SELECT body FROM outbox ORDER BY seq"))).scalars().all()
        parts = envelope.split(envelope.join(bodies))
        return [part.data for part in parts if isinstance(part, envelope.Received)]

    async def get(self, path: str) -> Any:
        token = issue_api_token(
            secret_keys=[KEY],
            name="vera",
            role="viewer",
            lifetime=timedelta(hours=1),
            now=lambda: datetime.now(UTC),
        )
        response = await self.client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 200, response.text
        return response.json() if response.headers["content-type"] == "application/json" else response.text

    async def send(
        self, secret: str, body: dict[str, Any] | bytes, *, webhook_id: str = "msg_1", connection: str = "desk"
    ) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(
            f"/itsm-gateway/webhooks/{connection}", content=raw, headers=signed(secret, raw, webhook_id)
        )


def signed(secret: str, body: bytes, webhook_id: str = "msg_1", *, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode()),
        "content-type": "application/json",
    }


def answer(case_id: str = "c", **more: Any) -> dict[str, Any]:
    return {"case_id": case_id, "decision": "revoke", "actor": "mia@example.com", "reason": "left", **more}


def secrets_of(*secrets: str) -> ItsmGatewaySettings:
    return ItsmGatewaySettings(webhook_secrets={"desk": [SecretStr(secret) for secret in secrets], "empty": []})


@asynccontextmanager
async def started(data_dir: Path, gateway: ItsmGatewaySettings, database_url: str | None = None) -> AsyncIterator[Site]:
    given_settings = Settings(
        environment="test",
        data_dir=data_dir,
        secret_keys=[KEY],
        sealing_keys=[Fernet.generate_key().decode()],
        **({"database_url": database_url} if database_url else {}),
    )

    def with_settings(runtime: Runtime) -> Service:
        return build(runtime, settings=gateway)

    host = Host(given_settings, {"itsm-gateway": with_settings}, clock=FixedClock(NOW))
    await host.prepare()
    transport = httpx.ASGITransport(host.app)
    async with httpx.AsyncClient(transport=transport, base_url=given_settings.public_url) as client:
        yield Site(host, client)
    for running in host.running:
        await running.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    async with started(tmp_path, secrets_of(NEW, OLD), url) as running:
        yield running


# ------------------------------------------------------------------------------------------------ requests


async def test_the_migration_makes_what_the_code_declares(site: Site) -> None:
    assert await migrate.differences(site.running.database.engine, site.running.service.metadata) == []


async def test_a_case_for_the_desk_is_kept_and_said_to_be_unasked(site: Site) -> None:
    await site.tell(flagged("a"), flagged("b", "both"), flagged("c", "email"))
    said = await site.said()
    assert [(type(event), event.case_id, event.channel) for event in said] == [  # type: ignore[attr-defined]
        (NoticeFailed, "a", "itsm"),
        (NoticeFailed, "b", "itsm"),
    ]
    assert isinstance(said[0], NoticeFailed)
    assert "No service desk is connected" in said[0].reason
    assert "“Unused for 60 days” to e-mail" in said[0].remedy
    listed = (await site.get("/itsm-gateway/api/requests"))["requests"]
    assert [(one["case_id"], one["route"], one["state"]) for one in listed] == [
        ("b", "both", "waiting"),
        ("a", "itsm", "waiting"),
    ]


async def test_a_case_is_asked_once_even_under_a_second_event_id(site: Site) -> None:
    await site.tell(flagged("a"), flagged("a"))
    await site.tell(flagged("a"))
    assert len(await site.said()) == 1


@pytest.mark.parametrize("backwards", [False, True])
async def test_the_timeline_and_the_state_follow_the_case_in_any_order(site: Site, backwards: bool) -> None:
    await site.tell(flagged("a"), flagged("other"))
    story = life("a")
    for event in reversed(story) if backwards else story:
        await site.tell(event)
    shown = await site.get("/itsm-gateway/api/requests/a")
    assert (shown["state"], shown["outcome"]) == ("reactivated", "reclaimed")
    assert [step["text"] for step in shown["timeline"]] == [
        "The seat was frozen. It can be restored until 26 November 2026, 12:00 UTC.",
        "The seat was freed. 1 open record has a new owner.",
        "The case was closed (reclaimed).",
        "The seat was given back by Otto. She is back.",
    ]
    open_ones = (await site.get("/itsm-gateway/api/requests?open_only=true"))["requests"]
    assert [one["case_id"] for one in open_ones] == ["other"]


async def test_a_restored_case(site: Site) -> None:
    await site.tell(flagged("a"))
    await site.tell(
        UserRestored(case_id="a", seat=SEAT, actor="Ann", reason="I need it.", restored_at=NOW, dry_run=False)
    )
    shown = await site.get("/itsm-gateway/api/requests/a")
    assert (shown["state"], shown["timeline"][0]["text"]) == ("restored", "The seat was restored by Ann. I need it.")


async def test_an_event_before_its_case_is_tried_again_and_one_of_a_mailed_case_is_not_kept(site: Site) -> None:
    await site.tell(*life("early"))
    await site.tell(flagged("early"), flagged("mailed", "email"))
    await site.tell(*life("mailed"))
    async with asyncio.timeout(20):
        while (await site.get("/itsm-gateway/api/requests/early"))["state"] != "reactivated":
            await site.running.inbox.retry()
            await asyncio.sleep(0.05)
    assert await site.running.inbox.parked() == []
    async with site.running.database.reading() as db:
        assert set((await db.execute(sa.select(store.TICKET_STEP.c.case_id))).scalars()) == {"early"}


async def test_a_task_for_a_person_is_kept_for_every_case(site: Site) -> None:
    asked = [
        FulfilmentRequested(
            case_id=case_id,
            seat=SEAT,
            rule_id="r-1",
            rule_name="Unused for 60 days",
            method="deactivate",
            instructions="Take the seat back.",
            requested_at=NOW,
            dry_run=case_id == "mailed",
        )
        for case_id in ("desk", "mailed")
    ]
    await site.tell(flagged("desk"), flagged("mailed", "email"), *asked)
    async with site.running.database.reading() as db:
        assert await store.timeline(db, "desk") == [(NOW, "Take the seat back.")]
        assert await store.timeline(db, "mailed") == [(NOW, "Dry run, nothing to do: Take the seat back.")]
    shown = await site.get("/itsm-gateway/api/requests/desk")
    assert shown["state"] == "waiting", "a task does not move a request on"


async def test_requests_are_paged(site: Site) -> None:
    await site.tell(*(flagged(f"case-{n}") for n in range(5)))
    first = await site.get("/itsm-gateway/api/requests?limit=3")
    second = await site.get(f"/itsm-gateway/api/requests?limit=3&before={first['next_before']}")
    assert [one["case_id"] for one in first["requests"] + second["requests"]] == [f"case-{n}" for n in (4, 3, 2, 1, 0)]
    assert second["next_before"] is None


async def test_the_pages(site: Site) -> None:
    assert "No requests" in await site.get("/itsm-gateway/")
    hostile = "<script>alert(1)</script>"
    await site.tell(flagged("a", rule_name=hostile))
    await site.tell(*life("a"))
    page = await site.get("/itsm-gateway/?show=all")
    assert "No service desk is connected" in page
    assert "POST /itsm-gateway/webhooks/desk" in page
    assert "/webhooks/empty" not in page
    one = await site.get("/itsm-gateway/requests/a")
    for text in ("Ann Holder, ann@example.com", "No ticket was opened", "given back by Otto"):
        assert text in one
    for html in (page, one):
        assert hostile not in html


async def test_every_route_says_who_may_use_it(site: Site) -> None:
    assert undeclared_routes(site.host.app, exempt=["/health", "/metrics", "/openapi.json"]) == []
    for path in ("/itsm-gateway/api/requests", "/itsm-gateway/api/requests/a"):
        assert (await site.client.get(path)).status_code == 401


# ------------------------------------------------------------------------------------------------ webhooks


@pytest.mark.parametrize("secret", [NEW, OLD])
async def test_a_signed_webhook_decides_once(site: Site, secret: str) -> None:
    await site.tell(flagged("c"))
    first = await site.send(secret, answer())
    again = await site.send(secret, answer())
    assert (first.status_code, first.json()) == (202, {"status": "accepted"})
    assert (again.status_code, again.json()) == (202, {"status": "already_taken"})
    decisions = [event for event in await site.said() if isinstance(event, DecisionReceived)]
    assert decisions == [
        DecisionReceived(
            case_id="c", decision="revoke", channel="itsm", actor="mia@example.com", reason="left", decided_at=NOW
        )
    ]
    shown = await site.get("/itsm-gateway/api/requests/c")
    assert [step["text"] for step in shown["timeline"]] == ["mia@example.com decided: revoke. left"]


async def test_the_same_webhook_many_times_at_once_decides_once(site: Site) -> None:
    await site.tell(flagged("c"))
    answers = await asyncio.gather(*(site.send(NEW, answer()) for _ in range(16)))
    assert sorted(one.json()["status"] for one in answers) == ["accepted"] + ["already_taken"] * 15
    assert len([event for event in await site.said() if isinstance(event, DecisionReceived)]) == 1


async def test_a_replay_is_known_after_a_restart(tmp_path: Path) -> None:
    async with started(tmp_path, secrets_of(NEW)) as site:
        await site.tell(flagged("c"))
        await site.send(NEW, answer())
    async with started(tmp_path, secrets_of(NEW)) as site:
        assert (await site.send(NEW, answer())).json() == {"status": "already_taken"}


async def test_what_is_not_signed_is_refused_alike(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await site.tell(flagged("c"))
    raw = json.dumps(answer()).encode()
    good = signed(NEW, raw)
    old = datetime.now(UTC) - timedelta(minutes=6)
    attempts: list[tuple[str, bytes, dict[str, str]]] = [
        ("desk", raw, signed(FOREIGN, raw)),
        ("unknown", raw, good),
        ("empty", raw, good),
        ("desk", raw.replace(b"revoke", b"keep__"), good),
        ("desk", raw, signed(NEW, raw, at=old)),
        ("desk", raw, {**good, "webhook-id": "msg_2"}),
        ("desk", raw, {**good, "webhook-id": "x" * 300}),
        ("desk", raw, {**good, "webhook-timestamp": "soon"}),
        ("desk", raw, {**good, "webhook-timestamp": "nan"}),
        ("desk", raw, {**good, "webhook-signature": "v1"}),
        ("desk", raw, {**good, "webhook-signature": "v1,a"}),
        ("desk", raw, {**good, "webhook-signature": "v1,é".encode().decode("latin-1")}),
        ("desk", raw, {}),
        ("desk", b"\xff\xfe", good),
        ("desk", b"", good),
    ]
    answers = set()
    for connection, body, headers in attempts:
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        response = await site.client.post(
            f"/itsm-gateway/webhooks/{connection}", content=body, headers={**encoded, "accept": b"text/plain"}
        )
        answers.add((response.status_code, response.headers["content-type"], response.text))
    ((status, kind, text),) = answers
    assert (status, kind) == (401, "application/problem+json")
    assert "Standard Webhooks" in json.loads(text)["detail"]
    assert "no secret is configured" in caplog.text
    assert NEW not in caplog.text
    assert not [event for event in await site.said() if isinstance(event, DecisionReceived)]


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
    ],
)
async def test_a_signed_body_that_does_not_fit_is_told_what_to_send(site: Site, body: bytes) -> None:
    await site.tell(flagged("c"))
    response = await site.send(NEW, body)
    assert response.status_code == 422
    assert "case_id, decision (keep, revoke or downgrade), actor" in response.json()["detail"]
    assert (await site.send(NEW, answer())).json() == {"status": "accepted"}, "the id was not used up"


@pytest.mark.parametrize("case_id", ["unknown", "mailed"])
async def test_only_a_case_of_the_desk_is_decided(site: Site, case_id: str) -> None:
    await site.tell(flagged("mailed", "email"))
    assert (await site.send(NEW, answer(case_id))).status_code == 404
    assert await site.said() == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "body"]),
    at=st.integers(0, 200),
    byte=st.integers(0, 255),
)
def test_no_altered_webhook_passes(header: str, at: int, byte: int) -> None:
    body = json.dumps(answer()).encode()
    headers = signed(NEW, body)
    original = body if header == "body" else headers[header].encode()
    changed = bytearray(original)
    changed[at % len(changed)] = byte
    if header == "body":
        body = bytes(changed)
    else:
        headers[header] = changed.decode("latin-1")
    verified = True
    try:
        webhooks.verify("desk", [OLD, NEW], body, headers)
    except webhooks.Refused:
        verified = False
    assert verified == (bytes(changed) == original or _same_to_the_standard(header, original, bytes(changed)))


def _same_to_the_standard(header: str, original: bytes, changed: bytes) -> bool:
    """Texts that differ and say the same: a number with a fraction or spaces, base64 with other spare bits."""
    try:
        if header == "webhook-timestamp":
            return int(float(changed)) == int(original)
        if header == "webhook-signature":
            version, text = changed.split(b",")
            return version == b"v1" and base64.b64decode(text) == base64.b64decode(original.split(b",")[1])
    except ValueError:
        return False
    return False


async def test_old_ledger_entries_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.tell(flagged("c"))
    await site.send(NEW, answer())
    deps = Deps(site.running.database, secrets_of(NEW))

    async def entries() -> int:
        async with site.running.database.reading() as db:
            return len((await db.execute(sa.select(store.WEBHOOK_LEDGER))).all())

    await jobs.forget_webhooks(deps)
    assert await entries() == 1
    later = jobs.wall_milliseconds() + (jobs.LEDGER_DAYS + 1) * 86_400_000
    monkeypatch.setattr(jobs, "wall_milliseconds", lambda: later)
    await jobs.forget_webhooks(deps)
    assert await entries() == 0


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
    assert [secret.get_secret_value() for secret in read.webhook_secrets["desk"]] == [NEW, OLD]
    assert NEW not in repr(read)
