"""Whether a seat is used: windows, coverage, sums and the verdict. Pure: no clock and no I/O.

A verdict is USED, UNUSED or UNKNOWN, with the reason in words. UNUSED needs proof: sources that were heard from lately,
that report complete periods over the whole window, that see the channels which count, and that name people. Whatever is
short of that is UNKNOWN, and nobody is flagged for it. That somebody *did* use a product needs no more than one record.

Sums are exact. A record that lies partly outside a window is not divided: it gives a lowest and a highest sum, and only
where both lead to the same answer there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Final, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec

Channel = Literal["ui", "mobile", "api", "sso"]
CHANNELS: Final[tuple[Channel, ...]] = get_args(Channel)

State = Literal["USED", "UNUSED", "UNKNOWN"]

LATE: Final = timedelta(hours=72)
"""How far behind the present a source's figures may end, unless it says otherwise: vendors take one to three days."""

SILENCE: Final = timedelta(hours=72)
"""How long a source may say nothing before its figures count as stale, unless it says otherwise."""

MOST_LATE: Final = timedelta(days=7)
MOST_SILENCE: Final = timedelta(days=40)

ZONES_APART: Final = timedelta(hours=26)
"""How far the beginnings of one month lie apart in two time zones at most: from UTC+14 to UTC-12."""

_ZERO: Final = timedelta(0)
_TICK: Final = timedelta(microseconds=1)
_AHEAD: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)

Aware = Annotated[datetime, msgspec.Meta(tz=True)]


# ------------------------------------------------------------------------------------------------ windows


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The time from `start` up to, and without, `end`."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def shared(self, other: Window) -> timedelta:
        """Return for how long two windows overlap."""
        return max(_ZERO, min(self.end, other.end) - max(self.start, other.start))


class Span(msgspec.Struct, frozen=True):
    """A rule's window: so many days of 24 hours up to now, or so many complete calendar months before now."""

    unit: Literal["days", "months"]
    count: Annotated[int, msgspec.Meta(ge=1, le=3650)]

    def window(self, now: datetime, zone: str) -> Window:
        """Return the window at an instant. Months are those of the time zone; daylight saving makes them no shorter.

        Its start is also the cut-off of a *last used before*: months begin on the first, so that there is one for
        every month that the 29th of February could be counted back to.
        """
        if self.unit == "days":
            return Window(now - timedelta(hours=24 * self.count), now)
        local = now.astimezone(ZoneInfo(zone))
        return Window(_month(local, -self.count), _month(local, 0))


def _month(local: datetime, by: int) -> datetime:
    """Return the first instant of the month so many months from that of a local time."""
    year, month = divmod(local.year * 12 + local.month - 1 + by, 12)
    return datetime(year, month + 1, 1, tzinfo=local.tzinfo).astimezone(UTC)


def merged(windows: Iterable[Window]) -> list[Window]:
    """Return the union of windows, in order."""
    found: list[Window] = []
    for window in sorted(windows):
        if found and window.start <= found[-1].end:
            found[-1] = Window(found[-1].start, max(found[-1].end, window.end))
        elif window.length > _ZERO:
            found.append(window)
    return found


def gaps(window: Window, covered: Iterable[Window]) -> list[Window]:
    """Return the parts of a window that nothing covers."""
    found, at = [], window.start
    for each in merged(covered):
        if each.start > at:
            found.append(Window(at, min(each.start, window.end)))
        at = max(at, each.end)
        if at >= window.end:
            return [gap for gap in found if gap.length > _ZERO]
    return [gap for gap in (*found, Window(at, window.end)) if gap.length > _ZERO]


# ------------------------------------------------------------------------------------------------ what sources say


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one source says about one user, product, device and channel in one period.

    `seconds` is None from a source that does not measure time, such as one of sign-ins. `last_used_at` is the latest
    use within the period, if it is known. A `session` is a single use from the period's start to its end, not a sum:
    those that overlap are merged. `user` is the holder's id or e-mail address. `process` is the program's file name and
    `version` the product's, where the source tells them; records that differ in either count beside each other.
    """

    user: str
    product: str
    period_start: Aware
    period_end: Aware
    channel: Channel = "ui"
    device: str = ""
    seconds: int | None = None
    runs: int = 0
    last_used_at: Aware | None = None
    session: bool = False
    process: str = ""
    version: str = ""

    @property
    def used(self) -> bool:
        return bool(self.seconds) or self.runs > 0 or self.last_used_at is not None

    @property
    def last_used(self) -> tuple[datetime, datetime] | None:
        """The earliest and the latest that the last use can have been; None without use."""
        if not self.used:
            return None
        if self.session:
            return self.period_end - _TICK, self.period_end - _TICK
        if self.last_used_at is not None:
            return self.last_used_at, self.last_used_at
        return self.period_start, self.period_end - _TICK


def trouble_with(record: UsageRecord, now: datetime) -> str | None:
    """Return why a record cannot be believed, for whoever sent it to mend; None if nothing is wrong with it."""
    length = record.period_end - record.period_start
    if not record.user.strip() or not record.product.strip():
        return "It names no user or no product."
    if length <= _ZERO:
        return "Its period ends before it begins."
    if length > timedelta(days=367):
        return "Its period is longer than a year: send one record for each month or day."
    if (record.seconds or 0) < 0 or record.runs < 0:
        return "Seconds and runs cannot be negative."
    if record.last_used_at is not None and not record.period_start <= record.last_used_at <= record.period_end:
        return "Its last use lies outside its period."
    last = record.period_end if record.session else record.last_used_at
    # Clocks differ, but a use that is yet to come would keep the seat until then.
    if max(record.period_start, last or record.period_start) > now + _AHEAD:
        return "It tells of use in the future."
    if record.session and record.seconds not in (None, int(length.total_seconds())):
        return "It is a session, and its seconds are not the length of its period."
    return None


class InstallationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """That a product is installed on a device, as one source says; `user` is whom it names with the device, or empty.

    `path` tells two installations of one product on one device apart; empty where the source names none.
    """

    user: str
    product: str
    device: str
    version: str | None = None
    installed_at: Aware | None = None
    path: str = ""
    platform: str | None = None


def trouble_with_installation(record: InstallationRecord, now: datetime) -> str | None:
    """Return why an installation cannot be believed, for whoever sent it to mend; None if nothing is wrong with it."""
    if not record.product.strip() or not record.device.strip():
        return "It names no product or no device."
    if record.installed_at is not None and record.installed_at > now + _AHEAD:
        return "It was installed in the future."
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """That a source has spoken about a product for a period; an empty `product` means every one it knows.

    Only a `complete` report proves that who is not in it did nothing. `channels` are those that the source sees,
    `timed` whether it measures time, `anonymised` whether it hides who people are. `late` is how far its figures may
    end before the present, `silence` how long it may say nothing (a monthly one: 35 days).
    """

    source: str
    product: str
    period: Window
    heard_at: datetime
    complete: bool = True
    channels: frozenset[Channel] = frozenset({"ui"})
    timed: bool = True
    anonymised: bool = False
    late: timedelta = LATE
    silence: timedelta = SILENCE


def live_report(source: str, product: str, now: datetime, channels: Collection[Channel]) -> Report:
    """Return the report of a system that was just asked when each holder last used it: it looks back without end."""
    return Report(
        source=source,
        product=product,
        period=Window(datetime.min.replace(tzinfo=UTC), now),
        heard_at=now,
        channels=frozenset(channels),
        timed=False,
    )


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far a source can be relied on: the end of its latest complete period, and when it last spoke."""

    source: str
    product: str
    complete_until: datetime | None
    heard_at: datetime
    stale: bool

    @property
    def text(self) -> str:
        """What to tell a person about a stale source."""
        until = f"complete until {_at(self.complete_until)}" if self.complete_until else "never complete"
        return (
            f"{self.source} was last heard from on {_at(self.heard_at)} ({until}). Nobody is flagged by its figures: "
            "mend the connection or the feed."
        )


def freshness(reports: Iterable[Report], now: datetime) -> list[Freshness]:
    """Return the freshness of each source and product."""
    by_source: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        by_source.setdefault((report.source, report.product), []).append(report)
    found = []
    for (source, product), said in sorted(by_source.items()):
        latest = max(said, key=lambda report: report.heard_at)
        ends = [report.period.end for report in said if report.complete]
        stale = now - latest.heard_at > latest.silence
        found.append(Freshness(source, product, max(ends, default=None), latest.heard_at, stale))
    return found


# ------------------------------------------------------------------------------------------------ the condition


class UsageCondition(msgspec.Struct, frozen=True, kw_only=True):
    """When a seat counts as unused: under `minimum_hours` in the window, or (None) last used before the window.

    `include_no_activity` lets the absence of any record count as no use, where coverage is proven. Only use through
    `channels` counts; of these its absence has to be proven for the `needed` ones, or (None) for all.
    """

    span: Span
    minimum_hours: Decimal | None = None
    include_no_activity: bool = False
    channels: tuple[Channel, ...] = CHANNELS
    needed: tuple[Channel, ...] | None = None

    @property
    def proven(self) -> tuple[Channel, ...]:
        """The channels for which somebody has to report that there was no use."""
        return self.channels if self.needed is None else self.needed


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """Which source counts for a product, and from when to when."""

    source: str
    product: str
    window: Window


@dataclass(frozen=True, slots=True)
class Plan:
    """What is looked at to judge the seats of one product, the same for all of them.

    `members` are the product and, of a suite, its components. `cells` say which source's hours count where; `unproven`
    why nobody can be called unused (empty: coverage is proven); `stale` the sources to raise an alert about.
    `others` are sources whose hours could count in the whole window, and which the cells give no or only a part of it.
    `doubtful` are the (source, product) that are stale or leave a hole: whom they know may be seen by nobody else.
    `unseen` is how long, at the edges of a window of months, no report covers a member: in all of it the seat may have
    been used. `remedy` says what to do where that leaves it open.
    `unwitnessed` are the sources that prove the absence of use, in groups of which one each is enough, as long as none
    of the group has a record of any of the seats: a source that never named one of them may not see the product.
    """

    condition: UsageCondition
    members: tuple[str, ...]
    window: Window
    cells: tuple[Cell, ...]
    unproven: tuple[str, ...]
    stale: tuple[Freshness, ...]
    unwitnessed: frozenset[frozenset[str]] = frozenset()
    others: tuple[Cell, ...] = ()
    doubtful: frozenset[tuple[str, str]] = frozenset()
    unseen: timedelta = _ZERO
    remedy: str = ""

    @property
    def witnessed(self) -> bool:
        """Whether the sources that prove the absence of use are known to see people with such a seat."""
        return not self.unwitnessed

    def seen_by(self, sources: Collection[str]) -> Plan:
        """Return the plan as it is once these sources are known to have a record of a seat."""
        return replace(self, unwitnessed=frozenset(group for group in self.unwitnessed if group.isdisjoint(sources)))


def plan(
    condition: UsageCondition,
    product: str,
    components: Collection[str],
    reports: Sequence[Report],
    *,
    now: datetime,
    zone: str,
    preference: Sequence[str] = (),
    named: Mapping[str, Collection[str]] | None = None,
) -> Plan:
    """Decide by which sources the seats of a product are judged.

    `preference` orders the sources whose hours count; those it leaves out come after it, by name. By whom
    the seats are seen nobody has asked yet, see `Plan.seen_by`. `named` has the products that a source has records of,
    for sources that report on all they know: what one has never named it does not know. Of a source that is left out,
    nothing limits what such a report is about.
    """
    window = condition.span.window(now, zone)
    if condition.minimum_hours is None:
        window = Window(window.start, now)
    members = (product, *sorted(set(components) - {product}))
    own = any(report.product == product for report in reports)
    needed = members if own or len(members) == 1 else members[1:]
    known = freshness((report for report in reports if report.product in ("", *members)), now)
    stale = {(each.source, each.product) for each in known if each.stale}
    order = {source: place for place, source in enumerate(preference)}
    cells: list[Cell] = []
    others: list[Cell] = []
    doubtful: set[tuple[str, str]] = set()
    proving: set[frozenset[str]] = set()
    unproven: list[str] = []
    unseen = _ZERO
    remedy = ""
    for member in members:
        strangers = {source for source, products in (named or {}).items() if member not in products}
        about = [
            report
            for report in reports
            if report.product == member or (not report.product and report.source not in strangers)
        ]
        usable = [
            report
            for report in about
            if (report.source, report.product) not in stale and not report.anonymised and report.complete
        ]
        if condition.minimum_hours is None:
            holes = _unseen(condition.proven, usable, window, now)
            if member in needed:
                proving |= _proving(condition.proven, usable, window, now)
            doubtful |= {(source, member) for source in _doubtful(condition, about, usable, window, now)}
        else:
            able = [report for report in usable if report.timed and report.channels >= set(condition.proven)]
            sources = sorted(
                {report.source for report in able}, key=lambda source: (order.get(source, len(order)), source)
            )
            covered = {
                source: _covered([report for report in able if report.source == source], window, now)
                for source in sources
            }
            chosen, holes = _assigned(member, window, covered)
            cells += chosen
            proving |= {frozenset({cell.source}) for cell in chosen if member in needed}
            whole = [Cell(source, member, window) for source in sources]
            others += [cell for cell in whole if cell not in chosen]
            if member in needed and chosen and _at_the_edges(condition, window, holes):
                unseen += sum((hole.length for hole in holes), _ZERO)
                remedy = remedy or _cut_by(window, holes)
                holes = []
        if holes and member in needed:
            unproven.append(_why_unproven(condition, member, about, stale, holes[0], strangers))
    alerts = tuple(each for each in known if each.stale)
    return Plan(
        condition,
        members,
        window,
        tuple(cells),
        tuple(unproven),
        alerts,
        unwitnessed=frozenset(proving),
        others=tuple(others),
        doubtful=frozenset(doubtful),
        unseen=unseen,
        remedy=remedy,
    )


def _at_the_edges(condition: UsageCondition, window: Window, holes: Sequence[Window]) -> bool:
    """Whether what no report covers of a window of months is no more than months of another zone leave out."""
    return condition.span.unit == "months" and all(
        hole.length <= ZONES_APART and (hole.start == window.start or hole.end == window.end) for hole in holes
    )


def _cut_by(window: Window, holes: Iterable[Window]) -> str:
    """Return what to do about months that are cut by another zone than the rule's."""
    ends = [hole.start if hole.end == window.end else hole.end for hole in holes]
    if not ends:
        return ""
    in_utc = all(end == _month(end.astimezone(UTC), 0) for end in ends)
    return f"{_SAME_ZONE} ({'UTC' if in_utc else 'see where its months begin'})."


_SAME_ZONE: Final = "Set the rule's time zone to the one that its source cuts months by"


def _covered(reports: Iterable[Report], window: Window, now: datetime) -> list[Window]:
    """Return what reports cover, where one that ends as near to the present as its source can reaches to the end.

    Only of a window that ends now: of one that is over, what a source has not told yet it can still tell.
    """
    return merged(
        Window(report.period.start, max(report.period.end, window.end))
        if window.end >= now and report.period.end >= now - report.late
        else report.period
        for report in reports
    )


def _doubtful(
    condition: UsageCondition, about: Sequence[Report], usable: Sequence[Report], window: Window, now: datetime
) -> set[str]:
    """Return the sources that cannot be relied on through the whole window for a channel that they see."""
    found = set()
    for source in {report.source for report in about}:
        seen = {channel for report in about if report.source == source for channel in report.channels}
        own = [report for report in usable if report.source == source]
        if _unseen(seen & set(condition.channels), own, window, now):
            found.add(source)
    return found


def _unseen(channels: Collection[Channel], usable: Sequence[Report], window: Window, now: datetime) -> list[Window]:
    """Return where one of some channels is seen by nobody."""
    return merged(
        hole
        for channel in channels
        for hole in gaps(window, _covered([report for report in usable if channel in report.channels], window, now))
    )


def _proving(
    channels: Collection[Channel], usable: Sequence[Report], window: Window, now: datetime
) -> set[frozenset[str]]:
    """Return who proves that a product was not used, as `Plan.unwitnessed` has it.

    For each channel that is one of the sources that see it through the whole window, or else all that see a part.
    """
    found: set[frozenset[str]] = set()
    for channel in channels:
        seeing: dict[str, list[Report]] = {}
        for report in usable:
            if channel in report.channels and report.period.end > window.start:
                seeing.setdefault(report.source, []).append(report)
        alone = frozenset(source for source, own in seeing.items() if not _unseen([channel], own, window, now))
        found |= {alone} if alone else {frozenset({source}) for source in seeing}
    return found


def _assigned(product: str, window: Window, covered: Mapping[str, Sequence[Window]]) -> tuple[list[Cell], list[Window]]:
    """Give each part of a window to the first source that covers it; also return the parts that none does."""
    left, cells = [window], []
    for source, parts in covered.items():
        still: list[Window] = []
        for free in left:
            holes = gaps(free, parts)
            still += holes
            cells += [Cell(source, product, part) for part in gaps(free, holes)]
        left = still
    return sorted(cells, key=lambda cell: cell.window), merged(left)


def _why_unproven(
    condition: UsageCondition,
    product: str,
    about: Sequence[Report],
    stale: Collection[tuple[str, str]],
    hole: Window,
    strangers: Collection[str] = (),
) -> str:
    """Return why nobody can be said not to have used a product, for a person to mend."""
    unnamed = f" {', '.join(sorted(strangers))} has never named it, and so may not know it." if strangers else ""
    if not about and strangers:
        return f"No source reports the use of {product}.{unnamed}"
    if not about:
        return f"No source reports the use of {product}."
    for report in sorted(about, key=lambda each: each.heard_at, reverse=True):
        if (report.source, report.product) in stale:
            return f"{report.source} was last heard from on {_at(report.heard_at)}: what it says of {product} is stale."
        if report.anonymised and report.period.shared(hole):
            return f"{report.source} does not say who people are: its figures for {product} are anonymised."
    seen = frozenset[Channel]().union(*(report.channels for report in about))
    if blind := [channel for channel in condition.proven if channel not in seen]:
        return f"No source sees the use of {product} through {', '.join(blind)}, which counts."
    if condition.minimum_hours is not None and not any(report.timed for report in about):
        return f"No source measures for how long {product} is used."
    return f"No source covers the use of {product} from {_at(hole.start)} to {_at(hole.end)}.{unnamed}"


# ------------------------------------------------------------------------------------------------ sums


@dataclass(frozen=True, slots=True)
class Measured:
    """One record of hours as it counts in a cell: its own period, and its time."""

    cell: Cell
    period: Window
    time: timedelta
    session: bool = False


@dataclass(frozen=True, slots=True)
class Hours:
    """The least and the most that a sum can be; the same where no record lies across an edge."""

    least: timedelta = _ZERO
    most: timedelta = _ZERO

    def __add__(self, other: Hours) -> Hours:
        return Hours(self.least + other.least, self.most + other.most)


def total(whole: timedelta, others: Iterable[Measured]) -> Hours:
    """Return the time that a holder used a product and its components.

    `whole` is the sum of the records that lie within their cells. Of the `others`, sessions are cut at the edges of
    their cells and merged; a sum over a period that lies across an edge gives a least and a most.
    """
    sum_of = Hours(whole, whole)
    sessions: dict[tuple[str, str], list[Window]] = {}
    for one in others:
        if one.session:
            start = max(one.period.start, one.cell.window.start)
            end = min(one.period.end, one.cell.window.end)
            if start < end:
                sessions.setdefault((one.cell.source, one.cell.product), []).append(Window(start, end))
            continue
        inside = one.period.shared(one.cell.window)
        outside = one.period.length - inside
        least = max(_ZERO, one.time - outside)
        most = min(one.time, inside) if one.time <= one.period.length else one.time
        sum_of += Hours(least if inside else _ZERO, most if inside else _ZERO)
    if not sessions:
        return sum_of
    time = merged_time(sessions)
    return sum_of + Hours(time, time)


def merged_time(sessions: Mapping[tuple[str, str], Iterable[Window]]) -> timedelta:
    """Return the time of sessions by (source, product): summed over products, never over sources.

    At any instant the source counts that saw the most products in use: the same hour reported by two is one hour, two
    components used in the same hour are two.
    """
    edges: list[tuple[datetime, int, str]] = []
    for (source, _), windows in sessions.items():
        for window in merged(windows):
            edges += [(window.start, 1, source), (window.end, -1, source)]
    at_once: dict[str, int] = {}
    found, since = _ZERO, None
    for at, step, source in sorted(edges):
        if since is not None and at > since:
            found += (at - since) * max(at_once.values())
        at_once[source] = at_once.get(source, 0) + step
        since = at
    return found


# ------------------------------------------------------------------------------------------------ verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What the records say about one seat, over all members and the channels that count.

    `last_used` is the latest use over all sources: the earliest and the latest that it can have been. `records` counts
    the records that bear on the condition: for hours those in the window.

    `doubts` are sources that tell of the seat, and that can neither prove how much it was used nor when last. Of hours:
    `alone` is the most that any one source proves by itself, `together` what all of them come to where they cannot
    have told the same time; `beside` counts the records in the window that are of no cell. `seen_itself` is the latest
    use that the connected system itself saw, which tells of no hours, and that there was use. `first_used` is the
    latest that the first use can have been, so that nobody's clock starts before they had the seat.
    """

    records: int = 0
    doubts: frozenset[str] = frozenset()
    alone: timedelta = _ZERO
    together: timedelta = _ZERO
    beside: int = 0
    seen_itself: datetime | None = None
    first_used: datetime | None = None
    last_used: tuple[datetime, datetime] | None = None
    hours: Hours = field(default_factory=Hours)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a seat is used, and why that is said, in words. `last_used_at` is the latest use that was looked at."""

    state: State
    reason: str
    last_used_at: datetime | None = field(default=None, compare=False)


def judge(plan: Plan, activity: Activity, *, granted_at: datetime | None, first_seen_at: datetime | None) -> Verdict:
    """Say whether one seat is used.

    `granted_at` is when it was assigned or installed; without it the clock starts when it, or its use, was first seen.
    """
    if plan.condition.minimum_hours is None:
        return _judge_last_use(plan, activity, granted_at, first_seen_at)
    return _judge_hours(plan, plan.condition.minimum_hours, activity, granted_at, first_seen_at)


def _judge_last_use(
    plan: Plan, activity: Activity, granted_at: datetime | None, first_seen_at: datetime | None
) -> Verdict:
    cut_off = plan.window.start
    if activity.last_used is not None:
        earliest, latest = activity.last_used
        if earliest >= cut_off:
            return Verdict("USED", f"Last used on {_at(earliest)}.")
        if latest >= cut_off:
            return Verdict(
                "UNKNOWN", f"Last used between {_at(earliest)} and {_at(latest)}: the source does not say when."
            )
    if plan.unproven:
        return Verdict("UNKNOWN", plan.unproven[0])
    if activity.doubts:
        return Verdict("UNKNOWN", f"{min(activity.doubts)} knows of it, and has not reported the whole time.")
    if granted_at is not None and granted_at >= cut_off:
        return Verdict("UNKNOWN", f"Assigned on {_at(granted_at)}, too recently to tell.")
    if activity.last_used is not None:
        return Verdict("UNUSED", f"Last used on {_at(activity.last_used[1])}, before {_at(cut_off)}.")
    return _absent(plan, activity, _clock(granted_at, first_seen_at, activity), "Never used")


def _judge_hours(
    plan: Plan,
    minimum: Decimal,
    activity: Activity,
    granted_at: datetime | None,
    first_seen_at: datetime | None,
) -> Verdict:
    least, most = (Fraction(time // _TICK, _HOUR // _TICK) for time in (activity.hours.least, activity.hours.most))
    asked = f"{minimum.normalize():f} from {_at(plan.window.start)} to {_at(plan.window.end)}"
    if least >= Fraction(minimum):
        return Verdict("USED", f"{_hours(least)} hours of {asked}.")
    alone, together = (Fraction(time // _TICK, _HOUR // _TICK) for time in (activity.alone, activity.together))
    if alone >= Fraction(minimum):
        return Verdict("USED", f"{_hours(alone)} hours of {asked}, by a source that does not come first.")
    if plan.unproven:
        return Verdict("UNKNOWN", plan.unproven[0])
    if activity.doubts:
        return Verdict("UNKNOWN", f"{min(activity.doubts)} measured use as well, and did not report the whole window.")
    if most >= Fraction(minimum):
        months = f" {_SAME_ZONE}." if plan.condition.span.unit == "months" else ""
        return Verdict(
            "UNKNOWN",
            f"Between {_hours(least)} and {_hours(most)} hours of {asked}: a source's period lies across the edge."
            f"{months}",
        )
    unseen = Fraction(plan.unseen // _TICK, _HOUR // _TICK)
    if most + unseen >= Fraction(minimum):
        return Verdict(
            "UNKNOWN",
            f"{_hours(most)} hours of {asked}, and {_hours(unseen)} hours at its edge that no report covers. "
            f"{plan.remedy}",
        )
    if together + unseen >= Fraction(minimum):
        return Verdict(
            "UNKNOWN", f"Up to {_hours(together)} hours of {asked}, if no two sources measured the same time."
        )
    if activity.records == 0 and activity.beside:
        return Verdict("UNKNOWN", "The source whose hours count has no record of it, and another has.")
    if activity.seen_itself is not None and activity.seen_itself >= plan.window.start and not most:
        return Verdict("UNKNOWN", f"Its system saw use on {_at(activity.seen_itself)}, and no source measured it.")
    start = _clock(granted_at, first_seen_at, activity)
    if start is None:
        return Verdict("UNKNOWN", "Nobody knows since when the seat is there.")
    if start > plan.window.start:
        return Verdict("UNKNOWN", f"There since {_at(start)}, which is within the window: too recently to tell.")
    if activity.records == 0:
        return _absent(plan, activity, start, "Not used in the window")
    edge = f"; with the {_hours(unseen)} at its edge that no report covers, still less" if unseen else ""
    return Verdict("UNUSED", f"{_hours(most)} hours of {asked}{edge}.")


def _clock(granted_at: datetime | None, first_seen_at: datetime | None, activity: Activity) -> datetime | None:
    if granted_at is not None:
        return granted_at
    return min((at for at in (first_seen_at, activity.first_used) if at is not None), default=None)


def _absent(plan: Plan, activity: Activity, start: datetime | None, what: str) -> Verdict:
    """Judge a seat of which nothing says that it was used."""
    if start is None:
        return Verdict("UNKNOWN", f"{what}, and nobody knows since when the seat is there.")
    if start >= plan.window.start and plan.condition.minimum_hours is None:
        return Verdict("UNKNOWN", f"{what}; there since {_at(start)}, too recently to tell.")
    if activity.records > 0:
        return Verdict("UNUSED", f"{what} since {_at(start)}.")
    if not plan.condition.include_no_activity:
        return Verdict("UNKNOWN", "No source has a record of it, and the rule does not count that as no use.")
    if not plan.witnessed:
        return Verdict("UNKNOWN", _unseen_by(plan))
    return Verdict("UNUSED", f"{what}: no source has a record, and all of them reported.")


def _unseen_by(plan: Plan) -> str:
    sources = ", ".join(sorted({source for group in plan.unwitnessed for source in group}))
    return f"{sources} has no record of anybody with such a seat, and may not see it at all."


def _at(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _hours(hours: Fraction) -> str:
    """Return hours with two decimals, cut off: what is short of a minimum must not look like it."""
    hundredths = int(hours * 100)
    return f"{hundredths // 100}.{hundredths % 100:02}"
