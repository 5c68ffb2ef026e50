"""The API: connections whose secrets never come out, rules with clear refusals, roles, and the summary."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reclaim.common.contracts import CaseClosed, ConnectionChanged, UserFlagged
from reclaim.common.errors import Permanent, Transient
from reclaim.scanner import store
from services.scanner.tests.scanner_world import NOON, SECRET, SETTINGS, TERMS, Api, Served

CONNECTION = {"name": "Acme", "settings": SETTINGS, "credentials": {"client_secret": SECRET}}


async def connected(api: Api, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = await api("POST", "/connections", 201, json={**CONNECTION, **more})
    return made


async def ruled(api: Api, connection: dict[str, Any], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = await api("POST", "/rules", 201, json={**TERMS, "connection_id": connection["id"], **more})
    return made


async def active(api: Api, **more: Any) -> dict[str, Any]:
    rule = await ruled(api, await connected(api), **more)
    done: dict[str, Any] = await api("POST", f"/rules/{rule['id']}/activate")
    return done


# ------------------------------------------------------------------------------------------------ connections


async def test_a_connection_is_tested_and_announced_with_its_secret_sealed(served: Served) -> None:
    made = await connected(served.api())
    assert made["works"] is True
    assert [result["ok"] for result in made["test_results"]] == [True]
    assert made["prices"]["SFDC"] == {"amount": "175.0000", "currency": "USD"}
    (event,) = await served.scanner.said(ConnectionChanged)
    assert (event.connection_id, event.name, event.kind, event.version) == (made["id"], "Acme", "salesforce", 1)
    assert event.settings == SETTINGS
    assert served.scanner.deps.sealer.open(event.credentials) == {"client_secret": SECRET}
    assert served.scanner.connectors.profiles[-1].credentials == {"client_secret": SECRET}


async def test_a_secret_comes_out_nowhere(served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = served.api()
    answers: list[Any] = [await connected(api)]
    connection_id = answers[0]["id"]
    rule = await ruled(api, answers[0])
    for method, path, status, body in (
        ("GET", "/connections", 200, None),
        ("GET", f"/connections/{connection_id}", 200, None),
        ("POST", f"/connections/{connection_id}/test", 200, None),
        ("PATCH", f"/connections/{connection_id}", 200, {"credentials": {"client_secret": SECRET + "2"}}),
        ("PATCH", f"/connections/{connection_id}", 422, {"credentials": {"password": SECRET}}),
        ("PATCH", f"/connections/{connection_id}", 422, {"settings": {"client_secret": SECRET}}),
        ("POST", "/connections", 409, CONNECTION),
        ("POST", "/connections", 422, {**CONNECTION, "client_secret": SECRET}),
        ("POST", "/connections", 422, {**CONNECTION, "credentials": {"client_secret": [SECRET]}}),
        ("POST", "/connections", 422, {**CONNECTION, "credentials": SECRET}),
        ("POST", f"/rules/{rule['id']}/activate", 200, None),
        ("GET", f"/rules/{rule['id']}/preview", 200, None),
    ):
        answers.append(await api(method, path, status, json=body))
    served.scanner.org.down = Permanent("The org refused the secret. Enter it again.")
    answers.append(
        await api("PATCH", f"/connections/{connection_id}", 422, json={"credentials": {"client_secret": SECRET}})
    )
    async with served.scanner.running.database.reading() as db:
        stored = await store.connections(db)
    assert SECRET not in str(answers)
    assert SECRET not in repr(stored)
    assert SECRET not in caplog.text
    assert SECRET not in repr(await served.scanner.said())
    assert SECRET not in repr(served.scanner.connectors.profiles)
    assert "credentials" not in str(answers[:4])
    rows = await served.scanner.rows("SELECT * FROM connections")
    assert SECRET not in str(rows)
    assert not _files_with(tmp_path, SECRET.encode())


def _files_with(folder: Path, text: bytes) -> list[Path]:
    return [file for file in folder.iterdir() if text in file.read_bytes()]


@pytest.mark.parametrize("how", ["test=false", "force=true"])
async def test_what_no_org_can_be_is_refused_untested_and_forced_too(served: Served, how: str) -> None:
    settings = {**CONNECTION["settings"], "instance_url": "http://acme.my.salesforce.com"}
    problem = await served.api()("POST", f"/connections?{how}", 422, json={**CONNECTION, "settings": settings})
    assert "https" in problem["detail"]
    made = await served.api()("POST", "/connections?test=false", 201, json=CONNECTION)
    change = {"settings": settings, "credentials": CONNECTION["credentials"]}
    assert "https" in (await served.api()("PATCH", f"/connections/{made['id']}?{how}", 422, json=change))["detail"]


@pytest.mark.parametrize("error", [Transient("no route to the org"), Permanent("invalid_client: the secret is wrong")])
async def test_a_connection_that_does_not_work_is_not_added_unless_forced(served: Served, error: Any) -> None:
    api = served.api()
    served.scanner.org.down = error
    problem = await api("POST", "/connections", 422, json=CONNECTION)
    assert problem["title"] == "The connection does not work"
    assert str(error) in problem["detail"]
    assert "force" in problem["detail"]
    assert await api("GET", "/connections") == []
    assert await served.scanner.said() == []
    forced = await api("POST", "/connections?force=true", 201, json=CONNECTION)
    assert forced["works"] is False
    untested = await api("POST", "/connections?test=false", 201, json={**CONNECTION, "name": "Other"})
    assert untested["works"] is None


async def test_one_missing_permission_is_named(served: Served) -> None:
    served.scanner.org.unreadable = {"Read LoginHistory": "Give Reclaim's user the permission Manage Users."}
    problem = await served.api()("POST", "/connections", 422, json=CONNECTION)
    assert "Read LoginHistory: Give Reclaim's user the permission Manage Users." in problem["detail"]


async def test_a_name_is_taken_only_once_and_free_again_after_removal(served: Served) -> None:
    api = served.api()
    first = await connected(api)
    problem = await api("POST", "/connections", 409, json={**CONNECTION, "name": "ACME "})
    assert "Choose another name" in problem["detail"]
    await api("DELETE", f"/connections/{first['id']}", 204)
    second = await connected(api)
    assert second["id"] != first["id"]


async def test_a_removed_connection_is_forgotten_and_its_rules_are_paused(served: Served) -> None:
    api = served.api()
    rule = await active(api)
    await api("DELETE", f"/connections/{rule['connection_id']}", 204)
    await api("GET", f"/connections/{rule['connection_id']}", 404)
    assert (await api("GET", f"/rules/{rule['id']}"))["status"] == "paused"
    await api("POST", f"/rules/{rule['id']}/activate", 404)
    await api("GET", f"/rules/{rule['id']}/preview", 404)
    event = (await served.scanner.said(ConnectionChanged))[-1]
    assert (event.removed, event.version, event.credentials, event.settings) == (True, 2, "", {})
    assert [row.credentials for row in await served.scanner.rows("SELECT credentials FROM connections")] == [""]


async def test_a_change_keeps_what_is_not_given_and_counts_versions(served: Served) -> None:
    api = served.api()
    made = await connected(api)
    changed = await api("PATCH", f"/connections/{made['id']}", json={"name": "Acme Europe"})
    assert (changed["name"], changed["version"], changed["settings"]) == ("Acme Europe", 2, SETTINGS)
    event = (await served.scanner.said(ConnectionChanged))[-1]
    assert served.scanner.deps.sealer.open(event.credentials) == {"client_secret": SECRET}
    assert event.version == 2


@pytest.mark.parametrize(
    "change",
    [
        {"instance_url": "https://evil.example"},
        {**SETTINGS, "token_url": "https://evil.example/token"},
        {**SETTINGS, "allow_http": "true"},
    ],
)
async def test_stored_credentials_are_never_sent_to_another_place(served: Served, change: dict[str, str]) -> None:
    api = served.api()
    made = await connected(api)
    opened = len(served.scanner.connectors.profiles)
    settings = {**SETTINGS, **change}
    problem = await api("PATCH", f"/connections/{made['id']}?force=true", 422, json={"settings": settings})
    assert "enter the credentials again" in problem["detail"]
    assert len(served.scanner.connectors.profiles) == opened
    both = {"settings": settings, "credentials": {"client_secret": "another"}}
    await api("PATCH", f"/connections/{made['id']}", json=both)
    assert served.scanner.connectors.profiles[-1].credentials == {"client_secret": "another"}


async def test_other_settings_change_without_the_credentials(served: Served) -> None:
    api = served.api()
    made = await connected(api)
    settings = {**SETTINGS, "exempt_permission_set": "On_Leave"}
    assert (await api("PATCH", f"/connections/{made['id']}", json={"settings": settings}))["settings"] == settings


async def test_the_price_book_is_edited_and_shown_with_the_licences(served: Served) -> None:
    api = served.api()
    made = await connected(api, prices={"SFDC": {"amount": "150.50", "currency": "EUR"}})
    assert made["prices"] == {"SFDC": {"amount": "150.5000", "currency": "EUR"}}
    (licence,) = await api("GET", f"/connections/{made['id']}/licences")
    assert licence == {
        "product": "SFDC",
        "name": "SFDC",
        "total": 1000,
        "used": 6,
        "price": {"amount": "150.5000", "currency": "EUR"},
    }
    await api("PATCH", f"/connections/{made['id']}", json={"prices": {"SFDC": {"amount": 99, "currency": "usd"}}})
    shown = await api("GET", f"/connections/{made['id']}")
    assert shown["prices"] == {"SFDC": {"amount": "99.0000", "currency": "USD"}}
    bad = {"prices": {"SFDC": {"amount": "free", "currency": "USD"}}}
    problem = await api("PATCH", f"/connections/{made['id']}", 422, json=bad)
    assert "amount a month" in problem["detail"]


async def test_an_org_that_is_away_is_a_problem_that_passes(served: Served) -> None:
    api = served.api()
    made = await connected(api)
    served.scanner.org.down = Transient("503 SERVER_UNAVAILABLE")
    await api("GET", f"/connections/{made['id']}/licences", 503)
    tested = await api("POST", f"/connections/{made['id']}/test")
    assert tested["works"] is False
    assert "503" in tested["test_results"][0]["detail"]


# ------------------------------------------------------------------------------------------------ rules


async def test_a_rule_is_a_draft_with_versions(served: Served) -> None:
    api = served.api("operator")
    rule = await ruled(api, await connected(served.api()))
    assert (rule["status"], rule["version"], rule["author"]) == ("draft", 1, "the-operator")
    changed = await api("PATCH", f"/rules/{rule['id']}", json={"grace_days": 30, "version": 1})
    assert (changed["version"], changed["grace_days"], changed["name"]) == (2, 30, TERMS["name"])
    assert changed["words"] == "not been used for more than 90 days"
    again = await api("PATCH", f"/rules/{rule['id']}", json={"grace_days": 30})
    assert again["version"] == 2, "a change that changes nothing is no version"
    stale = await api("PATCH", f"/rules/{rule['id']}", 409, json={"grace_days": 20, "version": 1})
    assert "version 2" in stale["detail"]
    whole = await api("GET", f"/rules/{rule['id']}")
    assert [(one["version"], one["terms"]["grace_days"]) for one in whole["versions"]] == [(2, 30), (1, 14)]


@pytest.mark.parametrize(
    ("terms", "field", "says"),
    [
        ({"inactive_days": 3}, "inactive_days", "from 30 to 3650, not 3"),
        ({"inactive_days": -90}, "inactive_days", "from 30 to 3650, not -90"),
        ({"inactive_days": 99999}, "inactive_days", "from 30 to 3650"),
        ({"grace_days": 0}, "grace_days", "from 1 to 90"),
        ({"grace_days": None}, "grace_days", "there is no default"),
        ({"on_timeout": None}, "on_timeout", "freeze, keep, escalate"),
        ({"on_timeout": "delete"}, "on_timeout", "freeze, keep, escalate"),
        ({"decision_days": 61}, "decision_days", "from 1 to 60"),
        ({"products": []}, "products", "at least one licence"),
        ({"route": "pigeon"}, "route", "email, itsm, both"),
        ({"schedule": "every day"}, "schedule", "five cron fields"),
        ({"time_zone": "Mars/Olympus"}, "time_zone", "no time zone"),
        ({"warn_only": ["administrator"]}, "warn_only", "protects people"),
        ({"name": " "}, "name", "1 to 100"),
    ],
)
async def test_nonsense_is_refused_with_what_to_enter(
    served: Served, terms: dict[str, Any], field: str, says: str
) -> None:
    api = served.api()
    connection = await connected(api)
    problem = await api("POST", "/rules", 422, json={**TERMS, "connection_id": connection["id"], **terms})
    assert says in problem["detail"]
    assert [error["field"] for error in problem["errors"]] == [field]
    assert await api("GET", "/rules") == []


@pytest.mark.parametrize("terms", [{"inactive_days": "soon"}, {"grace_dayz": 3}, {"dry_run": "perhaps"}])
async def test_what_has_no_such_type_or_name_is_refused(served: Served, terms: dict[str, Any]) -> None:
    api = served.api()
    connection = await connected(api)
    problem = await api("POST", "/rules", 422, json={**TERMS, "connection_id": connection["id"], **terms})
    assert [error["field"] for error in problem["errors"]] == list(terms)


async def test_a_rule_without_a_connection_or_with_a_name_that_is_taken_is_refused(served: Served) -> None:
    api = served.api()
    await api("POST", "/rules", 404, json={**TERMS, "connection_id": "none"})
    connection = await connected(api)
    first = await ruled(api, connection)
    await api("POST", "/rules", 409, json={**TERMS, "connection_id": connection["id"], "name": "idle SALESFORCE seats"})
    other = await ruled(api, connection, name="Other")
    await api("PATCH", f"/rules/{other['id']}", 409, json={"name": first["name"]})


async def test_activation_needs_a_connection_that_works_and_licences_that_exist(served: Served) -> None:
    api = served.api()
    connection = await connected(api)
    rule = await ruled(api, connection)
    served.scanner.org.down = Permanent("invalid_client: enter the secret again")
    problem = await api("POST", f"/rules/{rule['id']}/activate", 422)
    assert "enter the secret again" in problem["detail"]
    served.scanner.org.down = None
    wrong = await ruled(api, connection, name="Other", products=["SFDC", "GONE"])
    problem = await api("POST", f"/rules/{wrong['id']}/activate", 422)
    assert "GONE" in problem["detail"]
    assert "the org has: SFDC" in problem["detail"]
    assert (await api("POST", f"/rules/{rule['id']}/activate"))["status"] == "active"
    await api("POST", f"/rules/{rule['id']}/activate", 409)
    assert (await api("POST", f"/rules/{rule['id']}/pause"))["status"] == "paused"
    await api("POST", f"/rules/{rule['id']}/pause", 409)


async def test_a_schedule_is_taken_away_by_null(served: Served) -> None:
    api = served.api()
    rule = await ruled(api, await connected(api), schedule="0 6 * * 1")
    assert rule["schedule"] == "0 6 * * 1"
    assert (await api("PATCH", f"/rules/{rule['id']}", json={"schedule": None}))["schedule"] is None


async def test_a_form_that_is_not_finished_can_be_previewed(served: Served) -> None:
    api = served.api()
    connection = await connected(api)
    half = {"connection_id": connection["id"], "products": ["SFDC"], "inactive_days": 90}
    seen = await api("POST", "/preview", json=half)
    assert (seen["flagged"], seen["used"], seen["seen"], seen["stopped"]) == (2, 2, 6, None)
    assert seen["skipped_by_check"] == {"administrator": 1, "queue_member": 1}
    assert seen["yearly"] == [{"amount": "4200.0000", "currency": "USD"}]
    assert [one["seat"]["holder"]["id"] for one in seen["seats"]] == ["u00001", "u00002"]
    assert await api("GET", "/candidates") == []
    problem = await api("POST", "/preview", 422, json={"connection_id": connection["id"], "products": ["SFDC"]})
    assert "Unused for" in problem["detail"]
    gone = await api("POST", "/preview", json={**half, "products": ["GONE"]})
    assert "GONE" in gone["stopped"]["reason"]
    served.scanner.org.down = Transient("503")
    await api("POST", "/preview", 503, json=half)


# ------------------------------------------------------------------------------------------------ scans


async def test_a_scan_is_queued_and_then_shows_its_counts_and_seats(served: Served) -> None:
    api = served.api()
    rule = await active(api)
    run = await api("POST", "/scans", 202, json={"rule_id": rule["id"], "dry_run": True})
    assert (run["status"], run["dry_run"], run["percent"], run["asked_by"]) == ("queued", True, 0, "the-admin")
    await served.scanner.scan_all()
    run = await api("GET", f"/scans/{run['id']}")
    assert (run["status"], run["flagged"], run["rule_version"]) == ("finished", 2, 1)
    assert [one["id"] for one in await api("GET", f"/scans?rule_id={rule['id']}")] == [run["id"]]
    assert await api("GET", "/scans?rule_id=other") == []
    first, second = await api("GET", f"/candidates?run_id={run['id']}")
    assert first["dry_run"]
    assert first["price"] == {"amount": "175.0000", "currency": "USD"}
    assert len(first["findings"]) == 10
    rest = await api("GET", f"/candidates?rule_id={rule['id']}&after={first['case_id']}")
    assert [one["case_id"] for one in rest] == [second["case_id"]]


async def test_asking_again_with_the_same_key_starts_no_second_scan(served: Served) -> None:
    """An answer may be lost, and nobody knows then whether the scan was started."""
    api, other = served.api(), served.api("operator")
    rule = await active(api)
    key = {"headers": {"Idempotency-Key": "a-key"}}
    asked = {"rule_id": rule["id"]}
    first = await api("POST", "/scans", 202, json=asked, **key)
    assert await api("POST", "/scans", 202, json=asked, **key) == first
    await served.scanner.scan_all()
    await api("POST", f"/rules/{rule['id']}/pause")
    again = await api("POST", "/scans", 202, json=asked, **key)
    assert (again["id"], again["status"]) == (first["id"], "finished"), "its end does not make it another scan"
    problem = await api("POST", "/scans", 422, json={**asked, "dry_run": True}, **key)
    assert "another scan" in problem["detail"]
    await api("POST", f"/rules/{rule['id']}/activate")
    assert (await other("POST", "/scans", 202, json=asked, **key))["id"] != first["id"], "a key is its operator's own"
    assert (await api("POST", "/scans", 202, json=asked))["id"] != first["id"]
    assert len(await api("GET", "/scans")) == 3


async def test_candidates_are_listed_by_state(served: Served) -> None:
    api = served.api()
    rule = await active(api)
    await api("POST", "/scans", 202, json={"rule_id": rule["id"]})
    await served.scanner.scan_all()
    first = (await served.scanner.said(UserFlagged))[0]
    await served.scanner.hear(CaseClosed(case_id=first.case_id, outcome="kept", reason="used", closed_at=NOON))
    (closed,) = await api("GET", "/candidates?state=closed")
    assert (closed["case_id"], closed["outcome"]) == (first.case_id, "kept")
    assert len(await api("GET", "/candidates?state=open")) == 1


async def test_the_summary_is_of_the_last_finished_scan_of_each_rule(served: Served) -> None:
    api = served.api()
    empty = await api("GET", "/summary")
    assert empty == {"seen": 0, "used": 0, "flagged": 0, "skipped_by_check": {}, "open": 0, "rules": []}
    rule = await active(api)
    other = await ruled(api, {"id": rule["connection_id"]}, name="Other", inactive_days=3000)
    await api("POST", f"/rules/{other['id']}/activate")
    for one in (rule, other):
        await api("POST", "/scans", 202, json={"rule_id": one["id"]})
        await served.scanner.scan_all()
    whole = await api("GET", "/summary")
    assert (whole["seen"], whole["used"], whole["flagged"], whole["open"]) == (12, 8, 2, 2)
    assert whole["skipped_by_check"] == {"administrator": 1, "queue_member": 1}
    assert [(one["rule_name"], one["flagged"]) for one in whole["rules"]] == [(rule["name"], 2), ("Other", 0)]
    served.scanner.clock.advance(timedelta(days=1))
    await api("POST", "/scans", 202, json={"rule_id": rule["id"]})
    await served.scanner.scan_all()
    again = await api("GET", "/summary")
    assert (again["flagged"], again["skipped_by_check"]["already_frozen"]) == (0, 2)


async def test_what_does_not_exist_is_not_found(served: Served) -> None:
    api = served.api()
    for path in ("/connections/x", "/connections/x/licences", "/rules/x", "/rules/x/preview", "/scans/x"):
        problem = await api("GET", path, 404)
        assert problem["title"] == "Not found"
    await api("POST", "/scans", 404, json={"rule_id": "x"})
    await api("GET", "/candidates?limit=100000", 422)


# ------------------------------------------------------------------------------------------------ roles


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/connections", "viewer"),
        ("GET", "/connections/x", "viewer"),
        ("GET", "/connections/x/licences", "viewer"),
        ("POST", "/connections", "admin"),
        ("PATCH", "/connections/x", "admin"),
        ("DELETE", "/connections/x", "admin"),
        ("POST", "/connections/x/test", "operator"),
        ("GET", "/rules", "viewer"),
        ("GET", "/rules/x/preview", "viewer"),
        ("POST", "/preview", "viewer"),
        ("POST", "/rules", "operator"),
        ("PATCH", "/rules/x", "operator"),
        ("POST", "/rules/x/activate", "operator"),
        ("POST", "/rules/x/pause", "operator"),
        ("POST", "/rules/x/submit", "operator"),
        ("POST", "/rules/x/withdraw-cases", "operator"),
        ("GET", "/rules/x/diff", "viewer"),
        ("GET", "/explain", "viewer"),
        ("GET", "/exclusions", "viewer"),
        ("POST", "/exclusions", "operator"),
        ("DELETE", "/exclusions/x", "operator"),
        ("POST", "/scans", "operator"),
        ("GET", "/scans", "viewer"),
        ("GET", "/candidates", "viewer"),
        ("GET", "/summary", "viewer"),
    ],
)
async def test_each_route_needs_its_role(served: Served, method: str, path: str, needed: str) -> None:
    roles = ("viewer", "operator", "admin")
    async with served.client_as("viewer") as stranger:
        del stranger.headers["authorization"]
        assert (await stranger.request(method, f"/scanner/api{path}", json={})).status_code == 401
    for role in roles:
        async with served.client_as(role) as client:
            status = (await client.request(method, f"/scanner/api{path}", json={})).status_code
        allowed = roles.index(role) >= roles.index(needed)  # type: ignore[arg-type]
        assert (status not in (401, 403)) is allowed, (role, status)
