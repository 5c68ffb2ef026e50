"""The pages of rules on use: the form without scripts, and what a preview, a scan and an explanation say of sources."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reclaim.scanner.usage import InstallationRecord
from reclaim.scanner.usage_store import add_installations, end_inventory
from services.scanner.tests.scanner_world import NOON, Served
from services.scanner.tests.test_scanner_acceptance_usage import UNDER_20, complete, feed, used
from services.scanner.tests.test_scanner_pages import Browser, admin, connected, terms, text_of  # noqa: F401

HOURS: dict[str, Any] = {**UNDER_20, "inactive_days": "", "window_count": "1", "channels": ["ui", "mobile"]}


async def test_a_rule_on_hours_is_made_by_a_form(admin: Browser) -> None:  # noqa: F811
    connection = await connected(admin)
    page = await admin.follow("/scanner/rules/new", {**terms(connection), **HOURS, "include_no_activity": "true"})
    assert 'id="condition-hours" name="condition" type="radio" value="hours" required checked' in page
    for name, value in (("minimum_hours", "20"), ("window_count", "1"), ("inactive_days", "")):
        assert f'name="{name}" type="{"text" if name == "minimum_hours" else "number"}" value="{value}"' in page
    assert 'value="months" selected' in page
    assert 'name="include_no_activity" type="checkbox" value="true" checked' in page
    for channel, checked in (("ui", " checked"), ("mobile", " checked"), ("api", ""), ("sso", "")):
        assert f'name="channels" type="checkbox" value="{channel}"{checked}>' in page
    assert "been used for less than 20 hours in the last complete month" in page


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minimum_hours": ""}, "The minimum that keeps a seat must be hours"),
        ({"minimum_hours": "many"}, "such as 20, not many."),
        ({"window_count": "30"}, "The window must be a whole number of months from 1 to 24, not 30."),
        ({"condition": "last_used"}, "Unused for must be a whole number of days"),
    ],
    ids=["no minimum", "no number", "no window", "no days"],
)
async def test_what_does_not_fit_stands_at_its_field(admin: Browser, given: dict[str, Any], message: str) -> None:  # noqa: F811
    connection = await connected(admin)
    answer = await admin.post("/scanner/rules/new", {**terms(connection), **HOURS, **given}, status=422)
    (name,) = given
    field = "inactive_days" if name == "condition" else name
    assert f'id="{field}-error"' in answer.text
    assert message in text_of(answer.text)


async def test_a_preview_and_an_explanation_say_what_sources_report(admin: Browser, served: Served) -> None:  # noqa: F811
    connection = await connected(admin)
    then = NOON - timedelta(days=10)
    report = complete(now=then)
    await feed(served.scanner, used("u00001", 3), report=report, heard_at=then)
    shown = await admin.follow("/scanner/rules/new", {**terms(connection), **UNDER_20})
    text = text_of(shown)
    assert "A source of use has fallen silent" in text
    assert "agent was last heard from on 2026-11-10 12:00 UTC" in text
    assert "Use, by what sources report" in text
    said = text_of(await admin.get(f"/scanner/explain?connection_id={connection}&holder=u00001"))
    assert "Use not known" in said
    assert "what it says of SFDC is stale" in said


async def test_installed_software_has_its_own_kind_of_connection(admin: Browser, served: Served) -> None:  # noqa: F811
    assert "Installed software" in await admin.get("/scanner/connections?kind=installed")
    async with served.scanner.running.database.unit() as unit:
        place = {"user": "u1@acme.example", "product": "visio"}
        rows = [InstallationRecord(**place, device=device) for device in ("PC-1", "PC-2")]
        await add_installations(unit.db, "sccm", rows, heard_at=NOON)
        await end_inventory(unit.db, "sccm", heard_at=NOON)
    made = await admin.follow(
        "/scanner/connections", {"kind": "installed", "name": "Desktops", "setting-sources": "sccm"}
    )
    assert "List of sccm" in made
    new = await admin.get("/scanner/rules/new")
    assert "visio (2 in use)" in new
    assert 'name="applies_to" value="installed"' in new
    assert 'id="reclaim_by-task" name="reclaim_by" type="radio" value="task" required checked' in new
