"""Signed checkpoints of the audit trail: what somebody who can rewrite the whole database cannot rewrite.

A checkpoint says that at an instant the chain had an entry at a position, with a hash. It is signed (Ed25519), so a
forged one shows; and a copy that is kept elsewhere shows that the chain it was taken from is still the one that is
there, whatever happened to the database, the checkpoints in it included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import Database
from reclaim.common.security import Notary
from reclaim.lifecycle import audit_store, store
from reclaim.lifecycle.audit import Link, Verifier
from reclaim.lifecycle.audit_store import Checkpoint

AT_LEAST_EVERY: Final = timedelta(days=1)

_PURPOSE: Final = "reclaim.audit.checkpoint.v1"
"""Signed along, so that the key's signature of anything else is never a checkpoint."""


def signed_text(checkpoint: Checkpoint) -> bytes:
    """Return the bytes that a checkpoint's signature covers: a JSON array of purpose, position, hash, time and key."""
    return msgspec.json.encode(
        [_PURPOSE, checkpoint.position, checkpoint.hash, checkpoint.at, checkpoint.key_id]  # instants end in Z
    )


def sign(notary: Notary, position: int, head: str, at: datetime) -> Checkpoint:
    """Return a signed checkpoint of the chain's entry at `position`."""
    # Whole seconds: the text that is signed is the same from a file, an answer and either database.
    unsigned = Checkpoint(position, head, at.replace(microsecond=0), notary.key_id, "")
    return msgspec.structs.replace(unsigned, signature=notary.sign(signed_text(unsigned)))


def fault_of(checkpoint: Checkpoint, notary: Notary) -> str | None:
    """Say what is wrong with a checkpoint by itself, if anything is."""
    if not notary.knows(checkpoint.key_id):
        return (
            f"the checkpoint at entry {checkpoint.position} is signed with the key {checkpoint.key_id}, "
            "which is not in RECLAIM_AUDIT_KEYS"
        )
    if not notary.verify(checkpoint.key_id, signed_text(checkpoint), checkpoint.signature):
        return f"the checkpoint at entry {checkpoint.position} does not have its signature"
    return None


async def take(database: Database, notary: Notary, *, every: int = 0) -> Checkpoint | None:
    """Sign the end of the chain unless the newest checkpoint still covers it; return the newest one.

    It covers the end until `every` entries were added, or one and a day has passed. None: there are no entries.
    """
    async with database.unit() as unit:
        position, head = await store.audit_head(unit.db)
        newest = await audit_store.newest_checkpoint(unit.db)
        if position == 0:
            return None
        if newest is not None:
            added = position - newest.position
            due = added >= max(every, 1) or (added > 0 and unit.now - newest.at >= AT_LEAST_EVERY)
            if not due:
                return newest
        checkpoint = sign(notary, position, head, unit.now)
        await audit_store.add_checkpoint(unit.db, checkpoint)
    return checkpoint


async def take_when_due(database: Database, notary: Callable[[], Notary], every: int) -> bool:
    """Sign the end of the chain when it is time."""
    await take(database, notary(), every=every)
    return False


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of reading the chain and its checkpoints. `fault` is the first one that was found."""

    entries: int
    head: str
    checkpoints: int
    newest: Checkpoint | None
    fault: str | None

    @property
    def verified(self) -> bool:
        return self.fault is None


async def verify(db: AsyncConnection, notary: Notary, outside: Sequence[Checkpoint] = ()) -> Report:
    """Read the whole chain, and hold it to the checkpoints stored beside it and to those kept `outside`.

    The personal data that is still kept is held to the digests in the chain; what was erased is not missed.
    """
    stored = await audit_store.checkpoints(db)
    comparison = _Comparison([*stored, *outside])
    verifier = Verifier()
    async for page, personal in store.audit_pages(db):
        verifier.read(page, personal)
        comparison.read(page)
    position, head = await store.audit_head(db)
    chain = verifier.finish(position=position, head=head)
    faults = [fault for checkpoint in (*stored, *outside) if (fault := fault_of(checkpoint, notary)) is not None]
    fault = next(iter([*([chain.fault] if chain.fault else []), *faults, *comparison.finish()]), None)
    return Report(chain.entries, chain.head, len(stored) + len(outside), stored[-1] if stored else None, fault)


class _Comparison:
    """Holds the links that pass to the checkpoints of their positions."""

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._open: dict[int, set[str]] = defaultdict(set)
        self._faults: list[str] = []
        for checkpoint in checkpoints:
            self._open[checkpoint.position].add(checkpoint.hash)

    def read(self, links: Iterable[Link]) -> None:
        for link in links:
            expected = self._open.pop(link.position, None)
            if expected is not None and expected != {link.hash}:
                self._faults.append(
                    f"entry {link.position} is not the one that was signed: the trail was rewritten up to there"
                )

    def finish(self) -> list[str]:
        missing = [f"entry {position} was signed and is not there any more" for position in sorted(self._open)]
        return [*self._faults, *missing]
