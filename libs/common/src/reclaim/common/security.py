"""Keys: signing what leaves the house, sealing what is stored, and vouching for what was stored.

All take a list of keys, newest first: the first signs or seals, all verify or open. To rotate, put a new key in
front, let what the old one made expire (or seal it again), then drop the old one.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from itsdangerous import BadData, URLSafeSerializer
from itsdangerous.encoding import base64_decode, base64_encode

from reclaim.common.errors import Permanent

NOT_OURS: Final = "The link is damaged or was not made here. Open it again from the original message."


class Forged(Permanent):
    """A signed text was not signed by us, for this purpose, with a key that is still in use."""

    status = 400
    title = "Not a valid link"


class Signer:
    """Signs and verifies small JSON documents as URL-safe text, each for one purpose only (HMAC-SHA-256)."""

    def __init__(self, keys: Sequence[str]) -> None:
        # itsdangerous signs with the last key of its list.
        self._keys = list(reversed(keys))

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        return URLSafeSerializer(self._keys, salt=purpose, signer_kwargs={"digest_method": hashlib.sha256})

    def sign(self, purpose: str, document: Mapping[str, object]) -> str:
        """Return the document as signed text that is valid for this purpose alone."""
        signed = self._serializer(purpose).dumps(dict(document))
        assert isinstance(signed, str)
        return signed

    def verify(self, purpose: str, text: str) -> dict[str, object]:
        """Return the document that was signed for this purpose.

        Raises:
            Forged: anything else, without saying which part was wrong.
        """
        try:
            document = self._serializer(purpose).loads(text)
            signature = text.rpartition(".")[2]
            # The last character has bits that carry nothing: of the texts that differ only there, one is ours.
            canonical = base64_encode(base64_decode(signature)).decode() == signature
        except (BadData, UnicodeEncodeError) as error:
            raise Forged(NOT_OURS) from error
        if not canonical or not isinstance(document, dict):
            raise Forged(NOT_OURS)
        return document


class Sealer:
    """Encrypts credentials for storage and for the bus (Fernet: AES-128-CBC with HMAC-SHA-256)."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def seal(self, secrets: Mapping[str, str]) -> str:
        """Return the secrets as opaque text."""
        return self._fernet.encrypt(msgspec.json.encode(dict(secrets))).decode()

    def open(self, sealed: str) -> dict[str, str]:
        """Return the secrets.

        Raises:
            Permanent: none of the installation's keys opens it.
        """
        with _unopened_is_permanent():
            plain = self._fernet.decrypt(sealed.encode())
        return msgspec.json.decode(plain, type=dict[str, str])

    def reseal(self, sealed: str) -> str:
        """Return the same secrets sealed with the newest key.

        Raises:
            Permanent: none of the installation's keys opens them.
        """
        with _unopened_is_permanent():
            return self._fernet.rotate(sealed.encode()).decode()


SEED_BYTES: Final = 32


class Notary:
    """Signs what others must be able to verify without being able to sign (Ed25519, RFC 8032)."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take seeds of 32 bytes in URL-safe base64, newest first.

        Raises:
            ValueError: a key is something else, or there is none.
        """
        if not keys:
            raise ValueError("no key to sign with")
        private = [Ed25519PrivateKey.from_private_bytes(_seed(key)) for key in keys]
        self._private = private[0]
        self._public = {_key_id(key.public_key().public_bytes_raw()): key.public_key() for key in private}

    @property
    def key_id(self) -> str:
        """The id of the key that signs: the start of its public key's SHA-256."""
        return next(iter(self._public))

    def sign(self, message: bytes) -> str:
        """Return the newest key's signature, in URL-safe base64."""
        return base64.urlsafe_b64encode(self._private.sign(message)).decode()

    def verify(self, key_id: str, message: bytes, signature: str) -> bool:
        """Tell whether the key of that id, which must still be in the list, signed the message."""
        public = self._public.get(key_id)
        if public is None:
            return False
        try:
            public.verify(base64.b64decode(signature, altchars=b"-_", validate=True), message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def knows(self, key_id: str) -> bool:
        """Tell whether the key of that id is in the list."""
        return key_id in self._public

    def public_keys(self) -> dict[str, str]:
        """Return the public keys by id, newest first, each 32 bytes in URL-safe base64."""
        return {
            key_id: base64.urlsafe_b64encode(public.public_bytes_raw()).decode()
            for key_id, public in self._public.items()
        }


def new_seed() -> str:
    """Return a fresh key for a `Notary`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(SEED_BYTES)).decode()


def kept_key(path: Path) -> str:
    """Return the key that a file holds; the first call makes it, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole under another name first: whoever comes at the same time finds all of it or nothing.
    fresh = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
    if not path.exists():
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(new_seed())
            with suppress(FileExistsError):
                # Unlike a rename, a link never replaces a key that somebody else has made meanwhile.
                os.link(fresh, path)
        finally:
            fresh.unlink()
    return path.read_text().strip()


def _seed(key: str) -> bytes:
    seed = base64.b64decode(key, altchars=b"-_", validate=True)
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a key has {SEED_BYTES} bytes")
    return seed


def _key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


@contextmanager
def _unopened_is_permanent() -> Iterator[None]:
    try:
        yield
    except InvalidToken as error:
        raise Permanent(
            "Stored credentials cannot be opened with RECLAIM_SEALING_KEYS. Put the key that sealed them back "
            "into the list, or enter the credentials again."
        ) from error
