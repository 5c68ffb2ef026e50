"""Keys: signing what leaves the house, sealing what is stored.

Both take a list of keys, newest first: the first signs or seals, all verify or open. To rotate, put a new key in
front, let what the old one made expire (or seal it again), then drop the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
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


@contextmanager
def _unopened_is_permanent() -> Iterator[None]:
    try:
        yield
    except InvalidToken as error:
        raise Permanent(
            "Stored credentials cannot be opened with RECLAIM_SEALING_KEYS. Put the key that sealed them back "
            "into the list, or enter the credentials again."
        ) from error
