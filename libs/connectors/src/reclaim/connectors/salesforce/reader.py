"""Reads seats, licences and what the safety checks need from one Salesforce org.

Every reading is a query over a set, so the number of calls grows with pages and not with people. Salesforce shows a
user without *Manage Users* only its own sign-ins and tokens, and without *View All Data* only the records shared with
it, in answers that look complete. The rights of the user we run as are therefore read first, and a reading that they
do not cover is Unknown.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal, TypeVar

from reclaim.common.contracts import Person
from reclaim.common.errors import Invalid, NotFound, Permanent, ReclaimError, Transient
from reclaim.connectors.errors import SignInRefused, Unreachable
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
from reclaim.connectors.salesforce import soql
from reclaim.connectors.salesforce.errors import ApiLimit, NotReadable
from reclaim.connectors.salesforce.session import ReadSession, Row
from reclaim.connectors.salesforce.soql import Query

T = TypeVar("T")

BUSINESS: Final = {"Opportunity": "IsClosed", "Case": "IsClosed", "Lead": "IsConverted"}
"""The objects whose records need a new owner, and the field that tells that a record is done with."""

IDS_INSIDE: Final = 500
"""Ids in a query that stands within another one, which has to fit into the URL as well."""

USER_PREFIX: Final = "005"
"""What the id of every user begins with."""

INTEGRATION_LICENCE: Final = "Salesforce Integration"

_NO_MANAGE: Final = "Reclaim's user lacks the permission Manage Users, so Salesforce shows it only itself."
_NO_VIEW: Final = "Reclaim's user lacks the permission View All Data, so Salesforce hides records from it."
_Right = Literal["manage_users", "view_all_data"]

_USERS: Final = Query(
    "Id, Name, Email, Department, IsActive, UserType, CreatedDate, LastLoginDate, ManagerId, Manager.Name, "
    "Manager.Email, Manager.IsActive, Profile.UserLicenseId",
    "User",
)
_FROZEN: Final = Query("UserId", "UserLogin", ("IsFrozen = true",))
_LICENCES: Final = Query(
    "Id, Name, LicenseDefinitionKey, TotalLicenses, UsedLicenses", "UserLicense", ("Status = 'Active'",)
)
_SETS: Final = Query(
    "AssigneeId, PermissionSetId", "PermissionSetAssignment", ("PermissionSet.IsOwnedByProfile = false",)
)
_ASSIGNMENTS: Final = Query("AssigneeId", "PermissionSetAssignment")

_TESTED: Final = {
    "UserLicense": "the licences",
    "User": "the users",
    "UserLogin": "who is frozen",
    "LoginHistory": "sign-ins through other channels",
    "OauthToken": "apps that use an account",
    "PermissionSetAssignment": "administrators, integration users and exemptions",
    "CronTrigger": "scheduled jobs",
    "AsyncApexJob": "jobs that are running",
    "Dashboard": "dashboards' running users",
    "ProcessInstanceWorkitem": "pending approvals",
    "Group": "public groups",
    "GroupMember": "queues and members of groups",
    "Opportunity": "open opportunities",
    "Case": "open cases",
    "Lead": "open leads",
}


@dataclass(frozen=True, slots=True)
class _Rights:
    """What the user we run as may see of others."""

    user_id: str
    manage_users: bool
    view_all_data: bool


LONGEST_GROUP_NAME: Final = 255
"""More characters than the name of a public group can have."""


class SalesforceReader:
    """The `SeatReader` of a Salesforce org."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    async def test(self) -> Sequence[TestResult]:
        """Sign in, then try each object and right that scanning needs; one result each."""
        try:
            rights = await self._rights()
        except ReclaimError as error:
            return [TestResult("Connection", ok=False, detail=str(error))]
        results = [TestResult("Connection", ok=True, detail=f"signed in as user {rights.user_id}")]
        usage = self._session.usage
        if usage is not None:
            results.append(TestResult("API calls", ok=True, detail=f"{usage.used} of {usage.allowed} used in 24 hours"))
        results.append(
            TestResult(
                "Manage Users",
                ok=rights.manage_users,
                detail="granted"
                if rights.manage_users
                else "Give Reclaim's user the permission Manage Users: without it Salesforce hides who is frozen and "
                "how others sign in.",
            )
        )
        results.append(
            TestResult(
                "View All Data",
                ok=rights.view_all_data,
                detail="granted"
                if rights.view_all_data
                else "Give Reclaim's user the permission View All Data: without it open records of others are missed.",
            )
        )
        tries = [self._try(f"Read {kind}", what, Query("Id", kind, limit=1)) for kind, what in _TESTED.items()]
        results += await asyncio.gather(*tries)
        results.append(await self._try_exemption())
        return results

    async def licences(self) -> Sequence[Licence]:
        """Return the pools of user licences; the product is `LicenseDefinitionKey`, or the name where it has none."""
        return [
            Licence(
                product=_product(row), name=row["Name"], total=int(row["TotalLicenses"]), used=int(row["UsedLicenses"])
            )
            for row in await self._session.rows(_LICENCES)
        ]

    async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        """Yield all active seats of the given products, a page at a time.

        Raises:
            NotFound: the org has no licence of that key; the message lists those it has.
            Incomplete: paging ended early.
        """
        if not products:
            return
        licences = {row["Id"]: row for row in await self._session.rows(_LICENCES)}
        wanted = [record_id for record_id, row in licences.items() if _product(row) in products]
        missing = set(products) - {_product(licences[record_id]) for record_id in wanted}
        if missing:
            known = ", ".join(sorted(_product(row) for row in licences.values()))
            raise NotFound(f"The org has no licence {', '.join(sorted(missing))}. It has: {known}.")
        frozen = {row["UserId"] for row in await self._session.rows(_FROZEN)}
        standard = _USERS.where("IsActive = true", "UserType = 'Standard'")
        async for page in self._session.by_id(standard.where(soql.among("Profile.UserLicenseId", wanted))):
            yield [_seat(row, licences, frozen) for row in page]

    async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
        """Return the present record of each holder, active or not; one that no longer exists is left out."""
        asked = [each for each in dict.fromkeys(holders) if soql.is_id(each)]
        if not asked:
            return {}
        licences, rows = await asyncio.gather(self._session.rows(_LICENCES), self._per_chunk(_USERS, "Id", asked))
        managers = list(dict.fromkeys(row["ManagerId"] for row in rows if row["ManagerId"]))
        frozen = {row["UserId"] for row in await self._per_chunk(_FROZEN, "UserId", managers)}
        by_id = {row["Id"]: row for row in licences}
        # Salesforce answers with 18 characters, also when it was asked with 15.
        found = {row["Id"][:15]: _seat(row, by_id, frozen) for row in rows}
        return {each: found[each[:15]] for each in asked if each[:15] in found}

    async def members(self, groups: Sequence[str]) -> Mapping[str, Members]:
        """Return who is in each of some public groups, by their names, with the members of the public groups in them.

        A call for our rights, one for some 400 names of usual length, and two for each level of groups within groups
        and 600 groups in it. A role or territory in a group stands for people that it does not list, so with one in it
        nobody is certain to be outside.

        Raises:
            SignInRefused, ApiLimit, Unreachable: as `survey`.
        """
        wanted = list(dict.fromkeys(groups))
        if not wanted:
            return {}
        try:
            if not (await self._rights()).manage_users:
                return dict.fromkeys(wanted, Members(doubt=_NO_MANAGE))
            named, inside, kinds = await self._groups(wanted)
        except (SignInRefused, ApiLimit, Unreachable):
            raise
        except ReclaimError as error:
            return dict.fromkeys(wanted, Members.unread(error, str(error)))
        found = {}
        for name in wanted:
            roots = [group_id for group_id, of in named.items() if of == name]
            found[name] = _members(name, roots, inside, kinds) if roots else Members(doubt=_no_group(name))
        return found

    async def _groups(self, names: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]], dict[str, str]]:
        """Return public groups by id with their names, what is in each group, and of which type each group is."""
        query = Query("Id, Name, Type", "Group").where("Type = 'Regular'")
        # A longer one is no group's, and would only make the question too long.
        asked = [name for name in names if len(name) <= LONGEST_GROUP_NAME]
        chunks = soql.in_chunks_of_texts(query, "Name", asked)
        rows = [row for part in await asyncio.gather(*map(self._session.rows, chunks)) for row in part]
        # Salesforce compares without regard to case; filters do not.
        named = {row["Id"]: row["Name"] for row in rows if row["Name"] in names}
        kinds = dict.fromkeys(named, "Regular")
        inside: dict[str, list[str]] = {}
        level = sorted(named)
        while level:
            inside |= {group_id: [] for group_id in level}
            for row in await self._per_chunk(Query("GroupId, UserOrGroupId", "GroupMember"), "GroupId", level):
                inside[row["GroupId"]].append(row["UserOrGroupId"])
            within = sorted({one for each in level for one in inside[each] if not _is_user(one)} - kinds.keys())
            for row in await self._per_chunk(Query("Id, Type", "Group"), "Id", within):
                kinds[row["Id"]] = row["Type"]
            level = [each for each in within if kinds.get(each) == "Regular"]
        return named, inside, kinds

    async def grants(self, holders: Sequence[str]) -> Mapping[str, Grants]:
        """Return each holder's licence and profile, with the permission sets and permission set licences."""
        asked = [each for each in dict.fromkeys(holders) if soql.is_id(each)]
        if not asked:
            return {}
        licences, users, sets, add_ons = await asyncio.gather(
            self._session.rows(_LICENCES),
            self._per_chunk(Query("Id, ProfileId, Profile.UserLicenseId", "User"), "Id", asked),
            self._per_chunk(_SETS, "AssigneeId", asked),
            self._per_chunk(
                Query("AssigneeId, PermissionSetLicenseId", "PermissionSetLicenseAssign"), "AssigneeId", asked
            ),
        )
        by_id = {row["Id"]: row for row in licences}
        held: dict[str, list[str]] = defaultdict(list)
        added: dict[str, list[str]] = defaultdict(list)
        for row in sets:
            held[row["AssigneeId"][:15]].append(row["PermissionSetId"])
        for row in add_ons:
            added[row["AssigneeId"][:15]].append(row["PermissionSetLicenseId"])
        found = {
            row["Id"][:15]: Grants(
                product=_product_of(row, by_id),
                profile=row["ProfileId"],
                permission_sets=tuple(sorted(held[row["Id"][:15]])),
                permission_set_licences=tuple(sorted(added[row["Id"][:15]])),
            )
            for row in users
        }
        return {each: found[each[:15]] for each in asked if each[:15] in found}

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
        """Read what the safety checks need; a source that could not be read is `Unknown`.

        Raises:
            SignInRefused: the org does not accept the credentials.
            ApiLimit: the daily reserve is reached.
            Unreachable: there is no connection to the org.
            Transient: no source at all could be read, though later they may be.
            Invalid: one of the holders is not a Salesforce id.
        """
        taken_at = self._session.clock.now()
        if holders is not None:
            for each in holders:
                if not soql.is_id(each):
                    raise Invalid(f"{each!r} is not a Salesforce id.", field="holders")
            if not holders:
                return _nobody(taken_at)
        scope = _Scope(self._session, holders, await self._rights())
        elsewhere, integration, administrators, exempt, logins = await asyncio.gather(
            scope.read(lambda: self._elsewhere(scope, since), needs="manage_users"),
            scope.read(lambda: self._integration_users(scope), needs="manage_users"),
            scope.read(lambda: self._administrators(scope), needs="manage_users"),
            scope.read(lambda: self._exempt(scope, taken_at.date()), needs="manage_users"),
            scope.read(lambda: self._logins(scope, since), needs="manage_users"),
        )
        frozen = logins.value[0] if holders is None and isinstance(logins, Known) else None
        scheduled, approvals, queues, business = await asyncio.gather(
            scope.read(lambda: self._scheduled_work(scope), needs="view_all_data"),
            scope.read(lambda: self._approvals(scope), needs="view_all_data"),
            scope.read(lambda: self._queues(scope), needs="manage_users"),
            scope.read(lambda: self._open_business(scope, frozen), needs="view_all_data"),
        )
        if scope.failed and not scope.succeeded and all(isinstance(error, Transient) for error in scope.failed):
            raise scope.failed[0]
        return Survey(
            taken_at=taken_at,
            last_seen_elsewhere=elsewhere,
            integration_users=integration,
            administrators=administrators,
            exempt=exempt,
            frozen=logins if isinstance(logins, Unknown) else Known(logins.value[0]),
            thawed_at=logins if isinstance(logins, Unknown) else Known(logins.value[1]),
            scheduled_work=scheduled,
            pending_approvals=approvals,
            queues=queues,
            open_business=business,
            # Every account has a login row, and without it could not be frozen.
            seen=None if holders is None or isinstance(logins, Unknown) else logins.value[0] | logins.value[1].keys(),
        )

    async def open_records(self, holders: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return the ids of each holder's open records by object type; a holder without any is left out.

        Raises:
            NotReadable: the user we run as may not see all records, so that some would be missed.
        """
        asked = {each[:15]: each for each in holders if soql.is_id(each)}
        if not asked:
            return {}
        if not (await self._rights()).view_all_data:
            raise NotReadable("INSUFFICIENT_ACCESS", _NO_VIEW)
        found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for kind, done in BUSINESS.items():
            query = Query("Id, OwnerId", kind).where(soql.equal(done, value=False))
            for row in await self._per_chunk(query, "OwnerId", list(asked.values())):
                found[asked[row["OwnerId"][:15]]][kind].append(row["Id"])
        return {holder: dict(by_kind) for holder, by_kind in found.items()}

    async def close(self) -> None:
        """Close the connections to the org."""
        await self._session.close()

    # The sources of the checks, in the checks' order.

    async def _elsewhere(self, scope: _Scope, since: datetime) -> Mapping[str, datetime]:
        # A failed sign-in is no use; its status can be grouped by, but not filtered on.
        history = Query("UserId, Status, MAX(LoginTime) latest", "LoginHistory", group="UserId, Status")
        tokens = Query("UserId, LastUsedDate", "OauthToken")
        signed_in, used = await asyncio.gather(
            scope.grouped(history.where(soql.at_least("LoginTime", since), "LoginType != 'Application'"), "UserId"),
            scope.rows(tokens.where(soql.at_least("LastUsedDate", since)), "UserId"),
        )
        latest: dict[str, datetime] = {}
        uses = [(row["UserId"], row["latest"]) for row in signed_in if row["Status"] == "Success"]
        for user_id, at in uses + [(row["UserId"], row["LastUsedDate"]) for row in used]:
            seen = _instant(at)
            if user_id not in latest or latest[user_id] < seen:
                latest[user_id] = seen
        return latest

    async def _integration_users(self, scope: _Scope) -> Mapping[str, str]:
        limited, licensed = await asyncio.gather(
            scope.whole(_ASSIGNMENTS.where("PermissionSet.PermissionsApiUserOnly = true"), "AssigneeId"),
            scope.whole(Query("Id", "User").where(soql.equal("Profile.UserLicense.Name", INTEGRATION_LICENCE)), "Id"),
        )
        found = {row["AssigneeId"]: "may use the API only" for row in limited}
        found.update({row["Id"]: f"holds the licence {INTEGRATION_LICENCE}" for row in licensed})
        return found

    async def _administrators(self, scope: _Scope) -> Mapping[str, str]:
        # A profile's rights are those of the permission set that it owns, so this one source has both.
        rows = await scope.whole(
            Query("AssigneeId, PermissionSet.PermissionsModifyAllData", "PermissionSetAssignment").where(
                "(PermissionSet.PermissionsModifyAllData = true OR PermissionSet.PermissionsManageUsers = true)"
            ),
            "AssigneeId",
        )
        found: dict[str, str] = {}
        for row in rows:
            if row["PermissionSet"]["PermissionsModifyAllData"]:
                found[row["AssigneeId"]] = "may modify all data"
            else:
                found.setdefault(row["AssigneeId"], "may manage users")
        scope.must_know(found)
        found[scope.rights.user_id] = "Reclaim signs in as this user"
        return found

    async def _exempt(self, scope: _Scope, today: date) -> Mapping[str, str]:
        profile = self._session.profile
        name = profile.exempt_permission_set
        rows, sets = await asyncio.gather(
            scope.whole(_ASSIGNMENTS.where(soql.equal("PermissionSet.Name", name)), "AssigneeId"),
            self._session.rows(_named_set(name)),
        )
        if not sets and not profile.exempt_is_default:
            raise Permanent(_no_set(name))
        found = {row["AssigneeId"]: f"has the permission set {name}" for row in rows}
        if profile.hold_field is not None:
            held = soql.name(profile.hold_field)
            for row in await scope.whole(Query(f"Id, {held}", "User").where(soql.at_least(held, today)), "Id"):
                found[row["Id"]] = f"on hold until {row[held]}"
        return found

    async def _logins(self, scope: _Scope, since: datetime) -> tuple[frozenset[str], Mapping[str, datetime]]:
        query = Query("UserId, IsFrozen, LastModifiedDate", "UserLogin")
        if scope.everybody:
            # There is a row for every user, and few of them say anything.
            ours = soql.equal("UserId", scope.rights.user_id)
            query = query.where(f"(IsFrozen = true OR {soql.at_least('LastModifiedDate', since)} OR {ours})")
        rows = await scope.rows(query, "UserId")
        scope.must_know(row["UserId"] for row in rows)
        frozen = frozenset(row["UserId"] for row in rows if row["IsFrozen"])
        return frozen, {row["UserId"]: _instant(row["LastModifiedDate"]) for row in rows if not row["IsFrozen"]}

    async def _scheduled_work(self, scope: _Scope) -> Mapping[str, str]:
        crons = Query("OwnerId, CronJobDetail.Name", "CronTrigger")
        jobs = Query("CreatedById, JobType", "AsyncApexJob")
        dashboards = Query("RunningUserId, Title", "Dashboard")
        scheduled, running, shown = await asyncio.gather(
            scope.whole(crons.where("State NOT IN ('COMPLETE', 'DELETED', 'ERROR')"), "OwnerId"),
            scope.whole(jobs.where("Status IN ('Holding', 'Queued', 'Preparing', 'Processing')"), "CreatedById"),
            scope.whole(dashboards.where("Type = 'SpecifiedUser'"), "RunningUserId"),
        )
        evidence: dict[str, list[str]] = defaultdict(list)
        for row in scheduled:
            evidence[row["OwnerId"]].append(f"scheduled job {row['CronJobDetail']['Name']}")
        for row in running:
            evidence[row["CreatedById"]].append(f"running job of the kind {row['JobType']}")
        for row in shown:
            evidence[row["RunningUserId"]].append(f"running user of dashboard {row['Title']}")
        return _joined(evidence)

    async def _approvals(self, scope: _Scope) -> Mapping[str, str]:
        delegating = Query("DelegatedApproverId", "User").where("IsActive = true", "DelegatedApproverId != null")
        waiting, delegated = await asyncio.gather(
            scope.whole(Query("ActorId", "ProcessInstanceWorkitem"), "ActorId"),
            scope.whole(delegating, "DelegatedApproverId"),
        )
        evidence: dict[str, list[str]] = defaultdict(list)
        for user_id, count in Counter(row["ActorId"] for row in waiting).items():
            evidence[user_id].append(f"{count} pending approval{'s' if count > 1 else ''}")
        for user_id, count in Counter(row["DelegatedApproverId"] for row in delegated).items():
            evidence[user_id].append(f"delegated approver of {count} user{'s' if count > 1 else ''}")
        return _joined(evidence)

    async def _queues(self, scope: _Scope) -> Mapping[str, str]:
        members = Query("UserOrGroupId, Group.Name", "GroupMember").where("Group.Type = 'Queue'")
        evidence: dict[str, list[str]] = defaultdict(list)
        for row in await scope.whole(members, "UserOrGroupId"):
            evidence[row["UserOrGroupId"]].append(f"queue {row['Group']['Name']}")
        return _joined(evidence)

    async def _open_business(self, scope: _Scope, frozen: frozenset[str] | None) -> Mapping[str, int]:
        queries = [
            Query("OwnerId, COUNT(Id) records", kind, group="OwnerId").where(soql.equal(done, value=False))
            for kind, done in BUSINESS.items()
        ]
        if frozen is not None:
            owners = await self._without_manager(frozen)
            queries = [query.where(soql.found_in("OwnerId", each)) for query in queries for each in owners]
        total: Counter[str] = Counter()
        for groups in await asyncio.gather(*(scope.grouped(query, "OwnerId") for query in queries)):
            for group in groups:
                total[group["OwnerId"]] += int(group["records"])
        return dict(total)

    async def _without_manager(self, frozen: frozenset[str]) -> list[Query]:
        """Return the queries for everybody whose records no manager can take over; nobody is in two of them.

        Of the others it does not matter what they own, and in a large org they are nearly all.
        """
        people = Query("Id", "User", ("IsActive = true",))
        above = await self._per_chunk(
            Query("ManagerId", "User", ("IsActive = true",), group="ManagerId"), "ManagerId", sorted(frozen)
        )
        managers = sorted(row["ManagerId"] for row in above)
        return [
            people.where("(ManagerId = null OR Manager.IsActive = false)"),
            *soql.in_chunks(people.where("Manager.IsActive = true"), "ManagerId", managers, most=IDS_INSIDE),
        ]

    # Helpers.

    async def _rights(self) -> _Rights:
        user_id = await self._session.user_id()
        rows = await self._session.rows(
            Query(
                "PermissionSet.PermissionsManageUsers, PermissionSet.PermissionsViewAllData, "
                "PermissionSet.PermissionsModifyAllData",
                "PermissionSetAssignment",
            ).where(soql.equal("AssigneeId", user_id))
        )
        sets = [row["PermissionSet"] for row in rows]
        return _Rights(
            user_id,
            manage_users=any(each["PermissionsManageUsers"] for each in sets),
            view_all_data=any(each["PermissionsViewAllData"] or each["PermissionsModifyAllData"] for each in sets),
        )

    async def _per_chunk(self, query: Query, field: str, ids: Sequence[str]) -> list[Row]:
        """Return the rows whose field is one of the ids, asked for in chunks."""
        parts = await asyncio.gather(*(self._session.rows(chunk) for chunk in soql.in_chunks(query, field, ids)))
        return [row for part in parts for row in part]

    async def _try(self, name: str, what: str, query: Query) -> TestResult:
        try:
            await self._session.rows(query)
        except ReclaimError as error:
            return TestResult(name, ok=False, detail=f"cannot read {what}: {error}")
        return TestResult(name, ok=True, detail=f"can read {what}")

    async def _try_exemption(self) -> TestResult:
        profile = self._session.profile
        name = profile.exempt_permission_set
        what = f"Permission set {name}"
        try:
            found = await self._session.rows(_named_set(name))
            if profile.hold_field is not None:
                await self._session.rows(Query(f"Id, {soql.name(profile.hold_field)}", "User", limit=1))
        except ReclaimError as error:
            return TestResult(what, ok=False, detail=str(error))
        if found:
            return TestResult(what, ok=True, detail="whoever has it is left alone")
        if profile.exempt_is_default:
            return TestResult(what, ok=True, detail="not in this org, so it exempts nobody; create it to exempt people")
        return TestResult(what, ok=False, detail=_no_set(name))


class _Scope:
    """Whom one survey is about, and which of its sources could be read."""

    def __init__(self, session: ReadSession, holders: Sequence[str] | None, rights: _Rights) -> None:
        self.rights = rights
        self.succeeded = 0
        self.failed: list[ReclaimError] = []
        self._session = session
        # Our own user is always asked about too: an answer that does not know it has left something out.
        self._holders = None if holders is None else list(dict.fromkeys((*holders, rights.user_id)))

    @property
    def everybody(self) -> bool:
        return self._holders is None

    async def read(self, source: Callable[[], Awaitable[T]], *, needs: _Right) -> Reading[T]:
        """Read one source; its failure is its own, unless the org as a whole does not answer."""
        if needs == "manage_users" and not self.rights.manage_users:
            return Unknown(_NO_MANAGE)
        if needs == "view_all_data" and not self.rights.view_all_data:
            return Unknown(_NO_VIEW)
        try:
            value = await source()
        except (SignInRefused, ApiLimit, Unreachable):
            raise
        except ReclaimError as error:
            self.failed.append(error)
            return Unknown(str(error))
        self.succeeded += 1
        return Known(value)

    def must_know(self, user_ids: Iterable[str]) -> None:
        """Refuse an answer that lacks our own user, who is certainly in it.

        Raises:
            Incomplete: it does, so it may lack others too.
        """
        if not any(each[:15] == self.rights.user_id[:15] for each in user_ids):
            raise Incomplete("Salesforce's answer leaves out the very user that asked, so it is not everything.")

    async def rows(self, query: Query, key: str) -> list[Row]:
        """Return the rows whose `key` is one of the holders, asking by id."""
        if self._holders is None:
            return await self._session.rows(query)
        chunks = soql.in_chunks(query, key, self._holders)
        parts = await asyncio.gather(*(self._session.rows(chunk) for chunk in chunks))
        return [row for part in parts for row in part]

    async def whole(self, query: Query, key: str) -> list[Row]:
        """Return at least the rows whose `key` is one of the holders; for a source that is small in any org.

        For many holders reading it whole takes fewer calls than asking by id.
        """
        if self._holders is not None and len(self._holders) > soql.MAX_IDS:
            return await self._session.rows(query)
        return await self.rows(query, key)

    async def grouped(self, query: Query, key: str) -> list[Row]:
        """Return the groups whose `key` is one of the holders, asking by id."""
        if self._holders is None:
            return await self._session.grouped(query, key)
        chunks = soql.in_chunks(query, key, self._holders)
        parts = await asyncio.gather(*(self._session.grouped(chunk, key) for chunk in chunks))
        return [row for part in parts for row in part]


def _named_set(name: str) -> Query:
    return Query("Id", "PermissionSet").where(soql.equal("Name", name))


def _no_set(name: str) -> str:
    return (
        f"The permission set {name}, which exempts people, does not exist: create it or correct exempt_permission_set."
    )


def _no_group(name: str) -> str:
    return f"The org has no public group {name!r}: it may be misspelt, or have another name now."


def _is_user(record_id: str) -> bool:
    return record_id.startswith(USER_PREFIX)


def _members(name: str, roots: Sequence[str], inside: Mapping[str, Sequence[str]], kinds: Mapping[str, str]) -> Members:
    """Return the users in some groups of one name; a circle of groups ends, each is gone through once."""
    users: set[str] = set()
    passed: set[str] = set()
    doubt = ""
    waiting = list(roots)
    while waiting:
        group_id = waiting.pop()
        if group_id in passed:
            continue
        passed.add(group_id)
        if group_id not in inside:
            kind = kinds.get(group_id, "group that Salesforce does not show")
            doubt = f"The group {name} has a {kind} in it, whose people Salesforce does not list as members."
            continue
        for each in inside[group_id]:
            if _is_user(each):
                users.add(each)
            else:
                waiting.append(each)
    return Members(frozenset(users), doubt)


def _seat(row: Row, licences: Mapping[str, Row], frozen: Collection[str]) -> SeatRecord:
    licence = licences.get((row["Profile"] or {}).get("UserLicenseId") or "")
    manager: Manager | None = None
    if row["ManagerId"]:
        above: Mapping[str, Any] = row["Manager"] or {}
        manager = Manager(
            person=Person(id=row["ManagerId"], name=above.get("Name") or row["ManagerId"], email=above.get("Email")),
            able=above.get("IsActive") is True and row["ManagerId"] not in frozen,
        )
    return SeatRecord(
        holder=Person(id=row["Id"], name=row["Name"], email=row["Email"]),
        product="" if licence is None else _product(licence),
        product_name="" if licence is None else licence["Name"],
        department=row["Department"],
        active=row["IsActive"],
        usage_type=row["UserType"],
        created_at=_instant(row["CreatedDate"]),
        last_used_at=None if row["LastLoginDate"] is None else _instant(row["LastLoginDate"]),
        manager=manager,
    )


def _product_of(user: Row, licences: Mapping[str, Row]) -> str:
    licence = licences.get((user["Profile"] or {}).get("UserLicenseId") or "")
    return "" if licence is None else _product(licence)


def _product(licence: Row) -> str:
    return str(licence["LicenseDefinitionKey"] or licence["Name"])


def _instant(text: str) -> datetime:
    """Return Salesforce's `2026-11-21T09:00:00.000+0000` as an aware datetime."""
    return datetime.fromisoformat(text)


def _joined(evidence: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return each holder's evidence as one line of at most three parts."""
    return {
        holder: "; ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
        for holder, parts in evidence.items()
    }


def _nobody(taken_at: datetime) -> Survey:
    """Return the survey of no holders at all, which costs no call."""
    empty: Known[Mapping[str, Any]] = Known({})
    return Survey(taken_at, empty, empty, empty, empty, Known(frozenset()), empty, empty, empty, empty, empty)
