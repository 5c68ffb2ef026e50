"""Reads sign-ins from one tenant's System Log, and makes one record a day, user and application of them.

An event `user.authentication.sso` says that Okta let somebody through to an application, or refused to; what the
application made of it Okta cannot see. The log keeps 90 days and takes events late now and then, so absence proves
something only in between.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from reclaim.common.clock import Clock
from reclaim.common.errors import Permanent, ReclaimError
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.http import Answer, ClientCredentials, Http, SignIn, Token, Tuning, reset_in
from reclaim.connectors.identities import is_anonymous
from reclaim.connectors.okta.profile import MOST_APPS, OktaProfile
from reclaim.connectors.ports import Application, Coverage, Incomplete, TestResult, UsagePage, UsageRecord
from reclaim.connectors.usage_only import WithoutSeats

RETENTION: Final = timedelta(days=90)
PAGE: Final = 1_000
APPS_PAGE: Final = 200
SCOPE: Final = "okta.logs.read"
APPS_SCOPE: Final = "okta.apps.read"
EVENT: Final = "user.authentication.sso"

_FAILED: Final = frozenset({"FAILURE", "DENY", "CHALLENGE", "SKIPPED"})
"""Results that are no use. One that is unknown counts as a use: that leaves a seat alone."""

_LINK: Final = re.compile(r'<([^<>]+)>\s*;[^,<]*?\brel="?next"?')
_DAY: Final = timedelta(days=1)
_Key = tuple[str, str]
"""User and application."""


@dataclass(slots=True)
class _Seen:
    """One user's sign-ins to one application within a day."""

    product_name: str
    runs: int
    last: datetime


@dataclass(slots=True)
class _Day:
    """What one day's events come to."""

    day: date
    seen: dict[_Key, _Seen] = field(default_factory=dict)
    failed: int = 0
    unattributed: dict[str, int] = field(default_factory=dict)


class OktaReader(WithoutSeats):
    """A `UsageReader` of the channel `sso`; it holds no seats, and says so when it is asked for them."""

    def __init__(
        self,
        profile: OktaProfile,
        name: str,
        clock: Clock,
        tuning: Tuning | None = None,
        outgoing: Outgoing | None = None,
    ) -> None:
        super().__init__("Okta sign-in log")
        self._profile = profile
        self._name = name
        self._clock = clock
        self._tuning = tuning or Tuning()
        self._outgoing = outgoing
        self._http = self._opened(profile.logs_url, SCOPE)
        # A service app may have been granted the log alone: asking for both scopes at once would then get neither.
        self._apps = self._opened(profile.apps_url, APPS_SCOPE)

    async def test(self) -> Sequence[TestResult]:
        """Read one event; one result for the connection, and one for each application that is named."""
        now = self._clock.now()
        results = []
        for app in self._profile.applications or ("",):
            what = f"Sign-ins to {app}" if app else "Sign-ins"
            try:
                answer = await self._ask(now - RETENTION, now, (app,) if app else (), most=1)
                events = _events(self._profile.host, answer)
            except ReclaimError as error:
                return [TestResult("Connection", ok=False, detail=str(error))]
            if events:
                results.append(TestResult(what, ok=True, detail=f"can be read; {_RETAINED}"))
            else:
                none = "there was none in 90 days: check the application's id, and that it is signed in to through Okta"
                results.append(TestResult(what, ok=not app, detail=none))
        return [TestResult("Connection", ok=True, detail=f"signed in to {self._profile.host}"), *results]

    def coverage(self, since: datetime) -> Coverage:
        """Return the part of the time from `since` that the log keeps, and that events no longer arrive for."""
        now = self._clock.now()
        kept = now - RETENTION
        reason = f"events may reach the log {self._profile.late.total_seconds() / 60:g} minutes late"
        if since < kept:
            reason = f"{_RETAINED}, and {reason}"
        return Coverage(max(since, kept), now - self._profile.late, f"{reason[0].upper()}{reason[1:]}.")

    async def applications(self) -> Sequence[Application]:
        """Return the tenant's active application instances, by name; those that the connection is bounded to alone.

        Raises:
            Incomplete: the list did not lead to its end.
            Transient, Permanent: as every call.
        """
        host = self._profile.host
        params = {"filter": 'status eq "ACTIVE"', "limit": str(APPS_PAGE)}
        found: dict[str, Application] = {}
        followed: set[str] = set()
        while True:
            answer = await self._apps.get(self._profile.apps_url, params, accept="application/json")
            for each in _objects(host, answer, "applications"):
                if app := _text(each, "id"):
                    found[app] = Application(app, _text(each, "label") or _text(each, "name") or app)
            onward = _next(answer)
            if onward is None:
                break
            if onward in followed or onward.partition("?")[0] != self._profile.apps_url:
                raise Incomplete(f"{host} named a next page of applications that leads nowhere: list them again.")
            followed.add(onward)
            await self._spare_the_reserve(answer)
            params = dict(httpx.QueryParams(urlsplit(onward).query))
        wanted = self._profile.applications
        return sorted((app for app in found.values() if not wanted or app.id in wanted), key=lambda app: app.name)

    async def usage(self, since: datetime, *, only: Collection[str] = ()) -> AsyncIterator[UsagePage]:
        """Yield a page a day that saw an event, in order.

        Raises:
            Incomplete: the log did not lead to its end, or not in order.
            Transient, Permanent: as every call.
        """
        now = self._clock.now()
        # A day's record replaces the one of an earlier reading, so days are read whole.
        begin = datetime.combine(max(since, now - RETENTION).astimezone(UTC).date(), time(), UTC)
        apps = tuple(sorted(only)) or self._profile.applications
        today: _Day | None = None
        async for events in self._pages(begin, now, apps):
            for event in events:
                at = _published(self._profile.host, event)
                if today is not None and at.date() < today.day:
                    raise Incomplete(f"{self._profile.host} gave its events out of order: read it again.")
                if today is not None and at.date() > today.day:
                    yield self._page(today)
                    today = None
                today = today or _Day(at.date())
                _count(today, event, at, apps)
        if today is not None:
            yield self._page(today)

    async def close(self) -> None:
        """Close the connections to the tenant."""
        await self._http.close()
        await self._apps.close()

    def _opened(self, url: str, scope: str) -> Http:
        profile = self._profile
        token = (("POST", profile.token_url),) if profile.private_key is not None else ()
        return Http(
            profile.host,
            self._clock,
            _sign_in(profile, self._clock, scope),
            (("GET", url), *token),
            refusal=lambda answer: _refusal(profile.host, answer, scope),
            tuning=self._tuning,
            outgoing=self._outgoing,
        )

    async def _pages(
        self, since: datetime, until: datetime, apps: Sequence[str]
    ) -> AsyncIterator[list[dict[str, Any]]]:
        # More ids than fit into an address are not asked for one by one: what is not wanted is left out here.
        answer = await self._ask(since, until, apps if len(apps) <= MOST_APPS else (), most=PAGE)
        followed: set[str] = set()
        while True:
            yield _events(self._profile.host, answer)
            onward = _next(answer)
            if onward is None:
                return
            if onward in followed or not self._ours(onward):
                raise Incomplete(f"{self._profile.host} named a next page that leads nowhere: read it again.")
            followed.add(onward)
            await self._spare_the_reserve(answer)
            parts = urlsplit(onward)
            answer = await self._http.get(
                self._profile.logs_url, dict(httpx.QueryParams(parts.query)), accept="application/json"
            )

    async def _ask(self, since: datetime, until: datetime, apps: Sequence[str], *, most: int) -> Answer:
        condition = f'eventType eq "{EVENT}"'
        if apps:
            any_of = " or ".join(f'target.id eq "{app}"' for app in apps)
            condition += f" and ({any_of})"
        params = {"since": _stamp(since), "until": _stamp(until), "filter": condition, "limit": str(most)}
        return await self._http.get(self._profile.logs_url, params, accept="application/json")

    async def _spare_the_reserve(self, answer: Answer) -> None:
        """Wait for the next window before the part of the tenant's calls that is left to others is touched."""
        limit, left = (answer.headers.get(f"X-Rate-Limit-{name}", "") for name in ("Limit", "Remaining"))
        if not (limit.isdecimal() and left.isdecimal()):
            return
        if int(left) * 100 <= int(limit) * self._profile.reserve_percent:
            await asyncio.sleep(min(reset_in(answer, self._clock) or 0.0, self._tuning.patience))

    def _ours(self, link: str) -> bool:
        """Tell whether a link leads to the same log: the credentials go nowhere else."""
        return link.partition("?")[0] == self._profile.logs_url

    def _page(self, day: _Day) -> UsagePage:
        start = datetime.combine(day.day, time(), UTC)
        return UsagePage(
            start,
            [
                UsageRecord(
                    source=self._name,
                    user=user,
                    product=product,
                    product_name=seen.product_name,
                    channel="sso",
                    period_start=start,
                    period_end=start + _DAY,
                    last_used_at=seen.last,
                    runs=seen.runs,
                )
                for (user, product), seen in day.seen.items()
            ],
            failed=day.failed,
            unattributed=day.unattributed,
        )


_RETAINED: Final = "Okta keeps its log for 90 days"


def _count(day: _Day, event: dict[str, Any], at: datetime, wanted: Sequence[str]) -> None:
    """Add one event to its day: to each application that it names, among those that are wanted."""
    actor = _part(event, "actor")
    if _text(actor, "type") != "User":
        return
    targets = [each for each in event.get("target") or [] if isinstance(each, dict)]
    apps = {_text(each, "id"): each for each in targets if _text(each, "type") == "AppInstance"}
    apps = {app: each for app, each in apps.items() if app and (not wanted or app in wanted)}
    if _text(_part(event, "outcome"), "result").upper() in _FAILED:
        day.failed += len(apps)
        return
    # The name in the application is what its seat goes by; where that is not told, the name in the tenant.
    accounts = [_text(each, "alternateId") for each in targets if _text(each, "type") == "AppUser"]
    names = [*accounts, _text(actor, "alternateId")] if len(apps) == 1 else [_text(actor, "alternateId")]
    user = next((name for name in names if not is_anonymous(name)), None)
    for app, target in apps.items():
        if user is None:
            day.unattributed[app] = day.unattributed.get(app, 0) + 1
            continue
        seen = day.seen.setdefault((user, app), _Seen(_text(target, "displayName") or app, 0, at))
        seen.runs += 1
        seen.last = max(seen.last, at)


def _events(host: str, answer: Answer) -> list[dict[str, Any]]:
    return _objects(host, answer, "events")


def _objects(host: str, answer: Answer, what: str) -> list[dict[str, Any]]:
    body = answer.body()
    if not isinstance(body, list) or not all(isinstance(each, dict) for each in body):
        raise Incomplete(f"{host} answered with something that is no list of {what}: check org_url.")
    return body


def _published(host: str, event: dict[str, Any]) -> datetime:
    try:
        at = datetime.fromisoformat(_text(event, "published"))
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Incomplete(f"{host} gave an event without the instant of its publication.")
    return at.astimezone(UTC)


def _next(answer: Answer) -> str | None:
    for header in answer.headers.get_list("Link"):
        if found := _LINK.search(header):
            return found[1]
    return None


def _refusal(host: str, answer: Answer, scope: str) -> ReclaimError:
    body = answer.body()
    error = body if isinstance(body, dict) else {}
    code, summary = _text(error, "errorCode"), _text(error, "errorSummary") or answer.text()
    said = f"{host} answered {answer.status} {code}: {summary}".replace(" :", ":").rstrip(":. ")
    if answer.status == 403:
        right = "read reports" if scope == SCOPE else "view applications"
        return Permanent(f"{said}. Give the token's user the right to {right}, or the service app {scope}.")
    if answer.status == 404:
        there = "System Log" if scope == SCOPE else "list of applications"
        return Permanent(f"{said}. There is no {there} at this address: check org_url.")
    if code in ("E0000001", "E0000031", "E0000053"):
        return Permanent(f"{said}. Okta does not take the question: check the applications' ids.")
    return Permanent(f"{said}. Look up the code in Okta's documentation, mend its cause, then test the connection.")


def _sign_in(profile: OktaProfile, clock: Clock, scope: str) -> SignIn:
    if profile.api_token is not None:
        return Token("SSWS", profile.api_token)
    return ClientCredentials(
        clock,
        system=profile.host,
        token_url=profile.token_url,
        client_id=profile.client_id,
        private_key=profile.private_key,
        key_id=profile.key_id or None,
        scope=scope,
    )


def _part(event: dict[str, Any], name: str) -> dict[str, Any]:
    part = event.get(name)
    return part if isinstance(part, dict) else {}


def _text(part: dict[str, Any], name: str) -> str:
    value = part.get(name)
    return value.strip() if isinstance(value, str) else ""


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
