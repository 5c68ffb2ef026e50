"""A rule's form: its filter put together there, and what saving changes, as a browser without scripts sees it."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from reclaim.scanner import store
from reclaim.scanner.domain import TERMS, Terms
from reclaim.scanner.store import Rule
from services.scanner.tests.scanner_world import Served
from services.scanner.tests.test_scanner_filters_http import rows_of, text_of
from services.scanner.tests.test_scanner_pages import Browser, browser_as, connected, ruled, terms

SALES: dict[str, Any] = {
    "filter_shown": "",
    "filter_join": "all",
    "filter_group": "0",
    "filter_group_join": "all",
    "filter_field": "user/department",
    "filter_operator": "eq",
    "filter_value": "Sales",
}
"""The rows of the builder, as they are filled in."""

SET_ELSEWHERE = {"product_filters"}
"""What a rule says that stands on another page: with its products."""


@pytest.fixture
async def admin(served: Served) -> AsyncIterator[Browser]:
    async with browser_as(served, "anna", "admin") as browser:
        yield browser


async def rule_of(served: Served, rule_id: str) -> Rule:
    async with served.scanner.deps.database.reading() as db:
        return await store.rule(db, rule_id)


def form_of(page: str) -> dict[str, Any]:
    """Return what a browser would send of a rule's form as the page has it."""
    form = page[page.index('<form method="post" action="/scanner/rules/') :]
    form = form[form.index('<input type="hidden" name="connection_id"') : form.index("</form>")]
    sent: dict[str, Any] = {}
    for tag in re.findall(r"<input [^>]*>", form):
        name, kind = (re.search(rf' {part}="([^"]*)"', tag) for part in ("name", "type"))
        value = re.search(r' value="([^"]*)"', tag)
        if name and (kind is None or kind[1] not in ("checkbox", "radio") or " checked" in tag):
            sent.setdefault(name[1], []).append(html.unescape(value[1]) if value else "")
    for name, text in re.findall(r'<textarea id="[^"]*" name="([^"]*)"[^>]*>\n?(.*?)</textarea>', form, re.DOTALL):
        sent[name] = html.unescape(text)
    for name, options in re.findall(r'<select id="[^"]*" name="([^"]*)"[^>]*>(.*?)</select>', form, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options) or re.search(
            r'<option value="([^"]*)"', options
        )
        sent.setdefault(name, []).append(html.unescape(chosen[1]) if chosen else "")
    return sent


def changes_of(page: str) -> list[tuple[str, ...]]:
    """Return the lines of *What saving changes*."""
    part = page[page.index("What saving changes") : page.index("</table>", page.index("What saving changes"))]
    cells = [html.unescape(cell).strip() for cell in re.findall(r'<span class="cell">(.*?)</span>', part, re.DOTALL)]
    return list(zip(*[iter(cells)] * 3, strict=True))


async def test_a_filter_is_put_together_on_the_rules_own_form(admin: Browser, served: Served) -> None:
    connection_id = await connected(admin)
    entered = {**terms(connection_id), "name": "Half entered", **SALES}
    page = (await admin.post("/scanner/rules/filter", {**entered, "filter_do": "add:0"}, 200)).text
    assert rows_of(page) == [("0", "user/department", "eq", "Sales"), ("0", "", "eq", "")]
    assert text_of(page) == "user/department eq 'Sales'"
    assert 'value="Half entered"' in page, "what was entered elsewhere on the form is still there"
    assert re.search(r"<details open>\s*<summary>Which of these seats", page)
    rule = await rule_of(served, await ruled(admin, connection_id, **SALES))
    assert rule.terms.filter == "user/department eq 'Sales'"


async def test_rows_and_text_that_say_two_things_are_not_saved(admin: Browser) -> None:
    connection_id = await connected(admin)
    page = (
        await admin.post(
            "/scanner/rules/new", {**terms(connection_id), **SALES, "filter": "price gt 1", "grace_days": ""}, 422
        )
    ).text
    assert "The rows and the text were both edited" in page
    assert rows_of(page) == [("0", "user/department", "eq", "Sales")]
    assert text_of(page) == "price gt 1"
    for field, says in (("price", "number"), ("", "choose the field")):
        wrong = {**terms(connection_id), **SALES, "filter_field": field}
        page = (await admin.post("/scanner/rules/new", wrong, 422)).text
        assert re.search(rf'id="filter_value-0-0-error"[^>]*>[^<]*{says}', page)


async def test_saving_a_form_that_nobody_touched_changes_nothing(admin: Browser, served: Served) -> None:
    connection_id = await connected(admin)
    written = "price   gt 1   and (user/department eq 'Sales')"
    rule_id = await ruled(
        admin,
        connection_id,
        filter=written,
        preferred_sources="Head office\nvendor",
        remind_days="3 5",
        warn_only="queue_member",
        **{"warn-reason-queue_member": "others serve it"},
    )
    page = await admin.get(f"/scanner/rules/{rule_id}")
    assert text_of(page) == written
    sent = form_of(page)
    previewed = (await admin.post("/scanner/rules/preview", {**sent, "rule_id": rule_id}, 200)).text
    assert "Nothing: the form says what version 1 says." in previewed, changes_of(previewed)
    await admin.post(f"/scanner/rules/{rule_id}", {**sent, "version": "1"})
    rule = await rule_of(served, rule_id)
    assert (rule.version, rule.terms.filter) == (1, written)


async def test_every_part_of_a_rule_can_be_set_on_the_form(admin: Browser, served: Served) -> None:
    entered: dict[str, Any] = {
        "name": "Everything",
        "products": "SFDC",
        "condition": "hours",
        "minimum_hours": "7.5",
        "window_count": "2",
        "window_unit": "months",
        "include_no_activity": "true",
        "channels": ["ui", "sso"],
        "preferred_sources": "vendor\nagent",
        "filter": "price gt 1",
        "route": "email",
        "ask_first": "holder",
        "holder_days": "4",
        "fallback_approver": "it@acme.example",
        "fallback_name": "IT",
        "decision_days": "10",
        "remind_days": "2 6",
        "on_timeout": "escalate",
        "grace_days": "21",
        "grace_calendar": "business",
        "no_reclaim_before_days_off": "true",
        "days_off": "2026-12-25 2026-12-26",
        "reclaim_by": "downgrade",
        "downgrade_product": "AUL",
        "downgrade_name": "Platform",
        "downgrade_profile": "Standard Platform User",
        "hand_over_to": "boss",
        "schedule": "0 6 * * 1",
        "time_zone": "Europe/Berlin",
        "act_from": "09:00",
        "act_until": "17:00",
        "most_flagged": "40",
        "most_flagged_share": "30",
        "most_a_day": "5",
        "most_a_month": "50",
        "cooldown_days": "60",
        "young_days": "45",
        "warn_only": "queue_member",
        "warn-reason-queue_member": "others serve it",
    }
    connection_id = await connected(admin)
    answer = await admin.post("/scanner/rules/new", {"connection_id": connection_id, **entered})
    made = await rule_of(served, answer.headers["location"].removeprefix("/scanner/rules/").partition("?")[0])
    desk = await rule_of(served, await ruled(admin, connection_id, name="By a desk", route="both", desk="servicenow"))
    usual = Terms(
        name="", products=(), inactive_days=0, route="itsm", decision_days=0, on_timeout="freeze", grace_days=0
    )
    untouched = {
        name
        for name in TERMS - SET_ELSEWHERE
        if getattr(made.terms, name) == getattr(usual, name) and getattr(desk.terms, name) == getattr(usual, name)
    }
    # A subscription's connection decides the one.
    assert untouched == {"applies_to"}
    assert (made.terms.hand_over, made.terms.dry_run) == (False, False), "boxes that are not ticked"
    assert made.terms.preferred_sources == ("vendor", "agent")
    assert desk.terms.desk == "servicenow"


async def test_the_preview_shows_what_saving_would_change(admin: Browser) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    changed = {**form_of(await admin.get(f"/scanner/rules/{rule_id}")), "rule_id": rule_id, "grace_days": "30"}
    page = (await admin.post("/scanner/rules/preview", {**changed, **SALES}, 200)).text
    assert changes_of(page) == [
        ("Grace period (days)", "14", "30"),
        ("Filter", "none", "user/department eq 'Sales'"),
    ]
    part = (await admin.post("/scanner/rules/preview", changed, 200, headers={"hx-request": "true"})).text
    assert changes_of(part) == [("Grace period (days)", "14", "30")]
    assert "Version 1" in part
    assert "What saving changes" not in await admin.get("/scanner/rules/new")


async def test_the_list_says_by_which_condition_each_rule_flags(admin: Browser) -> None:
    connection_id = await connected(admin)
    hours = {"condition": "hours", "minimum_hours": "20", "window_count": "1", "window_unit": "months"}
    await ruled(admin, connection_id, name="By hours", filter="price gt 1", **hours)
    await ruled(admin, connection_id, name="By last use", schedule="0 6 * * 1", time_zone="Europe/Berlin")
    page = html.unescape(await admin.get("/scanner/rules"))
    assert "SFDC that has been used for less than 20 hours in the last complete month" in page
    assert "only price gt 1<" in page
    assert "SFDC that has not been used for more than 90 days" in page
    assert "0 6 * * 1 Europe/Berlin" in page
