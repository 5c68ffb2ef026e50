"""The audit trail against those who change it: one entry, all of it, its end, its checkpoints, or the keys."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaim.common.security import Notary, new_seed
from reclaim.lifecycle import audit, audit_store, store
from reclaim.lifecycle.checkpoints import fault_of, sign, signed_text, take, verify
from reclaim.web.operators import Role
from services.lifecycle.tests.lifecycle_site import (
    DAY,
    NOW,
    Site,
    case_id,
    decided,
    delivered,
    either_database,
    flagged,
    serving,
)

__all__ = ["either_database"]

AUDIT = "/lifecycle/api/audit"


async def some_history(site: Site) -> None:
    """Three cases and six entries, two of them with an address and a browser."""
    await site.tell(*(flagged(number) for number in range(3)), source="scanner")
    await site.tell(delivered(0))
    await site.tell(decided(0, "keep"), decided(1, "keep", actor="Ada@Example.com"))


async def rewrite(site: Site) -> None:
    """Replace the whole chain by another that is right in itself, as somebody with the database would."""
    async with site.database.unit() as unit:
        links = [link async for page, _ in store.audit_pages(unit.db) for link in page]
        forged = [msgspec.structs.replace(link.entry, actor="somebody else") for link in links]
        chain = audit.chain(forged, position=0, previous=audit.GENESIS)
        for link in chain:
            await unit.db.execute(
                store.AUDIT.update()
                .where(store.AUDIT.c.position == link.position)
                .values(actor=link.entry.actor, previous=link.previous, hash=link.hash)
            )
        await unit.db.execute(store.AUDIT_HEAD.update().values(hash=chain[-1].hash))


async def verified(site: Site, *outside: dict[str, Any]) -> dict[str, Any]:
    async with site.client("viewer") as http:
        answer = await http.post(f"{AUDIT}/verify", json={"checkpoints": list(outside)})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def signed(site: Site) -> dict[str, Any]:
    async with site.client("operator") as http:
        answer = await http.post(f"{AUDIT}/checkpoints")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_checkpoint_vouches_for_the_end_of_the_chain(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        checkpoint = await signed(site)
        found = await verified(site, checkpoint)
        assert (found["verified"], found["entries"], found["checkpoints"]) == (True, 6, 2)
        assert found["newest_checkpoint"] == checkpoint
        assert checkpoint["hash"] == found["head"]
        assert await signed(site) == checkpoint, "nothing was added: nothing is signed again"
        async with site.client("viewer") as http:
            assert (await http.get(f"{AUDIT}/verify")).json()["verified"]
            assert (await http.get(f"{AUDIT}/checkpoints")).json() == {"checkpoints": [checkpoint]}


async def test_a_rewritten_database_is_caught_by_a_checkpoint_inside(
    either_database: str | None, tmp_path: Path
) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        await signed(site)
        await rewrite(site)
        found = await verified(site)
        assert not found["verified"]
        assert "entry 6 is not the one that was signed" in found["fault"]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE personal SET ip = '198.51.100.1' WHERE position = 5",
        "UPDATE personal SET ip = NULL WHERE position = 5",
        "UPDATE personal SET user_agent = 'Another/2' WHERE position = 5",
        "UPDATE personal SET salt = '00' WHERE position = 5",
    ],
    ids=["address", "no address", "browser", "salt"],
)
async def test_an_address_or_browser_that_was_changed_is_caught(
    either_database: str | None, tmp_path: Path, change: str
) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        assert (await verified(site))["verified"]
        await site.sql(change)
        found = await verified(site)
        assert found["fault"] == "the address and browser kept beside entry 5 are not those it was written with"


async def test_one_persons_address_beside_anothers_decision_is_caught(
    either_database: str | None, tmp_path: Path
) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        await site.sql("UPDATE personal SET position = 7 WHERE position = 5")
        await site.sql("UPDATE personal SET position = 5 WHERE position = 6")
        await site.sql("UPDATE personal SET position = 6 WHERE position = 7")
        found = await verified(site)
        assert "beside entry 5 are not those" in found["fault"], "the salt is each entry's own"


async def test_an_address_beside_an_entry_that_never_had_one_is_caught(
    either_database: str | None, tmp_path: Path
) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        await site.sql("UPDATE personal SET position = 4 WHERE position = 6")
        assert "beside entry 4 are not those" in (await verified(site))["fault"]


async def test_personal_data_is_verified_on_every_page(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        async with site.database.reading() as db:
            pages = [
                ([link.position for link in links], sorted(kept)) async for links, kept in store.audit_pages(db, size=2)
            ]
        assert pages == [([1, 2], []), ([3, 4], []), ([5, 6], [5, 6])]


async def test_a_database_rewritten_with_its_checkpoints_is_caught_by_one_outside(
    either_database: str | None, tmp_path: Path
) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        outside = await signed(site)
        await rewrite(site)
        await site.sql("DELETE FROM audit_checkpoint")
        await signed(site)  # with the installation's own key, even
        assert (await verified(site))["verified"], "from inside alone it cannot be told"
        found = await verified(site, outside)
        assert "was rewritten" in found["fault"]


async def test_an_end_cut_off_cleanly_is_caught(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        outside = await signed(site)
        async with site.database.reading() as db:
            links = [link async for page, _ in store.audit_pages(db) for link in page]
        await site.sql("DELETE FROM audit WHERE position > 4")
        await site.sql("DELETE FROM audit_checkpoint")
        await site.sql(f"UPDATE audit_head SET position = 4, hash = '{links[3].hash}'")
        assert (await verified(site))["verified"]
        assert (await verified(site, outside))["fault"] == "entry 6 was signed and is not there any more"


@pytest.mark.parametrize("field", ["position", "hash", "at", "key_id", "signature"])
async def test_a_checkpoint_that_was_changed_anywhere_is_caught(field: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await some_history(site)
        forged: dict[str, Any] = {
            "position": 5, "hash": "0" * 64, "at": "2026-11-01T00:00:00Z", "key_id": "0" * 16, "signature": "AAAA",
        }  # fmt: skip
        checkpoint = await signed(site) | {field: forged[field]}
        assert not (await verified(site, checkpoint))["verified"]
        await site.sql(
            f"UPDATE audit_checkpoint SET {field} = '{str(checkpoint[field]).replace('T', ' ').rstrip('Z')}'"
        )
        assert not (await verified(site))["verified"]


async def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.client("viewer") as http:
        answer = await http.post(f"{AUDIT}/verify", json={"checkpoints": [{"position": "six"}]})
        assert answer.status_code == 422
        assert "no checkpoint" in answer.json()["detail"]


async def test_there_is_nothing_to_sign_before_the_first_entry(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.client("operator") as http:
        assert (await http.post(f"{AUDIT}/checkpoints")).status_code == 409
        await site.once("checkpoint")
        assert (await verified(site))["verified"]


async def test_old_keys_verify_and_removed_ones_do_not(tmp_path: Path) -> None:
    old, new = new_seed(), new_seed()
    async with serving(tmp_path, audit_keys=[old]) as site:
        await some_history(site)
        checkpoint = await signed(site)
    async with serving(tmp_path, audit_keys=[new, old]) as site:
        assert (await verified(site, checkpoint))["verified"]
        await site.tell(flagged(5), source="scanner")
        assert (await signed(site))["key_id"] != checkpoint["key_id"]
    async with serving(tmp_path, audit_keys=[new]) as site:
        assert "not in RECLAIM_AUDIT_KEYS" in (await verified(site))["fault"]


async def test_without_a_setting_the_key_is_kept_beside_the_data(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await some_history(site)
        await signed(site)
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    async with serving(tmp_path) as site:
        assert (await verified(site))["verified"], "the same key after a start"


async def test_anybody_can_verify_a_checkpoint_with_the_public_key(tmp_path: Path) -> None:
    """Not by our code: by the format that the guide describes."""
    async with serving(tmp_path) as site:
        await some_history(site)
        checkpoint = await signed(site)
        async with site.client("viewer") as http:
            (key,) = (await http.get(f"{AUDIT}/keys")).json()["keys"]
    text = json.dumps(
        ["reclaim.audit.checkpoint.v1", *(checkpoint[name] for name in ("position", "hash", "at", "key_id"))],
        separators=(",", ":"),
    )
    public = base64.urlsafe_b64decode(key["public_key"])
    Ed25519PublicKey.from_public_bytes(public).verify(base64.urlsafe_b64decode(checkpoint["signature"]), text.encode())
    assert key["key_id"] == checkpoint["key_id"] == hashlib.sha256(public).hexdigest()[:16]


async def test_the_job_signs_after_so_many_entries_or_a_day(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        notary = Notary([new_seed()])

        async def run(every: int) -> int:
            await take(site.database, notary, every=every)
            async with site.database.reading() as db:
                return len(await audit_store.checkpoints(db))

        await site.tell(flagged(0), source="scanner")
        assert await run(3) == 1, "the first entries are signed at once"
        await site.tell(flagged(1), flagged(2), source="scanner")
        assert await run(3) == 1
        await site.tell(flagged(3), source="scanner")
        assert await run(3) == 2
        site.clock.advance(DAY)
        assert await run(3) == 2, "nothing was added"
        await site.tell(flagged(4), source="scanner")
        assert await run(3) == 3, "a day, and one entry"
        async with site.database.reading() as db:
            assert (await verify(db, notary)).verified


@settings(max_examples=50, deadline=None)
@given(
    position=st.integers(1, 2**62),
    seconds=st.integers(0, 10**9),
    micro=st.integers(0, 999_999),
    change=st.sampled_from(["position", "hash", "at", "key_id"]),
)
def test_a_signature_covers_every_field(position: int, seconds: int, micro: int, change: str) -> None:
    notary = Notary([new_seed()])
    at = NOW + timedelta(seconds=seconds, microseconds=micro)
    checkpoint = sign(notary, position, "ab" * 32, at)
    assert fault_of(checkpoint, notary) is None
    travelled = msgspec.json.decode(msgspec.json.encode(checkpoint), type=audit_store.Checkpoint)
    assert signed_text(travelled) == signed_text(checkpoint)
    other: dict[str, Any] = {"position": position + 1, "hash": "cd" * 32, "at": at + DAY, "key_id": "0" * 16}
    assert fault_of(msgspec.structs.replace(checkpoint, **{change: other[change]}), notary) is not None


# Export.


async def exported(site: Site, role: Role = "viewer", **query: Any) -> str:
    async with site.client(role) as http:
        answer = await http.get(f"{AUDIT}/export", params=query)
    assert answer.status_code == 200, answer.text
    assert f"audit.{query['format']}" in answer.headers["content-disposition"]
    return answer.content.decode("utf-8-sig" if query["format"] == "csv" else "utf-8")


async def test_a_csv_export_has_every_entry_and_nothing_personal(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        text = await exported(site, format="csv")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert [int(row["position"]) for row in rows] == [1, 2, 3, 4, 5, 6]
        assert {row["case"] for row in rows} == {case_id(0), case_id(1), case_id(2)}
        assert (rows[4]["actor"], rows[4]["before"], rows[4]["after"]) == (
            "max@example.com",
            "awaiting_decision",
            "kept",
        )
        assert rows[0]["at"] == "2026-11-02T09:00:00+00:00"
        assert all(after["previous"] == before["hash"] for before, after in itertools.pairwise(rows))
        assert "192.0.2.7" not in text
        assert "ip" not in rows[0]


async def test_an_administrator_may_export_addresses_and_nobody_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await some_history(site)
        lines = [
            json.loads(line) for line in (await exported(site, "admin", format="jsonl", personal=True)).splitlines()
        ]
        assert [line["ip"] for line in lines] == [None, None, None, None, "192.0.2.7", "192.0.2.7"]
        for role in ("viewer", "operator"):
            async with site.client(role) as http:  # type: ignore[arg-type]
                answer = await http.get(f"{AUDIT}/export", params={"format": "csv", "personal": "true"})
            assert answer.status_code == 403


async def test_an_export_is_enough_to_verify_the_chain_without_us(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        lines = [json.loads(line) for line in (await exported(site, format="jsonl")).splitlines()]
    previous = "0" * 64
    for line in lines:
        entry = {name: line[name] for name in ("version", "at", "actor", "channel", "command", "accepted")}
        entry |= {name: line[name] for name in ("before", "after", "note", "evidence")}
        entry |= {"case_id": line["case"], "personal": line["personal_digest"]}
        text = json.dumps(
            [line["position"], previous, dict(sorted(entry.items()))], separators=(",", ":"), ensure_ascii=False
        )
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert line["hash"] == previous


async def test_an_export_can_be_narrowed_down(either_database: str | None, tmp_path: Path) -> None:
    async with serving(tmp_path, either_database) as site:
        await site.tell(flagged(0), source="scanner")
        site.clock.advance(DAY)
        await site.tell(flagged(1), source="scanner")
        site.clock.advance(DAY)
        await site.tell(flagged(2), source="scanner")

        async def cases(**query: str) -> list[str]:
            text = await exported(site, format="jsonl", **query)
            return [json.loads(line)["case"] for line in text.splitlines()]

        assert await cases(case_id=case_id(1)) == [case_id(1)]
        assert await cases(**{"from": "2026-11-03"}) == [case_id(1), case_id(2)]
        assert await cases(to="2026-11-03") == [case_id(0), case_id(1)], "the day that is named is included"
        assert await cases(**{"from": "2026-11-03T09:00:00Z", "to": "2026-11-04T09:00:00Z"}) == [case_id(1)]
        async with site.client("viewer") as http:
            for wrong in ("yesterday", "9999-12-31", "2026-13-01"):
                answer = await http.get(f"{AUDIT}/export", params={"format": "csv", "to": wrong})
                assert answer.status_code == 422


async def test_an_export_pages_through_and_stops_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_store, "PAGE", 2)
    async with serving(tmp_path) as site:
        await some_history(site)
        pages = audit_store.moments(site.database, up_to=6)
        first = await anext(pages)
        await site.tell(flagged(7), source="scanner")
        rest = [[moment.link.position for moment in page] async for page in pages]
        assert [[moment.link.position for moment in first], *rest] == [[1, 2], [3, 4], [5, 6]]
        assert len((await exported(site, format="jsonl")).splitlines()) == 7


# Erasure.


async def test_a_persons_address_is_erased_on_request_and_that_is_recorded(
    either_database: str | None, tmp_path: Path
) -> None:
    async with serving(tmp_path, either_database) as site:
        await some_history(site)
        before = await signed(site)
        async with site.client("admin") as http:
            answer = await http.post(f"{AUDIT}/erase", json={"actor": "ada@example.com", "reason": "Ada asked"})
        assert answer.json() == {"actor": "ada@example.com", "entries": 1}
        assert (await site.history(case_id(1)))[-1].ip is None
        assert (await site.history(case_id(0)))[-1].ip == "192.0.2.7", "of others nothing is erased"
        found = await verified(site, before)
        assert (found["verified"], found["entries"]) == (True, 7)
        lines = [
            json.loads(line) for line in (await exported(site, "admin", format="jsonl", personal=True)).splitlines()
        ]
        assert [line["ip"] for line in lines[4:]] == ["192.0.2.7", None, None], "not even for administrators"
        last = lines[-1]
        assert (last["command"], last["actor"], last["evidence"]) == ("erase_personal", "admin", "Ada asked")
        assert last["note"] == "address and browser of ada@example.com erased from 1 entry"
        assert "192.0.2.7" not in json.dumps(last)
        # Asked for again it finds nothing, and says so.
        async with site.client("admin") as http:
            again = await http.post(f"{AUDIT}/erase", json={"actor": "ada@example.com", "reason": "Ada asked"})
        assert again.json()["entries"] == 0
        assert (await verified(site))["verified"]


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_only_administrators_erase(role: Role, tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.client(role) as http:
        answer = await http.post(f"{AUDIT}/erase", json={"actor": "a@example.com", "reason": "r"})
        assert answer.status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/verify"), ("GET", "/verify"), ("GET", "/checkpoints"), ("POST", "/checkpoints"), ("GET", "/keys"),
     ("GET", "/export"), ("POST", "/erase")],
)  # fmt: skip
async def test_nothing_of_the_trail_is_open_to_strangers(method: str, path: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.client("viewer") as http:
        del http.headers["authorization"]
        assert (await http.request(method, AUDIT + path, json={})).status_code == 401


async def test_viewers_do_not_sign(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await some_history(site)
        async with site.client("viewer") as http:
            assert (await http.post(f"{AUDIT}/checkpoints")).status_code == 403


async def test_the_page_verifies_and_offers_the_export(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await some_history(site)
        browser = await site.browser("operator")
        page = await browser.get("/lifecycle/audit")
        assert "Verified" in page
        assert "With address and browser" not in page, "for administrators"
        assert (await browser.post("/lifecycle/audit/checkpoint", {})).status_code == 303
        assert "1 signed checkpoint" in await browser.get("/lifecycle/audit")
        assert "With address and browser" in await (await site.browser("admin")).get("/lifecycle/audit")
        await rewrite(site)
        assert "is not what was written" in await browser.get("/lifecycle/audit")
