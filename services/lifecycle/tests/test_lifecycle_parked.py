"""Parked messages over HTTP: where somebody decided from is for administrators, in what could not be handled too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reclaim.common import envelope
from reclaim.common.contracts import DecisionReceived
from reclaim.web.operations import LEFT_OUT, PERSONAL_FIELDS, without_personal
from reclaim.web.operators import Role
from services.lifecycle.tests.lifecycle_site import NOW, Site, decided, serving


def decision(**changes: Any) -> dict[str, Any]:
    """Return a decision as it travels, with parts of what it says changed."""
    event: dict[str, Any] = json.loads(envelope.encode(decided(0, "keep"), source="approvals", time=NOW))
    return {**event, "data": {**event["data"], **changes}}


async def parked(site: Site, role: Role) -> dict[str, Any]:
    async with site.client(role) as http:
        (one,) = (await http.get("/lifecycle/api/parked")).json()["parked"]
    assert isinstance(one, dict)
    return one


def test_the_fields_are_those_of_the_contract() -> None:
    assert set(DecisionReceived.__struct_fields__) >= PERSONAL_FIELDS


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_a_parked_decision_is_shown_without_where_it_came_from(role: Role, tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await site.running.inbox.receive([json.dumps([decision(decision="perhaps")]).encode()])
        shown = await parked(site, role)
        event = json.loads(shown["body"])
        assert (event["data"]["ip"], event["data"]["user_agent"]) == (LEFT_OUT, LEFT_OUT)
        assert (event["data"]["actor"], event["data"]["decision"]) == ("max@example.com", "perhaps")
        assert "192.0.2.7" not in str(shown)
        assert "Browser/1" not in str(shown)
        whole = json.loads((await parked(site, "admin"))["body"])
        assert (whole["data"]["ip"], whole["data"]["user_agent"]) == ("192.0.2.7", "Browser/1")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([decision()]),
        json.dumps(decision())[:-1],
        json.dumps({**decision(), "data": json.dumps({"ip": "192.0.2.7"})}),
        json.dumps("192.0.2.7"),
        "[" * 100_000,
        '{"data":' * 100_000,
        "192.0.2.7",
        "",
    ],
    ids=["batch", "cut off", "data as text", "text", "deep list", "deep data", "no json", "nothing"],
)
def test_what_is_no_event_by_its_form_is_left_out_as_a_whole(body: str) -> None:
    assert without_personal(body) == LEFT_OUT


def test_a_form_of_a_later_release_is_searched_through() -> None:
    later = without_personal(json.dumps(decision(ip=None, origins=[{"ip": "192.0.2.7", "at": "noon"}])))
    data = json.loads(later)["data"]
    assert (data["ip"], data["origins"]) == (None, [{"ip": LEFT_OUT, "at": "noon"}])
