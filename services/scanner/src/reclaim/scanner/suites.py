"""A suite is reclaimed whole: one seat, one question and one case per holder. Pure, no clock and no I/O.

Seats of a suite and of its components are folded into one before anybody judges them, so the rule's condition, the
safety checks, the preview and the counts see the suite and nothing else of it. What was opened for components before
is merged: `plan_merges` says which cases are withdrawn, and whether another takes their place.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from reclaim.common.contracts import Withdrawal
from reclaim.connectors.ports import Licence, SeatRecord
from reclaim.scanner.catalog import Coverage, Suite
from reclaim.scanner.domain import Assessed, Baseline, Held, SeatKey, Stopped, Terms

PEOPLE: Final = "Standard"
"""The kind of account that a person has; any other kind is never flagged."""


# ------------------------------------------------------------------------------------------------ seats


def shared_out(products: Collection[str], suites: Sequence[Suite]) -> list[tuple[Suite, frozenset[str]]]:
    """Return the suites that one holder's products belong to, and which of the products go with each.

    A component that several suites have goes with one that is among the products itself, else with the suite that has
    most of what is left, else with the first by key: nothing goes with two, so nobody is asked about it twice.
    """
    left = frozenset(products)
    found = []
    direct = sorted((suite for suite in suites if suite.product in left), key=lambda suite: suite.product)
    for suite in direct:
        found.append((suite, left & suite.products))
        left -= suite.products
    implied = [suite for suite in suites if suite not in direct]
    while implied:
        best = min(implied, key=lambda suite: (-len(suite.components & left), suite.product))
        if not best.components & left:
            break
        found.append((best, left & best.components))
        left -= best.components
    return found


def fold(seats: Sequence[SeatRecord], suites: Sequence[Suite]) -> list[SeatRecord]:
    """Return one holder's seats with those of each suite as one seat of the suite; other seats stay as they are.

    The use of a component that several suites have counts for each that the holder has. What is installed on one device
    does not go with what is installed on another.
    """
    devices = dict.fromkeys(seat.device for seat in seats)
    return [one for device in devices for one in _folded([seat for seat in seats if seat.device == device], suites)]


def _folded(seats: Sequence[SeatRecord], suites: Sequence[Suite]) -> list[SeatRecord]:
    shared = shared_out({seat.product for seat in seats}, suites)
    taken = frozenset[str]().union(*(products for _suite, products in shared))
    whole = [_whole(suite, [seat for seat in seats if seat.product in suite.products]) for suite, _ in shared]
    return [*whole, *(seat for seat in seats if seat.product not in taken)]


def _whole(suite: Suite, seats: Sequence[SeatRecord]) -> SeatRecord:
    """Return the seats of one holder in a suite as one: used when any is, and as young as the youngest.

    Whatever protects one of them protects the whole.
    """
    face = min(seats, key=lambda seat: (seat.product != suite.product, seat.product))
    assigned = [seat.assigned_at for seat in seats]
    managers = [seat.manager for seat in (face, *seats) if seat.manager is not None]
    return SeatRecord(
        holder=face.holder,
        product=suite.product,
        product_name=face.product_name if face.product == suite.product else suite.name,
        department=next((seat.department for seat in (face, *seats) if seat.department), None),
        active=all(seat.active for seat in seats),
        usage_type=min((seat.usage_type for seat in seats if seat.usage_type != PEOPLE), default=PEOPLE),
        created_at=max(seat.created_at for seat in seats),
        last_used_at=max((seat.last_used_at for seat in seats if seat.last_used_at is not None), default=None),
        manager=next((manager for manager in managers if manager.able), managers[0] if managers else None),
        assigned_at=None if None in assigned else max(at for at in assigned if at is not None),
        device=face.device,
        version=face.version,
        platform=face.platform,
    )


class Folding:
    """Folds a stream of seats, a page at a time, holding no more than one holder's seats back.

    The seats of one holder have to come one after the other, as every connector lists them. That they do is checked
    with 8 bytes a holder in a set (about 13 MB for 200,000 holders); seats outside suites are passed on at once.
    """

    def __init__(self, suites: Sequence[Suite]) -> None:
        self._suites = suites
        self._inside = frozenset[str]().union(*(suite.products for suite in suites))
        self._waiting: list[SeatRecord] = []
        self._passed: set[int] = set()

    def page(self, seats: Sequence[SeatRecord]) -> list[SeatRecord]:
        """Return what is known by now of the seats of a page and of those before.

        Raises:
            Stopped: a holder's seats do not come together.
        """
        if not self._suites:
            return list(seats)
        known = []
        for seat in seats:
            if seat.product not in self._inside:
                known.append(seat)
                continue
            if self._waiting and self._waiting[0].holder.id != seat.holder.id:
                known.extend(self.end())
            if not self._waiting:
                self._note(seat.holder.id)
            self._waiting.append(seat)
        return known

    def end(self) -> list[SeatRecord]:
        """Return the seats that were still held back."""
        waiting, self._waiting = self._waiting, []
        return fold(waiting, self._suites)

    def _note(self, holder: str) -> None:
        mark = hash(holder)
        if mark in self._passed:
            raise Stopped(
                "The connection does not list the seats of one holder one after the other, so what belongs to one "
                "suite cannot be told.",
                "Nothing was opened. Have the connector list seats by holder, then scan again.",
            )
        self._passed.add(mark)


async def folded(
    pages: AsyncIterator[Sequence[SeatRecord]], suites: Sequence[Suite]
) -> AsyncGenerator[Sequence[SeatRecord], None]:
    """Yield pages of seats with the seats of each suite as one; raises Stopped as `Folding` does."""
    folding = Folding(suites)
    async for page in pages:
        yield folding.page(page)
    if rest := folding.end():
        yield rest


def pooled(licences: Sequence[Licence], suites: Sequence[Suite]) -> list[Licence]:
    """Return pools of seats with those of each suite and its components as one pool of the suite.

    `used` is an upper bound of the suite's holders, who may have a seat of each component. A component that several
    suites have counts for the first by key; components stay listed, with nothing left in their own pools.
    """
    left = {licence.product: licence for licence in licences}
    pools = []
    there = frozenset(left)
    for suite in sorted(suites, key=lambda suite: suite.product):
        own = [left.pop(product) for product in sorted(suite.products) if product in left]
        if suite.products & there:
            totals = [pool.total for pool in own]
            # Of a pool that nobody told the size of, no sum is known.
            total = None if None in totals else sum(size for size in totals if size is not None)
            pools.append(Licence(suite.product, suite.name, total, sum(pool.used for pool in own)))
            pools.extend(Licence(pool.product, pool.name, 0, 0) for pool in own if pool.product != suite.product)
    return [*left.values(), *pools]


def readable(covered: Coverage, licences: Sequence[Licence]) -> list[str]:
    """Return the products to read of a rule's: of a suite, what the connection has at all; of the rest, all."""
    there = {licence.product for licence in licences}
    inside = {product for suite in covered.suites for product in suite.products}
    return [product for product in covered.products if product in there or product not in inside]


def comparable(baseline: Baseline | None, terms: Terms, covered: Coverage) -> Baseline | None:
    """Return a baseline as the rule's own products can be compared with it; None where they cannot, see `unlike`."""
    if unlike(baseline, terms, covered) is not None:
        return None
    if baseline is None or not covered.suites:
        return baseline
    return dataclasses.replace(baseline, products=terms.products)


def unlike(baseline: Baseline | None, terms: Terms, covered: Coverage) -> str | None:
    """Return why what a rule covers now cannot be compared with its last good scan; None if it can.

    A scan that did not record which suites it counted as one counted none, or nobody knows which.
    """
    if baseline is None:
        return "There is no good scan of this rule before it."
    keys = suite_keys(covered)
    if baseline.suites is None and keys:
        return "The last good scan was made by a release that did not record which suites it counted as one."
    if (baseline.suites or ()) != keys:
        return "The last good scan counted other suites as one."
    if baseline.products != (covered.products if keys else terms.products):
        return "The last good scan was of other products."
    return None


def suite_keys(covered: Coverage) -> tuple[str, ...]:
    """Return the suites whose seats are counted as one, in order."""
    return tuple(sorted(suite.product for suite in covered.suites))


def spread(held: Held, related: Mapping[str, frozenset[str]]) -> Held:
    """Return holds as they count for suites and components: who is asked about, or keeps, one is left alone with both.

    `related` has for each product the suites and components that it is one seat with.
    """
    back: dict[SeatKey, str] = dict(held.back)
    for (holder, product), evidence in held.back.items():
        for other in related.get(product, ()):
            back.setdefault((holder, other), f"{product}: {evidence}")
    return Held(back, held.flagged)


def described(assessed: Assessed, suites: Sequence[Suite]) -> Assessed:
    """Return what became of a page with the components named on each suite's seat."""
    parts = {suite.product: tuple(sorted(suite.components)) for suite in suites}
    if not parts:
        return assessed
    found = tuple(
        replace(one, seat=replace(one.seat, components=parts.get(one.seat.product, ()))) for one in assessed.found
    )
    return dataclasses.replace(assessed, found=found)


# ------------------------------------------------------------------------------------------------ open cases


@dataclass(frozen=True, slots=True)
class OpenCase:
    """An open case as a merge looks at it."""

    case_id: str
    holder_id: str
    product: str
    flagged_at: datetime


@dataclass(frozen=True, slots=True)
class Merge:
    """What becomes of one holder's open cases in one suite.

    `withdrawn` are the cases that shall end, the oldest first. `into` is the open case of the suite that stands for
    them from now on; None if one has to be opened.
    """

    suite: str
    holder_id: str
    withdrawn: tuple[str, ...]
    into: str | None


def plan_merges(cases: Iterable[OpenCase], suites: Sequence[Suite]) -> tuple[Merge, ...]:
    """Say which of one rule's open cases become one per holder and suite.

    A case of the suite itself stays, and takes in those of components; else the suite gets one. Cases are shared out
    among suites as seats are. Which of them are past the decision only the lifecycle knows: it refuses to merge those,
    and `Merge.withdrawn` is what it is asked.
    """
    by_holder: dict[str, list[OpenCase]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: (case.flagged_at, case.case_id)):
        by_holder[case.holder_id].append(case)
    merges = []
    for holder, own in sorted(by_holder.items()):
        for suite, products in shared_out({case.product for case in own}, suites):
            whole = next((case.case_id for case in own if case.product == suite.product), None)
            parts = tuple(case.case_id for case in own if case.product in products - {suite.product})
            if parts:
                merges.append(Merge(suite.product, holder, parts, whole))
    return tuple(merges)


@dataclass(frozen=True, slots=True)
class Outlived:
    """Why an open case is taken back; `reason` is for people."""

    kind: Withdrawal
    reason: str


def outlived(cases: Iterable[OpenCase], seen: Mapping[SeatKey, bool], covered: Coverage) -> dict[str, Outlived]:
    """Return which open cases no longer stand on what a rule covers now, by case id.

    `seen` has every seat that was just read, folded, and whether it is in use. A case of a component stays where its
    suite is covered and not in use: it is merged, not withdrawn.
    """
    inside = {part: suite.product for suite in covered.suites for part in suite.components}
    gone: dict[str, Outlived] = {}
    for case in cases:
        counts_as = inside.get(case.product, case.product)
        used = seen.get((case.holder_id, counts_as))
        if used:
            gone[case.case_id] = Outlived("rule_withdrawn", f"{counts_as} is in use, as the catalogue has it now.")
        elif case.product not in covered.products:
            gone[case.case_id] = Outlived(
                "rule_withdrawn", f"{case.product} is no longer among the products of the rule."
            )
        elif used is None:
            gone[case.case_id] = Outlived("vanished", f"Nothing that the holder has counts as {counts_as} any more.")
    return gone
