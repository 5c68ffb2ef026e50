"""The console's pages of webhooks and their secrets, as a browser without scripts uses them."""

from __future__ import annotations

import re

from tests.support.itsm_gateway import NEW, Site, answer, flagged


async def field(site: Site, page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None, f"{name} is not on the page"
    return found[1]


async def test_what_came_is_listed_and_can_be_replayed(site: Site) -> None:
    assert "Nothing failed" in await site.get("/itsm-gateway/deliveries")
    assert "No webhooks" in await site.get("/itsm-gateway/deliveries?state=all")
    await site.tell(flagged("c"))
    hostile = "<script>alert(1)</script>"
    await site.send(NEW, answer(reason=hostile, actor=hostile))
    await site.send(NEW, answer("nobody", actor=hostile), webhook_id="m2")
    await site.handle()
    failed = await site.get("/itsm-gateway/deliveries")
    assert "No case nobody is asked" in failed
    assert "Failed (1)" in failed
    assert "Taken (1)" in failed
    every = await site.get("/itsm-gateway/deliveries?state=all&connection=desk")
    assert every.count("/itsm-gateway/deliveries/") >= 2
    one = await site.get("/itsm-gateway/deliveries/2")
    assert "It was not handled" in one
    assert "/replay" not in one, "a viewer has no button"
    for page in (failed, every, one):
        assert hostile not in page
    button = await site.call("GET", "/itsm-gateway/deliveries/2", role="operator")
    assert "/itsm-gateway/deliveries/2/replay" in button.text
    replayed = await site.call("POST", "/itsm-gateway/deliveries/2/replay", role="operator")
    assert (replayed.status_code, replayed.headers["location"]) == (303, "/itsm-gateway/deliveries/2")
    await site.handle()
    aside = await site.call("POST", "/itsm-gateway/deliveries/2/set-aside", role="operator")
    assert aside.status_code == 303
    assert "Nothing failed" in await site.get("/itsm-gateway/deliveries")
    assert (await site.call("GET", "/itsm-gateway/deliveries/99")).status_code == 404
    assert "1 not handled" not in await site.get("/itsm-gateway/")


async def test_a_secret_is_made_shown_once_and_dropped(site: Site) -> None:
    viewed = await site.get("/itsm-gateway/secrets")
    assert "No secrets" in viewed
    assert "Add a secret" not in viewed
    page = (await site.call("GET", "/itsm-gateway/secrets", role="admin")).text
    form = {
        "connection": " servicenow ",
        "platform": "servicenow",
        "secret_id": await field(site, page, "secret_id"),
        "secret": "",
    }
    made = await site.call("POST", "/itsm-gateway/secrets", role="admin", data=form)
    assert made.status_code == 200
    assert made.headers["cache-control"] == "no-store"
    secret = re.search(r"<code>(whsec_[^<]+)</code>", made.text)
    assert secret is not None
    again = await site.call("POST", "/itsm-gateway/secrets", role="admin", data=form)
    assert again.status_code == 422, "a form that is sent twice makes one secret"
    assert "stored already" in again.text
    shown = (await site.call("GET", "/itsm-gateway/secrets", role="admin")).text
    assert secret[1] not in shown
    assert "/itsm-gateway/webhooks/servicenow" in shown
    drop = re.search(r"/itsm-gateway/secrets/[0-9a-f-]+/drop", shown)
    assert drop is not None
    assert (await site.call("POST", drop[0], role="operator")).status_code == 403
    assert (await site.call("POST", drop[0], role="admin")).status_code == 303
    assert "No secrets" in await site.get("/itsm-gateway/secrets")


async def test_a_refusal_keeps_what_was_typed_but_never_the_secret(site: Site) -> None:
    page = (await site.call("GET", "/itsm-gateway/secrets", role="admin")).text
    form = {"connection": "jira-it", "platform": "jira", "secret_id": await field(site, page, "secret_id")}
    refused = await site.call("POST", "/itsm-gateway/secrets", role="admin", data={**form, "secret": "tooshort!"})
    assert refused.status_code == 422
    assert "24 to 256" in refused.text
    assert 'value="jira-it"' in refused.text
    assert "tooshort!" not in refused.text
