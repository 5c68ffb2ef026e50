"""The pages about single seats and about what changed in a rule, as a browser without scripts uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from reclaim.common.contracts import CaseWithdrawn
from services.scanner.tests.scanner_world import Served
from services.scanner.tests.test_scanner_pages import HOSTILE, Browser, browser_as, connected, ruled, terms

EXCLUSION = {"kind": "person", "value": "u00001", "connection_id": "", "reason": "parental leave", "expires_at": ""}


@pytest.fixture
async def admin(served: Served) -> AsyncIterator[Browser]:
    async with browser_as(served, "anna", "admin") as browser:
        yield browser


async def test_an_exclusion_is_made_shown_and_ended_on_its_page(admin: Browser, served: Served) -> None:
    await connected(admin)
    page = await admin.get("/scanner/exclusions")
    assert "Nothing is excluded" in page
    page = await admin.follow("/scanner/exclusions", {**EXCLUSION, "expires_at": "2027-01-31"})
    assert "parental leave" in page
    assert "u00001" in page
    assert "31 Jan 2027" in page, "the last day, not the instant after it"
    assert "Nobody goes by that" in page, "no scan has read a seat yet"
    assert "Nobody goes by that" not in await admin.get("/scanner/exclusions")
    (row,) = await served.scanner.rows("SELECT id, author FROM exclusions")
    assert row.author == "anna"
    page = await admin.follow(f"/scanner/exclusions/{row.id}/end")
    assert "Nothing is excluded" in page
    over = await admin.get("/scanner/exclusions?past=true")
    assert "ended by anna" in over


async def test_an_exclusion_with_mistakes_comes_back_with_them_and_what_was_entered(admin: Browser) -> None:
    await admin.get("/scanner/exclusions")
    answer = await admin.post("/scanner/exclusions", {**EXCLUSION, "value": HOSTILE, "reason": "x"}, 422)
    assert "Say why" in answer.text
    assert HOSTILE not in answer.text
    assert "&lt;script&gt;" in answer.text


async def test_a_seat_is_explained_on_its_page_and_can_be_excluded_from_there(admin: Browser) -> None:
    connection_id = await connected(admin)
    await ruled(admin, connection_id)
    page = await admin.get("/scanner/explain")
    assert "Holder" in page
    page = await admin.get(f"/scanner/explain?connection_id={connection_id}&holder=u00004")
    assert "Left alone" in page
    assert "Modify All Data" in page
    assert f"/scanner/exclusions?kind=person&amp;value=u00004&amp;connection_id={connection_id}" in page
    filled = await admin.get(f"/scanner/exclusions?kind=person&value=u00004&connection_id={connection_id}")
    assert 'value="u00004"' in filled
    page = await admin.get(f"/scanner/explain?connection_id={connection_id}&holder=nobody", 404)
    assert "no account with the id nobody" in page


async def test_the_preview_lists_who_is_left_alone_and_leads_to_the_explanation(admin: Browser) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    page = await admin.get(f"/scanner/rules/{rule_id}?preview=true")
    assert "Left alone" in page
    assert f"/scanner/explain?connection_id={connection_id}&amp;holder=u00004" in page


async def test_what_changed_between_two_versions_is_shown(admin: Browser) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    await admin.get(f"/scanner/rules/{rule_id}")
    await admin.post(f"/scanner/rules/{rule_id}", {**terms(connection_id), "grace_days": "21", "version": "1"})
    page = await admin.get(f"/scanner/rules/{rule_id}")
    assert f"/scanner/rules/{rule_id}/diff?before=1&amp;after=2" in page
    page = await admin.get(f"/scanner/rules/{rule_id}/diff")
    assert "Grace period (days)" in page
    assert ">21<" in page
    same = await admin.get(f"/scanner/rules/{rule_id}/diff?before=2&after=2")
    assert "No difference" in same
    await admin.get(f"/scanner/rules/{rule_id}/diff?after=9", 404)


async def test_a_draft_is_reviewed_and_its_cases_can_be_taken_back(admin: Browser, served: Served) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    page = await admin.follow(f"/scanner/rules/{rule_id}/submit")
    assert "Waits for a review" in page
    await admin.post(f"/scanner/rules/{rule_id}/activate")
    await admin.post(f"/scanner/rules/{rule_id}/scan", {"dry_run": "true"})
    await served.scanner.scan_all()
    await admin.post(f"/scanner/rules/{rule_id}/pause")
    page = await admin.get(f"/scanner/rules/{rule_id}")
    assert "Take its cases back" in page
    await admin.post(f"/scanner/rules/{rule_id}/withdraw-cases", {"reason": "wrong threshold"})
    assert [event.actor for event in await served.scanner.said(CaseWithdrawn)] == ["anna", "anna"]


async def test_a_warning_needs_its_reason_on_the_form_too(admin: Browser) -> None:
    connection_id = await connected(admin)
    warned = {**terms(connection_id), "warn_only": "queue_member"}
    answer = await admin.post("/scanner/rules/new", warned, 422)
    assert "Say why queue_member may warn" in answer.text
    rule_id = await ruled(
        admin, connection_id, warn_only="queue_member", **{"warn-reason-queue_member": "others serve it"}
    )
    page = await admin.get(f"/scanner/rules/{rule_id}")
    assert 'value="others serve it"' in page


async def test_a_viewer_sees_everything_and_changes_nothing(admin: Browser, served: Served) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    await admin.get("/scanner/exclusions")
    await admin.post("/scanner/exclusions", EXCLUSION)
    async with browser_as(served, "vera", "viewer") as viewer:
        page = await viewer.get("/scanner/exclusions")
        assert "parental leave" in page
        assert "End it" not in page
        assert "Exclude seats" not in page
        await viewer.get(f"/scanner/rules/{rule_id}/diff")
        await viewer.get(f"/scanner/explain?connection_id={connection_id}&holder=u00001")
        await viewer.post("/scanner/exclusions", EXCLUSION, 403)
