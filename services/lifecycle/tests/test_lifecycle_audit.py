"""The chain notices whatever is done to it, and does not need the personal data it commits to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from reclaim.lifecycle.audit import GENESIS, Entry, Link, Personal, Verification, Verifier, chain, fresh_salts

AT = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


def entry(number: int, case_id: str = "case-1") -> Entry:
    return Entry(
        case_id=case_id,
        version=number,
        at=AT + timedelta(minutes=number),
        actor="max@example.com",
        channel="email",
        command="decide_keep",
        accepted=True,
        before="flagged",
        after="kept",
        note="kept",
        evidence="",
    )


def links() -> list[Link]:
    return chain([entry(number) for number in range(1, 6)], position=0, previous=GENESIS)


def read(found: list[Link], *, written: list[Link] | None = None) -> Verification:
    last = (written or links())[-1]
    verifier = Verifier()
    verifier.read(found[:2])
    verifier.read(found[2:])
    return verifier.finish(position=last.position, head=last.hash)


def test_what_was_written_verifies() -> None:
    assert read(links()).verified
    assert read(links()).entries == 5


def test_an_empty_chain_verifies() -> None:
    assert Verifier().finish(position=0, head=GENESIS).verified


@pytest.mark.parametrize("field", ["actor", "note", "evidence", "after", "case_id", "command"])
def test_a_changed_entry_is_noticed(field: str) -> None:
    found = links()
    found[2] = replace(found[2], entry=replace(found[2].entry, **{field: "other"}))
    fault = read(found).fault
    assert fault is not None
    assert "entry 3 was changed" in fault


def test_a_removed_entry_is_noticed() -> None:
    found = links()
    del found[2]
    assert read(found).fault == "entry 3 is missing: after 2 comes 4"


def test_entries_cut_off_at_the_end_are_noticed() -> None:
    assert read(links()[:3]).fault == "the chain ends at entry 3, but 5 entries were written"


def test_a_chain_forged_from_the_middle_is_noticed() -> None:
    found = links()[:2] + chain([entry(3), entry(4), entry(5)], position=2, previous=GENESIS)
    assert read(found).fault == "entry 3 does not follow the entry before it"


def test_a_whole_forged_chain_does_not_fit_the_head() -> None:
    forged = chain([replace(entry(n), note="forged") for n in range(1, 6)], position=0, previous=GENESIS)
    assert not read(forged).verified


def test_a_gap_in_the_versions_of_a_case_is_noticed() -> None:
    gap = chain([entry(1), entry(3)], position=0, previous=GENESIS)
    fault = read(gap, written=gap).fault
    assert fault is not None
    assert "version 3" in fault


def test_a_refused_command_has_a_place_but_no_version() -> None:
    refused = replace(entry(1), accepted=False)
    found = chain([entry(1), refused, entry(2)], position=0, previous=GENESIS)
    assert read(found, written=found).verified


def test_personal_data_can_be_proved_and_is_not_in_the_digest() -> None:
    one, other = fresh_salts(2)
    data = Personal.of("192.0.2.7", "Browser/1", one)
    assert data is not None
    again = Personal.of("192.0.2.7", "Browser/1", other)
    assert again is not None
    assert data.digest() == Personal(data.salt, "192.0.2.7", "Browser/1").digest()
    assert data.digest() != again.digest(), "without the salt nobody can try addresses"
    assert Personal.of(None, None, one) is None


def test_salts_have_128_bits_and_are_never_the_same() -> None:
    salts = fresh_salts(50) + fresh_salts(50)
    assert len(set(salts)) == 100
    assert all(len(bytes.fromhex(salt)) == 16 for salt in salts)
    assert fresh_salts(0) == []
