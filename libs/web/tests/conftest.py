"""A small application with one page of every kind, and a browser-like client for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import Depends, FastAPI, Form, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import ChoiceLoader, FileSystemLoader

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import Money
from reclaim.common.errors import Conflict, Invalid, NotFound, Transient
from reclaim.common.routing import Router, add_routes
from reclaim.web.auth import public, require
from reclaim.web.charts import Bar
from reclaim.web.host import install
from reclaim.web.operators import Operator, OperatorRecord, Role
from reclaim.web.pages import Pages, TimelineEntry
from reclaim.web.state import NavItem

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = "k1-0123456789abcdef0123456789abcdef"
PASSWORDS = {"vera": "viewer-password", "otto": "operator-password", "anna": "admin-password"}
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ROLE_OF: dict[str, Role] = {"vera": "viewer", "otto": "operator", "anna": "admin"}
OPERATORS = {name: OperatorRecord(CHEAP.hash(PASSWORDS[name]), role) for name, role in ROLE_OF.items()}
HOSTILE = "<script>alert('x')</script>"
NAVIGATION = (
    NavItem("Audit", "/audit", 90, role="admin"),
    NavItem("Overview", "/", 0),
    NavItem("Cases", "/cases", 10),
    NavItem("Rules", "/rules", 20),
    NavItem("Savings", "/savings", 30),
    NavItem("Connections", "/connections", 40, role="operator"),
)


def gallery_pages() -> Pages:
    pages = Pages()
    assert pages.environment.loader is not None
    here = FileSystemLoader(Path(__file__).parent / "gallery")
    pages.environment = pages.environment.overlay(loader=ChoiceLoader([here, pages.environment.loader]))
    return pages


def gallery_context() -> dict[str, Any]:
    def usd(text: str) -> Money:
        return Money(Decimal(text), "USD")

    people = [
        ("Ada Byron", "ada.byron@example.com", 12, "awaiting_decision"),
        ("Bartholomew Featherstonehaugh", "bartholomew.featherstonehaugh@subsidiary.example.com", 71, "attention"),
        ("Chen Wei", "chen.wei@example.com", 95, "frozen"),
    ]
    return {
        "total": [usd("148210.40"), Money(Decimal(22100), "EUR")],
        "realised": usd("61004.10"),
        "hostile": HOSTILE,
        "cases": [
            {
                "holder": name,
                "email": email,
                "product": "Sales Cloud Enterprise",
                "last_used": NOON - timedelta(days=days),
                "price": usd("165.00"),
                "state": state,
            }
            for name, email, days, state in people
        ],
        "history": [
            TimelineEntry(NOON - timedelta(days=20), "Flagged", "rule Salesforce, 60 days"),
            TimelineEntry(NOON - timedelta(days=18), "Grace Hopper: revoke", "by mail", "Ada moved on.", "good"),
            TimelineEntry(NOON - timedelta(days=18), "Frozen", "lifecycle", tone="busy"),
            TimelineEntry(NOON - timedelta(hours=3), "Reclaim refused", "Salesforce", "The org was locked.", "bad"),
        ],
        "bars": [
            Bar("Aug 2026", Decimal(9120), "$9,120.00"),
            Bar("Sep 2026", Decimal(14300), "$14,300.00"),
            Bar("Oct 2026", Decimal(-1980), "-$1,980.00"),
            Bar("Nov 2026", Decimal("11005.5"), "$11,005.50"),
        ],
    }


def gallery_routes(changes: list[str]) -> Router:
    router = Router()
    pages = gallery_pages()

    @router.get("/cases")
    async def cases(request: Request, operator: Annotated[Operator, Depends(require("viewer"))]) -> HTMLResponse:
        return pages.render(request, "gallery.html", **gallery_context())

    @router.get("/decide", dependencies=[Depends(public())])
    async def decide(request: Request) -> HTMLResponse:
        price = Money(Decimal(165), "USD")
        dates = {"last_used": NOON - timedelta(days=95), "answer_by": NOON + timedelta(days=7)}
        return pages.render(request, "decision.html", price=price, **dates)

    @router.post("/scans")
    async def scan(
        operator: Annotated[Operator, Depends(require("operator"))], rule: Annotated[str, Form()]
    ) -> dict[str, str]:
        changes.append(f"{operator.name} {operator.via} {rule}")
        return {"rule": rule}

    @router.post("/api/scans")
    async def api_scan(operator: Annotated[Operator, Depends(require("operator"))]) -> dict[str, str]:
        changes.append(f"{operator.name} {operator.via}")
        return {"by": operator.name}

    @router.post("/api/kill", dependencies=[Depends(require("admin"))])
    async def kill() -> dict[str, bool]:
        changes.append("killed")
        return {"stopped": True}

    @router.get("/api/days", dependencies=[Depends(public())])
    async def days(count: int) -> dict[str, int]:
        return {"count": count}

    @router.get("/api/raise/{kind}", dependencies=[Depends(public())])
    async def fail(kind: str) -> Response:
        raise {
            "missing": NotFound("There is no case c-1."),
            "conflict": Conflict("The case is closed already; open its history."),
            "invalid": Invalid("Give a number of days from 1 to 730.", field="days"),
            "transient": Transient("Salesforce does not answer. Try again in a minute."),
            "defect": RuntimeError("secret detail of the inside"),
        }[kind]

    @router.get("/framed", dependencies=[Depends(public())])
    async def framed() -> HTMLResponse:
        return HTMLResponse("<p>mail</p>", headers={"Content-Security-Policy": "frame-ancestors 'self'"})

    return router


class Site:
    """The application, its clocks, and what its routes changed."""

    def __init__(self, **options: Any) -> None:
        self.clock = FixedClock(NOON)
        self.sign_in_clock = FixedClock(NOON)
        self.changes: list[str] = []
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        add_routes(self.app, gallery_routes(self.changes))
        settings: dict[str, Any] = {
            "secret_keys": [KEY],
            "operators": OPERATORS,
            "public_url": "http://127.0.0.1:8000",
            "navigation": NAVIGATION,
            "clock": self.clock,
            "sign_in_clock": self.sign_in_clock,
        }
        self.public_url = options.get("public_url", settings["public_url"])
        install(self.app, **{**settings, **options})

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[httpx.AsyncClient]:
        """Open a client that asks for pages and says, as a browser does, that it is on the same site."""
        headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
        async with self._client(headers) as client:
            yield client

    @asynccontextmanager
    async def program(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        """Open a client that asks for nothing in particular, as a program does."""
        async with self._client(headers) as client:
            yield client

    def _client(self, headers: dict[str, str]) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app)
        return httpx.AsyncClient(transport=transport, base_url=self.public_url, headers=headers)


def nonce_in(html: str) -> str:
    found = re.search(r'name="form_nonce" value="([^"]+)"', html)
    assert found
    return found[1]


async def sign_in_as(client: httpx.AsyncClient, name: str, password: str | None = None, **form: str) -> httpx.Response:
    page = await client.get("/auth/sign-in")
    data = {"name": name, "password": password or PASSWORDS[name], "form_nonce": nonce_in(page.text), **form}
    return await client.post("/auth/sign-in", data=data)


@pytest.fixture
def make_site() -> Callable[..., Site]:
    return Site


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def sign_in() -> Callable[..., Any]:
    return sign_in_as


@pytest.fixture
def page_nonce() -> Callable[[str], str]:
    return nonce_in


@pytest.fixture
def passwords() -> dict[str, str]:
    return PASSWORDS
