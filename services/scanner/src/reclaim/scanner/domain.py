"""What a rule says, and what it says about a page of seats: pure decisions, no clock and no I/O.

`assess` is the one place where a seat becomes a candidate. The preview and the scan both call it with the same
arguments, so what a person was shown is what the scan opens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from itertools import repeat
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError
from msgspec.structs import replace

from reclaim.common.contracts import (
    USE,
    AskFirst,
    CheaperLicence,
    CheckFinding,
    GraceCalendar,
    Money,
    Person,
    Policy,
    ReclaimBy,
    Route,
    Seat,
    TimeoutAction,
    UsageTerms,
)
from reclaim.common.errors import Conflict, Invalid, Permanent
from reclaim.connectors.checks import CHECK_NAMES, WARNABLE, evaluate, is_unused, left_alone_by
from reclaim.connectors.ports import Known, Licence, Members, Reading, SeatRecord, Survey, Unknown
from reclaim.scanner.filters.fields import KINDS as SOFTWARE
from reclaim.scanner.filters.fields import Kind as Software
from reclaim.scanner.filters.text import read as read_filter
from reclaim.scanner.usage import CHANNELS, Channel, Span, UsageCondition
from reclaim.scanner.usage import Verdict as Usage

MONTHS_A_YEAR: Final = 12
FEW: Final = 10
"""So many seats may be flagged whatever share of all they are: in a small team, half of it are a handful."""

POPULATION_TOLERANCE: Final = Decimal("0.10")
"""How far the number of seats may be from the last good scan's before a scan refuses to believe it."""

WATCHED: Final = timedelta(days=90)
"""How far back scans are compared with: what goes missing a little at a time is not seen from one to the next."""

SLOW_TOLERANCE: Final = Decimal("0.20")
"""By how much the number of seats may fall below the highest of that time before a scan refuses to believe it."""

APPLIES_TO: Final[Software] = "subscription"
"""What a rule is about that does not say so: the seats that connected systems list."""

INSTALLED: Final = "installed"
"""The kind of connection whose seats are the installations that feeds report, and what rules there apply to."""

FILTER: Final = "filter"
"""Under this name seats are counted that the rule's filter does not choose; it stands beside the checks'."""

USAGE: Final = USE
"""Under this name stands what sources of use say of a seat, beside the checks; seats are counted of which they say
nothing that could be relied on."""

ConditionKind = Literal["last_used", "hours"]
WindowUnit = Literal["days", "months"]

SeatKey = tuple[str, str]
"""Holder id and product: what tells two seats of one connection apart."""


class Stopped(Permanent):
    """A scan was stopped, because what it read cannot be trusted or must not be acted upon.

    `acceptable` tells that a person may look at what was read and have it believed.
    """

    title = "The scan was stopped"

    def __init__(self, reason: str, remedy: str, *, acceptable: bool = False) -> None:
        super().__init__(f"{reason} {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.acceptable = acceptable


class Rejected(Invalid):
    """Input in which one or more parts do not fit; `by_field` says for each what to enter."""

    def __init__(self, by_field: Mapping[str, str]) -> None:
        super().__init__(" ".join(by_field.values()), field=next(iter(by_field)))
        self.by_field = dict(by_field)


# ------------------------------------------------------------------------------------------------ connections


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that a kind of connection is told; `long` is entered as several lines.

    `destination` decides where credentials are sent: whoever changes it has to enter them again, so that nobody can
    have a stored secret delivered to a place of their own.
    """

    name: str
    label: str
    help: str
    required: bool = False
    long: bool = False
    destination: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of connection: what it is called, what is asked, and what a seat costs unless somebody says otherwise."""

    label: str
    settings: tuple[Field, ...]
    credentials: tuple[Field, ...]
    prices: Mapping[str, Money]


def _dollars(amount: int) -> Money:
    return Money(amount=Decimal(amount), currency="USD")


SALESFORCE_LIST_PRICES: Final = {
    "Starter": _dollars(25),
    "Pro Suite": _dollars(100),
    "Enterprise": _dollars(175),
    "Unlimited": _dollars(350),
    "Platform Starter": _dollars(25),
    "Platform Plus": _dollars(100),
    "Integration": _dollars(10),
}
"""Salesforce's list prices by edition, a user and month."""

KINDS: Final[dict[str, Kind]] = {
    "salesforce": Kind(
        label="Salesforce",
        settings=(
            Field(
                "instance_url",
                "Org address",
                "Such as https://example.my.salesforce.com",
                required=True,
                destination=True,
            ),
            Field("client_id", "Consumer key", "Of the connected app that Reclaim signs in with", required=True),
            Field("token_url", "Token address", "Only if it is not the org's own", destination=True),
            Field("username", "User name", "The user Reclaim runs as; needed with a private key"),
            Field("audience", "Audience", "Only if the sign-in server asks for a particular one"),
            Field("exempt_permission_set", "Exempting permission set", "Who holds it is never flagged"),
            Field("hold_field", "Hold-until field", "A date field on User; until that date the holder is exempt"),
            Field("api_version", "API version", "Such as 62.0"),
            Field("api_reserve_percent", "API reserve", "Percent of the daily calls that Reclaim leaves to others"),
            Field("allow_http", "Allow http", "true only for a simulated org in a private network", destination=True),
        ),
        credentials=(
            Field("client_secret", "Consumer secret", "Of the connected app; or a private key instead"),
            Field("private_key", "Private key", "PEM text, without a passphrase; needs a user name", long=True),
        ),
        # The licence does not tell the edition: the common one is assumed, the price book is there to say otherwise.
        prices={
            "SFDC": SALESFORCE_LIST_PRICES["Enterprise"],
            "AUL": SALESFORCE_LIST_PRICES["Platform Starter"],
            "Salesforce Integration": SALESFORCE_LIST_PRICES["Integration"],
        },
    ),
    "scim": Kind(
        label="SCIM 2.0 application",
        settings=(
            Field(
                "base_url",
                "SCIM address",
                "What /Users comes after, such as https://app.example.com/scim/v2",
                required=True,
                destination=True,
            ),
            Field("token_url", "Token address", "With an OAuth client: where it gets its tokens", destination=True),
            Field("client_id", "Client id", "Of the OAuth client; needed with a client secret"),
            Field("scope", "Scope", "Only if the application asks for one"),
            Field("product", "Product key", "What rules call its seats; seat, if empty"),
            Field("product_name", "Product name", "What people call it; the connection's name, if empty"),
            Field("user_filter", "User filter", 'Which accounts are seats, such as userType eq "Employee"; all else'),
            Field(
                "administrator_filter",
                "Administrators",
                'Which accounts administer it, such as roles.value eq "admin"; or none. Needed to flag anybody',
            ),
            Field(
                "integration_filter",
                "Programs",
                'Which accounts belong to programs, such as userType eq "Service"; or none. Needed to flag anybody',
            ),
            Field("exempt_filter", "Exempt", "Which accounts are never flagged"),
            Field("run_as", "Own account", "Id or user name of the account whose token it is; never switched off"),
            Field(
                "accept_unseen_work",
                "Accept unseen work",
                "true if jobs, approvals and records, which SCIM does not show, keep no seat. Needed to flag anybody",
            ),
            Field(
                "freeze_by_deactivation",
                "Freeze by switching off",
                "true if switching an account off keeps its data and can be undone; without it nobody is frozen",
            ),
            Field("page_size", "Page size", "Accounts a call; 200, if empty"),
            Field("allow_http", "Allow http", "true only for a simulated system", destination=True),
        ),
        credentials=(
            Field("token", "Bearer token", "Without the word Bearer; or a client secret instead"),
            Field("client_secret", "Client secret", "Of the OAuth client"),
        ),
        prices={},
    ),
    INSTALLED: Kind(
        label="Installed software",
        settings=(
            Field(
                "sources",
                "Feeds",
                "Names of the feeds that list what is installed, apart by commas; all of them, if empty",
            ),
        ),
        credentials=(),
        prices={},
    ),
    "okta": Kind(
        label="Okta sign-in log",
        settings=(
            Field("org_url", "Tenant address", "Such as https://example.okta.com", required=True, destination=True),
            Field("client_id", "Client id", "Of the service app; needed with a private key"),
            Field("key_id", "Key id", "The kid of the public key, if the service app has several"),
            Field("applications", "Applications", "Ids of application instances, apart by commas; all, if empty"),
            Field("late_minutes", "Lateness", "Minutes that an event may take to reach the log; 60, if empty"),
            Field("api_reserve_percent", "API reserve", "Percent of a minute's calls that Reclaim leaves to others"),
            Field("allow_http", "Allow http", "true only for a simulated system", destination=True),
        ),
        credentials=(
            Field("api_token", "API token", "Of a read-only administrator; or a private key instead"),
            Field("private_key", "Private key", "Of a service app with okta.logs.read; PEM, no passphrase", long=True),
        ),
        prices={},
    ),
}


def kind_of(kind: str) -> Kind:
    """Return what is known of a kind of connection; Invalid, listing those there are, if there is none."""
    if kind not in KINDS:
        raise Invalid(f"{kind!r} is no kind of connection. Use one of: {', '.join(KINDS)}.", field="kind")
    return KINDS[kind]


def check_profile(kind: str, settings: Mapping[str, str], credentials: Mapping[str, str]) -> None:
    """Refuse names that the kind does not have; above all a secret among the settings, which anybody may see."""
    known = kind_of(kind)
    visible = {part.name for part in known.settings}
    secret = {part.name for part in known.credentials}
    for name in settings:
        if name in secret:
            raise Invalid(f"{name} is a secret: send it with the credentials, settings are shown.", field=name)
        if name not in visible:
            raise Invalid(f"{known.label} has no setting {name!r}. Use: {', '.join(sorted(visible))}.", field=name)
    for name in credentials:
        if name not in secret:
            raise Invalid(f"{known.label} has no credential {name!r}. Use: {', '.join(sorted(secret))}.", field=name)


def clean_name(name: object, *, what: str) -> str:
    """Return a name without superfluous spaces; Invalid if it is empty, too long or not one line."""
    text = " ".join(str(name or "").split())
    if not 1 <= len(text) <= 100 or not text.isprintable():
        raise Invalid(f"Give the {what} a name of 1 to 100 characters.", field="name")
    return text


def clean_reason(reason: object) -> str:
    """Return why somebody does something, as one line; Invalid if that says nothing, or too much."""
    text = " ".join(str(reason or "").split())
    if not 3 <= len(text) <= 300 or not text.isprintable():
        raise Invalid("Say why, in 3 to 300 characters of text.", field="reason")
    return text


def read_price(product: str, amount: object, currency: object) -> Money:
    """Return a price a month; Invalid if it is no amount of money."""
    try:
        value = Decimal(str(amount).strip())
    except InvalidOperation:
        value = Decimal("NaN")
    code = str(currency).strip().upper()
    if not value.is_finite() or not 0 <= value < 1_000_000 or not _fits_four_places(value):
        raise Invalid(
            f"The price of {product} must be an amount a month from 0 to 999999.9999, such as 175.00.", field="prices"
        )
    if len(code) != 3 or not code.isascii() or not code.isalpha():
        raise Invalid(f"The currency of {product} must be a three-letter code, such as USD.", field="prices")
    return Money(amount=value.quantize(Decimal("0.0001")), currency=code)


def _fits_four_places(value: Decimal) -> bool:
    return value == value.quantize(Decimal("0.0001"))


def price_of(prices: Mapping[str, Money], product: str, product_name: str) -> Money | None:
    """Return what a seat costs a month: by the product's key, else by the licence's name, else None."""
    return prices.get(product) or prices.get(product_name)


_ELSEWHERE: Final[frozenset[Channel]] = frozenset({"api", "mobile", "sso"})
"""The channels that the check `active_elsewhere` is about."""


# ------------------------------------------------------------------------------------------------ rules


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule says, in one version of it. `schedule` is cron text of five fields in `time_zone`.

    `days_off` are the dates, besides Saturdays and Sundays, that are no working days in `time_zone`. A downgrade moves
    the holder to `downgrade_product`, in Salesforce by its profile `downgrade_profile`.

    `warn_reasons` says for each check in `warn_only` why it may warn. `fallback_approver` is the address of whoever is
    asked when there is no manager who could be. `hand_over_to` is the id of the user who takes open records over;
    empty: the manager. Accounts are acted on from `act_from` until `act_until` on working days; None: at any time.

    `filter` chooses among the seats of the products, see `filters`; empty: all of them. `product_filters` are those of
    single products, as the rows of the rule's products had them when this version was written.
    `desk` is the service desk that opens the tickets, by the id it is connected as; empty: the one that asks.
    At most `most_a_day` and `most_a_month` of the rule's seats are frozen in 24 hours and in 30 days, and apart from
    them as many freed; None: as many as the connection's limits allow.
    A question that is not answered `remind_days` after its delivery is put again.
    A scan that would flag more than `most_flagged` seats, or more per cent of those it read than `most_flagged_share`,
    opens nothing.

    A seat is unused if it was last used more than `inactive_days` ago (`last_used`), or for fewer than `minimum_hours`
    in the last `window_count` days, or complete months in `time_zone` (`hours`). With `channels` only use through those
    counts, and sources have to prove that there was none; without them any use that is known counts, and what the
    connected system itself says is proof enough. `include_no_activity` takes the absence of any record for no use.
    Of `hours`, `inactive_days` is how far back use over other channels keeps a seat, and `preferred_sources` orders the
    sources whose hours count: for each product and part of the window it is the first that covers it; those that are
    not named come after them, by name.
    """

    name: str
    products: tuple[str, ...]
    inactive_days: int
    route: Route
    decision_days: int
    on_timeout: TimeoutAction
    grace_days: int
    hand_over: bool = True
    dry_run: bool = True
    warn_only: tuple[str, ...] = ()
    cooldown_days: int = 90
    young_days: int = 30
    schedule: str | None = None
    time_zone: str = "UTC"
    grace_calendar: GraceCalendar = "calendar"
    no_reclaim_before_days_off: bool = False
    days_off: tuple[date, ...] = ()
    reclaim_by: ReclaimBy = "deactivate"
    downgrade_product: str = ""
    downgrade_name: str = ""
    downgrade_profile: str = ""
    warn_reasons: dict[str, str] = msgspec.field(default_factory=dict)
    fallback_approver: str = ""
    fallback_name: str = ""
    hand_over_to: str = ""
    act_from: time | None = None
    act_until: time | None = None
    most_flagged: int | None = None
    most_flagged_share: int = 50
    remind_days: tuple[int, ...] = ()
    ask_first: AskFirst = "manager"
    holder_days: int = 3
    filter: str = ""
    product_filters: dict[str, str] = msgspec.field(default_factory=dict)
    desk: str = ""
    most_a_day: int | None = None
    most_a_month: int | None = None
    applies_to: Software = APPLIES_TO
    condition: ConditionKind = "last_used"
    minimum_hours: Decimal | None = None
    window_unit: WindowUnit = "days"
    window_count: int | None = None
    include_no_activity: bool = False
    channels: tuple[Channel, ...] = ()
    preferred_sources: tuple[str, ...] = ()

    @property
    def by_usage(self) -> bool:
        """Whether sources have to prove that a seat is unused: what its connected system says is not enough."""
        return self.applies_to == "installed" or self.condition == "hours" or bool(self.channels)

    @property
    def proves_elsewhere(self) -> bool:
        """Whether proof by sources of use covers what the check `active_elsewhere` is about.

        What is installed has no account that an app, an API or single sign-on could use.
        """
        return self.by_usage and (self.applies_to == "installed" or set(self.usage.proven) >= _ELSEWHERE)

    @property
    def usage(self) -> UsageCondition:
        """The rule's condition as seats are judged by it."""
        span = Span("days", self.inactive_days)
        if self.condition == "hours" and self.window_count is not None:
            span = Span(self.window_unit, self.window_count)
        return UsageCondition(
            span=span,
            minimum_hours=self.minimum_hours if self.condition == "hours" else None,
            include_no_activity=self.include_no_activity,
            channels=self.channels or CHANNELS,
            needed=self.channels or ("ui",),
        )

    @property
    def words(self) -> str:
        """The condition, after "It has", for people."""
        if self.condition == "hours" and self.minimum_hours is not None:
            window = f"{self.window_count} days"
            if self.window_unit == "months":
                window = "complete month" if self.window_count == 1 else f"{self.window_count} complete months"
            return f"been used for less than {self.minimum_hours.normalize():f} hours in the last {window}"
        return f"not been used for more than {self.inactive_days} days"

    @property
    def fallback(self) -> Person | None:
        """Who is asked when there is no manager who could be."""
        if not self.fallback_approver:
            return None
        return Person(id="", name=self.fallback_name or self.fallback_approver, email=self.fallback_approver)

    def policy(
        self, rule_id: str, version: int, *, dry_run: bool, prices: Mapping[str, Money], ask_scanner: bool = False
    ) -> Policy:
        """Return the snapshot that a case is opened with."""
        cheaper = CheaperLicence(
            product=self.downgrade_product,
            product_name=self.downgrade_name or self.downgrade_product,
            price=price_of(prices, self.downgrade_product, self.downgrade_name),
            profile=self.downgrade_profile,
        )
        return Policy(
            rule_id=rule_id,
            rule_version=version,
            rule_name=self.name,
            inactive_days=self.inactive_days,
            route=self.route,
            decision_days=self.decision_days,
            on_timeout=self.on_timeout,
            grace_days=self.grace_days,
            hand_over=self.hand_over,
            dry_run=dry_run,
            young_days=self.young_days,
            warn_only=self.warn_only,
            grace_calendar=self.grace_calendar,
            no_reclaim_before_days_off=self.no_reclaim_before_days_off,
            days_off=self.days_off,
            time_zone=self.time_zone,
            reclaim_by=self.reclaim_by,
            downgrade_to=cheaper if self.downgrade_product else None,
            hand_over_to=self.hand_over_to or None,
            act_from=self.act_from,
            act_until=self.act_until,
            fallback_approver=self.fallback,
            remind_days=self.remind_days,
            ask_first=self.ask_first,
            holder_days=self.holder_days,
            desk=self.desk or None,
            most_a_day=self.most_a_day,
            most_a_month=self.most_a_month,
            usage=UsageTerms(words=self.words) if self.by_usage else None,
            ask_scanner=ask_scanner,
        )


TERMS: Final = frozenset(Terms.__struct_fields__)

_ROUTES: Final[tuple[Route, ...]] = get_args(Route)
_TIMEOUTS: Final[tuple[TimeoutAction, ...]] = get_args(TimeoutAction)
_CALENDARS: Final[tuple[GraceCalendar, ...]] = get_args(GraceCalendar)
_FIRST: Final[tuple[AskFirst, ...]] = get_args(AskFirst)
_WAYS: Final[tuple[ReclaimBy, ...]] = get_args(ReclaimBy)
_CONDITIONS: Final[tuple[ConditionKind, ...]] = get_args(ConditionKind)
_UNITS: Final[tuple[WindowUnit, ...]] = get_args(WindowUnit)
_WINDOWS: Final[Mapping[str, tuple[int, int]]] = {"days": (30, 3650), "months": (1, 24)}
DAYS_A_MONTH: Final = 31
MOST_DAYS_OFF: Final = 400
MOST_REMINDERS: Final = 5
MOST_SOURCES: Final = 20
_ADDRESS: Final = re.compile(r"[^@\s<>()\[\],;:\\\"]+@[^@\s<>()\[\],;:\\\".]+(\.[^@\s<>()\[\],;:\\\".]+)+")
_DESK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


class _Input:
    """Reads values that came as JSON or as text from a form, and collects what does not fit."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self._raw = raw
        self.problems: dict[str, str] = {}

    def whole(
        self,
        name: str,
        low: int,
        high: int,
        *,
        of: str,
        default: int | None = None,
        why: str = "",
        unit: str = " of days",
    ) -> int:
        given = self._raw.get(name)
        text = str(given).strip() if given is not None else ""
        if not text and default is not None:
            return default
        if not isinstance(given, bool) and text.lstrip("-").isdecimal() and text.isascii() and len(text) < 10:
            value = int(text)
            if low <= value <= high:
                return value
        self.problems[name] = f"{of} must be a whole number{unit} from {low} to {high}" + (
            f", not {text[:20]}{why}." if text else f": enter it, there is no default{why}."
        )
        return low

    def number(self, name: str, *, of: str) -> int | None:
        """Return a number of seats; None if nothing was entered."""
        if str(self._raw.get(name) if self._raw.get(name) is not None else "").strip() == "":
            return None
        return self.whole(name, 1, 1_000_000, of=of, unit="")

    def choice(self, name: str, among: Sequence[str], *, of: str, why: str = "", default: str = "") -> Any:
        text = str(self._raw.get(name) or default).strip()
        if text not in among:
            self.problems[name] = f"{of} must be chosen: {', '.join(among)}{why}."
        return text

    def flag(self, name: str, *, default: bool) -> bool:
        given = self._raw.get(name)
        if given is None or given == "":
            return default
        if isinstance(given, bool):
            return given
        text = str(given).strip().lower()
        if text not in ("true", "false"):
            self.problems[name] = f"{name} must be true or false."
        return text == "true"

    def texts(self, name: str) -> tuple[str, ...]:
        given = self._raw.get(name)
        if given is None:
            return ()
        parts = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else []
        return tuple(dict.fromkeys(text for part in parts if (text := str(part).strip())))

    def lines(self, name: str, most: int, *, of: str) -> tuple[str, ...]:
        """Return names in the order they were given; as text they are one a line."""
        given = self._raw.get(name)
        parts = given.splitlines() if isinstance(given, str) else self.texts(name)
        names = tuple(dict.fromkeys(text for part in parts if (text := " ".join(part.split()))))
        if len(names) > most or not all(len(text) <= 100 and text.isprintable() for text in names):
            self.problems[name] = f"{of} must be at most {most} names of up to 100 characters, one a line."
        return names

    def text(self, name: str, most: int, *, of: str) -> str:
        text = " ".join(str(self._raw.get(name) or "").split())
        if len(text) > most or not text.isprintable():
            self.problems[name] = f"{of} must be at most {most} characters of text."
        return text

    def days(self, name: str, *, of: str) -> tuple[int, ...]:
        """Return numbers of days, in order; as text they are apart by spaces or commas."""
        words = " ".join(self.texts(name)).replace(",", " ").split()
        if len(words) > MOST_REMINDERS or not all(
            word.isascii() and word.isdecimal() and 0 < len(word) < 3 for word in words
        ):
            self.problems[name] = f"{of} must be at most {MOST_REMINDERS} whole numbers of days, such as 3 7."
            return ()
        return tuple(sorted({int(word) for word in words} - {0}))

    def clock(self, name: str, *, of: str) -> time | None:
        """Return a time of day; None if nothing was entered."""
        text = str(self._raw.get(name) or "").strip()
        if not text:
            return None
        try:
            found = time.fromisoformat(text)
        except ValueError:
            found = time.max
        if found.second or found.microsecond or found.tzinfo is not None:
            self.problems[name] = f"{of} must be a time of day such as 09:00, not {text[:20]}."
        return found

    def end(self, name: str, *, of: str) -> datetime | None:
        """Return an instant in UTC; a date alone is the end of that day."""
        text = str(self._raw.get(name) or "").strip()
        if not text:
            return None
        try:
            if len(text) == len("2026-12-25"):
                return datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
            found = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.problems[name] = f"{of} must be a date such as 2026-12-25, not {text[:30]}."
            return None
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    def filter(self, name: str, applies_to: Software) -> str:
        """Return a filter as it was written; one that does not fit is a problem, with its place."""
        text = str(self._raw.get(name) or "").strip()
        if text and (problems := read_filter(text, applies_to).problems):
            self.problems[name] = " ".join(problem.of(text) for problem in problems)
        return text

    def filters(self, name: str, products: Collection[str]) -> dict[str, str]:
        """Return the filters of those of these products that have one."""
        given = self._raw.get(name)
        found = given if isinstance(given, Mapping) else {}
        return {product: text for product in sorted(products) if (text := str(found.get(product) or "").strip())}

    def desk(self, name: str) -> str:
        """Return the id of a service desk; empty for none."""
        text = str(self._raw.get(name) or "").strip()
        if text and not _DESK.fullmatch(text):
            self.problems[name] = (
                "The service desk must be the id that it is connected as, such as servicenow: at most 80 letters, "
                f"digits, - and _, not {text[:40]!r}."
            )
        return text

    def hours(self, name: str, *, of: str) -> Decimal | None:
        """Return a number of hours, with at most two decimals."""
        text = str(self._raw.get(name) if self._raw.get(name) is not None else "").strip()
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if value.is_finite() and 0 < value <= 100_000 and value == value.quantize(Decimal("0.01")):
            return Decimal(f"{value.normalize():f}")
        self.problems[name] = f"{of} must be hours from 0.01 to 100000, with at most two decimals, such as 20" + (
            f", not {text[:20]}." if text else ": enter them, there is no default."
        )
        return None

    def address(self, name: str, *, of: str) -> str:
        text = str(self._raw.get(name) or "").strip()
        if text and not (len(text) <= 254 and _ADDRESS.fullmatch(text)):
            self.problems[name] = f"{of} must be an e-mail address, not {text[:40]}."
        return text

    def reasons(self, name: str, checks: Sequence[str]) -> dict[str, str]:
        """Return why each of these checks may warn; a check without a reason is a problem."""
        given = self._raw.get(name)
        found = dict(given) if isinstance(given, Mapping) else {}
        reasons = {check: " ".join(str(found.get(check) or "").split()) for check in checks}
        for check, reason in reasons.items():
            if not 3 <= len(reason) <= 300 or not reason.isprintable():
                self.problems[name] = f"Say why {check} may warn instead of skipping, in 3 to 300 characters of text."
        return reasons

    def dates(self, name: str, *, of: str) -> tuple[date, ...]:
        """Return dates, in order; as text they are apart by spaces, commas or lines."""
        words = " ".join(self.texts(name)).replace(",", " ").split()
        found: set[date] = set()
        for word in words:
            try:
                found.add(date.fromisoformat(word))
            except ValueError:
                self.problems[name] = f"{of} must be dates such as 2026-12-25, not {word[:20]}."
        if len(found) > MOST_DAYS_OFF:
            self.problems[name] = f"{of} must be at most {MOST_DAYS_OFF} dates, not {len(found)}."
        return tuple(sorted(found))


def read_terms(raw: Mapping[str, object]) -> Terms:
    """Return what a rule is to say, from JSON or from a form.

    How long a seat must be unused, how long the holder may object, and what silence means have no default: a wrong
    one costs somebody an account.

    Raises:
        Rejected: parts that do not fit, all of them, each with what to enter instead.
    """
    given = _Input(raw)
    name = ""
    try:
        name = clean_name(raw.get("name"), what="rule")
    except Invalid as error:
        given.problems["name"] = str(error)
    products = given.texts("products")
    if not products:
        given.problems["products"] = "Choose at least one licence that the rule is about."
    warn_only = given.texts("warn_only")
    if odd := [check for check in warn_only if check not in WARNABLE]:
        able = ", ".join(check for check in CHECK_NAMES if check in WARNABLE)
        given.problems["warn_only"] = (
            f"{', '.join(odd)} cannot be made to warn only: it protects people. Checks that can: {able}."
        )
    zone = str(raw.get("time_zone") or "UTC").strip()
    schedule = " ".join(str(raw.get("schedule") or "").split()) or None
    given.problems.update(_schedule_problems(schedule, zone))
    applies_to = given.choice("applies_to", SOFTWARE, of="What the rule applies to", default=APPLIES_TO)
    condition = given.choice("condition", _CONDITIONS, of="When a seat is unused", default="last_used")
    hours, unit, count = _window(given) if condition == "hours" else NO_WINDOW
    terms = Terms(
        name=name,
        products=tuple(sorted(products)),
        inactive_days=given.whole(
            "inactive_days", 30, 3650, of="Unused for", why=" (less than a month may just be a holiday)"
        )
        if count is None
        else count * (DAYS_A_MONTH if unit == "months" else 1),
        applies_to=applies_to,
        condition=condition,
        minimum_hours=hours,
        window_unit=unit,
        window_count=count,
        include_no_activity=given.flag("include_no_activity", default=False),
        channels=_channels(given),
        preferred_sources=given.lines("preferred_sources", MOST_SOURCES, of="Preferred sources"),
        route=given.choice("route", _ROUTES, of="How the approver is asked"),
        decision_days=given.whole("decision_days", 1, 60, of="Time to decide"),
        on_timeout=given.choice(
            "on_timeout", _TIMEOUTS, of="What happens when nobody answers", why=" (there is no default)"
        ),
        grace_days=given.whole("grace_days", 1, 90, of="Grace period"),
        hand_over=given.flag("hand_over", default=True),
        dry_run=given.flag("dry_run", default=True),
        warn_only=tuple(check for check in CHECK_NAMES if check in warn_only),
        cooldown_days=given.whole("cooldown_days", 0, 3650, of="Pause after a keep", default=90),
        young_days=given.whole("young_days", 0, 365, of="Leave new accounts alone for", default=30),
        schedule=schedule,
        time_zone=zone,
        grace_calendar=given.choice("grace_calendar", _CALENDARS, of="How grace days are counted", default="calendar"),
        no_reclaim_before_days_off=given.flag("no_reclaim_before_days_off", default=False),
        days_off=given.dates("days_off", of="Days off"),
        reclaim_by=given.choice(
            "reclaim_by",
            _WAYS,
            of="How the seat is freed",
            default="task" if applies_to == "installed" else "deactivate",
        ),
        downgrade_product=given.text("downgrade_product", 100, of="The cheaper licence"),
        downgrade_name=given.text("downgrade_name", 100, of="The cheaper licence's name"),
        downgrade_profile=given.text("downgrade_profile", 100, of="The cheaper licence's profile"),
        warn_reasons=given.reasons("warn_reasons", [check for check in CHECK_NAMES if check in warn_only]),
        fallback_approver=given.address("fallback_approver", of="Who is asked without a manager"),
        fallback_name=given.text("fallback_name", 100, of="Their name"),
        hand_over_to=given.text("hand_over_to", 100, of="Who takes open records over"),
        act_from=given.clock("act_from", of="Act from"),
        act_until=given.clock("act_until", of="Act until"),
        most_flagged=given.number("most_flagged", of="The most seats that one scan flags"),
        most_flagged_share=given.whole(
            "most_flagged_share", 1, 100, of="The most seats in a hundred that one scan flags", default=50, unit=""
        ),
        remind_days=given.days("remind_days", of="Reminders"),
        ask_first=given.choice("ask_first", _FIRST, of="Who is asked first", default="manager"),
        filter=given.filter("filter", "installed" if applies_to == "installed" else APPLIES_TO),
        holder_days=given.whole("holder_days", 1, 30, of="Time for the holder to answer", default=3),
        product_filters=given.filters("product_filters", products),
        desk=given.desk("desk"),
        most_a_day=given.number("most_a_day", of="The most seats in 24 hours"),
        most_a_month=given.number("most_a_month", of="The most seats in 30 days"),
    )
    if terms.desk and terms.route == "email":
        given.problems.setdefault(
            "desk", "The rule asks by mail only, so no service desk opens a ticket: name none, or ask by it as well."
        )
    if terms.ask_first == "holder" and terms.route != "email":
        given.problems["ask_first"] = "The holder can be asked first by mail only: a service desk would ask at once."
    if terms.remind_days and terms.remind_days[-1] >= terms.decision_days:
        given.problems["remind_days"] = (
            f"A reminder must come before the time to decide is over, which is {terms.decision_days} days."
        )
    if terms.most_a_day is not None and terms.most_a_month is not None and terms.most_a_day > terms.most_a_month:
        given.problems["most_a_month"] = "The most seats in 30 days cannot be fewer than those in 24 hours."
    if (terms.act_from is None) != (terms.act_until is None):
        given.problems["act_from"] = "Enter both when acting begins and when it ends, or neither."
    elif terms.act_from is not None and terms.act_until is not None and terms.act_from >= terms.act_until:
        given.problems["act_until"] = "Acting must end later on the same day than it begins."
    if terms.applies_to == "installed" and terms.reclaim_by != "task":
        given.problems["reclaim_by"] = (
            "Installed software is taken off its devices by a person: choose the task. Reclaim changes no device."
        )
    if terms.reclaim_by == "downgrade" and not terms.downgrade_product:
        given.problems["downgrade_product"] = "Enter the key of the cheaper licence that the holder is moved to."
    if terms.downgrade_product in terms.products:
        given.problems["downgrade_product"] = "The cheaper licence must be another one than those the rule is about."
    if given.problems:
        raise Rejected(given.problems)
    return terms


def must_apply(terms: Terms, kind: str) -> None:
    """Refuse a rule on another kind of software than its connection has; Invalid, saying what to choose."""
    if (terms.applies_to == "installed") is not (kind == INSTALLED):
        instead = "installed" if kind == INSTALLED else APPLIES_TO
        raise Invalid(
            f"The seats of this connection are {instead} software: choose that, or another connection. What is "
            "installed has a connection of its own kind.",
            field="applies_to",
        )


_Window = tuple[Decimal | None, WindowUnit, int | None]
NO_WINDOW: Final[_Window] = (None, "days", None)


def _window(given: _Input) -> _Window:
    """Return the minimum of hours and the window that it is asked of."""
    unit = given.choice(
        "window_unit", _UNITS, of="What the window counts", why=" (months are complete calendar months)"
    )
    low, high = _WINDOWS.get(unit, (1, 3650))
    count = given.whole("window_count", low, high, of="The window", unit=f" of {unit}" if unit in _WINDOWS else "")
    hours = given.hours("minimum_hours", of="The minimum that keeps a seat")
    most = count * 24 * (DAYS_A_MONTH if unit == "months" else 1)
    if hours is not None and hours > most:
        given.problems["minimum_hours"] = f"The window has no more than {most} hours: nobody could keep a seat."
    return hours, unit, count


def _channels(given: _Input) -> tuple[Channel, ...]:
    """Return the channels that count, in their own order."""
    chosen = given.texts("channels")
    if odd := [channel for channel in chosen if channel not in CHANNELS]:
        given.problems["channels"] = f"{', '.join(odd)[:60]} is no channel: choose among {', '.join(CHANNELS)}."
    return tuple(channel for channel in CHANNELS if channel in chosen)


def _schedule_problems(schedule: str | None, zone: str) -> dict[str, str]:
    problems = {}
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        problems["time_zone"] = f"{zone[:40]!r} is no time zone: enter one such as Europe/Berlin, or UTC."
    if schedule is not None and not _is_cron(schedule):
        problems["schedule"] = (
            f"{schedule[:60]!r} is no schedule: enter five cron fields, minute hour day month weekday, "
            "such as 0 6 * * 1 for Mondays at 06:00."
        )
    return problems


def _is_cron(text: str) -> bool:
    if len(text.split()) != 5:
        return False
    try:
        next(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration):
        return False
    return True


def last_due(terms: Terms, now: datetime) -> datetime | None:
    """Return the latest instant, not after `now`, at which the rule's schedule asks for a scan; None without one.

    A time that a change to daylight saving skips is due when the clocks have moved; one that comes twice is due once.
    """
    if terms.schedule is None:
        return None
    # The search looks strictly before the instant it is given.
    local = (now + timedelta(microseconds=1)).astimezone(ZoneInfo(terms.time_zone))
    return next(CronSim(terms.schedule, local, reverse=True)).astimezone(UTC)


_MOVES: Final = {
    ("draft", "submit"): "needs_review",
    ("draft", "activate"): "active",
    ("needs_review", "activate"): "active",
    ("paused", "activate"): "active",
    ("active", "pause"): "paused",
}


def next_status(status: str, action: str) -> str:
    """Return a rule's status after an action; Conflict, naming the present one, if that is not possible."""
    if (status, action) not in _MOVES:
        raise Conflict(f"The rule is {status.replace('_', ' ')}: it cannot be {_DONE[action]} now.")
    return _MOVES[status, action]


_DONE: Final = {"submit": "submitted for review", "activate": "activated", "pause": "paused"}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that two versions of a rule say differently, as plain values."""

    field: str
    before: Any
    after: Any


def diff(before: Terms, after: Terms) -> tuple[Change, ...]:
    """Return what two versions of a rule say differently, in the order of the rule's parts."""
    old, new = (msgspec.json.decode(msgspec.json.encode(terms)) for terms in (before, after))
    return tuple(Change(name, old[name], new[name]) for name in new if old[name] != new[name])


# ------------------------------------------------------------------------------------------------ exclusions

ExclusionKind = Literal["person", "group", "department", "product", "connection"]
EXCLUSION_KINDS: Final[tuple[ExclusionKind, ...]] = get_args(ExclusionKind)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Seats that a person wants left alone, and why.

    `value` is a holder's id or address, the name of a group of the connection, a department, the key or name of a
    product; empty for a whole connection. `connection_id` None means every connection. It holds until `expires_at`
    (None: until somebody ends it), or until it was ended.
    """

    id: str
    kind: ExclusionKind
    value: str
    connection_id: str | None
    connection_name: str | None
    reason: str
    author: str
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    ended_by: str | None

    def holds(self, now: datetime) -> bool:
        """Tell whether it is in force."""
        return self.ended_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def last_day(self) -> date | None:
        """The last day on which it holds, in UTC, if it holds to the end of that day."""
        if self.expires_at is None or self.expires_at.time() != time():
            return None
        return self.expires_at.date() - timedelta(days=1)

    @property
    def evidence(self) -> str:
        """What the check that it trips shows."""
        # The last day that it covers: most end with a day, which is the midnight after it.
        until = "" if self.expires_at is None else f" until {self.expires_at - timedelta(microseconds=1):%Y-%m-%d}"
        return f"excluded{until} by {self.author}: {self.reason}"


_ON_DEVICES: Final = "person on devices"

Kin = Mapping[str, Collection[str]]
Names = Mapping[str, Collection[str]]


class Exclusions:
    """The exclusions that are in force on one connection, for looking up many seats.

    `kin` has, for the key and the name of a product, the keys of the suites and components that go with it: whoever is
    to be left alone with a component would lose it with its suite, and the other way round.

    `names` has, for a person's account, the addresses that go with it: software on devices is held by whom a feed
    names, seldom by an account.

    `groups` has the members of the connection's groups. Who may be in an excluded one, because that is not known, is
    left alone as well.
    """

    def __init__(
        self,
        exclusions: Iterable[Exclusion],
        connection_id: str,
        now: datetime,
        kin: Kin | None = None,
        names: Names | None = None,
        groups: Mapping[str, Members] | None = None,
    ) -> None:
        self._by_key: dict[tuple[str, str], str] = {}
        self._groups: list[tuple[Exclusion, Members]] = []
        related: dict[tuple[str, str], str] = {}
        for exclusion in exclusions:
            if exclusion.holds(now) and exclusion.connection_id in (None, connection_id):
                if exclusion.kind == "group":
                    members = (groups or {}).get(exclusion.value, Members(doubt="who is in it was not read"))
                    self._groups.append((exclusion, members))
                    continue
                value = folded(exclusion.value)
                self._by_key.setdefault((exclusion.kind, value), exclusion.evidence)
                for product in (kin or {}).get(value, ()) if exclusion.kind == "product" else ():
                    evidence = f"{exclusion.value}, which goes with it, is {exclusion.evidence}"
                    related.setdefault(("product", folded(product)), evidence)
                for name in (names or {}).get(value, ()) if exclusion.kind == "person" else ():
                    related.setdefault((_ON_DEVICES, folded(name)), exclusion.evidence)
        self._by_key = {**related, **self._by_key}

    @property
    def groups(self) -> frozenset[str]:
        """The groups that are excluded."""
        return frozenset(exclusion.value for exclusion, _members in self._groups)

    @property
    def may_come_to_apply(self) -> bool:
        """Whether somebody can come under one by what the connected system says of them: a group, or a department."""
        return bool(self._groups) or any(kind == "department" for kind, _value in self._by_key)

    def evidence(self, seat: SeatRecord | Seat) -> str | None:
        """Return why a seat is left alone; None if no exclusion covers it."""
        if not self._by_key and not self._groups:
            return None
        keys: tuple[tuple[str, str], ...] = (
            ("connection", ""),
            ("product", folded(seat.product)),
            ("product", folded(seat.product_name)),
            ("department", folded(seat.department or "")),
            ("person", folded(seat.holder.id)),
            ("person", folded(seat.holder.email or "")),
        )
        if seat.devices if isinstance(seat, Seat) else seat.device:
            keys += tuple((_ON_DEVICES, folded(name)) for name in (seat.holder.id, seat.holder.email or ""))
        found = next((self._by_key[key] for key in keys if key in self._by_key), None)
        return found or self._by_group(seat.holder.id)

    def _by_group(self, holder: str) -> str | None:
        unsure = None
        for exclusion, members in self._groups:
            answer = members.has(holder)
            if answer is True:
                return f"in the group {exclusion.value}, {exclusion.evidence}"
            if answer is None:
                unsure = f"may be in the group {exclusion.value}, {exclusion.evidence}. {members.doubt}"
        return unsure


def folded(value: str) -> str:
    """Return the form in which what exclusions name is compared: without regard to case and to spaces around."""
    return " ".join(value.split()).casefold()


@dataclass(frozen=True, slots=True)
class ExclusionTerms:
    """What a person entered for an exclusion."""

    kind: ExclusionKind
    value: str
    connection_id: str | None
    reason: str
    expires_at: datetime | None


def read_exclusion(raw: Mapping[str, object], now: datetime) -> ExclusionTerms:
    """Return what an exclusion is to say, from JSON or from a form. A date without a time ends with that day in UTC.

    Raises:
        Rejected: parts that do not fit, each with what to enter instead.
    """
    given = _Input(raw)
    kind = given.choice("kind", EXCLUSION_KINDS, of="What is excluded")
    value = given.text("value", 200, of="Who or what is excluded")
    connection_id = given.text("connection_id", 100, of="The connection") or None
    if kind == "connection":
        value = ""
        if connection_id is None:
            given.problems["connection_id"] = "Choose the connection that is left alone."
    elif not value:
        what = {
            "person": "the holder's id or address",
            "group": "the group's name",
            "department": "the department",
            "product": "the licence's key",
        }
        given.problems["value"] = f"Enter {what.get(str(kind), 'who or what is excluded')}."
    if kind == "group" and connection_id is None:
        given.problems["connection_id"] = (
            "Choose the connection whose group it is: each has its own. A department is excluded everywhere."
        )
    reason = ""
    try:
        reason = clean_reason(raw.get("reason"))
    except Invalid as error:
        given.problems["reason"] = str(error)
    expires_at = given.end("expires_at", of="Expires")
    if expires_at is not None and expires_at <= now:
        given.problems["expires_at"] = "An exclusion must expire in the future; leave it empty to exclude for good."
    if given.problems:
        raise Rejected(given.problems)
    return ExclusionTerms(kind, value, connection_id, reason, expires_at)


# ------------------------------------------------------------------------------------------------ seats


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A seat that a rule flags."""

    seat: Seat
    approver: Person | None
    findings: tuple[CheckFinding, ...]
    last_used_at: datetime | None

    @property
    def key(self) -> SeatKey:
        return self.seat.holder.id, self.seat.product


@dataclass(frozen=True, slots=True)
class Held:
    """What our own records say about the seats of a page.

    `back` keeps seats from being flagged (an open case, a recent keep), with evidence to show. `flagged` are those
    that this very run flagged before it was interrupted: they count, and are not flagged again.
    """

    back: Mapping[SeatKey, str] = field(default_factory=dict)
    flagged: Collection[SeatKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Spared:
    """An unused seat that is left alone, with the check that says so."""

    holder: Person
    department: str | None
    product: str
    product_name: str
    finding: CheckFinding


@dataclass(frozen=True, slots=True)
class Assessed:
    """What became of the seats of one page: `seen = used + flagged_before + len(found) + joined + len(spared)`.

    `joined` are installations that are part of a case of their holder's which is among `found`.
    """

    seen: int
    used: int
    flagged_before: int
    found: tuple[Found, ...]
    spared: tuple[Spared, ...]
    joined: int = 0

    @property
    def left_alone(self) -> Mapping[str, int]:
        """How many seats each check spared."""
        return Counter(spared.finding.check for spared in self.spared)


def use_of(seat: SeatRecord, terms: Terms, told: Usage | None, now: datetime) -> Usage:
    """Say whether a seat is used, by a rule's condition; `told` is what the sources of use say, None if none was asked.

    Where what the connected system says is proof enough, sources can only keep a seat from being called unused.
    """
    if terms.by_usage:
        return told or Usage("UNKNOWN", "No source of use was asked.")
    if not is_unused(seat, inactive_days=terms.inactive_days, now=now):
        return Usage("USED", "Its system says so.")
    return told or Usage("UNUSED", "Its system says so.")


def finding_of(use: Usage) -> CheckFinding:
    """Return what sources of use say of a seat as it stands beside the checks."""
    outcome: Literal["pass", "unknown"] = "unknown" if use.state == "UNKNOWN" else "pass"
    return CheckFinding(check=USAGE, outcome=outcome, evidence=use.reason)


def findings_of(
    seat: SeatRecord,
    terms: Terms,
    survey: Survey,
    *,
    excluded: str | None,
    held: str | None,
    now: datetime,
    use: Usage | None = None,
) -> tuple[CheckFinding, ...]:
    """Make the ten checks on a seat as a rule wants them made; `excluded` and `held` are our own records' evidence.

    Where sources have to prove that it is unused, what they say comes last.
    """
    proven = use.reason if terms.proves_elsewhere and use is not None and use.state == "UNUSED" else None
    made = evaluate(
        seat,
        survey,
        now=now,
        inactive_days=terms.inactive_days,
        warn_only=terms.warn_only,
        young_days=terms.young_days,
        held=None if held is None else {seat.holder.id: held},
        excluded=excluded,
        successor=terms.hand_over_to or None,
        proven_unused=proven,
    )
    return (*made, finding_of(use)) if terms.by_usage and use is not None else made


Chooses = Callable[[SeatRecord], bool | None]
"""Answers a rule's filter for a seat; None: what it asks about is not known."""


def not_chosen(seat: SeatRecord, chooses: Chooses | None) -> CheckFinding | None:
    """Return why a rule's filter passes a seat over; None if it chooses it, or the rule has none."""
    answer = True if chooses is None else chooses(seat)
    if answer is True:
        return None
    if answer is None:
        evidence = "what the rule's filter asks about is not known of this seat"
        return CheckFinding(check=FILTER, outcome="unknown", evidence=evidence)
    return CheckFinding(check=FILTER, outcome="skip", evidence="the rule's filter does not choose this seat")


def sparing(findings: Sequence[CheckFinding]) -> CheckFinding | None:
    """Return the finding that leaves a seat alone, the first in the checks' order; None if it is flagged."""
    check = left_alone_by(findings)
    if check is None:
        return None
    made = {finding.check: finding for finding in findings}
    return made.get(check) or CheckFinding(check=check, outcome="unknown", evidence="the check was not made")


def assess(
    page: Sequence[SeatRecord],
    terms: Terms,
    survey: Survey,
    *,
    connection_id: str,
    prices: Mapping[str, Money],
    held: Held,
    now: datetime,
    exclusions: Exclusions | None = None,
    chooses: Chooses | None = None,
    told: Sequence[Usage] | None = None,
) -> Assessed:
    """Judge the seats of one page: used, left alone by the rule's filter or a safety check, or flagged.

    `told` is what the sources of use say of each of them, in their order.
    """
    used = before = joined = 0
    spared: list[Spared] = []
    found: list[Found] = []
    on_devices: dict[SeatKey, int] = {}
    for seat, said in zip(page, repeat(None) if told is None else told, strict=False):
        key = (seat.holder.id, seat.product)
        if key in held.flagged:
            before += 1
            continue
        use = use_of(seat, terms, said, now)
        if use.state == "USED" or not seat.active:
            used += 1
            continue
        passed_over = not_chosen(seat, chooses)
        if passed_over is not None:
            spared.append(Spared(seat.holder, seat.department, seat.product, seat.product_name, passed_over))
            continue
        excluded = None if exclusions is None else exclusions.evidence(seat)
        findings = findings_of(seat, terms, survey, excluded=excluded, held=held.back.get(key), now=now, use=use)
        finding = finding_of(use) if use.state == "UNKNOWN" else sparing(findings)
        if finding is not None:
            spared.append(Spared(seat.holder, seat.department, seat.product, seat.product_name, finding))
            continue
        if key in on_devices:
            place = on_devices[key]
            found[place] = _joined(found[place], seat, use)
            joined += 1
            continue
        if seat.device:
            on_devices[key] = len(found)
        found.append(
            Found(
                seat=Seat(
                    connection_id=connection_id,
                    product=seat.product,
                    product_name=seat.product_name,
                    holder=seat.holder,
                    department=seat.department,
                    price=price_of(prices, seat.product, seat.product_name),
                    devices=(seat.device,) if seat.device else (),
                ),
                approver=approver_of(seat, terms.fallback),
                findings=findings,
                last_used_at=latest_of(last_use(seat, survey), use.last_used_at),
            )
        )
    return Assessed(len(page), used, before, tuple(found), tuple(spared), joined)


def _joined(found: Found, seat: SeatRecord, use: Usage) -> Found:
    """Return what was found with another device of the same holder, who is asked once about all of them."""
    findings = tuple(
        replace(finding, evidence=f"{finding.evidence} {seat.device}: {use.reason}")
        if finding.check == USAGE
        else finding
        for finding in found.findings
    )
    return replace(
        found,
        seat=replace(found.seat, devices=(*found.seat.devices, seat.device)),
        findings=findings,
        last_used_at=latest_of(found.last_used_at, use.last_used_at),
    )


def latest_of(*instants: datetime | None) -> datetime | None:
    """Return the latest of instants, of which any may be missing."""
    return max((at for at in instants if at is not None), default=None)


def approver_of(seat: SeatRecord, fallback: Person | None = None) -> Person | None:
    """Return who is asked: the holder's manager, or `fallback` if there is none who could answer, or it is the holder.

    None if that leaves nobody; a holder is never asked in the place of their own manager.
    """
    manager = seat.manager
    if manager is not None and manager.able and not _same_person(manager.person, seat.holder):
        return manager.person
    if fallback is not None and _same_person(fallback, seat.holder):
        return None
    return fallback


def _same_person(one: Person, other: Person) -> bool:
    """Whether two are the same, by account or by address: software on devices is held by whom a feed names."""
    if one.id == other.id:
        return True
    return bool(one.email and other.email) and folded(one.email or "") == folded(other.email or "")


def last_use(seat: SeatRecord, survey: Survey) -> datetime | None:
    """Return the latest use over all channels; None if there never was one."""
    elsewhere = survey.last_seen_elsewhere
    other = elsewhere.value.get(seat.holder.id) if isinstance(elsewhere, Known) else None
    return latest_of(seat.last_used_at, other)


def missing_readings(survey: Survey, *, proves_elsewhere: bool = False) -> dict[str, str]:
    """Return the parts of a survey that could not be read, and why; nobody is flagged without them.

    `proves_elsewhere`: what the system keeps nothing of, its use elsewhere, sources of use prove.
    """
    answered = {"taken_at"}
    elsewhere = survey.last_seen_elsewhere
    if proves_elsewhere and isinstance(elsewhere, Unknown) and not elsewhere.kept:
        answered.add("last_seen_elsewhere")
    parts: dict[str, Reading[Any]] = {
        part.name: getattr(survey, part.name) for part in fields(survey) if part.name not in answered
    }
    return {name: reading.reason for name, reading in parts.items() if isinstance(reading, Unknown)}


@dataclass(slots=True)
class Tally:
    """The sums over the pages of one reading. Amounts are a year, one per currency.

    `stale` tells for each source of use that has fallen silent what to do about it.
    """

    expected: int = 0
    pages: int = 0
    seen: int = 0
    used: int = 0
    flagged: int = 0
    left_alone: Counter[str] = field(default_factory=Counter)
    missing: dict[str, str] = field(default_factory=dict)
    yearly: dict[str, Decimal] = field(default_factory=dict)
    unpriced: int = 0
    by_product: Counter[str] = field(default_factory=Counter)
    stale: list[str] = field(default_factory=list)

    def read(self, page: Sequence[SeatRecord]) -> None:
        """Count the seats of a page that was read."""
        self.seen += len(page)
        self.by_product.update(seat.product for seat in page)

    def add(self, page: Assessed) -> None:
        """Count what became of a page."""
        self.pages += 1
        self.used += page.used
        self.flagged += page.flagged_before + len(page.found)
        self.left_alone.update(page.left_alone)
        for found in page.found:
            price = found.seat.price
            if price is None:
                self.unpriced += 1
            else:
                so_far = self.yearly.get(price.currency, Decimal(0))
                self.yearly[price.currency] = so_far + price.amount * MONTHS_A_YEAR

    def money(self) -> tuple[Money, ...]:
        """Return the yearly amounts, one per currency."""
        return tuple(Money(amount=amount, currency=currency) for currency, amount in sorted(self.yearly.items()))


# ------------------------------------------------------------------------------------------------ input sanity


@dataclass(frozen=True, slots=True)
class Highest:
    """The scan of a rule that read most seats in a while; `reclaimed` are those that we ourselves took since then."""

    expected: int
    seen: int
    at: datetime
    reclaimed: int = 0


@dataclass(frozen=True, slots=True)
class Baseline:
    """The last good scan of a rule: its products, how many seats the licences announced and how many were read.

    `reclaimed` and `reactivated` are the seats that we ourselves took and gave back since then, `suites` those whose
    seats were counted as one (None: that was not recorded yet). `highest` is the scan with most seats of those that can
    be compared with it.
    """

    products: tuple[str, ...]
    expected: int
    seen: int
    reclaimed: int = 0
    reactivated: int = 0
    suites: tuple[str, ...] | None = ()
    highest: Highest | None = None


def expected_seats(terms: Terms, licences: Sequence[Licence]) -> int:
    """Return how many seats of the rule's products are in use.

    Raises:
        Stopped: the org does not have such a licence, or nobody holds it.
    """
    pools = {licence.product: licence for licence in licences}
    if absent := [product for product in terms.products if product not in pools]:
        raise Stopped(
            f"The org has no licence {', '.join(absent)}.",
            f"Edit the rule's products; the org has: {', '.join(sorted(pools)) or 'none'}.",
        )
    expected = sum(pools[product].used for product in terms.products)
    if expected == 0:
        raise Stopped(
            f"Nobody holds a licence {', '.join(terms.products)}, as far as the connection can see.",
            "Check that the connection's user may see all users, then scan again.",
        )
    return expected


def check_share(terms: Terms, *, flagged: int, seen: int) -> None:
    """Refuse a scan that would flag so many seats that the rule, rather than the seats, is the likelier mistake.

    Raises:
        Stopped: saying how many, and how many the rule allows.
    """
    share = max(FEW, seen * terms.most_flagged_share // 100)
    allowed = share if terms.most_flagged is None else min(share, terms.most_flagged)
    if flagged <= allowed:
        return
    raise Stopped(
        f"{flagged} of {seen} seats would be flagged, and the rule allows {allowed} in one scan.",
        "Nothing was opened. Look at the rule's preview; if it is right, raise its limits (that is a new version) and "
        "scan again.",
    )


def check_population(terms: Terms, baseline: Baseline | None, *, expected: int, seen: int | None) -> None:
    """Refuse a reading that cannot be everybody: no rows, far from what the last good scan read, or far below the
    highest of a while, though each scan was near the one before.

    `seen` is None before the seats were read. A rule whose products changed has nothing to compare with.

    Raises:
        Stopped: saying what was expected.
    """
    if seen == 0:
        raise Stopped(
            f"The org announced {expected} seats and listed none.",
            "Check that the connection's user may see all users, then scan again.",
        )
    if baseline is None or baseline.products != terms.products:
        return
    pairs = [(expected, baseline.expected, "seats in use")]
    if seen is not None:
        pairs.append((seen, baseline.seen, "active seats read"))
    for now, before, what in pairs:
        lowest = (before - baseline.reclaimed) * (1 - POPULATION_TOLERANCE)
        highest = (before + baseline.reactivated) * (1 + POPULATION_TOLERANCE)
        if not lowest <= now <= highest:
            raise Stopped(
                f"{now} {what}, where the last good scan had {before}: more than 10 % off.",
                "If people really came or went, start the scan again and accept the new population; if not, check "
                "what the connection's user may see.",
                acceptable=True,
            )
    if (most := baseline.highest) is None:
        return
    pairs = [(expected, most.expected, "seats in use")]
    if seen is not None:
        pairs.append((seen, most.seen, "active seats read"))
    for now, before, what in pairs:
        if now < (before - most.reclaimed) * (1 - SLOW_TOLERANCE):
            raise Stopped(
                f"{now} {what}, where the scan of {most.at:%Y-%m-%d} had {before}: more than 20 % fewer by and by.",
                "If so many people really left, start the scan again and accept the new population; if not, check "
                "what the connection's user may see.",
                acceptable=True,
            )
