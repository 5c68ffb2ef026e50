"""No altered webhook is accepted. `make fuzz` tries a million in process and twenty thousand over TCP."""

from __future__ import annotations

from pathlib import Path

import pytest

from reclaim.itsm_gateway import webhooks
from tests.fuzz.webhooks import LARGEST_BODY, Mutator, gateway, in_process, originals, over_tcp


@pytest.mark.parametrize(
    ("requests", "tcp"), [(100_000, 2_000), pytest.param(1_000_000, 20_000, marks=pytest.mark.long)]
)
@pytest.mark.timeout(900)
async def test_no_altered_webhook_is_accepted(tmp_path: Path, requests: int, tcp: int) -> None:
    async with gateway(tmp_path) as site:
        inside = await in_process(site, requests, seed=1)
        outside = await over_tcp(site, tcp, seed=2)
        deliveries = (await site.get("/itsm-gateway/api/deliveries?limit=1000"))["deliveries"]
    assert inside.wrong == []
    assert outside.wrong == []
    assert (inside.total, outside.total) == (requests, tcp)
    for found in (inside, outside):
        assert found.most_read <= LARGEST_BODY + 64 * 1024
        assert found.statuses[401] > found.total / 2, "it is the door that refuses, not the parser in front of it"
    assert {one["state"] for one in deliveries} == {"waiting"}, "what is stored are the originals"


def test_the_same_seed_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    valid = originals()
    one, two = Mutator(7), Mutator(7)
    assert [one.draw(valid).body for _ in range(200)] == [two.draw(valid).body for _ in range(200)]


async def test_a_lenient_door_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature's other spellings, a time with a fraction: what a plain use of the library takes must show here."""

    def lenient(connection_id, keys, body, headers, now):  # type: ignore[no-untyped-def]
        if keys and webhooks.SCHEMES[keys[0].platform] == "standard":
            for key in keys:
                try:
                    key.webhook.verify(body, dict(headers), json_parse=False)
                except Exception:
                    continue
                return webhooks.Verified(key, headers["webhook-id"], (f"{headers}",))
        raise webhooks.Refused

    async with gateway(tmp_path) as site:
        monkeypatch.setattr("tests.fuzz.webhooks.originals", lambda: originals()[:6])
        monkeypatch.setattr(webhooks, "verify", lenient)
        found = await in_process(site, 3_000, seed=3)
    assert found.wrong
