"""What is signed is ours and for one purpose; what is sealed opens with an installation's keys and no other."""

from __future__ import annotations

import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from reclaim.common.errors import Permanent
from reclaim.common.security import Forged, Notary, Sealer, Signer, kept_key, new_seed

OLD, NEW = "o" * 32, "n" * 32
LINK = {"case": "case-1", "epoch": 3, "allowed": ["keep", "revoke"], "expires": "2026-11-16T09:00:00Z"}
BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"


def test_what_was_signed_comes_back_as_it_was() -> None:
    signer = Signer([NEW])
    assert signer.verify("decision", signer.sign("decision", LINK)) == LINK
    assert set(signer.sign("decision", LINK)) <= set(BASE64 + "."), "it travels in a URL"


def test_a_signature_is_for_one_purpose() -> None:
    signer = Signer([NEW])
    for other in ("", "decisio", "decisions", "session", "decisionsigner"):
        with pytest.raises(Forged):
            signer.verify(other, signer.sign("decision", LINK))


def test_no_character_of_a_signed_text_can_be_changed() -> None:
    signer = Signer([NEW])
    signed = signer.sign("decision", LINK)
    for at in range(len(signed)):
        for other in BASE64 + ".~ é":
            if other == signed[at]:
                continue
            with pytest.raises(Forged):
                signer.verify("decision", signed[:at] + other + signed[at + 1 :])


@pytest.mark.parametrize("change", ["", ".", "..", "a.b", "é.é", "\ud800.\ud800", "\0", "." * 10_000, "null", "{}"])
def test_any_other_text_is_refused_in_the_same_words(change: str) -> None:
    signer = Signer([NEW])
    with pytest.raises(Forged) as made_up:
        signer.verify("decision", change)
    with pytest.raises(Forged) as damaged:
        signer.verify("decision", signer.sign("decision", LINK)[:-4])
    assert made_up.value.detail == damaged.value.detail
    assert made_up.value.status == 400


@given(st.text(max_size=200))
def test_no_text_makes_verifying_fail_in_another_way(text: str) -> None:
    with pytest.raises(Forged):
        Signer([NEW]).verify("decision", text)


def test_a_longer_or_shorter_text_is_refused() -> None:
    signer = Signer([NEW])
    signed = signer.sign("decision", LINK)
    for text in (signed + "A", "A" + signed, signed[1:], signed[:-1], signed + signed, signed.replace(".", "")):
        with pytest.raises(Forged):
            signer.verify("decision", text)


def test_keys_are_rotated_by_putting_a_new_one_in_front() -> None:
    before, during, after = Signer([OLD]), Signer([NEW, OLD]), Signer([NEW])
    links = before.sign("decision", LINK)
    assert during.verify("decision", links) == LINK
    assert after.verify("decision", during.sign("decision", LINK)) == LINK, "new links are signed with the new key"
    with pytest.raises(Forged):
        after.verify("decision", links)
    with pytest.raises(Forged):
        before.verify("decision", during.sign("decision", LINK))


def test_an_expiry_is_part_of_the_document_and_judged_by_its_reader() -> None:
    signer = Signer([NEW])
    expired = {"expires": "1999-01-01T00:00:00Z"}
    assert signer.verify("decision", signer.sign("decision", expired)) == expired


def test_what_was_sealed_cannot_be_read_and_opens_again() -> None:
    sealer = Sealer([Fernet.generate_key().decode()])
    secrets = {"client_secret": "hunter2", "private_key": "-----BEGIN\nZoë"}
    sealed = sealer.seal(secrets)
    assert "hunter2" not in sealed
    assert sealer.open(sealed) == secrets
    assert sealer.seal(secrets) != sealed, "equal secrets do not look equal"


def test_sealed_secrets_move_to_the_newest_key() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    before, during, after = Sealer([old]), Sealer([new, old]), Sealer([new])
    sealed = before.seal({"token": "t"})
    assert during.open(sealed) == {"token": "t"}
    moved = during.reseal(sealed)
    assert after.open(moved) == during.open(moved) == {"token": "t"}
    for attempt in (before.open, before.reseal):
        with pytest.raises(Permanent, match="RECLAIM_SEALING_KEYS"):
            attempt(moved)


@pytest.mark.parametrize("text", ["", "gAAAAA", "not sealed at all", "é"])
def test_what_no_key_opens_says_what_to_do(text: str) -> None:
    sealer = Sealer([Fernet.generate_key().decode()])
    for attempt in (sealer.open, sealer.reseal):
        with pytest.raises(Permanent, match="Put the key that sealed them back into the list") as refused:
            attempt(text)
        assert str(refused.value).count(text or "RECLAIM_SEALING_KEYS") <= 1


def test_sealed_secrets_cannot_be_altered() -> None:
    sealer = Sealer([Fernet.generate_key().decode()])
    sealed = sealer.seal({"token": "t"})
    for at in range(len(sealed.rstrip("=")) - 1):
        with pytest.raises(Permanent):
            sealer.open(sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :])


def test_what_a_notary_signed_is_verified_with_any_key_of_the_list() -> None:
    old, new = new_seed(), new_seed()
    before, during, after = Notary([old]), Notary([new, old]), Notary([new])
    signature = before.sign(b"text")
    assert during.verify(before.key_id, b"text", signature)
    assert during.key_id == after.key_id, "the newest signs"
    assert not after.knows(before.key_id)
    assert not after.verify(before.key_id, b"text", signature)
    assert not during.verify(during.key_id, b"text", signature), "each signature belongs to its key"
    assert list(during.public_keys()) == [after.key_id, before.key_id]


@pytest.mark.parametrize("signature", ["", "é", "AAAA", "not base64!", "=" * 88])
def test_a_notary_takes_nothing_that_is_no_signature(signature: str) -> None:
    notary = Notary([new_seed()])
    assert not notary.verify(notary.key_id, b"text", signature)
    assert not notary.verify(notary.key_id, b"other", notary.sign(b"text"))


@pytest.mark.parametrize("key", ["", "short", "A" * 43, "é" * 44, "A" * 44 + "===="])
def test_a_notary_needs_seeds(key: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        Notary([key])
    assert key not in str(refused.value) or not key


def test_a_kept_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: kept_key(path), range(8)))
    assert len(keys) == 1, "whoever comes at the same time gets the same"
    assert kept_key(path) in keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["audit.key"]
