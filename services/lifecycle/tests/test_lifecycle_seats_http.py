"""Tasks and drift through the application that the host makes: the API, and the pages as a browser uses them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from reclaim.common import envelope
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import ConnectionChanged, Event
from reclaim.common.host import Host
from reclaim.common.security import Sealer
from reclaim.common.settings import Settings
from reclaim.connectors.fake import FakeOrg
from reclaim.lifecycle.service import build
from reclaim.web.auth import issue_api_token, undeclared_routes
from reclaim.web.operators import Role, hash_password
from services.lifecycle.tests.lifecycle_site import Unattended
from services.lifecycle.tests.test_lifecycle_service import DAY, NOW, decision, flagged, org_of

KEY = "k" * 32
SEALING = Fernet.generate_key().decode()


@dataclass
class Site:
    """The lifecycle behind HTTP, with its org and clock."""

    host: Host
    client: httpx.AsyncClient
    org: FakeOrg
    clock: FixedClock

    async def tell(self, *events: Event) -> None:
        bodies = [envelope.encode(event, source="scanner", time=NOW) for event in events]
        await self.host.running[0].inbox.receive([envelope.join(bodies)])

    async def run(self, *jobs: str) -> None:
        """Run jobs until none has anything to do."""
        while any([await job.run() for job in self.host.running[0].service.jobs if job.name in jobs]):
            pass

    async def call(self, method: str, path: str, role: Role = "operator", **more: Any) -> httpx.Response:
        token = issue_api_token(
            secret_keys=[KEY], name="Olga", role=role, lifetime=timedelta(hours=1), now=lambda: datetime.now(UTC)
        )
        return await self.client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **more)

    async def task(self, case_id: str = "case-1") -> None:
        """Bring a case to where a person has to free the seat."""
        await self.tell(flagged(case_id, reclaim_by="task"), decision("revoke", case_id))
        await self.run("act", "timers")
        self.clock.advance(7 * DAY)
        await self.run("act", "timers")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    settings = Settings(
        environment="test",
        data_dir=tmp_path,
        secret_keys=[KEY],
        sealing_keys=[SEALING],
        operators={"olga": f"operator:{hash_password('olga-password')}"},
    )
    clock = FixedClock(NOW)
    org = org_of(clock)
    host = Unattended(settings, {"lifecycle": partial(build, connectors=org)}, clock=clock)
    await host.prepare()
    transport = httpx.ASGITransport(host.app)
    async with httpx.AsyncClient(transport=transport, base_url=settings.public_url) as client:
        site = Site(host, client, org, clock)
        await site.tell(
            ConnectionChanged(
                connection_id="c1", name="Acme", kind="salesforce", settings={}, version=1,
                credentials=Sealer([SEALING]).seal({"client_secret": "s"}),
            )
        )  # fmt: skip
        yield site
    for running in host.running:
        await running.close()


async def test_every_route_says_who_may_use_it(site: Site) -> None:
    assert [route for route in undeclared_routes(site.host.app) if "/lifecycle" in route] == []


async def test_a_task_is_closed_over_the_api(site: Site) -> None:
    await site.task()
    path = "/lifecycle/api/cases/case-1/fulfilment"
    assert (await site.call("POST", path, "viewer", json={"done": True, "note": "x"})).status_code == 403
    assert (await site.call("POST", path, json={"done": True, "note": ""})).status_code == 422
    failed = await site.call("POST", path, json={"done": False, "note": "no access"})
    assert failed.json()["state"] == "attention"
    await site.call("POST", "/lifecycle/api/cases/case-1/retry")
    assert (await site.call("POST", path, json={"done": True, "note": "x"})).status_code == 409
    await site.run("act")
    done = await site.call("POST", path, json={"done": True, "note": "removed"})
    assert (done.json()["state"], done.json()["fulfilled_by"]) == ("reclaimed", "Olga")
    assert site.org.writes == []


async def test_a_task_is_closed_on_its_page(site: Site) -> None:
    await site.task()
    form = await site.client.get("/auth/sign-in")
    nonce = _nonce(form.text)
    signed_in = await site.client.post(
        "/auth/sign-in", data={"name": "olga", "password": "olga-password", "form_nonce": nonce}
    )
    assert signed_in.status_code == 303, signed_in.text
    tasks = await site.client.get("/lifecycle/tasks")
    assert "Ada" in tasks.text
    waiting = (await site.client.get("/lifecycle/api/attention", params={"kind": "task"})).json()
    assert [(item["kind"], item["holder"]) for item in waiting["items"]] == [("task", "Ada")]
    assert waiting["counts"]["task"] == 1
    page = await site.client.get("/lifecycle/attention")
    assert 'href="/lifecycle/tasks"' in page.text.split("<main", 1)[1]
    page = await site.client.get("/lifecycle/cases/case-1")
    assert "Free the seat by hand" in page.text
    told = {"form_nonce": _nonce(page.text), "outcome": "done", "note": "removed in the admin page"}
    assert (await site.client.post("/lifecycle/cases/case-1/fulfilment", data=told)).status_code == 303
    page = await site.client.get("/lifecycle/cases/case-1")
    assert "removed in the admin page" in page.text
    assert "given back by hand" in page.text
    assert "Nothing to free by hand" in (await site.client.get("/lifecycle/tasks")).text


async def test_drift_is_listed_and_can_be_asked_for(site: Site) -> None:
    assert "No drift" in (await site.call("GET", "/lifecycle/drift", "viewer")).text
    await site.tell(flagged(), decision("revoke"))
    await site.run("act")
    await site.run("drift")
    site.org.users["005A"].frozen = False
    await site.run("drift")
    assert (await site.call("GET", "/lifecycle/api/drift", "viewer")).json()["drift"] == []
    assert (await site.call("POST", "/lifecycle/api/drift/compare", "viewer")).status_code == 403
    assert (await site.call("POST", "/lifecycle/api/drift/compare")).status_code == 202
    await site.run("drift")
    found = (await site.call("GET", "/lifecycle/api/drift", "viewer")).json()
    assert [(each["case_id"], each["kind"]) for each in found["drift"]] == [("case-1", "unfrozen")]
    assert [(each["name"], each["compared"]) for each in found["connections"]] == [("Acme", 1)]
    page = (await site.call("GET", "/lifecycle/drift", "viewer")).text
    assert "somebody else unfroze it" in page
    site.org.users["005A"].frozen = True
    site.clock.advance(2 * DAY)
    await site.run("drift")
    assert (await site.call("GET", "/lifecycle/api/drift", "viewer")).json()["drift"] == []
    cleared = (await site.call("GET", "/lifecycle/api/drift?cleared=true", "viewer")).json()["drift"]
    assert [each["kind"] for each in cleared] == ["unfrozen"]


def _nonce(html: str) -> str:
    found = re.search(r'name="form_nonce" value="([^"]+)"', html)
    assert found is not None
    return found[1]
