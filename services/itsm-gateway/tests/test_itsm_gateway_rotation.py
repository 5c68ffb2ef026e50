"""Credentials and secrets that are replaced while tickets are under way: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from reclaim.itsm_gateway import ticket_store
from reclaim.sandbox.desks import freshservice
from tests.support.itsm_desks import PLATFORMS, World, gateway
from tests.support.itsm_gateway import flagged, life, signed

NEW_KEY = "the-key-that-takes-over"


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[World]:
    async with gateway(tmp_path) as made:
        yield made


def of_case(world: World, case_id: str) -> int:
    """Return which ticket is a case's: those that are opened together come in any order."""
    marker = f"Reference: lr-case-{case_id}"
    return next(place for place, ticket in enumerate(world.tickets()) if marker in ticket.description)


@pytest.mark.parametrize("overlap", [True, False], ids=["both-valid-for-a-while", "the-old-one-ends-at-once"])
async def test_the_key_of_a_desk_is_replaced_in_mid_flow(
    small: World, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"), flagged("d"))
    await small.run("open_tickets")
    # What is to be read, to be told and to be opened when the key changes.
    small.act("tag", "lr_revoke", ticket=of_case(small, "c"))
    await small.site.tell(life("d")[0], flagged("e"))
    if not overlap:
        monkeypatch.setattr(freshservice, "API_KEY", NEW_KEY)
        await small.run("poll_tickets", "tell_tickets", "open_tickets")
        assert "Enter the credentials again." in await small.site.get("/itsm-gateway/")
        assert await small.decisions() == []

    settings = {**small.entered()["settings"], **PLATFORMS["freshservice"][0], "api_key": NEW_KEY}
    monkeypatch.setattr(freshservice, "API_KEY", NEW_KEY)
    answer = await small.site.call("POST", "/itsm-gateway/setup/it/sign-in", role="admin", data=settings)
    assert answer.status_code == 303, answer.text
    page = html.unescape((await small.site.call("GET", "/itsm-gateway/setup/it/sign-in", role="admin")).text)
    assert NEW_KEY not in page, "it is written, and never shown"
    async with small.site.running.database.reading() as db:
        (stored,) = await ticket_store.desks(db)
    assert NEW_KEY not in repr(stored)

    await small.run("poll_tickets", "tell_tickets", "open_tickets")
    assert await small.decisions() == [("c", "revoke", "itsm")]
    assert len(small.tickets()) == 3
    (told,) = [comment.text for comment in small.tickets()[of_case(small, "d")].comments]
    assert "The seat was frozen" in told
    assert "could not be" not in await small.site.get("/itsm-gateway/")
    failures = [event for event in await small.site.said() if type(event).__name__ == "NoticeFailed"]
    assert len(failures) == (0 if overlap else 1)


async def test_two_secrets_of_webhooks_are_active_while_one_replaces_the_other(small: World) -> None:
    small.platform = "generic"
    await small.connect()
    await small.site.tell(flagged("c"), flagged("d"), flagged("e"))
    await small.run("open_tickets")
    first, old = await small.site.secret("it", "generic")
    _, new = await small.site.secret("it", "generic")

    async def hears(case_id: str, secret: str) -> int:
        small.act("tag", "lr_keep", ticket=of_case(small, case_id))
        body = msgspec.json.encode({"case_id": case_id, "decision": "keep", "actor": "Ann Agent"})
        answer = await small.site.post("it", body, signed(secret, body, f"msg_{case_id}_{secret[-8:]}"))
        await small.site.handle()
        return answer.status_code

    assert [await hears("c", old), await hears("d", new)] == [202, 202]
    assert await small.decisions() == [("c", "keep", "itsm"), ("d", "keep", "itsm")]
    gone = await small.site.call("DELETE", f"/itsm-gateway/api/webhook-secrets/{first}", role="admin")
    assert gone.status_code == 204
    assert await hears("e", old) == 401
    assert len(await small.decisions()) == 2
    assert await hears("e", new) == 202
    assert len(await small.decisions()) == 3
