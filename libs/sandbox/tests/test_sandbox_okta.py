"""The simulated Okta tenant: as strict as the real one, and able to be late, forgetful and short of calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from reclaim.common.clock import FixedClock
from reclaim.sandbox.app import create_app
from reclaim.sandbox.okta import API_TOKEN
from reclaim.sandbox.world import World

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HEADERS = {"Authorization": f"SSWS {API_TOKEN}"}
SSO = 'eventType eq "user.authentication.sso"'


class Tenant:
    def __init__(self, world: World, http: httpx.AsyncClient, clock: FixedClock) -> None:
        self.world, self.http, self.clock = world, http, clock

    @property
    def tenant(self) -> Any:
        return self.world.okta.tenant

    async def ask(self, **params: str) -> httpx.Response:
        return await self.http.get("/api/v1/logs", params=params, headers=HEADERS)

    async def shown(self, **params: str) -> list[str]:
        return [event["actor"]["alternateId"] for event in (await self.ask(**params)).json()]


@pytest.fixture
async def it() -> AsyncIterator[Tenant]:
    clock = FixedClock(NOW)
    app = create_app(clock=clock)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://okta.test") as http:
        yield Tenant(app.state.world, http, clock)


def stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


async def test_bounded_questions_lead_from_page_to_page_and_end(it: Tenant) -> None:
    for number in range(5):
        it.tenant.sign_in(f"user{number}", "0oa1", at=NOW - DAY + timedelta(minutes=number))
    answer = await it.ask(since=stamp(NOW - 2 * DAY), until=stamp(NOW), limit="2")
    seen = [event["actor"]["alternateId"] for event in answer.json()]
    pages = 1
    while "next" in answer.links:
        answer = await it.http.get(answer.links["next"]["url"], headers=HEADERS)
        seen += [event["actor"]["alternateId"] for event in answer.json()]
        pages += 1
    assert (seen, pages) == ([f"user{number}" for number in range(5)], 3)
    assert answer.links["self"]["url"].startswith("http://okta.test/api/v1/logs?")


async def test_a_question_without_an_end_always_leads_on(it: Tenant) -> None:
    answer = await it.ask(since=stamp(NOW - DAY))
    assert answer.json() == []
    it.tenant.sign_in("ada", "0oa1", at=NOW - timedelta(minutes=1))
    again = await it.http.get(answer.links["next"]["url"], headers=HEADERS)
    assert len(again.json()) == 1


async def test_the_log_is_late_and_forgets(it: Tenant) -> None:
    since = stamp(NOW - 150 * DAY)
    it.tenant.sign_in("old", "0oa1", at=NOW - 91 * DAY)
    it.tenant.sign_in("late", "0oa1", at=NOW - DAY, late=timedelta(hours=30))
    assert await it.shown(since=since, until=stamp(NOW)) == []
    it.clock.advance(timedelta(hours=7))
    assert await it.shown(since=since, until=stamp(it.clock.now())) == ["late"]


@pytest.mark.parametrize(
    ("condition", "users"),
    [
        (SSO, {"ada", "bo"}),
        (f'{SSO} and target.id eq "0oa1"', {"ada"}),
        (f'{SSO} and (target.id eq "0oa1" or target.id eq "0oa2")', {"ada", "bo"}),
        ('eventType eq "user.session.start"', {"cy"}),
        ('target.id eq "0oa2" or eventType eq "user.session.start" and target.id eq "0oa1"', {"bo", "cy"}),
    ],
)
async def test_filters_mean_what_they_say(it: Tenant, condition: str, users: set[str]) -> None:
    it.tenant.sign_in("ada", "0oa1", at=NOW - DAY)
    it.tenant.sign_in("bo", "0oa2", at=NOW - DAY)
    it.tenant.sign_in("cy", "0oa1", at=NOW - DAY, event_type="user.session.start")
    assert set(await it.shown(filter=condition)) == users


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"filter": "eventType co sso"}, "E0000053"),
        ({"filter": 'eventType co "sso"'}, "E0000031"),
        ({"filter": 'published gt "2026-01-01"'}, "E0000031"),
        ({"filter": f"({SSO}"}, "E0000053"),
        ({"filter": f"{SSO} {SSO}"}, "E0000053"),
        ({"filter": f"{SSO} and"}, "E0000031"),
        ({"limit": "1001"}, "E0000001"),
        ({"limit": "-1"}, "E0000001"),
        ({"since": "yesterday"}, "E0000001"),
        ({"since": "2026-11-20T00:00:00"}, "E0000001"),
        ({"since": "2020-01-01T00:00:00Z"}, "E0000053"),
        ({"sortOrder": "DESCENDING"}, "E0000001"),
        ({"after": "%"}, "E0000053"),
        ({"colour": "blue"}, "E0000053"),
    ],
)
async def test_what_is_not_understood_is_refused_in_oktas_own_shape(
    it: Tenant, params: dict[str, str], code: str
) -> None:
    answer = await it.ask(**params)
    assert answer.status_code == 400
    assert answer.json()["errorCode"] == code
    assert answer.json().keys() == {"errorCode", "errorSummary", "errorLink", "errorId", "errorCauses"}


@pytest.mark.parametrize("header", ["", "SSWS wrong", f"Bearer {API_TOKEN}", "Basic x"])
async def test_who_has_no_token_is_told_so(it: Tenant, header: str) -> None:
    answer = await it.http.get("/api/v1/logs", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["errorCode"]) == (401, "E0000011")


async def test_calls_are_counted_by_the_window(it: Tenant) -> None:
    now = 600.0
    it.world.okta.seconds = lambda: now
    it.tenant.window = 2
    first, second, third = [await it.ask() for _ in range(3)]
    told = [first.headers[f"X-Rate-Limit-{name}"] for name in ("Limit", "Remaining", "Reset")]
    assert told == ["2", "1", "660"]
    assert second.headers["X-Rate-Limit-Remaining"] == "0"
    assert (third.status_code, third.json()["errorCode"]) == (429, "E0000047")
    now = 660.0
    assert (await it.ask()).status_code == 200


async def test_people_sign_in_through_the_control_api(it: Tenant) -> None:
    wanted = {"user": "ada", "app_id": "0oa1", "app_name": "Wiki", "account": "ada.l", "days_ago": 2}
    answer = await it.http.post("/sandbox/api/okta/sign-ins", json=wanted)
    assert answer.status_code == 201
    (event,) = (await it.ask()).json()
    assert event == answer.json()
    assert [each["type"] for each in event["target"]] == ["AppInstance", "AppUser"]
    await it.http.post("/sandbox/api/reset", json={"users": 50})
    assert (await it.ask()).json() == []
