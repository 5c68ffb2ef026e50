"""The secrets that webhooks are verified with: sealed in the database, opened here, shown once when they are made.

A connection has two at most, so that one can be replaced while both verify. What was opened stays in memory: a new
secret counts within a second of its making, whichever process it was given to; one that was dropped verifies nothing
from then on, because the transaction that stores a webhook looks whether its secret is still there.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final

from sqlalchemy.exc import IntegrityError

from reclaim.common.db import Database
from reclaim.common.errors import Conflict, Invalid, NotFound, Permanent
from reclaim.common.ids import new_id
from reclaim.common.security import Sealer
from reclaim.itsm_gateway import delivery_store
from reclaim.itsm_gateway.delivery_store import MOST_SECRETS, StoredSecret
from reclaim.itsm_gateway.hints import Platform
from reclaim.itsm_gateway.webhooks import SCHEMES, Key, check_secret

log = logging.getLogger(__name__)

FRESH_FOR: Final = 1.0
"""Seconds for which a webhook that no known secret verifies is no reason to look for new ones."""


class Keyring:
    """The active secrets of every connection. `given` are those of the settings, which no page can drop."""

    def __init__(self, database: Database, sealer: Sealer, given: Mapping[str, Sequence[str]]) -> None:
        self._database = database
        self._sealer = sealer
        self._given = {
            connection_id: tuple(Key(None, "generic", secret) for secret in listed)
            for connection_id, listed in given.items()
            if listed
        }
        self._keys: Mapping[str, Sequence[Key]] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    @property
    def given(self) -> frozenset[str]:
        """The connections that have secrets in the settings."""
        return frozenset(self._given)

    async def keys(self, connection_id: str) -> Sequence[Key]:
        """Return a connection's secrets; none of them may be in use any more."""
        if self._read_at is None:
            await self.refresh()
        return self._keys.get(connection_id, ())

    async def refresh(self) -> bool:
        """Look for new secrets, unless that was done a moment ago; tell whether there are others than before."""
        async with self._reading:
            if self._read_at is not None and monotonic() - self._read_at < FRESH_FOR:
                return False
            began = monotonic()
            async with self._database.reading() as db:
                stored = await delivery_store.secrets(db)
            before, self._keys, self._read_at = self._keys, self._opened(stored), began
            return self._keys != before

    def _opened(self, stored: Sequence[StoredSecret]) -> dict[str, Sequence[Key]]:
        known = {key.id: key for keys in self._keys.values() for key in keys}
        found: dict[str, list[Key]] = defaultdict(list)
        for connection_id, keys in self._given.items():
            found[connection_id].extend(keys)
        for one in stored:
            try:
                key = known.get(one.id) or Key(one.id, one.platform, self._sealer.open(one.sealed)["secret"])
            except Permanent as error:
                log.error("a webhook secret of %r is of no use: %s", one.connection_id, error)  # noqa: TRY400
                continue
            # The scheme is the connection's: its first secret says which.
            if not found[one.connection_id] or found[one.connection_id][0].platform == key.platform:
                found[one.connection_id].append(key)
        return dict(found)

    async def add(
        self, connection_id: str, platform: Platform, secret: str | None, *, by: str, secret_id: str | None = None
    ) -> tuple[StoredSecret, str]:
        """Store a secret, making one if none is given, and return it: the only time that it is shown.

        `secret_id` lets a form that is sent twice store one.

        Raises:
            Invalid: the connection's id or the secret does not fit.
            Conflict: there are two already, they are of another platform, or the form was sent before.
        """
        if not connection_id or len(connection_id) > 200 or "/" in connection_id or not connection_id.isprintable():
            raise Invalid("Enter the connection's id: up to 200 characters, without a slash.", field="connection_id")
        if secret is None:
            secret = _made(platform)
        check_secret(platform, secret)
        await self._is_nobody_elses(connection_id, secret)
        try:
            async with self._database.unit() as unit:
                slots = await delivery_store.slots(unit.db, connection_id)
                in_use = {*slots.values(), *(key.platform for key in self._given.get(connection_id, ()))}
                if in_use - {platform}:
                    raise Conflict(f"The secrets of {connection_id} are for {in_use.pop()}. Drop them first.")
                free = sorted(set(range(MOST_SECRETS)) - set(slots))
                if not free:
                    raise Conflict(
                        f"{connection_id} has two active secrets already. Drop the one that no sender uses any more."
                    )
                sealed = self._sealer.seal({"secret": secret})
                stored = StoredSecret(secret_id or new_id(), connection_id, platform, sealed, unit.now, by)
                await delivery_store.add_secret(unit.db, stored, free[0])
        except IntegrityError as error:
            raise Conflict(
                "This secret was stored already, or somebody else added one just now. Open the list and look."
            ) from error
        self._read_at = None
        return stored, secret

    async def _is_nobody_elses(self, connection_id: str, secret: str) -> None:
        # No scheme signs which connection is meant: with one secret for two, a webhook for one is valid for the other.
        self._read_at = None
        await self.refresh()
        for other, keys in self._keys.items():
            if any(secrets.compare_digest(key.secret.encode(), secret.encode()) for key in keys):
                where = "this connection" if other == connection_id else "another connection"
                raise Conflict(f"This secret is in use for {where} already. Enter another.")

    async def drop(self, secret_id: str) -> None:
        """Delete a secret: from now on it verifies nothing.

        Raises:
            NotFound: there is none of that id.
        """
        async with self._database.unit() as unit:
            if not await delivery_store.drop_secret(unit.db, secret_id):
                raise NotFound("No such secret. The list has those that are active.")
        self._read_at = None


def _made(platform: Platform) -> str:
    if SCHEMES[platform] == "standard":
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(32)
