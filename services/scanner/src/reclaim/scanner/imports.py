"""What the rows of an export are about, by the catalogue, and what people say with a file. Pure: no clock, no I/O.

A row names a process, a product, or both. A process shows the use of every product that has it; a row whose process
nobody knows is about the product it names, by key or by name; and what the catalogue does not know at all is kept under
the name in the file, so that a rule may be about it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from reclaim.common.errors import Invalid
from reclaim.connectors.feeds import FEEDS, Options
from reclaim.connectors.feeds.values import start_of
from reclaim.connectors.ports import Installation as InstalledRow
from reclaim.connectors.ports import UsageRecord as UsageRow
from reclaim.scanner.catalog import PLATFORMS, Catalog
from reclaim.scanner.domain import Rejected, clean_name
from reclaim.scanner.import_store import Terms, What
from reclaim.scanner.known_seats import user_key
from reclaim.scanner.usage import MOST_SILENCE, Window, merged
from reclaim.scanner.usage_store import NOBODY

MOST_UNKNOWN: Final = 500
"""Names that the catalogue does not know which are listed; rows of all of them are counted."""

MOST_PERIODS: Final = 1_000
"""Different periods of one file: more than two years of days."""

KINDS: Final[tuple[What, ...]] = ("usage", "installations")
ORDERS: Final = ("month first", "day first")


# ------------------------------------------------------------------------------------------------ what is said with it


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that somebody wants to send, and what is said about it."""

    source: str
    shape: str
    what: What
    file_name: str
    terms: Terms


def read_wanted(raw: Mapping[str, object]) -> Wanted:
    """Return what is said with a file, from a form or from the parameters of a request.

    Raises:
        Rejected: parts that do not fit, all of them, each with what to enter instead.
    """
    problems: dict[str, str] = {}
    shape = _text(raw, "shape")
    if shape not in FEEDS:
        problems["shape"] = f"Choose what wrote the file: {', '.join(FEEDS)}."
    what = _text(raw, "what") or "usage"
    if what not in KINDS:
        problems["what"] = f"Choose what the file tells: {', '.join(KINDS)}."
    elif shape in FEEDS and what == "usage" and not FEEDS[shape].usage:
        problems["what"] = f"{FEEDS[shape].label} exports what is installed, and nobody's use: choose installations."
    source = ""
    try:
        source = clean_name(_text(raw, "source") or shape, what="source")
    except Invalid as error:
        problems["source"] = str(error)
    zone = _text(raw, "time_zone") or "UTC"
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        problems["time_zone"] = f"{zone[:40]!r} is no time zone: enter one such as Europe/Berlin, or UTC."
    order = _text(raw, "date_order").replace("_", " ")
    if order and order not in ORDERS:
        problems["date_order"] = "Say whether 03/04/2026 has the month first or the day first, or leave it out."
    first, last = (_day(raw, name, problems) for name in ("first_day", "last_day"))
    if (first is None) != (last is None):
        problems.setdefault("last_day", "Enter both the first and the last day, or neither.")
    elif first is not None and last is not None and not timedelta(0) <= last - first <= timedelta(days=366):
        problems.setdefault("last_day", "The last day comes after the first one, and at most a year later.")
    silence = _text(raw, "silence_days") or str(MOST_SILENCE.days)
    if not (silence.isdecimal() and silence.isascii() and 1 <= int(silence[:9]) <= MOST_SILENCE.days):
        problems["silence_days"] = (
            f"Enter after how many days without a new file to be warned, 1 to {MOST_SILENCE.days}."
        )
        silence = "1"
    if problems:
        raise Rejected(problems)
    terms = msgspec.convert(
        {
            "time_zone": zone,
            "date_order": order or None,
            "first_day": first,
            "last_day": last,
            "complete": _text(raw, "complete") in ("true", "yes"),
            "silence_days": int(silence),
        },
        Terms,
    )
    name = " ".join(_text(raw, "file_name").split())[:200]
    return Wanted(source, shape, "usage" if what == "usage" else "installations", name or "export.csv", terms)


def options_of(terms: Terms, source: str, now: datetime) -> Options:
    """Return what a reader of exports is told."""
    return Options(
        source=source, now=now, time_zone=terms.time_zone, date_order=terms.date_order, period=period_of(terms)
    )


def period_of(terms: Terms) -> tuple[datetime, datetime] | None:
    """Return the period that was given for a whole file, if any."""
    if terms.first_day is None or terms.last_day is None:
        return None
    zone = ZoneInfo(terms.time_zone)
    return start_of(terms.first_day, zone), start_of(terms.last_day + timedelta(days=1), zone)


def _text(raw: Mapping[str, object], name: str) -> str:
    value = raw.get(name)
    if isinstance(value, bool):
        return "true" if value else ""
    return str(value).strip() if value is not None else ""


def _day(raw: Mapping[str, object], name: str, problems: dict[str, str]) -> date | None:
    text = _text(raw, name)
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        problems[name] = f"{text[:20]!r} is no day such as 2026-10-31."
        return None


# ------------------------------------------------------------------------------------------------ what rows are about


class Matcher:
    """Finds the products that rows are about; counts what it does not know."""

    def __init__(self, catalog: Catalog) -> None:
        self._keys = {key.casefold(): key for key in catalog}
        self._names: dict[str, str] = {}
        processes: dict[tuple[str, str], list[str]] = defaultdict(list)
        for product in catalog.values():
            self._names.setdefault(product.name.casefold(), product.key)
            for process in product.processes:
                processes[process.platform, process.file_name].append(product.key)
        self._processes = {where: tuple(sorted(keys)) for where, keys in processes.items()}
        self.unknown: Counter[str] = Counter()

    def products(self, name: str, *, process: str | None = None, platform: str | None = None) -> tuple[str, ...]:
        """Return the keys of what a row is about; none if it names a process only, and nobody knows that."""
        if process and (found := self._shown_by(process, platform)):
            return found
        if found := self._called(name) or self._shown_by(name, platform):
            return found
        self._count(name or process or "")
        return (name,) if name else ()

    def _called(self, name: str) -> tuple[str, ...]:
        folded = name.casefold()
        key = self._keys.get(folded) or self._names.get(folded)
        return (key,) if key else ()

    def _shown_by(self, process: str, platform: str | None) -> tuple[str, ...]:
        """Return the products that a process shows; where the file names no platform, on whichever has it."""
        for each in (platform,) if platform in PLATFORMS else PLATFORMS if platform is None else ():
            name = process if each == "linux" else process.lower()
            for written in (name, name.removesuffix(".app")):
                if found := self._processes.get((each, written)):
                    return found
        return ()

    def _count(self, name: str) -> None:
        if name in self.unknown or len(self.unknown) < MOST_UNKNOWN:
            self.unknown[name] += 1


@dataclass(slots=True)
class Summing:
    """Rows of use on their way to be summed: which rows tell of one use, and what was noticed on the way."""

    matcher: Matcher
    untimed: int = 0
    left_out: int = 0
    periods: set[tuple[datetime, datetime]] = field(default_factory=set)

    def staged(self, rows: Iterable[UsageRow]) -> dict[tuple[str, ...], dict[str, Any]]:
        """Return what is kept of some rows, by what tells them apart: a later row of the same use replaces it."""
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in rows:
            products = self.matcher.products(row.product, process=row.process, platform=row.platform)
            # Whoever it was, the device was used: what is installed there is in use.
            user = row.user or (f"{NOBODY}{row.device}" if row.device else "")
            self.left_out += not (products and user)
            self.untimed += row.seconds is None
            if len(self.periods) < MOST_PERIODS:
                self.periods.add((row.period_start, row.period_end))
            if not user:
                continue
            detail = msgspec.json.encode([row.product, row.process, row.version, row.platform]).decode()
            for product in products:
                key = (product, user_key(user), row.device or "", row.period_start.isoformat(), detail)
                found[key] = {
                    "product": product,
                    "user_key": key[1],
                    "device": key[2],
                    "period_start": row.period_start,
                    "detail": detail,
                    "period_end": row.period_end,
                    "user_name": user,
                    "seconds": row.seconds,
                    "runs": row.runs or 0,
                    "last_used_at": row.last_used_at,
                }
        return found


def installed(rows: Iterable[InstalledRow], matcher: Matcher) -> list[tuple[str, InstalledRow]]:
    """Return the products that rows say are installed, each with its row."""
    return [(product, row) for row in rows for product in matcher.products(row.product, platform=row.platform)]


# ------------------------------------------------------------------------------------------------ whether it is all


def covered(terms: Terms, periods: Iterable[tuple[datetime, datetime]]) -> list[Window]:
    """Return what a complete file of use is complete for: the period that was given with it, else its rows' own."""
    given = period_of(terms)
    return merged(Window(start, end) for start, end in ([given] if given is not None else periods))


def why_not_complete(terms: Terms, *, bad: int, windows: Iterable[Window], now: datetime) -> str | None:
    """Return why a file is not taken for everything, in words; None if it is."""
    if not terms.complete:
        return "Not marked complete, because nobody said that it is: it proves use, and nobody's absence."
    if bad:
        rows = "1 row was" if bad == 1 else f"{bad:,} rows were"
        return f"Not marked complete, because {rows} refused. Mend them and send the file again."
    if late := [window for window in windows if window.end > now]:
        return f"Not marked complete: it is about the time until {late[-1].end:%Y-%m-%d}, which is not over."
    return None
