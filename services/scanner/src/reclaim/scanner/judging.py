"""What sources of use say about seats: one judgement for scan, preview, explanation, open cases and re-checks.

What the connected system itself says of the last use is one source among others, so that a seat which is seen directly
and through single sign-on is one seat, judged by both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.connectors.ports import Known, SeatRecord, Survey
from reclaim.scanner import known_seats, profile_store
from reclaim.scanner.catalog import Coverage
from reclaim.scanner.domain import Terms
from reclaim.scanner.known_seats import Since, Unwritten
from reclaim.scanner.usage import Channel, Plan, Report, Verdict, live_report
from reclaim.scanner.usage_store import UsageSeat, judge_seats, make_plan, witnessed

ITSELF: Final = "the connected system"
"""What the system that lists the seats is called as a source of use."""

_SEEN_THERE: Final[tuple[Channel, ...]] = ("ui",)


def tells_use(survey: Survey) -> bool:
    """Whether a system that was just read keeps its holders' last use: if not, its silence says nothing."""
    return isinstance(survey.last_seen_elsewhere, Known)


@dataclass(slots=True)
class Judge:
    """Judges seats by one version of a rule, as of `now`.

    `told` is whether the connected system was asked for last uses and keeps them, `listed` the products whose seats it
    lists: of others it sees no use. Each product is planned for once, so that all of its seats are judged alike. What
    was read and is not in the register is in `unwritten`.
    """

    terms: Terms
    covered: Coverage
    connection_id: str
    now: datetime
    told: bool
    listed: Collection[str]
    plans: dict[str, Plan] = field(default_factory=dict)
    unwritten: Unwritten | None = None

    async def plan(self, db: AsyncConnection, product: str) -> Plan:
        """Return by what the seats of a product are judged."""
        if product not in self.plans:
            components = self.covered.tree.get(product, ())
            self.plans[product] = await make_plan(
                db,
                self.terms.usage,
                product,
                connection_id=self.connection_id,
                components=components,
                zone=self.terms.time_zone,
                preference=self.terms.preferred_sources,
                live=self._live({product, *components}),
                without=await profile_store.about_other_seats(db, self.connection_id, {product, *components}),
                now=self.now,
            )
        return self.plans[product]

    def _live(self, members: Collection[str]) -> list[Report]:
        if self.terms.condition == "hours":
            return []
        if not self.terms.by_usage:
            # What the system says of the account is all the proof that such a rule asks for, whatever belongs to it.
            return [live_report(ITSELF, "", self.now, _SEEN_THERE)]
        there = sorted(set(members) & set(self.listed)) if self.told else []
        return [live_report(ITSELF, product, self.now, _SEEN_THERE) for product in there]

    async def seats(self, db: AsyncConnection, page: Sequence[SeatRecord]) -> list[Verdict]:
        """Return what sources say of each seat of a page, in their order."""
        first = await self._first_seen(db, page)
        places: dict[str, list[int]] = defaultdict(list)
        for at, seat in enumerate(page):
            places[seat.product].append(at)
        verdicts: dict[int, Verdict] = {}
        for product, own in places.items():
            asked = [self._asked(page[at], first.get(at)) for at in own]
            # A preview remembers nobody: that its own seats are seen by the sources is as good as the register.
            chosen = self.plans[product] = await witnessed(db, await self.plan(db, product), seats=asked)
            verdicts.update(zip(own, await judge_seats(db, chosen, asked), strict=True))
        return [verdicts[at] for at in range(len(page))]

    def _asked(self, seat: SeatRecord, since: Since | None) -> UsageSeat:
        granted = seat.assigned_at
        if granted is None and since is not None and since.returned:
            granted = since.at
        if granted is None and not self.terms.by_usage:
            granted = seat.created_at
        return UsageSeat(
            holder_id=seat.holder.id,
            holder_email=seat.holder.email,
            device_id=seat.device,
            granted_at=granted,
            first_seen_at=seat.created_at if seat.device else (since.at if since is not None else self.now),
            last_used_at=seat.last_used_at,
            asked=self.told or not self.terms.by_usage,
        )

    async def _first_seen(self, db: AsyncConnection, page: Sequence[SeatRecord]) -> dict[int, Since]:
        """Return since when the seats of a page are known, by their place; of a suite, since when its latest part is.

        Asked only where it counts: for seats that nobody says the assignment of.
        """
        if not self.terms.by_usage or all(seat.assigned_at is not None for seat in page):
            return {}
        holders = {seat.holder.id for seat in page}
        known = await known_seats.first_seen(db, self.connection_id, holders, self.unwritten)
        found = {}
        for at, seat in enumerate(page):
            parts = (seat.product, *self.covered.tree.get(seat.product, ()))
            seen = [known[key] for part in parts if (key := (part, seat.holder.id, seat.device)) in known]
            if seen:
                found[at] = Since(max(each.at for each in seen), any(each.returned for each in seen))
        return found

    @property
    def unproven(self) -> dict[str, str]:
        """Why nobody's seat of a product can be called unused: product → reason."""
        if not self.terms.by_usage:
            return {}
        return {product: plan.unproven[0] for product, plan in sorted(self.plans.items()) if plan.unproven}

    @property
    def stale(self) -> list[str]:
        """What to tell a person about each source that has fallen silent."""
        return sorted({source.text for plan in self.plans.values() for source in plan.stale})
