"""Connections of every kind through the API and the pages: what each can do is said, and what it cannot is refused."""

from __future__ import annotations

from typing import Any

import pytest

from reclaim.connectors.registry import KINDS as CONNECTORS
from reclaim.scanner.domain import KINDS
from services.scanner.tests.scanner_world import SECRET, TERMS, Served
from services.scanner.tests.test_scanner_pages import browser_as

SCIM: dict[str, Any] = {
    "name": "Wiki",
    "kind": "scim",
    "settings": {"base_url": "https://wiki.example/scim/v2"},
    "credentials": {"token": SECRET},
}
OKTA: dict[str, Any] = {
    "name": "SSO",
    "kind": "okta",
    "settings": {"org_url": "https://acme.okta.com"},
    "credentials": {"api_token": SECRET},
}


def test_every_kind_that_can_be_connected_has_a_form_and_the_other_way_round() -> None:
    assert set(KINDS) == set(CONNECTORS)


def test_every_setting_that_adds_a_capability_can_be_entered() -> None:
    for kind, connector in CONNECTORS.items():
        assert set(connector.stated) <= {part.name for part in KINDS[kind].settings}


@pytest.mark.parametrize(
    ("body", "able"),
    [
        (SCIM, ["groups", "reclaim", "seats"]),
        (
            {**SCIM, "settings": {**SCIM["settings"], "freeze_by_deactivation": "true"}},
            ["freeze", "groups", "reclaim", "seats"],
        ),
        (OKTA, ["usage"]),
    ],
    ids=["scim", "scim with a freeze", "okta"],
)
async def test_a_connection_says_what_it_can_do(served: Served, body: dict[str, Any], able: list[str]) -> None:
    api = served.api()
    made = await api("POST", "/connections", 201, json=body)
    assert made["capabilities"] == able
    assert made["prices"] == {}
    assert SECRET not in str(made)
    (listed,) = await api("GET", "/connections")
    assert listed["capabilities"] == able


async def test_a_source_of_usage_takes_no_rule_and_says_where_rules_belong(served: Served) -> None:
    api = served.api()
    made = await api("POST", "/connections", 201, json=OKTA)
    refused = await api("POST", "/rules", 422, json={**TERMS, "connection_id": made["id"]})
    assert "Connect the application that holds the seats" in refused["detail"]
    assert await api("GET", "/rules") == []


async def test_a_rule_does_not_act_where_nothing_can_be_frozen(served: Served) -> None:
    api = served.api()
    made = await api("POST", "/connections", 201, json=SCIM)
    rule = await api("POST", "/rules", 201, json={**TERMS, "connection_id": made["id"]})
    refused = await api("POST", f"/rules/{rule['id']}/activate", 422)
    assert "Set freeze_by_deactivation to true" in refused["detail"]
    await api("PATCH", f"/rules/{rule['id']}", json={"reclaim_by": "task"})
    assert (await api("POST", f"/rules/{rule['id']}/activate"))["status"] == "active"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**SCIM, "settings": {"base_url": "http://wiki.example"}}, "base_url"),
        ({**SCIM, "settings": {**SCIM["settings"], "org_url": "x"}}, "org_url"),
        ({**OKTA, "credentials": {"token": SECRET}}, "token"),
        ({**OKTA, "kind": "netsuite"}, "kind"),
    ],
)
async def test_what_does_not_fit_a_kind_is_named(served: Served, body: dict[str, Any], field: str) -> None:
    refused = await served.api()("POST", "/connections", 422, json=body)
    assert field in str(refused)
    assert SECRET not in str(refused)


async def test_each_kind_has_its_form_and_keeps_it(served: Served) -> None:
    async with browser_as(served, "anna", "admin") as browser:
        page = await browser.get("/scanner/connections?kind=scim")
        assert 'name="setting-base_url"' in page
        assert 'name="credential-token"' in page
        assert "setting-instance_url" not in page
        form = {
            "kind": "scim",
            "name": "Wiki",
            "setting-base_url": "https://wiki.example/scim/v2",
            "credential-token": SECRET,
        }
        refused = await browser.post("/scanner/connections", {**form, "setting-page_size": "many"}, 422)
        assert "whole number" in refused.text
        assert 'name="setting-base_url"' in refused.text, "the form stays that of its kind"
        made = await browser.post("/scanner/connections", form)
        page = await browser.get(made.headers["location"])
        assert "https://wiki.example/scim/v2" in page
        assert "reclaim, seats" in page
        await browser.follow(made.headers["location"], {**form, "credential-token": "", "setting-product": "wiki"})
        (connection,) = await served.api()("GET", "/connections")
        assert connection["settings"] == {"base_url": "https://wiki.example/scim/v2", "product": "wiki"}


async def test_the_page_of_a_source_of_usage_offers_no_rule(served: Served) -> None:
    made = await served.api()("POST", "/connections", 201, json=OKTA)
    async with browser_as(served, "anna", "admin") as browser:
        page = await browser.get(f"/scanner/connections/{made['id']}")
    assert "holds no seats" in page
    assert "New rule" not in page
    assert "Price book" not in page
