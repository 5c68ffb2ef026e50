"""Receiving a file, for the API and the pages alike: kept part by part as it comes, read in the background."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Final

from reclaim.common.errors import Conflict, Invalid
from reclaim.connectors.feeds import read_installations, read_usage
from reclaim.scanner import import_store
from reclaim.scanner.import_store import IMPORT, Import
from reclaim.scanner.imports import Wanted, options_of
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import LeaseLost

PART: Final = 512 * 1024
"""Bytes of a file that are kept together: as much of it as memory ever holds. Its heading lies in the first of them."""

MOST_SILENCE: Final = 300.0
"""Seconds without a further part after which a file that is on its way is given up."""


async def receive(deps: Deps, wanted: Wanted, chunks: AsyncIterator[bytes], *, author: str) -> Import:
    """Keep a file as it comes, and have it read. A wrong heading is refused before the rest of the file is taken.

    Raises:
        Invalid: it is empty, too large, or its heading is not that of such an export; nothing is kept.
        Conflict: it came too slowly.
    """
    async with deps.database.unit() as unit:
        import_id = await import_store.begin(
            unit.db,
            source=wanted.source,
            shape=wanted.shape,
            what=wanted.what,
            file_name=wanted.file_name,
            terms=wanted.terms,
            author=author,
            now=unit.now,
            within=MOST_SILENCE,
        )
    try:
        await _keep(deps, wanted, import_id, chunks)
        async with deps.database.unit() as unit:
            await import_store.received(unit.db, import_id)
            unit.wake(IMPORT)
    except LeaseLost as error:
        raise Conflict("The file came too slowly, and was given up. Send it again.") from error
    except BaseException:
        async with deps.database.unit() as unit:
            await import_store.forget(unit.db, import_id)
        raise
    async with deps.database.reading() as db:
        return await import_store.find(db, import_id)


async def _keep(deps: Deps, wanted: Wanted, import_id: str, chunks: AsyncIterator[bytes]) -> None:
    number = total = 0
    async for part in _parts(chunks):
        total += len(part)
        if total > deps.settings.import_most_bytes:
            raise Invalid(
                f"The file has more than {deps.settings.import_most_bytes:,} bytes: send it in several, each with its "
                "heading.",
                field="file",
            )
        if number == 0:
            await asyncio.to_thread(_check_heading, wanted, part, deps)
        async with deps.database.unit() as unit:
            await import_store.add_part(unit.db, import_id, number, part, within=MOST_SILENCE)
        number += 1
    if not total:
        raise Invalid("Choose a CSV file that is not empty.", field="file")


async def _parts(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what comes in parts of one size; the last one is what is left."""
    left = bytearray()
    async for chunk in chunks:
        left += chunk
        while len(left) >= PART:
            yield bytes(left[:PART])
            del left[:PART]
    if left:
        yield bytes(left)


def _check_heading(wanted: Wanted, head: bytes, deps: Deps) -> None:
    read = read_usage if wanted.what == "usage" else read_installations
    read(io.BytesIO(head), wanted.shape, options_of(wanted.terms, wanted.source, deps.clock.now()))
