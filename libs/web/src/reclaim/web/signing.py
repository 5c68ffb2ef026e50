"""Signed, dated texts for cookies, form nonces and API tokens.

One signer serves one purpose: the purpose is part of the key, so that a text signed for one is worthless for
another. The first key signs, every key verifies; a key is rotated by putting the new one in front, and taking the
old one away once everything it signed has expired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

MIN_KEY_LENGTH: Final = 32
CLOCK_SKEW: Final = timedelta(minutes=10)
"""How far the clocks of two hosts may be apart: what one signed a moment ago is valid on the other."""


class NotSigned(Exception):
    """The text was not signed with one of our keys for this purpose, or it is too old."""


class Signer:
    """Signs small JSON values for one purpose, and reads them back."""

    def __init__(self, keys: Sequence[str], purpose: str, now: Callable[[], datetime]) -> None:
        """Take the keys, newest first.

        Raises:
            ValueError: there is no key, or one is too short to be random.
        """
        if not keys:
            raise ValueError("no secret key: give at least one")
        if any(len(key) < MIN_KEY_LENGTH for key in keys):
            raise ValueError(f"a secret key is shorter than {MIN_KEY_LENGTH} characters: use a random one")

        class ClockSigner(TimestampSigner):
            def get_timestamp(self) -> int:
                return int(now().timestamp())

        self._now = now
        self._serializer = URLSafeTimedSerializer(
            list(reversed(keys)),
            salt=f"reclaim.web.{purpose}",
            signer=ClockSigner,
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )

    def sign(self, value: Any) -> str:
        """Return the value as URL-safe text with the present time and a signature."""
        return self._serializer.dumps(value)

    def read(self, text: str, max_age: timedelta) -> Any:
        """Return the value that was signed.

        Raises:
            NotSigned: the signature is not ours, the text is older than `max_age`, or it is from the future.
        """
        try:
            value, signed_at = self._serializer.loads(text, return_timestamp=True)
        except BadData as error:
            raise NotSigned(str(error)) from error
        age = self._now() - signed_at
        if not -CLOCK_SKEW <= age < max_age:
            raise NotSigned(f"signed {age} ago")
        return value
