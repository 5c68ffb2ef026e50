"""Filters and usage over HTTP: the API that validates and takes in, and the page on which a filter is put together."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from reclaim.scanner import known_seats
from reclaim.scanner.filters.builder import OPERATORS
from reclaim.scanner.known_seats import KnownSeat
from services.scanner.tests.scanner_world import NOON, Served, nonce_of, signed_in

FILTER = "user/department eq 'Sales' and (price ge 25 or in_group(user, 'VIP'))"


async def stocked(served: Served) -> None:
    """Put three seats into the register: one in Sales, one elsewhere, one of which the department is not known."""
    seats = [
        KnownSeat(
            product="SFDC", product_name="Sales", holder_id=f"u{number}", holder_name="Ann", department=department
        )
        for number, department in enumerate(("Sales", "HR", None))
    ]
    async with served.scanner.running.database.unit() as unit:
        await known_seats.remember(unit.db, "c1", seats, NOON)


# ------------------------------------------------------------------------------------------------ the API


async def test_a_filter_is_validated_with_its_tree_and_what_it_chooses(served: Served) -> None:
    await stocked(served)
    api = served.api("viewer")
    found = await api("POST", "/filters/validate", json={"kind": "subscription", "filter": f"({FILTER})"})
    assert (found["valid"], found["canonical"], found["simple"], found["problems"]) == (True, FILTER, True, [])
    assert found["tree"]["is"] == "and"
    assert found["seats"] is None
    found = await api(
        "POST",
        "/filters/validate",
        json={"kind": "subscription", "filter": "user/department eq 'Sales'", "count": True},
    )
    assert found["seats"] == {"chosen": 1, "left": 1, "unknown": 1}


async def test_what_is_wrong_with_a_filter_is_a_normal_answer_with_places(served: Served) -> None:
    found = await served.api("viewer")(
        "POST", "/filters/validate", json={"kind": "subscription", "filter": "price gt 'x' or __class__ eq 1"}
    )
    assert (found["valid"], found["canonical"], found["tree"]) == (False, None, None)
    assert [(one["at"], one["length"]) for one in found["problems"]] == [(9, 3), (16, 9)]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "named user", "filter": "price eq 1"},
        {"filter": "price eq 1"},
        {"kind": "installed", "filter": 5},
        {"kind": "installed", "filter": "x" * 30_000},
        {"kind": "installed", "filter": "price eq 1", "tree": {}},
    ],
)
async def test_a_request_that_is_none_is_refused(served: Served, body: dict[str, Any]) -> None:
    await served.api("viewer")("POST", "/filters/validate", 422, json=body)


async def test_the_fields_there_are_can_be_asked_for(served: Served) -> None:
    found = await served.api("viewer")("GET", "/filters/fields")
    assert {"path": "price", "label": "Price a month", "type": "number"} in found["fields"]["subscription"]
    assert "device/id" in [one["path"] for one in found["fields"]["installed"]]
    assert found["most_characters"] == 2_000


async def test_usage_is_taken_in_once_and_its_sources_are_shown(served: Served) -> None:
    record = {
        "user": "u1",
        "product": "SFDC",
        "period_start": "2026-10-01T00:00:00+02:00",
        "period_end": "2026-11-01T00:00:00+01:00",
        "seconds": 3600,
    }
    report = {"period_start": record["period_start"], "period_end": record["period_end"]}
    body = {"source": "agent", "records": [record], "reports": [report]}
    for _ in range(2):
        assert await served.api("operator")("POST", "/usage", json=body) == {"kept": 1, "refused": []}
    assert [row.seconds for row in await served.scanner.rows("SELECT seconds FROM usage_records")] == [3600]
    (source,) = await served.api("viewer")("GET", "/usage/sources")
    assert (source["source"], source["stale"], source["text"]) == ("agent", False, None)
    assert source["complete_until"] == "2026-10-31T23:00:00Z"
    served.scanner.clock.advance(timedelta(days=10))
    (source,) = await served.api("viewer")("GET", "/usage/sources")
    assert source["stale"]
    assert "mend the connection" in source["text"]
    await served.scanner.job("usage-unmatched")
    (lost,) = await served.api("viewer")("GET", "/usage/unmatched")
    assert (lost["user"], lost["records"]) == ("u1", 1)
    await served.api("viewer")("POST", "/usage", 403, json=body)


async def test_bad_records_are_listed_and_never_called_complete(served: Served) -> None:
    good = {
        "user": "u1",
        "product": "SFDC",
        "period_start": "2026-10-01T00:00:00Z",
        "period_end": "2026-11-01T00:00:00Z",
    }
    bad = {**good, "user": "u2", "period_end": "2026-09-01T00:00:00Z"}
    api = served.api("operator")
    answer = await api("POST", "/usage", json={"source": "agent", "records": [good, bad]})
    assert (answer["kept"], [one["record"] for one in answer["refused"]]) == (1, [1])
    report = {"period_start": good["period_start"], "period_end": good["period_end"]}
    problem = await api("POST", "/usage", 422, json={"source": "vendor", "records": [good, bad], "reports": [report]})
    assert problem["detail"].startswith("Record 1: Its period ends before it begins.")
    assert [row.source for row in await served.scanner.rows("SELECT source FROM usage_records")] == ["agent"]
    future = {**report, "period_end": "2027-01-01T00:00:00Z"}
    problem = await api("POST", "/usage", 422, json={"source": "agent", "reports": [future]})
    assert "before it is over" in problem["detail"]
    await api(
        "POST", "/usage", 422, json={"source": "agent", "records": [{**good, "period_start": "2026-10-01T00:00"}]}
    )


# ------------------------------------------------------------------------------------------------ the page


@pytest.fixture
async def browser(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    client = await signed_in(served.host, "vera", "viewer")
    yield client
    await client.aclose()


def rows_of(page: str) -> list[tuple[str, str, str, str]]:
    """Return what the rows of a page would post: group, field, operator, value."""
    groups = re.findall(r'name="filter_group" value="(\d+)"', page)
    selects = {
        name: [
            (re.search(r'<option value="([^"]*)" selected', options) or ["", ""])[1]
            for options in re.findall(rf'<select[^>]* name="{name}">(.*?)</select>', page, re.DOTALL)
        ]
        for name in ("filter_field", "filter_operator")
    }
    values = [html.unescape(value) for value in re.findall(r'name="filter_value" value="([^"]*)"', page)]
    return list(zip(groups, selects["filter_field"], selects["filter_operator"], values, strict=True))


def text_of(page: str) -> str:
    found = re.search(r'<textarea id="filter"[^>]*>\n?(.*?)</textarea>', page, re.DOTALL)
    assert found, page
    return html.unescape(found[1])


async def post(browser: httpx.AsyncClient, do: str, *, htmx: bool = False, **form: Any) -> str:
    nonce = nonce_of((await browser.get("/scanner/filters")).text)
    answer = await browser.post(
        "/scanner/filters",
        data={"form_nonce": nonce, "filter_kind": "subscription", "filter_do": do, **form},
        headers={"hx-request": "true"} if htmx else {},
    )
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_a_text_becomes_rows_and_rows_become_the_text(browser: httpx.AsyncClient) -> None:
    page = await post(browser, "text", filter=FILTER)
    rows = rows_of(page)
    assert rows == [
        ("0", "user/department", "eq", "Sales"),
        ("1", "price", "ge", "25"),
        ("1", "user", "in_group", "VIP"),
    ]
    form = {
        "filter": "price eq 1",
        "filter_join": "all",
        "filter_group_join": ["all", "any"],
        **{
            f"filter_{name}": [row[at] for row in rows]
            for at, name in enumerate(("group", "field", "operator", "value"))
        },
    }
    page = await post(browser, "rows", **form)
    assert text_of(page) == FILTER
    assert rows_of(page) == rows
    page = await post(browser, "remove:0-0", **form)
    assert text_of(page) == "price ge 25 or in_group(user, 'VIP')"
    page = await post(browser, "add:0", **form)
    assert len(rows_of(page)) == 4
    page = await post(browser, "group", **form)
    assert [row[0] for row in rows_of(page)] == ["0", "1", "1", "2", "2"]


async def test_a_row_that_is_wrong_says_so_and_the_text_stays(browser: httpx.AsyncClient) -> None:
    page = await post(
        browser,
        "rows",
        filter=FILTER,
        filter_group="0",
        filter_field="price",
        filter_operator="gt",
        filter_value="<b>cheap</b>",
    )
    assert text_of(page) == FILTER
    assert "enter a number" in page
    assert "<b>cheap" not in page
    assert 'aria-invalid="true"' in page


async def test_a_text_that_is_wrong_or_beyond_rows_is_said_to_be(browser: httpx.AsyncClient) -> None:
    page = await post(browser, "text", filter="price gt 'x'")
    assert "At character 10" in page
    assert text_of(page) == "price gt 'x'"
    deep = "not (price eq 1 and price eq 2)"
    page = await post(browser, "text", filter=deep)
    assert "nests deeper than rows can show" in page
    assert text_of(page) == deep
    assert 'name="filter_field"' not in page


async def test_the_seats_that_a_filter_chooses_are_counted(served: Served, browser: httpx.AsyncClient) -> None:
    await stocked(served)
    page = await post(browser, "count", filter="user/department ne 'Sales'")
    figures = re.findall(r'<dd class="value">(\d+)</dd>', page)
    assert figures == ["1", "1", "1"]


async def test_with_scripts_only_the_builder_is_sent(browser: httpx.AsyncClient) -> None:
    part = await post(browser, "text", htmx=True, filter=FILTER)
    assert "<html" not in part
    assert part.strip().startswith('<section id="filter-builder"')
    assert rows_of(part)


async def test_the_enter_key_removes_nothing(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/scanner/filters")).text
    form = page[page.index('<form method="post" action="/scanner/filters"') :]
    first = re.search(r"<button[^>]*>", form)
    assert first
    assert 'value="rows"' in first[0]


async def test_inside_another_form_its_buttons_do_not_submit_that(browser: httpx.AsyncClient) -> None:
    part = await post(browser, "text", htmx=True, filter=FILTER, filter_inside="yes")
    buttons = re.findall(r"<button[^>]*>", part)
    assert len(buttons) >= 5
    assert all('formaction="/scanner/rules/filter#filter-builder" formnovalidate' in button for button in buttons)
    assert 'name="filter_inside"' in part


@pytest.mark.parametrize("do", ["add:99", "add:x", "remove:0", "remove:0-99", "remove:-1--1", "nonsense", "add:²"])
async def test_a_button_that_is_none_changes_nothing(browser: httpx.AsyncClient, do: str) -> None:
    page = await post(
        browser, do, filter_group="0", filter_field="price", filter_operator="eq", filter_value="1", filter_join="any"
    )
    assert rows_of(page) == [("0", "price", "eq", "1")]


async def test_every_operator_can_be_chosen_and_looking_needs_a_role(
    served: Served, browser: httpx.AsyncClient
) -> None:
    page = (await browser.get("/scanner/filters?kind=installed")).text
    assert all(f'<option value="{name}"' in page for name in OPERATORS)
    assert '<option value="device/id">' in page
    assert (await browser.get("/scanner/filters?kind=other")).status_code == 422
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served.host.app), base_url="http://127.0.0.1") as nobody:
        assert (await nobody.get("/scanner/api/filters/fields")).status_code == 401


@pytest.mark.parametrize("field", ["user", "product", "device", "process", "version"])
@pytest.mark.parametrize(
    "sign", ["\\u0000", "\\u0007", "\\u200b", "\\ud800"], ids=["nul", "bell", "zero width", "half"]
)
async def test_text_that_nobody_can_see_is_refused(served: Served, field: str, sign: str) -> None:
    record = {
        "user": "u1",
        "product": "SFDC",
        "period_start": "2026-10-01T00:00:00Z",
        "period_end": "2026-11-01T00:00:00Z",
        field: "SIGN",
    }
    sent = json.dumps({"source": "agent", "records": [record]}).replace("SIGN", f"a{sign}b")
    await served.api("operator")("POST", "/usage", 422, content=sent, headers={"content-type": "application/json"})
    assert await served.scanner.rows("SELECT * FROM usage_records") == []
