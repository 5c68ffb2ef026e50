"""The brakes' API and pages, through the application that the host makes: roles, refusals, and forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import ConnectionChanged
from reclaim.common.security import Sealer
from reclaim.common.settings import Settings
from reclaim.lifecycle.domain import State
from reclaim.lifecycle.service import build
from reclaim.web.auth import issue_api_token
from reclaim.web.operators import Role
from services.lifecycle.tests.lifecycle_site import Unattended
from services.lifecycle.tests.test_lifecycle_brake_service import WIDE, crowd, frozen, in_state, revoke
from services.lifecycle.tests.test_lifecycle_service import KEY, NOW, World

SECRET = "s" * 32
LIMITS = {**asdict(WIDE), "reason": "a pilot"}
BRAKES = "/lifecycle/api/brakes"
SWITCH = "/lifecycle/api/kill-switch"


@dataclass
class Site:
    it: World
    http: httpx.AsyncClient

    async def __call__(
        self, method: str, path: str, status: int = 200, *, role: Role = "operator", name: str = "anna", **sent: Any
    ) -> Any:
        token = issue_api_token(
            secret_keys=[SECRET], name=name, role=role, lifetime=timedelta(hours=1), now=lambda: datetime.now(UTC)
        )
        answer = await self.http.request(method, path, headers={"Authorization": f"Bearer {token}"}, **sent)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        if status >= 400:
            assert answer.headers["content-type"].startswith("application/problem+json")
        if answer.content and "json" in answer.headers.get("content-type", ""):
            return answer.json()
        return answer.text

    async def limits(self, **figures: int) -> None:
        wanted = {**asdict(replace(WIDE, **figures)), "reason": "a pilot"}
        await self("PUT", f"{BRAKES}/limits/c1", 204, role="admin", json=wanted)

    async def tripped(self) -> str:
        await self.limits(day_most=1)
        await revoke(self.it, 3)
        await self.it.act()
        (trip,) = (await self("GET", BRAKES))["trips"]
        return str(trip["id"])


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    clock = FixedClock(NOW)
    org = crowd(clock)
    settings = Settings(environment="test", data_dir=tmp_path, secret_keys=[SECRET], sealing_keys=[KEY])
    host = Unattended(settings, {"lifecycle": partial(build, connectors=org)}, clock=clock)
    await host.prepare()
    it = World(host.running[0], org, clock)
    await it.tell(
        ConnectionChanged(
            connection_id="c1", name="Sales org", kind="salesforce", settings={}, version=1,
            credentials=Sealer([KEY]).seal({"client_secret": "s"}),
        ),
        source="scanner",
    )  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host.app), base_url=settings.public_url) as http:
        yield Site(it, http)
    await host.running[0].close()


async def test_limits_are_set_by_an_administrator_and_shown_with_what_is_used(site: Site) -> None:
    (before,) = (await site("GET", BRAKES, role="viewer"))["connections"]
    assert (before["name"], before["set_by"], before["seats"]) == ("Sales org", None, None)
    assert before["limits"]["run_most"] == 25
    await site("PUT", f"{BRAKES}/limits/c1", 403, json=LIMITS)
    await site("PUT", f"{BRAKES}/limits/nowhere", 404, role="admin", json=LIMITS)
    await site("PUT", f"{BRAKES}/limits/c1", 422, role="admin", json={**LIMITS, "day_share": 0})
    await site("PUT", f"{BRAKES}/limits/c1", 422, role="admin", json={**LIMITS, "reason": ""})
    await site.limits(day_most=7)
    await revoke(site.it, 4)
    await site.it.act()
    (after,) = (await site("GET", BRAKES, role="viewer"))["connections"]
    assert (after["set_by"], after["reason"], after["seats"]) == ("anna", "a pilot", 60)
    used = {(one["cap"], one["step"]): (one["used"], one["allowed"]) for one in after["usage"]}
    assert used["run", "freeze"] == (4, 60)
    assert used["day", "freeze"] == (4, 7)
    assert used["month", "freeze"] == (4, 60)
    assert used["day", "reclaim"] == (0, 7)


async def test_an_override_over_the_api(site: Site) -> None:
    trip = await site.tripped()
    shown = await site("GET", f"{BRAKES}/trips/{trip}", role="viewer")
    assert [case["id"] for case in shown["held"]] == ["case-001", "case-002"]
    overrides = f"{BRAKES}/trips/{trip}/overrides"
    await site("POST", overrides, 403, role="viewer", json={"reason": "a leaver wave"})
    await site("POST", overrides, 422, json={"reason": ""})
    asked = await site("POST", overrides, 201, json={"reason": "a leaver wave"})
    approve = f"{overrides}/{asked['override_id']}/approve"
    problem = await site("POST", approve, 403, name="Anna")
    assert "Another operator" in problem["detail"]
    await site("POST", overrides, 409, name="otto", json={"reason": "again"})
    assert await site("POST", approve, name="otto") == {"let_through": 2}
    await site("POST", approve, 409, name="otto")
    await site.it.act()
    assert frozen(site.it) == 3
    shown = await site("GET", f"{BRAKES}/trips/{trip}")
    assert (shown["held"], shown["closed_by"]) == ([], "otto")
    assert (await site("GET", BRAKES))["trips"] == []


async def test_held_cases_go_on_within_the_limits(site: Site) -> None:
    trip = await site.tripped()
    await site("POST", f"{BRAKES}/trips/{trip}/retry", 403, role="viewer")
    assert await site("POST", f"{BRAKES}/trips/{trip}/retry") == {"tried_again": 2}
    await site("POST", f"{BRAKES}/trips/{trip}/retry", 409)
    await site("POST", f"{BRAKES}/trips/nothing/retry", 404)
    await site.it.act()
    assert frozen(site.it) == 1


async def test_a_canary_over_the_api(site: Site) -> None:
    await site.limits(canary=1)
    await revoke(site.it, 2)
    await site.it.act()
    found = await site("GET", BRAKES)
    (canary,) = found["canaries"]
    assert [case["state"] for case in canary["cases"]] == ["frozen"]
    (trip,) = found["trips"]
    await site("POST", f"{BRAKES}/trips/{trip['id']}/retry", 409)
    page = await site("GET", "/lifecycle/brakes")
    assert "Let the rule go on" in page
    await site("POST", f"{BRAKES}/canaries/rule-1/2/confirm", 404)
    assert await site("POST", f"{BRAKES}/canaries/rule-1/1/confirm") == {"let_go": 1}
    await site.it.act()
    assert frozen(site.it) == 2


async def test_the_kill_switch_over_the_api(site: Site) -> None:
    await site.limits()
    wanted = {"scope": "global", "reason": "something is wrong"}
    await site("POST", SWITCH, 403, role="viewer", json=wanted)
    await site("POST", SWITCH, 422, json={**wanted, "target": "c1"})
    await site("POST", SWITCH, 422, json={**wanted, "scope": "rule"})
    await site("POST", SWITCH, 404, json={**wanted, "scope": "connection", "target": "nowhere"})
    switch = await site("POST", SWITCH, 201, json=wanted)
    again = await site("POST", SWITCH, 200, name="otto", json={**wanted, "reason": "me too"})
    assert again == switch, "the first one stands"
    await revoke(site.it, 2)
    await site.it.act()
    assert site.it.org.writes == []
    shown = await site("GET", SWITCH, role="viewer")
    assert ([one["id"] for one in shown["engaged"]], shown["waiting"]) == ([switch["id"]], 2)
    await site("POST", f"{SWITCH}/{switch['id']}/release", 403, json={"reason": "it was nothing"})
    released = await site(
        "POST", f"{SWITCH}/{switch['id']}/release", role="admin", name="otto", json={"reason": "it was nothing"}
    )
    assert (released["released_by"], released["release_reason"]) == ("otto", "it was nothing")
    await site("POST", f"{SWITCH}/{switch['id']}/release", 409, role="admin", json={"reason": "again"})
    await site.it.sql("UPDATE effect SET due = 0")
    await site.it.act()
    assert frozen(site.it) == 2
    second = await site("POST", SWITCH, 201, json=wanted)
    assert second["id"] != switch["id"]


async def test_the_pages_say_what_stands_and_their_forms_do_it(site: Site) -> None:
    empty = await site("GET", "/lifecycle/brakes", role="viewer")
    assert "No brake has tripped" in empty
    assert "No scan has counted its seats yet" in empty
    assert "Set the limits" not in await site("GET", "/lifecycle/brakes/limits/c1")
    assert "Set the limits" in await site("GET", "/lifecycle/brakes/limits/c1", role="admin")
    await site("POST", "/lifecycle/brakes/limits/c1", 303, role="admin", data={**LIMITS, "day_most": "1"})
    await revoke(site.it, 3)
    await site.it.act()
    (trip,) = (await site("GET", BRAKES))["trips"]
    address = f"/lifecycle/brakes/trips/{trip['id']}"
    page = await site("GET", "/lifecycle/brakes", role="viewer")
    assert address in page
    assert "1 of at most 1" in page
    assert "Ask for an override" not in await site("GET", address, role="viewer")
    assert "Ask for an override" in await site("GET", address)
    await site("POST", f"{address}/overrides", 303, data={"reason": "a leaver wave"})
    own = await site("GET", address)
    assert "Another operator has to approve it" in own
    assert "Approve: let" not in own
    other = await site("GET", address, name="otto")
    assert "Approve: let" in other
    override = (await site("GET", f"{BRAKES}/trips/{trip['id']}"))["overrides"][0]["id"]
    await site("POST", f"{address}/overrides/{override}/approve", 403)
    await site("POST", f"{address}/overrides/{override}/approve", 303, name="otto")
    await site.it.act()
    assert len(await in_state(site.it, State.FROZEN)) == 3
    assert "by otto, 2 let through" in await site("GET", address, role="viewer")
    assert "overridden: asked for by anna" in await site("GET", "/lifecycle/brakes")


async def test_the_kill_switch_on_its_page(site: Site) -> None:
    await site.limits()
    await revoke(site.it, 1)
    address = "/lifecycle/brakes/kill-switch"
    page = await site("GET", address)
    for option in ('value="global"', 'value="connection:c1"', 'value="rule:rule-1"'):
        assert option in page
    assert "Stop</button>" not in await site("GET", address, role="viewer")
    await site("POST", address, 422, data={"what": "everything", "reason": "x"})
    await site("POST", address, 303, data={"what": "rule:rule-1", "reason": "<b>wrong</b> rule"})
    await site.it.act()
    assert site.it.org.writes == []
    page = await site("GET", address, role="admin")
    assert "&lt;b&gt;wrong" in page
    assert "Kill switch: Idle" in await site("GET", "/lifecycle/brakes")
    page = await site("GET", "/lifecycle/cases/case-000")
    assert "Freeze the account" in page
    assert "It waits:" in page
    switch = (await site("GET", SWITCH))["engaged"][0]["id"]
    assert "An administrator can release it" in await site("GET", f"{address}/{switch}")
    assert "older than 15 minutes" in await site("GET", f"{address}/{switch}", role="admin")
    await site("POST", f"{address}/{switch}/release", 303, role="admin", data={"reason": "mended"})
    assert "anna: mended" in await site("GET", address, role="viewer")
    await site("GET", f"{address}/nothing", 404)
