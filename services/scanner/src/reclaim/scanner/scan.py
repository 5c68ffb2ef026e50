"""Reads one org for one rule: the part that a scan and its preview share, so that both see the same seats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from reclaim.common.contracts import Money
from reclaim.common.db import Database
from reclaim.common.errors import Transient
from reclaim.common.tasks import ahead
from reclaim.connectors.ports import Incomplete, Members, SeatReader, SeatRecord, Survey
from reclaim.scanner import catalog_store, exclusion_store, groups, known_seats, store
from reclaim.scanner.catalog import Coverage
from reclaim.scanner.choosing import chooser
from reclaim.scanner.domain import (
    Assessed,
    Baseline,
    Found,
    Spared,
    Stopped,
    Tally,
    Terms,
    assess,
    check_population,
    check_share,
    expected_seats,
    missing_readings,
    must_apply,
    price_of,
)
from reclaim.scanner.filters import Condition
from reclaim.scanner.judging import Judge, tells_use
from reclaim.scanner.known_seats import Reporting, Unwritten
from reclaim.scanner.ports import Deps
from reclaim.scanner.spool import Spool
from reclaim.scanner.store import Connection
from reclaim.scanner.suites import comparable, described, folded, pooled, readable, spread

NOTHING_YET: Final = Assessed(0, 0, 0, (), ())
"""What became of a page that is judged later."""

PREVIEW_SHOWN: Final = 500
"""Seats that a preview lists one by one; the counts and the money are of all."""


@dataclass(slots=True)
class Scan:
    """One reading of an org by one rule's terms, as of `now`. `run_id` is None for a preview, which changes nothing.

    `covered` is what the rule's products come to, `related` the suites and components that each of them goes with.
    Everybody is read; with `only`, no more than these holders are judged. `groups` has who is in each group that the
    filters or the exclusions name.
    """

    terms: Terms
    connection_id: str
    prices: dict[str, Money]
    baseline: Baseline | None
    now: datetime
    covered: Coverage
    related: Mapping[str, frozenset[str]]
    run_id: str | None = None
    only: Collection[str] | None = None
    tally: Tally = field(default_factory=Tally)
    products: list[str] = field(default_factory=list)
    groups: dict[str, Members] = field(default_factory=dict)
    unwritten: Unwritten | None = field(init=False)

    def __post_init__(self) -> None:
        self.unwritten = Unwritten(self.now) if self.run_id is None else None

    async def begin(self, reader: SeatReader, database: Database) -> Survey:
        """Compare the org with the last good scan, and read what the filters and the safety checks need.

        Raises:
            Stopped: what the org announces cannot be everybody.
            Transient: the org did not answer; reading it again later may help.
            Permanent: a person has to mend the connection.
        """
        licences = await reader.licences()
        self.products = readable(self.covered, licences)
        expected = expected_seats(self.terms, pooled(licences, self.covered.suites))
        check_population(self.terms, self.baseline, expected=expected, seen=None)
        # Far enough back to see whose account is new as well, which a thaw makes it.
        days = max(self.terms.inactive_days, self.terms.young_days)
        survey = await reader.survey(None, since=self.now - timedelta(days=days))
        async with database.reading() as db:
            wanted = await groups.wanted(db, self.connection_id, self._filters, self.now)
        self.groups = await groups.read(reader, wanted)
        if self.run_id is not None and self.groups:
            async with database.unit() as unit:
                await known_seats.set_members(unit.db, self.connection_id, self.groups, self.now)
        missing = missing_readings(survey, proves_elsewhere=self.terms.proves_elsewhere)
        self.tally = Tally(expected=expected, missing={**missing, **groups.doubts(self.groups)})
        return survey

    async def pages(self, reader: SeatReader, survey: Survey, database: Database) -> AsyncGenerator[Assessed, None]:
        """Yield what became of each page, counted in `tally`; after the last one the reading is known to be whole.

        Who reports to whom is known only then. So pages of a rule whose filter asks for that are judged after the last
        one was read; until then, empty pages show how far the reading is.

        Raises:
            Stopped: what was read cannot be everybody.
            Transient, Permanent: as `begin`.
        """
        judge = Judge(
            self.terms,
            self.covered,
            self.connection_id,
            self.now,
            tells_use(survey),
            self.products,
            unwritten=self.unwritten,
        )
        reading = Reporting() if any(map(known_seats.asks_about_superiors, self._filters)) else None
        try:
            async with Spool() as later:
                async with (
                    # What is judged of a holder rests on their own seats, which are on this page or before it.
                    aclosing(ahead(self._remembered(reader.seats(self.products), database))) as listed,
                    aclosing(folded(listed, self.covered.suites)) as read,
                ):
                    async for page in read:
                        self.tally.read(page)
                        mine = page if self.only is None else [seat for seat in page if seat.holder.id in self.only]
                        if reading is None:
                            yield await self._judged(mine, judge, survey, database)
                        else:
                            reading.add(page)
                            await later.keep(mine)
                            yield NOTHING_YET
                async for page in later.pages():
                    yield await self._judged(page, judge, survey, database, reading)
        except Incomplete as error:
            raise Stopped(
                f"The list of seats ended early: {error}",
                "Nothing was opened. Start the scan again; if it stays, look at the org's own status and limits.",
            ) from error
        check_population(self.terms, self.baseline, expected=self.tally.expected, seen=self.tally.seen)
        if self.only is None:
            check_share(self.terms, flagged=self.tally.flagged, seen=self.tally.seen)

    @property
    def _filters(self) -> list[Condition]:
        return groups.filters_of(self.terms, self.covered)

    async def _judged(
        self,
        page: Sequence[SeatRecord],
        judge: Judge,
        survey: Survey,
        database: Database,
        reading: Reporting | None = None,
    ) -> Assessed:
        """Judge the seats of a page, and count them."""
        holders = {seat.holder.id for seat in page}
        async with database.reading() as db:
            held = await store.held(
                db,
                self.connection_id,
                holders,
                cooldown_days=self.terms.cooldown_days,
                now=self.now,
                run_id=self.run_id,
            )
            exclusions = await exclusion_store.on(db, self.connection_id, self.now, self.groups)
            chooses = await chooser(
                db,
                self.terms,
                self.connection_id,
                holders,
                prices=self.prices,
                now=self.now,
                covered=self.covered,
                groups=self.groups,
                reading=reading,
                unwritten=self.unwritten,
            )
            told = await judge.seats(db, page)
        assessed = assess(
            page,
            self.terms,
            survey,
            connection_id=self.connection_id,
            prices=self.prices,
            held=spread(held, self.related),
            now=self.now,
            exclusions=exclusions,
            chooses=chooses,
            told=told,
        )
        self.tally.add(assessed)
        self.tally.stale = judge.stale
        self.tally.missing |= {f"usage of {product}": why for product, why in judge.unproven.items()}
        return described(assessed, self.covered.suites)

    async def _remembered(
        self, pages: AsyncIterator[Sequence[SeatRecord]], database: Database
    ) -> AsyncGenerator[Sequence[SeatRecord], None]:
        """Yield pages as the org lists them; a scan takes note of each before anybody judges it.

        While one is worked on the org is asked for the next one.
        """
        async with aclosing(ahead(pages)) as read:
            async for page in read:
                if self.unwritten is not None:
                    self.unwritten.add(
                        page if self.only is None else [one for one in page if one.holder.id in self.only]
                    )
                else:
                    known = [
                        known_seats.of_record(seat, price_of(self.prices, seat.product, seat.product_name))
                        for seat in page
                    ]
                    async with database.unit() as unit:
                        await known_seats.remember(unit.db, self.connection_id, known, self.now)
                yield page


@dataclass(frozen=True, slots=True)
class Preview:
    """Who would be flagged if the rule were scanned now, and who is left alone by which check.

    `found` and `spared` list the first of them; `tally` counts all. `stopped` is why a scan would
    stop instead of opening anything, or None.
    """

    tally: Tally
    found: tuple[Found, ...]
    spared: tuple[Spared, ...]
    stopped: Stopped | None


async def preview(deps: Deps, connection: Connection, terms: Terms, rule_id: str | None = None) -> Preview:
    """Run a rule's terms over an org without opening anything.

    Raises:
        Transient: the org did not answer, or is too large to preview while somebody waits.
        Permanent: a person has to mend the connection.
        Invalid: the rule applies to another kind of software than the connection has, or its filter asks for what the
            connection cannot tell.
    """
    must_apply(terms, connection.kind)
    groups.must_tell(terms, connection)
    async with deps.database.reading() as db:
        prices = await store.prices(db, connection.id)
        covered = await catalog_store.covered(db, terms.products, rule_id)
        related = await catalog_store.relations(db, covered.products)
        baseline = await store.baseline(db, rule_id, connection.id) if rule_id else None
    # Without the baseline: a person sees what there is even when a scan would not believe it.
    scan = Scan(terms, connection.id, prices, None, deps.clock.now(), covered, related)
    found: list[Found] = []
    spared: list[Spared] = []
    stopped = None
    try:
        async with asyncio.timeout(deps.settings.preview_seconds), deps.reader(connection) as reader:
            survey = await scan.begin(reader, deps.database)
            async with aclosing(scan.pages(reader, survey, deps.database)) as pages:
                async for page in pages:
                    found.extend(page.found[: PREVIEW_SHOWN - len(found)])
                    spared.extend(page.spared[: PREVIEW_SHOWN - len(spared)])
        check_population(
            terms, comparable(baseline, terms, covered), expected=scan.tally.expected, seen=scan.tally.seen
        )
    except Stopped as error:
        stopped = error
    except TimeoutError as error:
        raise Transient(
            f"The preview took longer than {deps.settings.preview_seconds:.0f} seconds: the org is large or slow. Try "
            "again, or activate the rule as a dry run and scan with it, which may take as long as it needs."
        ) from error
    return Preview(scan.tally, tuple(found), tuple(spared), stopped)
