"""The API and the pages, through the application that the host makes."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from reclaim.common import envelope
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CaseEvent,
    Money,
    Person,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    UserFrozen,
    UserRestored,
)
from reclaim.common.host import Host
from reclaim.common.service import Running
from reclaim.common.settings import Settings
from reclaim.savings.service import build
from reclaim.web.auth import issue_api_token, undeclared_routes
from reclaim.web.operators import Role

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "k" * 32


def story(number: int, days_ago: int, price: Money | None, *, end: str = "", **more: Any) -> list[CaseEvent]:
    case_id, at = f"case-{number}", NOW - timedelta(days=days_ago)
    dry_run = more.get("dry_run", False)
    seat = Seat(
        connection_id="org-1",
        product=more.get("product", "sales-cloud"),
        product_name=more.get("product_name", "Sales Cloud Enterprise"),
        holder=Person(id="005", name="Ann"),
        department=more.get("department", "Sales"),
        price=price,
    )
    events: list[CaseEvent] = [
        UserFrozen(
            case_id=case_id,
            seat=seat,
            decision="revoke",
            frozen_at=at - timedelta(days=14),
            grace_ends_at=at,
            dry_run=dry_run,
        )
    ]
    if end == "frozen":
        return events
    if end == "restored":
        restored = UserRestored(
            case_id=case_id, seat=seat, actor="Ann", reason="needed", restored_at=at, dry_run=dry_run
        )
        return [*events, restored]
    rule: dict[str, Any] = {"rule_id": "r-1", "rule_name": "Unused for 60 days"}
    events.append(
        SeatReclaimed(
            case_id=case_id,
            seat=seat,
            **rule,
            method="deactivate",
            records_transferred=2,
            reclaimed_at=at,
            dry_run=dry_run,
        )
    )
    if end == "reactivated":
        events.append(
            SeatReactivated(
                case_id=case_id,
                seat=seat,
                **rule,
                actor="Ann",
                reason="back",
                reactivated_at=at + timedelta(days=10),
                dry_run=dry_run,
            )
        )
    return events


def usd(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="USD")


def everything() -> list[CaseEvent]:
    """365 a month keeps the day count readable: a day is worth 12."""
    return [
        *story(1, 400, usd("365")),
        *story(2, 100, usd("365"), department="Support"),
        *story(3, 50, usd("365"), end="reactivated"),
        *story(4, 20, Money(amount=Decimal("36.50"), currency="EUR"), product="tableau", product_name="Tableau"),
        *story(5, 10, None, department=None),
        *story(6, 3, usd("30"), end="frozen"),
        *story(7, 3, usd("30"), end="restored"),
        *story(8, 30, usd("1000"), dry_run=True),
    ]


@dataclass
class Site:
    host: Host
    client: httpx.AsyncClient

    @property
    def running(self) -> Running:
        return self.host.running[0]

    def as_(self, role: Role) -> dict[str, str]:
        lifetime = timedelta(hours=1)
        token = issue_api_token(
            secret_keys=[KEY], name=f"the {role}", role=role, lifetime=lifetime, now=lambda: datetime.now(UTC)
        )
        return {"Authorization": f"Bearer {token}"}

    async def tell(self, *events: CaseEvent) -> None:
        bodies = [envelope.encode(event, source="lifecycle", time=NOW) for event in events]
        await self.running.inbox.receive([envelope.join(bodies)])

    async def get(self, path: str) -> Any:
        response = await self.client.get(path, headers=self.as_("viewer"))
        assert response.status_code == 200, response.text
        return response.json() if response.headers["content-type"] == "application/json" else response.text


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    settings = Settings(
        environment="test", data_dir=tmp_path, secret_keys=[KEY], sealing_keys=[Fernet.generate_key().decode()]
    )
    host = Host(settings, {"savings": build}, clock=FixedClock(NOW))
    await host.prepare()
    transport = httpx.ASGITransport(host.app)
    async with httpx.AsyncClient(transport=transport, base_url=settings.public_url) as client:
        yield Site(host, client)
    for running in host.running:
        await running.close()


async def test_the_report_is_the_sum_done_by_hand(site: Site) -> None:
    await site.tell(*everything())
    report = await site.get("/savings/api/report")
    assert (report["year"], report["days"], report["days_in_year"]) == (2026, 324, 365)
    assert report["figures"] == [
        {
            "currency": "EUR",
            "seats_freed": 1,
            "annualized_run_rate": "438.00",
            "year_to_date": "24.00",
            "seats_pending": 0,
            "potential_annualized": "0.00",
        },
        {
            "currency": "USD",
            "seats_freed": 2,
            "annualized_run_rate": "8760.00",
            # From before the year, all its days; 100 days; and the 10 until it came back.
            "year_to_date": str(Decimal(12 * (324 + 100 + 10)).quantize(Decimal("0.01"))),
            "seats_pending": 1,
            "potential_annualized": "360.00",
        },
    ]
    assert report["without_price"] == {"seats_freed": 1, "seats_pending": 0}
    assert report["dry_run"] == {"frozen": 0, "freed": 1, "restored": 0, "reactivated": 0, "closed": 0}
    assert report["lines"] == []


@pytest.mark.parametrize("by", ["product", "department", "rule", "month"])
async def test_each_breakdown_adds_up_to_the_figures(site: Site, by: str) -> None:
    await site.tell(*everything())
    report = await site.get(f"/savings/api/report?by={by}")
    for figures in report["figures"]:
        lines = [line for line in report["lines"] if line["currency"] == figures["currency"]]
        assert sum(Decimal(line["year_to_date"]) for line in lines) == Decimal(figures["year_to_date"])
        if by != "month":
            assert sum(Decimal(line["annualized_run_rate"]) for line in lines) == Decimal(
                figures["annualized_run_rate"]
            )
    without = [line for line in report["lines"] if line["currency"] is None]
    assert {line["annualized_run_rate"] for line in without} == {None}
    assert sum(line["seats_freed"] for line in without) == 1


async def test_breakdowns_carry_names(site: Site) -> None:
    await site.tell(*everything())
    products = await site.get("/savings/api/report?by=product")
    assert {(line["key"], line["name"]) for line in products["lines"]} == {
        ("sales-cloud", "Sales Cloud Enterprise"),
        ("tableau", "Tableau"),
    }
    rules = await site.get("/savings/api/report?by=rule")
    assert {line["name"] for line in rules["lines"]} == {"Unused for 60 days"}


async def test_a_past_year_is_shown_as_it_ended(site: Site) -> None:
    await site.tell(*everything())
    report = await site.get("/savings/api/report?year=2025")
    (figures,) = report["figures"][-1:]
    # Freed 400 days before 21 November 2026, on 17 October 2025: 76 days of that year.
    assert (figures["seats_freed"], figures["year_to_date"], figures["seats_pending"]) == (1, "912.00", 0)


async def test_the_log_is_paged(site: Site) -> None:
    await site.tell(*everything())
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await site.get(f"/savings/api/events?after={after}&limit=4")
        seen += [event["position"] for event in page["events"]]
        after = page["next_after"]
    assert seen == list(range(1, 17))


async def test_the_check_and_the_rebuild(site: Site) -> None:
    await site.tell(*everything())
    assert (await site.get("/savings/api/verify"))["ok"] is True
    assert (await site.get("/savings/api/rebuild"))["state"] == "none"
    before = await site.get("/savings/api/report?by=month")
    started = await site.client.post("/savings/api/rebuild", headers=site.as_("operator"))
    assert (started.status_code, started.json()["state"], started.json()["target"]) == (202, "requested", 32)
    again = await site.client.post("/savings/api/rebuild", headers=site.as_("operator"))
    assert again.status_code == 409
    (job,) = (job for job in site.running.service.jobs if job.name == "rebuild")
    while await job.run():
        assert (await site.get("/savings/api/rebuild"))["state"] in {"running", "done"}
    status = await site.get("/savings/api/rebuild")
    assert (status["state"], status["position"], status["target"], status["requested_by"]) == (
        "done",
        32,
        32,
        "the operator",
    )
    assert await site.get("/savings/api/report?by=month") == before
    assert (await site.get("/savings/api/verify"))["ok"] is True


async def test_who_may_do_what(site: Site) -> None:
    assert undeclared_routes(site.host.app, exempt=["/health", "/metrics", "/openapi.json"]) == []
    assert (await site.client.get("/savings/api/report")).status_code == 401
    assert (await site.client.post("/savings/api/rebuild", headers=site.as_("viewer"))).status_code == 403


@pytest.mark.parametrize("query", ["year=1999", "year=soon", "by=holder"])
async def test_a_nonsense_report_is_refused(site: Site, query: str) -> None:
    response = await site.client.get(f"/savings/api/report?{query}", headers=site.as_("viewer"))
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_position_that_no_log_reaches_is_refused(site: Site) -> None:
    response = await site.client.get(f"/savings/api/events?after={2**63}", headers=site.as_("viewer"))
    assert response.status_code == 422
    assert (await site.get(f"/savings/api/events?after={2**63 - 1}"))["events"] == []


async def test_the_page_shows_the_figures_of_the_api(site: Site) -> None:
    page = await site.get("/savings/")
    assert "No savings yet" in page
    await site.tell(*everything())
    for query in ("", "?by=month", "?by=rule&year=2025", "?by=department"):
        page = await site.get(f"/savings/{query}")
        assert "Annual run rate, USD" in page
    page = await site.get("/savings/")
    for text in ("$8,760.00", "$5,208.00", "€438.00", "$360.00", "1 freed and 0 frozen seats have no price"):
        assert text in page
    assert "realised when a contract is renewed" in page
    books = await site.get("/savings/books")
    assert "The books agree" in books


async def test_what_others_wrote_is_shown_as_text(site: Site) -> None:
    hostile = "<script>alert(1)</script>"
    await site.tell(*story(1, 5, usd("10"), product=hostile, product_name=hostile, department=hostile))
    for query in ("", "?by=department"):
        assert hostile not in await site.get(f"/savings/{query}")


async def test_the_export_holds_the_log_and_runs_no_formula(site: Site) -> None:
    await site.tell(*story(1, 5, usd("10"), department='=HYPERLINK("http://evil")', end="reactivated"))
    await site.tell(*story(2, 5, usd("10"), department=" \t@SUM(A1)", product_name="Ünïcode, with comma"))
    response = await site.client.get("/savings/events.csv", headers=site.as_("viewer"))
    assert response.headers["content-disposition"] == 'attachment; filename="savings-events.csv"'
    text = response.content.decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [int(row["position"]) for row in rows] == [1, 2, 3, 4, 5]
    assert {row["department"] for row in rows} == {'\'=HYPERLINK("http://evil")', "' \t@SUM(A1)"}
    assert [row["monthly"] for row in rows[:3]] == ["10.0000", "10.0000", "-10.0000"]
    assert rows[3]["product_name"] == "Ünïcode, with comma"
