"""Shared by the sandbox's tests: a clock that stands still, a small org, and a signed-in client of its app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from reclaim.common.clock import FixedClock
from reclaim.sandbox.app import create_app
from reclaim.sandbox.auth import CLIENT_ID, CLIENT_SECRET
from reclaim.sandbox.demo_org import Base, build_base
from reclaim.sandbox.org import Org
from reclaim.sandbox.world import World

NOW = datetime(2026, 3, 18, 12, 30, tzinfo=UTC)
"""A Wednesday."""


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def org(clock: FixedClock) -> Org:
    return Org(clock)


@pytest.fixture
def base(org: Org) -> Base:
    return build_base(org, seats=30)


class People:
    """Makes users with as little said as possible."""

    def __init__(self, org: Org, base: Base) -> None:
        self.org, self.base = org, base
        self._made = 0

    def __call__(self, profile: str = "Standard User", **more: object) -> str:
        self._made += 1
        values: dict[str, object] = {
            "Username": f"user{self._made}@test.example",
            "FirstName": "User",
            "LastName": f"Number{self._made:03d}",
            "Email": f"user{self._made}@test.example",
            "Alias": f"u{self._made}",
            "ProfileId": self.base.profiles[profile],
        }
        return self.org.insert("User", **(values | more))

    def login_row(self, user_id: str) -> str:
        return str(self.org.tables["UserLogin"].where("UserId", user_id)[0][0])


@pytest.fixture
def people(org: Org, base: Base) -> People:
    return People(org, base)


@pytest.fixture
def world(clock: FixedClock, org: Org, base: Base) -> World:
    app = create_app(clock=clock, org=org)
    world: World = app.state.world
    world.app = app  # type: ignore[attr-defined]
    return world


@pytest.fixture
async def anonymous(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(world.app)  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://org.example") as client:
        yield client


@pytest.fixture
async def client(anonymous: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client that is signed in as the integration user, rooted at one API version."""
    answer = await anonymous.post(
        "/services/oauth2/token",
        data={"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET},
    )
    anonymous.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    anonymous.base_url = httpx.URL("http://org.example/services/data/v62.0/")
    return anonymous
