"""Reads accounts, and the little that the safety checks can know of them, from one SCIM service.

Every active account is a seat. SCIM tells nobody's last use, so that reading is always Unknown here, and flags nobody
until another source of usage answers for it. What it says of administrators and programs rests on filters that the
connection's administrator stated; where nothing was stated, or a filter matches nobody, the reading is Unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from reclaim.common.contracts import Person
from reclaim.common.errors import NotFound, ReclaimError
from reclaim.connectors.errors import NotOffered, SignInRefused, Unreachable
from reclaim.connectors.ports import (
    Grants,
    Incomplete,
    Known,
    Licence,
    Manager,
    Members,
    Reading,
    SeatRecord,
    Survey,
    TestResult,
    Unknown,
)
from reclaim.connectors.scim.refusals import ScimError
from reclaim.connectors.scim.session import ENTERPRISE, ReadSession, Resource

NO_LAST_USE: Final = (
    "SCIM tells nobody's last use: connect the application's sign-in log or a usage feed, which can answer for it."
)
NO_FREEZE: Final = (
    "SCIM knows no freeze, and switching an account off may free its seat or delete its data at once. A rule may free "
    "seats by a task for a person; or set freeze_by_deactivation to true, if switching off does no harm here."
)
_FREEZES: Final = "by switching the account off, stated to do no harm; its seat is free from then on"
PAGES_OF_GROUPS: Final = 5
"""Pages of a service's groups that are looked through for one that shows its members."""

_UNSEEN: Final = (
    "SCIM does not show such work. If the application has none, or it may be left to whoever decides, set "
    "accept_unseen_work to true."
)


@dataclass(frozen=True, slots=True)
class _Stated:
    """One thing that an administrator states about accounts: the setting, and what it tells."""

    setting: str
    what: str
    evidence: str


_ADMINISTRATORS: Final = _Stated("administrator_filter", "who administers the application", "administers it")
_INTEGRATIONS: Final = _Stated("integration_filter", "which accounts belong to programs", "belongs to a program")


class ScimReader:
    """The `SeatReader` of a SCIM service. `name` is what its one product is called, unless a setting says otherwise."""

    def __init__(self, session: ReadSession, name: str) -> None:
        self._session = session
        self._profile = session.profile
        self._product_name = session.profile.product_name or name

    async def test(self) -> Sequence[TestResult]:
        """Read one account, and try each filter; one result each."""
        try:
            features = await self._session.features()
            total = await self._session.count(self._profile.user_filter)
        except ReclaimError as error:
            return [TestResult("Connection", ok=False, detail=str(error))]
        results = [TestResult("Connection", ok=True, detail=f"{total} accounts")]
        how = "PUT of the whole account, because it has no PATCH" if features.patch is False else "PATCH of one value"
        results.append(TestResult("Switch accounts off", ok=True, detail=f"by {how}"))
        freezes = self._profile.freeze_by_deactivation
        results.append(
            TestResult("Freeze", ok=True, detail=_FREEZES)
            if freezes
            else TestResult("Freeze: not offered", ok=True, detail=NO_FREEZE)
        )
        results.append(TestResult("Last use: not told", ok=True, detail=NO_LAST_USE))
        for stated, condition in (
            (_ADMINISTRATORS, self._profile.administrator_filter),
            (_INTEGRATIONS, self._profile.integration_filter),
        ):
            results.append(await self._try(stated, condition))
        unseen = "accepted" if self._profile.accept_unseen_work else f"Nobody is flagged meanwhile. {_UNSEEN}"
        results.append(TestResult("Work that SCIM does not show", ok=True, detail=unseen))
        if self._profile.exempt_filter:
            results.append(await self._try_exempt())
        return results

    async def licences(self) -> Sequence[Licence]:
        """Return the one pool of seats; how many were bought SCIM does not tell."""
        used = 0
        if await self._filters():
            used = await self._session.count(_both(self._profile.user_filter, "active eq true"))
        else:
            async for page in self._session.users():
                used += sum(map(active, page))
        return [Licence(self._profile.product, self._product_name, None, used)]

    async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        """Yield all active accounts, a page at a time, if the products name the only one there is.

        Raises:
            NotFound: they name another one.
            Incomplete: paging ended early.
        """
        if not products:
            return
        if missing := sorted(set(products) - {self._profile.product}):
            raise NotFound(f"The application has no licence {', '.join(missing)}. It has: {self._profile.product}.")
        managers: dict[str, Manager | None] = {}
        async for page in self._session.users(self._profile.user_filter):
            on = [user for user in page if active(user)]
            await self._look_up(managers, on, page)
            if on:
                yield [self._seat(user, managers) for user in on]

    async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
        """Return the present record of each holder, active or not; one that no longer exists is left out."""
        asked = list(dict.fromkeys(each for each in holders if each))
        found = [user for user in await asyncio.gather(*map(self._session.user, asked)) if user is not None]
        managers: dict[str, Manager | None] = {}
        await self._look_up(managers, found, found)
        return {user["id"]: self._seat(user, managers) for user in found}

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
        """Read what the safety checks need, as far as SCIM has it; the rest is `Unknown`, with what to do about it.

        Raises:
            SignInRefused: the service does not accept the credentials.
            Unreachable: there is no connection to it.
        """
        del since  # SCIM has no history
        taken_at = self._session.clock.now()
        asked = None if holders is None else set(holders)
        administrators, integrations, exempt, states = await asyncio.gather(
            self._stated(_ADMINISTRATORS, self._profile.administrator_filter, asked),
            self._stated(_INTEGRATIONS, self._profile.integration_filter, asked),
            self._exempt(asked),
            self._states(asked),
        )
        if isinstance(administrators, Known) and self._profile.run_as:
            own = await self._own()
            administrators = (
                Known({**administrators.value, own: "Reclaim signs in as this user"})
                if own is not None
                else Unknown(_no_own(self._profile.run_as))
            )
        nothing: Known[Mapping[str, Any]] = Known({})
        unseen: Reading[Mapping[str, Any]] = nothing if self._profile.accept_unseen_work else Unknown(_UNSEEN)
        return Survey(
            taken_at=taken_at,
            last_seen_elsewhere=Unknown(NO_LAST_USE, kept=False),
            integration_users=integrations,
            administrators=administrators,
            exempt=exempt,
            frozen=states if isinstance(states, Unknown) else Known(states.value[0]),
            thawed_at=states if isinstance(states, Unknown) else Known(states.value[1]),
            scheduled_work=unseen,
            pending_approvals=unseen,
            queues=unseen,
            open_business=unseen,
            seen=None if holders is None or isinstance(states, Unknown) else states.value[2],
        )

    async def members(self, groups: Sequence[str]) -> Mapping[str, Members]:
        """Return who is in each of some groups, by their display names, with the members of the groups in them.

        An account's own `groups` are not asked: an account that has none looks like one of a service that does not
        fill them. A group that is shown without members, asked for by itself as well, is in doubt unless the service
        proves that it is empty, see `_is_empty`.

        Raises:
            SignInRefused: the service does not accept the credentials.
            Unreachable: there is no connection to it.
        """
        try:
            if not await self._filters():
                return dict.fromkeys(groups, Members(doubt="The service says that it has no filters."))
            return await self._all_members(groups)
        except (SignInRefused, Unreachable):
            raise
        except ReclaimError as error:
            unread = Members.unread(error, f"The service's groups could not be read: {error}")
            return dict.fromkeys(groups, unread)

    async def _all_members(self, groups: Sequence[str]) -> dict[str, Members]:
        shown = _Shown()
        found = {name: await self._members(name, shown) for name in dict.fromkeys(groups)}
        for name, group in shown.bare:
            if not found[name].doubt and not await self._is_empty(group, shown):
                called = group.get("displayName") or name
                found[name] = Members(found[name].ids, f"The service does not list who is in the group {called}.")
        return found

    async def _is_empty(self, group: Resource, shown: _Shown) -> bool:
        """Tell whether the service proves that nobody is in a group that it shows without members.

        Some services show every group as empty, whoever is in it: so it has to show members of another one. Then an
        empty list is believed. One that is missing is not: some leave it out where it is empty, others where it is
        long. There the service has to find, by the same filter, the other group among those with members, and not
        this one.
        """
        example = await self._example(shown)
        if example is None:
            return False
        if isinstance(group.get("members"), list):
            return True
        if shown.filters is None:
            shown.filters = await self._has_members(example) is True
        return shown.filters and await self._has_members(group) is False

    async def _has_members(self, group: Resource) -> bool | None:
        """Tell whether the service finds a group among those with members; None if it cannot be asked for that."""
        name = group.get("displayName")
        if not isinstance(name, str) or "id" not in group:
            return None
        try:
            pages = [page async for page in self._session.groups(f"{_called(name)} and members pr")]
        except ScimError:
            return None
        return any(each["id"] == group["id"] for page in pages for each in page)

    async def _example(self, shown: _Shown) -> Resource | None:
        """Return a group that the service shows with members, if there is one, as far as its first pages go."""
        if shown.example is None and not shown.looked:
            shown.looked = True
            async with aclosing(self._session.groups("")) as pages:
                looked = 0
                async for page in pages:
                    looked += 1
                    shown.example = next((group for group in page if _listed(group)), None)
                    if shown.example is not None or looked == PAGES_OF_GROUPS:
                        break
        return shown.example

    async def _members(self, name: str, shown: _Shown) -> Members:
        pages = [page async for page in self._session.groups(_called(name))]
        # Services compare without regard to case; filters do not.
        waiting = [group for page in pages for group in page if group.get("displayName") == name]
        if not waiting:
            return Members(
                doubt=f"The application has no group {name!r}: it may be misspelt, or have another name now."
            )
        people: set[str] = set()
        passed = {group["id"] for group in waiting}
        doubt = ""
        while waiting:
            group = waiting.pop()
            listed = _listed(group)
            if not listed and "id" in group:
                # A list may leave out what the group by itself has.
                group = await self._session.group(group["id"]) or {}
                listed = _listed(group)
            if listed:
                shown.example = shown.example or group
            elif group:
                shown.bare.append((name, group))
            else:
                doubt = f"The group {name}, or one within it, went while it was read."
            for member in listed:
                kind, member_id = _kind_of_member(member)
                if kind == "User":
                    people.add(member_id)
                elif kind == "Group":
                    if member_id not in passed:
                        passed.add(member_id)
                        inner = await self._session.group(member_id)
                        waiting.append(inner if inner is not None else {})
                else:
                    doubt = f"The service does not say which members of the group {name} are people."
        return Members(frozenset(people), doubt)

    async def grants(self, holders: Sequence[str]) -> Mapping[str, Grants]:
        """SCIM has no licences to move between."""
        if not holders:
            return {}
        raise NotOffered("A SCIM connection cannot downgrade: let the rule deactivate, or name a task for a person.")

    async def open_records(self, holders: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return nothing: SCIM shows no records, and so there are none that Reclaim could hand over."""
        del holders
        return {}

    async def close(self) -> None:
        """Close the connections to the service."""
        await self._session.close()

    # What the checks read.

    async def _stated(
        self, stated: _Stated, condition: str | None, asked: set[str] | None
    ) -> Reading[Mapping[str, str]]:
        if condition is None:
            return Unknown(_not_stated(stated))
        if not condition:
            return Known({})
        found = await self._matching(condition)
        if isinstance(found, Unknown):
            return found
        if not found.value:
            return Unknown(_matches_nobody(stated))
        return Known({each: stated.evidence for each in found.value if asked is None or each in asked})

    async def _exempt(self, asked: set[str] | None) -> Reading[Mapping[str, str]]:
        if not self._profile.exempt_filter:
            return Known({})
        found = await self._matching(self._profile.exempt_filter)
        if isinstance(found, Unknown):
            return found
        evidence = f"matches the exempting filter {self._profile.exempt_filter}"
        return Known({each: evidence for each in found.value if asked is None or each in asked})

    async def _matching(self, condition: str) -> Reading[frozenset[str]]:
        """Return the ids of the accounts that match a filter; a server that has no filters makes it Unknown."""
        try:
            if not await self._filters():
                return Unknown("The service says that it has no filters, so it cannot tell.")
            ids = [user["id"] async for page in self._session.users(condition) for user in page]
        except (SignInRefused, Unreachable):
            raise
        except ReclaimError as error:
            return Unknown(str(error))
        return Known(frozenset(ids))

    async def _states(
        self, asked: set[str] | None
    ) -> Reading[tuple[frozenset[str], Mapping[str, datetime], frozenset[str]]]:
        """Return who is off where that is a freeze, when those who are on were last changed, and whom it came upon.

        SCIM does not tell when an account was switched on again. Any change leaves the seat alone for a while, which
        is more than is needed and never less.
        """
        off: set[str] = set()
        changed: dict[str, datetime] = {}

        def note(users: Iterable[Resource]) -> None:
            for user in users:
                if active(user):
                    changed[user["id"]] = _changed_at(user)
                else:
                    off.add(user["id"])

        try:
            if asked is not None:
                found = await asyncio.gather(*map(self._session.user, sorted(asked)))
                note(user for user in found if user is not None)
            else:
                async for page in self._session.users(self._profile.user_filter):
                    note(page)
        except (SignInRefused, Unreachable):
            raise
        except ReclaimError as error:
            return Unknown(str(error))
        frozen = frozenset(off) if self._profile.freeze_by_deactivation else frozenset()
        return Known((frozen, changed, frozenset(off | changed.keys())))

    async def _own(self) -> str | None:
        """Return the id of the account that Reclaim runs as, which the setting names by id or by user name."""
        own = self._profile.run_as
        if await self._session.user(own) is not None:
            return own
        if await self._filters():
            quoted = own.replace("\\", "\\\\").replace('"', '\\"')
            async for page in self._session.users(f'userName eq "{quoted}"'):
                for user in page:
                    if str(user.get("userName", "")).lower() == own.lower():
                        return str(user["id"])
        return None

    async def _filters(self) -> bool:
        return (await self._session.features()).filter is not False

    # What is listed.

    async def _look_up(
        self, managers: dict[str, Manager | None], users: Iterable[Resource], at_hand: Iterable[Resource]
    ) -> None:
        """Add the managers of some users to those that are known: from what is at hand, else asked for, once each."""
        here = {user["id"]: user for user in at_hand}
        missing = []
        for each in dict.fromkeys(filter(None, map(_manager_id, users))):
            if each in here:
                managers[each] = _manager(here[each])
            elif each not in managers:
                missing.append(each)
        for each, user in zip(missing, await asyncio.gather(*map(self._session.user, missing)), strict=True):
            managers[each] = None if user is None else _manager(user)

    def _seat(self, user: Resource, managers: Mapping[str, Manager | None]) -> SeatRecord:
        above = _manager_id(user)
        manager = managers.get(above) if above else None
        if above and manager is None:
            # Named, and not there any more.
            manager = Manager(Person(id=above, name=above), able=False)
        enterprise = _part(user, ENTERPRISE)
        department = enterprise.get("department")
        return SeatRecord(
            holder=_person(user),
            product=self._profile.product,
            product_name=self._product_name,
            department=department if isinstance(department, str) and department else None,
            active=active(user),
            usage_type="Standard",
            # Without a date an account counts as new, which leaves it alone.
            created_at=_instant(_part(user, "meta").get("created")) or self._session.clock.now(),
            last_used_at=None,
            manager=manager,
            one_switch=self._profile.freeze_by_deactivation,
        )

    async def _try(self, stated: _Stated, condition: str | None) -> TestResult:
        what = f"Knows {stated.what}"
        if condition is None:
            return TestResult(what, ok=True, detail=f"Nobody is flagged meanwhile. {_not_stated(stated)}")
        if not condition:
            return TestResult(what, ok=True, detail="there are none, as stated")
        found = await self._matching(condition)
        if isinstance(found, Unknown):
            return TestResult(what, ok=False, detail=found.reason)
        if not found.value:
            return TestResult(what, ok=False, detail=_matches_nobody(stated))
        return TestResult(what, ok=True, detail=f"{len(found.value)} accounts match")

    async def _try_exempt(self) -> TestResult:
        found = await self._matching(self._profile.exempt_filter)
        if isinstance(found, Unknown):
            return TestResult("Exempting filter", ok=False, detail=found.reason)
        return TestResult("Exempting filter", ok=True, detail=f"{len(found.value)} accounts match")


@dataclass(slots=True)
class _Shown:
    """What a service showed of groups while some were read.

    `example` is one that it showed with members, None if there is none yet, or none in the first pages, if somebody
    `looked` there. `filters` tells whether it finds that one when it is asked for groups with members; None: not asked
    yet. `bare` are the groups that it showed without members, each with the name of the one that was asked for.
    """

    example: Resource | None = None
    looked: bool = False
    filters: bool | None = None
    bare: list[tuple[str, Resource]] = field(default_factory=list)


def _called(name: str) -> str:
    """Return the filter that finds the groups of a name."""
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'displayName eq "{quoted}"'


def _listed(group: Resource) -> list[Any]:
    """Return the members that a group is shown with; nothing where it is shown with none."""
    listed = group.get("members")
    return listed if isinstance(listed, list) else []


def _kind_of_member(member: object) -> tuple[str, str]:
    """Return what a member of a group is, `User` or `Group`, with its id; empty where the service does not say."""
    if not isinstance(member, dict) or not isinstance(member.get("value"), str):
        return "", ""
    kind, reference = member.get("type"), member.get("$ref")
    if not isinstance(kind, str) and isinstance(reference, str):
        kind = "User" if "/Users/" in reference else "Group" if "/Groups/" in reference else ""
    return (kind if isinstance(kind, str) else ""), member["value"]


def is_own(user: Resource, run_as: str) -> bool:
    """Tell whether an account is the one that Reclaim runs as."""
    return bool(run_as) and (user["id"] == run_as or str(user.get("userName", "")).lower() == run_as.lower())


def active(user: Resource) -> bool:
    """Tell whether an account is on. Some services write the truth as text; one that has no such attribute is on."""
    value = user.get("active")
    return value.lower() != "false" if isinstance(value, str) else value is not False


def _person(user: Resource) -> Person:
    name = _part(user, "name")
    full = " ".join(part for key in ("givenName", "familyName") if isinstance(part := name.get(key), str) and part)
    known = next(
        (
            text.strip()
            for text in (user.get("displayName"), name.get("formatted"), full, user.get("userName"))
            if isinstance(text, str) and text.strip()
        ),
        user["id"],
    )
    return Person(id=user["id"], name=known, email=_email(user))


def _email(user: Resource) -> str | None:
    given = user.get("emails")
    emails = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    # The primary one, else the one at work, else the first.
    emails.sort(key=lambda each: (each.get("primary") is not True, each.get("type") != "work"))
    for text in (*(each.get("value") for each in emails), user.get("userName")):
        if isinstance(text, str) and "@" in text:
            return text
    return None


def _manager(user: Resource) -> Manager:
    return Manager(_person(user), able=active(user))


def _manager_id(user: Resource) -> str | None:
    manager = _part(user, ENTERPRISE).get("manager")
    value = manager.get("value") if isinstance(manager, dict) else manager
    return value if isinstance(value, str) and value else None


def _part(user: Resource, name: str) -> Resource:
    part = user.get(name)
    return part if isinstance(part, dict) else {}


def _changed_at(user: Resource) -> datetime:
    at = _instant(_part(user, "meta").get("lastModified"))
    if at is None:
        raise Incomplete(
            "The service does not say when an account was last changed (meta.lastModified), so nobody knows which were "
            "switched on again a short while ago."
        )
    return at


def _instant(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _both(one: str, other: str) -> str:
    return f"({one}) and {other}" if one else other


def _not_stated(stated: _Stated) -> str:
    return f"SCIM does not tell {stated.what}: enter {stated.setting}, or 'none' if there are none."


def _matches_nobody(stated: _Stated) -> str:
    return f"{stated.setting} matches nobody, so it may be misspelt: correct it, or enter 'none' if there are none."


def _no_own(run_as: str) -> str:
    return f"The service has no account {run_as!r}: correct run_as."
