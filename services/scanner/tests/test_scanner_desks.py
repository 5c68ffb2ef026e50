"""The service desks that a rule may name: what is heard of them, what the form offers, and what is refused."""

from __future__ import annotations

import html
import itertools
import random
import re
from functools import partial
from typing import Any

import pytest

from reclaim.common.contracts import DeskChanged
from reclaim.scanner import desk_store
from reclaim.scanner.desks import Desk, choices, doubt
from reclaim.scanner.domain import read_terms
from services.scanner.tests.scanner_world import TERMS, Scanner, Served
from services.scanner.tests.test_scanner_api import connected, ruled
from services.scanner.tests.test_scanner_pages import browser_as, text_of
from services.scanner.tests.test_scanner_pages import connected as connected_org
from services.scanner.tests.test_scanner_pages import ruled as ruled_on_the_page
from services.scanner.tests.test_scanner_rule_form import form_of

EMEA = partial(DeskChanged, desk_id="emea", platform="jira")
NOW_THERE = EMEA(asks=True, version=1)
NOW_GONE = EMEA(asks=False, version=2, removed=True)
BY_DESK = {"route": "itsm"}


def desk(desk_id: str, *, asks: bool = False, removed: bool = False) -> Desk:
    return Desk(desk_id, "servicenow", asks, removed)


def options_of(page: str) -> dict[str, tuple[str, bool]]:
    """Return the choices of the desk on a rule's form: what is shown of each, and whether it is chosen."""
    (inside,) = re.findall(r'<select id="desk"[^>]*>(.*?)</select>', page, re.DOTALL)
    found = re.findall(r'<option value="([^"]*)"( selected)?>(.*?)</option>', inside)
    return {value: (html.unescape(text), bool(chosen)) for value, chosen, text in found}


# ------------------------------------------------------------------------------------------------ what is heard


async def test_the_newest_word_on_a_desk_counts_in_whatever_order_they_come(both: Scanner) -> None:
    words = [
        EMEA(asks=True, version=1),
        EMEA(asks=False, version=2),
        EMEA(asks=False, version=3, removed=True),
        DeskChanged(desk_id="it", platform="freshservice", asks=True, version=1),
    ]
    for order in itertools.permutations(words):
        await both.hear(*order[:2])
        for word in order[2:]:
            await both.hear(word)
        async with both.deps.database.reading() as db:
            assert await desk_store.desks(db) == [
                Desk("emea", "jira", asks=False, removed=True),
                Desk("it", "freshservice", asks=True, removed=False),
            ], "a word from before the removal does not bring a desk back"
        async with both.deps.database.unit() as unit:
            await unit.db.execute(desk_store.DESKS.delete())
    await both.hear(*random.Random(7).sample([*words, EMEA(asks=False, version=4)], 5))
    async with both.deps.database.reading() as db:
        back, _it = await desk_store.desks(db)
    assert back == Desk("emea", "jira", asks=False, removed=False), "one that is connected again is there again"


# ------------------------------------------------------------------------------------------------ what it means


@pytest.mark.parametrize(
    ("heard", "named", "says"),
    [
        ([], "emea", None),
        ([], "", None),
        ([desk("emea")], "emea", None),
        ([desk("emea", asks=True)], "", None),
        ([desk("emea")], "", "none asks new cases by default"),
        ([desk("emea", removed=True)], "", "none asks new cases by default"),
        ([desk("emea", removed=True)], "emea", "emea was disconnected.*or let the rule ask by mail only"),
        ([desk("emea", removed=True), desk("it")], "emea", "emea was disconnected.*choose another: it"),
        ([desk("it")], "emea", "No service desk is connected as emea.*choose another: it"),
    ],
)
def test_what_is_wrong_with_the_desk_of_a_rule(heard: list[Desk], named: str, says: str | None) -> None:
    for route in ("itsm", "both"):
        problem = doubt(heard, read_terms({**TERMS, "route": route, "desk": named}))
        assert (problem is None) if says is None else re.search(says, problem or "")
    assert doubt(heard, read_terms({**TERMS, "route": "email"})) is None


def test_a_desk_that_is_chosen_is_always_among_the_choices() -> None:
    heard = [desk("emea"), desk("it", asks=True), desk("old", removed=True)]
    there = [("emea", "emea (ServiceNow)"), ("it", "it (ServiceNow)")]
    usual = ("", "The one that is asked by default: it (ServiceNow)")
    assert choices(heard, "") == choices(heard, "emea") == [usual, *there]
    assert choices(heard, "old") == [usual, *there, ("old", "old (not connected)")]
    assert choices([], "typed") == [("", "The one that is asked by default"), ("typed", "typed (not connected)")]
    assert choices([desk("emea")], "")[0] == ("", "The one that is asked by default: none at present")
    assert choices([Desk("x", "a-platform-of-tomorrow", asks=False, removed=False)], "")[1][1] == (
        "x (a-platform-of-tomorrow)"
    )


# ------------------------------------------------------------------------------------------------ on the page


async def test_the_form_of_a_rule_offers_the_desks_there_are(served: Served) -> None:
    async with browser_as(served, "anna", "admin") as admin:
        connection_id = await connected_org(admin)
        await served.scanner.hear(EMEA(asks=False, version=1))
        page = await admin.get(f"/scanner/rules/new?connection={connection_id}")
        assert options_of(page) == {
            "": ("The one that is asked by default: none at present", True),
            "emea": ("emea (Jira Service Management)", False),
        }
        rule_id = await ruled_on_the_page(admin, connection_id, route="itsm", desk="emea")
        page = await admin.get(f"/scanner/rules/{rule_id}")
        assert options_of(page)["emea"] == ("emea (Jira Service Management)", True)
        assert "not connected" not in page
        await served.scanner.hear(NOW_GONE)
        page = await admin.get(f"/scanner/rules/{rule_id}")
        assert options_of(page)["emea"] == ("emea (not connected)", True)
        await admin.post(f"/scanner/rules/{rule_id}", {**form_of(page), "version": "1"})
        shown = await served.api()("GET", f"/rules/{rule_id}")
        assert (shown["version"], shown["desk"]) == (1, "emea"), "what is not connected is not lost by saving the form"


async def test_a_desk_that_is_not_connected_is_warned_of_and_refused_only_when_it_counts(served: Served) -> None:
    async with browser_as(served, "anna", "admin") as admin:
        connection_id = await connected_org(admin)
        await served.scanner.hear(NOW_THERE)
        rule_id = await ruled_on_the_page(admin, connection_id, route="both", desk="elsewhere")
        said = "No service desk is connected as elsewhere: no ticket can be opened there."
        page = await admin.get(f"/scanner/rules/{rule_id}?preview=true")
        assert warning_of(page).startswith(said)
        page = (await admin.post(f"/scanner/rules/{rule_id}/activate", {}, 422)).text
        assert text_of(page).count(said) == 2, "at the head and where the desk is chosen"
        assert re.search(r'<select id="desk"[^>]* aria-invalid="true"', page)
        await admin.post(f"/scanner/rules/{rule_id}", {**form_of(page), "desk": "emea", "version": "1"})
        await admin.post(f"/scanner/rules/{rule_id}/activate", {})
        assert 'data-tone="bad"' not in await admin.get(f"/scanner/rules/{rule_id}")
        await served.scanner.hear(NOW_GONE)
        page = await admin.get(f"/scanner/rules/{rule_id}")
        assert warning_of(page).startswith("The service desk emea was disconnected: no ticket can be opened there.")
        assert 'data-tone="bad" role="alert"' in page, "the rule is active: its cases are what nobody is asked about"


def warning_of(page: str) -> str:
    (text,) = re.findall(r"<strong>Service desk</strong>\s*<p>(.*?)</p>", page, re.DOTALL)
    return html.unescape(text)


# ------------------------------------------------------------------------------------------------ over the API


async def test_a_rule_is_saved_with_any_desk_and_activated_with_one_that_is_connected(served: Served) -> None:
    api = served.api("admin")
    connection = await connected(api)
    rule = await ruled(api, connection, **BY_DESK, desk="emea")
    assert rule["warning"] is None, "nothing was ever heard of desks: nothing is doubted"
    await api("POST", f"/rules/{rule['id']}/activate")
    await api("POST", f"/rules/{rule['id']}/pause")

    await served.scanner.hear(DeskChanged(desk_id="it", platform="freshservice", asks=True, version=1))
    assert (await api("GET", f"/rules/{rule['id']}"))["warning"].startswith("No service desk is connected as emea")
    refused = await api("POST", f"/rules/{rule['id']}/activate", 422)
    assert refused["title"] == "Invalid input"
    assert "try again in a moment; else connect it under this id, or choose another: it." in refused["detail"]

    await served.scanner.hear(NOW_THERE)
    assert (await api("POST", f"/rules/{rule['id']}/activate"))["warning"] is None
    await served.scanner.hear(NOW_GONE)
    (listed,) = await api("GET", "/rules")
    assert (listed["status"], listed["warning"].partition(":")[0]) == (
        "active",
        "The service desk emea was disconnected",
    )
    moved = await api("PATCH", f"/rules/{rule['id']}", json={"desk": "nowhere"})
    assert moved["warning"].startswith("No service desk is connected as nowhere")
    assert (await api("PATCH", f"/rules/{rule['id']}", json={"desk": ""}))["warning"] is None, "it asks by default"


async def test_that_no_desk_asks_by_default_is_said_and_refuses_nothing(served: Served) -> None:
    api = served.api("admin")
    rule = await ruled(api, await connected(api), **BY_DESK)
    await served.scanner.hear(EMEA(asks=False, version=1))
    active: dict[str, Any] = await api("POST", f"/rules/{rule['id']}/activate")
    assert active["status"] == "active"
    assert active["warning"].startswith("The rule names no service desk, and none asks new cases by default")
