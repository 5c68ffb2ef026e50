"""What is particular to Okta's System Log: its pages, its limits, its two ways to sign in, and whom it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from libs.connectors.tests.connectors_logs import DAY, HERE, MAIL, NOW, QUICK, WIKI, SimulatedOkta
from reclaim.common.clock import FixedClock
from reclaim.common.errors import Permanent
from reclaim.connectors import okta
from reclaim.connectors.errors import Busy, NotOffered, SignInRefused
from reclaim.connectors.okta import reader as okta_reader
from reclaim.connectors.ports import ConnectionProfile, Incomplete, UsageRecord
from reclaim.sandbox.app import Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")

SINCE = NOW - 30 * DAY
LOGS = "^/api/v1/logs"
KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=FixedClock(NOW), users=0) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module")
async def world(sandbox: Sandbox) -> AsyncIterator[SimulatedOkta]:
    world = SimulatedOkta(sandbox)
    yield world
    await world.reader.close()


def opened(sandbox: Sandbox, credentials: dict[str, str] | None = None, **settings: str) -> okta.OktaReader:
    profile = ConnectionProfile(
        "c1", "SSO", "okta", {"org_url": sandbox.url, **settings}, credentials or {"api_token": "sandbox-okta-token"}
    )
    return okta.open_reader(profile, FixedClock(NOW), QUICK, outgoing=HERE)


async def records(reader: okta.OktaReader) -> list[UsageRecord]:
    return [record async for page in reader.usage(SINCE) for record in page.records]


def questions(sandbox: Sandbox) -> list[dict[str, list[str]]]:
    return [parse_qs(query) for query, _status in sandbox.world.okta.requests]


async def test_pages_are_followed_to_the_end(world: SimulatedOkta) -> None:
    for number in range(2_300):
        world.sign_in(f"user{number % 100}@acme.example", WIKI, at=NOW - 20 * DAY + timedelta(minutes=number))
    found = await records(world.reader)
    assert sum(each.runs or 0 for each in found) == 2_300
    assert len({each.user for each in found}) == 100
    asked = questions(world.sandbox)
    assert len(asked) == 3
    assert asked[0]["limit"] == ["1000"]
    assert asked[0]["filter"] == ['eventType eq "user.authentication.sso"']
    assert {"since", "until"} <= asked[0].keys()
    assert "after" in asked[2]


async def test_only_named_applications_are_read(sandbox: Sandbox) -> None:
    world = SimulatedOkta(sandbox, applications=f"{WIKI}, 0oaother000000000001")
    world.sign_in("ada@acme.example", WIKI, at=NOW - DAY)
    world.sign_in("ada@acme.example", MAIL, at=NOW - DAY)
    assert [each.product for each in await records(world.reader)] == [WIKI]
    results = await world.reader.test()
    assert [(result.what, result.ok) for result in results] == [
        ("Connection", True),
        (f"Sign-ins to {WIKI}", True),
        ("Sign-ins to 0oaother000000000001", False),
    ]
    await world.reader.close()


async def test_the_name_in_the_application_goes_before_the_name_in_the_tenant(world: SimulatedOkta) -> None:
    world.tenant.sign_in("ada@acme.example", WIKI, app_name="Wiki", account="ada.l", at=NOW - DAY)
    world.tenant.sign_in("bo@acme.example", WIKI, app_name="Wiki", account="unknown", at=NOW - DAY)
    found = {each.user: each.product_name for each in await records(world.reader)}
    assert found == {"ada.l": "Wiki", "bo@acme.example": "Wiki"}


async def test_programs_and_other_events_are_no_use(world: SimulatedOkta) -> None:
    world.tenant.sign_in("app", WIKI, at=NOW - DAY, actor_type="PublicClientApp")
    world.tenant.sign_in("ada@acme.example", WIKI, at=NOW - DAY, event_type="user.session.start")
    assert await records(world.reader) == []


@pytest.mark.parametrize(("result", "uses"), [("ALLOW", 1), ("UNKNOWN", 1), ("DENY", 0), ("CHALLENGE", 0)])
async def test_only_what_is_known_to_have_failed_is_no_use(world: SimulatedOkta, result: str, uses: int) -> None:
    world.tenant.sign_in("ada@acme.example", WIKI, at=NOW - DAY, result=result)
    assert len(await records(world.reader)) == uses


async def test_a_service_app_signs_in_with_its_key_and_again_when_its_token_ends(sandbox: Sandbox) -> None:
    world = SimulatedOkta(sandbox)
    world.tenant.clients["0oaservice"] = PUBLIC
    world.sign_in("ada@acme.example", WIKI, at=NOW - DAY)
    reader = opened(sandbox, {"private_key": PRIVATE}, client_id="0oaservice")
    assert len(await records(reader)) == 1
    assert len(await records(reader)) == 1
    sandbox.world.okta.end_tokens()
    assert len(await records(reader)) == 1
    assert [status for _query, status in sandbox.world.okta.requests] == [200, 200, 401, 200]
    await reader.close()
    await world.reader.close()


async def test_a_token_that_is_refused_again_is_an_error_and_no_loop(world: SimulatedOkta) -> None:
    world.sandbox.world.faults.add("session_expired", path_regex=LOGS, times=None)
    with pytest.raises(SignInRefused, match="does not accept"):
        await records(world.reader)
    assert len(world.sandbox.world.okta.requests) == 1


@pytest.mark.parametrize(
    ("credentials", "settings", "words"),
    [
        ({"api_token": "stale"}, {}, "does not accept the connection's credentials"),
        ({"private_key": PRIVATE}, {"client_id": "0oaunknown"}, "Check the client id"),
    ],
    ids=["token", "key"],
)
async def test_credentials_that_are_refused_are_named(
    world: SimulatedOkta, credentials: dict[str, str], settings: dict[str, str], words: str
) -> None:
    reader = opened(world.sandbox, credentials, **settings)
    with pytest.raises(SignInRefused, match=words) as caught:
        await records(reader)
    assert "PRIVATE" not in str(caught.value)
    await reader.close()


async def test_too_many_calls_wait_for_the_next_window(world: SimulatedOkta) -> None:
    world.sign_in("ada@acme.example", WIKI, at=NOW - DAY)
    world.sandbox.world.faults.add("too_many_requests", path_regex=LOGS, params={"retry_after": 0})
    assert len(await records(world.reader)) == 1
    world.sandbox.world.faults.add("too_many_requests", path_regex=LOGS, params={"retry_after": 900})
    with pytest.raises(Busy, match="called again in 900 s"):
        await records(world.reader)


async def test_the_calls_of_others_are_left_to_them(world: SimulatedOkta, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(okta_reader, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(okta_reader, "PAGE", 2)
    log = world.sandbox.world.okta
    monkeypatch.setattr(log, "seconds", lambda: 1_000_000.0)
    world.tenant.window = 10
    for number in range(5):
        world.sign_in(f"user{number}@acme.example", WIKI, at=NOW - DAY + timedelta(minutes=number))
    assert len(await records(world.reader)) == 5
    assert (len(log.requests), waits) == (3, [])
    # Of ten calls a window a fifth is for others: after the eighth each further one waits for the next window.
    log.use_calls(4)
    assert len(await records(world.reader)) == 5
    assert len(waits) == 2
    assert all(wait > 0 for wait in waits)


@pytest.mark.parametrize(
    ("link", "words"),
    [("https://evil.example/api/v1/logs?after=x", "leads nowhere"), ("same", "leads nowhere")],
)
async def test_a_next_page_that_leads_away_is_not_followed(
    world: SimulatedOkta, monkeypatch: pytest.MonkeyPatch, link: str, words: str
) -> None:
    world.sign_in("ada@acme.example", WIKI, at=NOW - DAY)
    target = f"{world.sandbox.url}/api/v1/logs?since=2026-11-01T00:00:00Z&limit=1" if link == "same" else link
    monkeypatch.setattr(okta_reader, "_next", lambda _answer: target)
    with pytest.raises(Incomplete, match=words):
        await records(world.reader)


async def test_events_out_of_order_are_not_believed(world: SimulatedOkta, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in (3, 2, 1):
        world.sign_in("ada@acme.example", WIKI, at=NOW - days * DAY)
    events = okta_reader._events
    monkeypatch.setattr(okta_reader, "_events", lambda host, answer: events(host, answer)[::-1])
    with pytest.raises(Incomplete, match="out of order"):
        await records(world.reader)


@pytest.mark.parametrize(
    ("event", "words"),
    [({"published": "yesterday"}, "instant of its publication"), ({"published": None}, "instant of its publication")],
)
async def test_an_event_without_its_instant_is_not_believed(
    world: SimulatedOkta, event: dict[str, Any], words: str
) -> None:
    world.tenant.sign_in("ada@acme.example", WIKI, at=NOW - DAY).update(event)
    world.tenant.events[-1].event["published"] = event["published"] or ""
    with pytest.raises(Incomplete, match=words):
        await records(world.reader)


async def test_what_the_log_refuses_is_said_with_what_to_do(world: SimulatedOkta) -> None:
    with pytest.raises(Permanent, match="Okta does not take the question"):
        await world.reader._http.get(
            world.reader._profile.logs_url, {"filter": "actor.id gt 5"}, accept="application/json"
        )


async def test_a_log_holds_no_seats_and_says_where_they_are(world: SimulatedOkta) -> None:
    reader = world.reader
    for call in (
        reader.licences(),
        reader.seats_of(["x"]),
        reader.survey(None, since=SINCE),
        reader.grants(["x"]),
        reader.open_records(["x"]),
    ):
        with pytest.raises(NotOffered, match="Connect the application that holds the seats"):
            await call
    with pytest.raises(NotOffered):
        [page async for page in reader.seats(["x"])]


async def test_applications_are_listed_over_pages_without_those_that_are_off(world: SimulatedOkta) -> None:
    for number in range(450):
        world.tenant.add_app(
            f"0oa{number:017d}", f"App {number:03}", status="INACTIVE" if number % 10 == 0 else "ACTIVE"
        )
    found = await world.reader.applications()
    assert len(found) == 405
    assert [each.name for each in found[:2]] == ["App 001", "App 002"]
    asked = questions(world.sandbox)
    assert [(each["limit"], each["filter"]) for each in asked] == [(["200"], ['status eq "ACTIVE"'])] * 3


async def test_a_connection_that_is_bounded_offers_only_its_applications(sandbox: Sandbox) -> None:
    world = SimulatedOkta(sandbox, applications=WIKI)
    world.tenant.add_app(WIKI, "Wiki")
    world.tenant.add_app(MAIL, "Mail")
    assert [each.name for each in await world.reader.applications()] == ["Wiki"]
    await world.reader.close()


async def test_a_service_app_that_may_only_read_the_log_still_reads_it(sandbox: Sandbox) -> None:
    world = SimulatedOkta(sandbox)
    world.tenant.clients["0oaservice"] = PUBLIC
    world.tenant.scopes = {"okta.logs.read"}
    world.sign_in("ada@acme.example", WIKI, at=NOW - DAY)
    reader = opened(sandbox, {"private_key": PRIVATE}, client_id="0oaservice")
    assert len(await records(reader)) == 1
    with pytest.raises(SignInRefused):
        await reader.applications()
    world.tenant.scopes.add("okta.apps.read")
    assert [each.id for each in await reader.applications()] == [WIKI]
    await reader.close()
    await world.reader.close()


async def test_more_applications_than_an_address_holds_are_sorted_out_here(world: SimulatedOkta) -> None:
    apps = [f"0oa{number:017d}" for number in range(60)]
    for app in (*apps, WIKI):
        world.sign_in("ada@acme.example", app, at=NOW - DAY)
    found = [record async for page in world.reader.usage(SINCE, only=apps) for record in page.records]
    assert sorted(each.product for each in found) == apps
    assert questions(world.sandbox)[0]["filter"] == ['eventType eq "user.authentication.sso"']
