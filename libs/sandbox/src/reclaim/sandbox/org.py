"""The org: its rows, the transactions that change them, and the logs that judge whoever did.

Rows are lists, one slot a field, so that 200,000 users fit in a few hundred megabytes. Everything that arrives over
the API goes through `Org.transaction`, which enforces the rules and appends to the write log on commit. Seeding
(`insert`, `amend`) bypasses the rules and leaves no trace: it is how the world came to be.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal

from reclaim.common.clock import Clock

from . import rules
from .errors import SalesforceError
from .ids import make_id, normalise_id
from .query import json_value
from .schema import (
    BY_PREFIX,
    CASE_STATUSES,
    LOGIN_TYPES,
    NUMBER_TYPES,
    OBJECTS,
    OPPORTUNITY_STAGES,
    Field,
    ObjectType,
    find_object,
)

Row = list[Any]
Channel = Literal["ui", "api", "sso", "mobile", "partner"]

PERSON = "person"
"""The caller, and the api, that a simulated person's changes are logged under."""

SOMEBODY = make_id("005", 62**9 - 1)
"""The user that a simulated person's changes are stamped with, who is nobody else in the org."""

_STAMP_FIELDS = ("LastModifiedDate", "SystemModstamp")


@dataclass(frozen=True, slots=True)
class WriteEntry:
    """One field of one record as a committed write left it. A write of the value it had is logged too."""

    seq: int
    at: str
    api: str
    object: str
    id: str
    field: str
    before: Any
    after: Any
    caller: str


@dataclass(frozen=True, slots=True)
class RequestEntry:
    """One call of the API, answered or not."""

    seq: int
    at: str
    method: str
    path: str
    query: str | None
    status: int
    records: int
    error: str | None
    fault: str | None


@dataclass(slots=True)
class OrgSettings:
    """What an administrator has set up, as far as it decides whether a call succeeds."""

    default_case_owner: str | None = None
    automated_case_user: str | None = None
    default_lead_owner: str | None = None
    default_lead_creator: str | None = None
    default_workflow_user: str | None = None
    approvers: set[str] = field(default_factory=set)
    daily_api_limit: int = 100_000
    composite_counts_each: bool = False
    """Whether every subrequest of a composite call counts against the daily limit, or the call once."""
    session_lifetime: timedelta = timedelta(hours=2)
    licences_convertible: dict[str, set[str]] = field(default_factory=dict)
    """Licence id to the ids of the licences that a user who holds it may be moved to."""
    licences_of_add_on: dict[str, set[str]] = field(default_factory=dict)
    """Permission set licence id to the ids of the user licences that may hold it; absent means any."""


class Table:
    """The rows of one object type, with an index for each indexed field, built when it is first asked for."""

    def __init__(self, kind: ObjectType) -> None:
        self.kind = kind
        self.rows: dict[str, Row] = {}
        self._indexes: dict[int, dict[str, list[str]]] = {}
        self._made = 0
        self._blank: Row = [each.default for each in kind.fields]

    def blank(self) -> Row:
        """Return a row of defaults with a fresh id; it is not in the table yet."""
        self._made += 1
        row = self._blank.copy()
        row[0] = make_id(self.kind.prefix, self._made)
        return row

    def add(self, row: Row) -> None:
        self.rows[row[0]] = row
        for slot, index in self._indexes.items():
            if row[slot] is not None:
                index.setdefault(row[slot], []).append(row[0])

    def remove(self, row: Row) -> None:
        del self.rows[row[0]]
        for slot, index in self._indexes.items():
            if row[slot] is not None:
                index[row[slot]].remove(row[0])

    def put(self, row: Row, slot: int, value: Any) -> None:
        """Set one field and keep its index, if there is one."""
        index = self._indexes.get(slot)
        if index is not None and row[slot] != value:
            if row[slot] is not None:
                index[row[slot]].remove(row[0])
            if value is not None:
                index.setdefault(value, []).append(row[0])
        row[slot] = value

    def index(self, slot: int) -> dict[str, list[str]]:
        """Return value to ids for one field."""
        index = self._indexes.get(slot)
        if index is None:
            index = self._indexes[slot] = {}
            for row in self.rows.values():
                if row[slot] is not None:
                    index.setdefault(row[slot], []).append(row[0])
        return index

    def where(self, name: str, value: str) -> list[Row]:
        """Return the rows whose indexed field holds a value."""
        return [self.rows[each] for each in self.index(self.kind.slot(name)).get(value, ())]


class Org:
    """A simulated Salesforce org."""

    def __init__(self, clock: Clock, settings: OrgSettings | None = None) -> None:
        self.clock = clock
        self.settings = settings or OrgSettings()
        self.tables: dict[str, Table] = {name: Table(kind) for name, kind in OBJECTS.items()}
        self.write_log: list[WriteEntry] = []
        self.person_log: list[WriteEntry] = []
        self.request_log: deque[RequestEntry] = deque(maxlen=100_000)
        self.expectations: dict[str, str] = {}
        """User id to `reclaimable`, or to the one reason why that user must be left alone."""
        self.traits: dict[str, set[str]] = {}
        """User id to what is special about a user beside the expectation (no manager, failed logins, ...)."""
        self.run_as: str | None = None
        """The integration user that the default connected app acts as."""
        self._seq = 0
        self._seats_used: Counter[str] = Counter()
        user = OBJECTS["User"]
        self._active_slot, self.profile_slot = user.slot("IsActive"), user.slot("ProfileId")
        self._licence_slot = OBJECTS["Profile"].slot("UserLicenseId")

    # Reading ------------------------------------------------------------------------------------------------------

    def find(self, kind: str, record_id: str) -> Row | None:
        """Return a record's row by its id, in either form."""
        found = normalise_id(record_id)
        return self.tables[kind].rows.get(found) if found else None

    def get(self, kind: str, record_id: str, name: str) -> Any:
        """Return one field of a record.

        Raises:
            KeyError: there is no such record.
        """
        object_type = OBJECTS[kind]
        row = self.tables[kind].rows[record_id]
        each = object_type.by_name[name.lower()]
        return self.compute(object_type, each, row) if each.computed else row[each.slot]

    def compute(self, kind: ObjectType, each: Field, row: Row) -> Any:
        """Return the value of a field that is counted, not stored."""
        if kind.name == "UserLicense":
            return self._seats_used[row[0]]
        if kind.name == "PermissionSetLicense":
            return len(self.tables["PermissionSetLicenseAssign"].where("PermissionSetLicenseId", row[0]))
        raise LookupError(f"{kind.name}.{each.name} has no rule that computes it")

    def licence_of(self, profile_id: str | None) -> str | None:
        """Return the id of the user licence that a profile belongs to."""
        profile = self.tables["Profile"].rows.get(profile_id or "")
        return None if profile is None else profile[self._licence_slot]

    def seats_free(self, licence_id: str) -> int:
        """Return how many more users may be active under a licence."""
        total = self.get("UserLicense", licence_id, "TotalLicenses")
        return int(total) - self._seats_used[licence_id]

    # Seeding ------------------------------------------------------------------------------------------------------

    def insert(self, kind: str, **values: Any) -> str:
        """Put a record into the world without rules and without a log entry, and return its id.

        A user also gets the `UserLogin` and the profile's own permission set that every user has; the audit fields
        default to now.
        """
        table = self.tables[kind]
        row = table.blank()
        by_name = table.kind.by_name
        for name, value in values.items():
            row[by_name[name.lower()].slot] = value
        now = self.clock.now()
        created = values.get("CreatedDate", now)
        for name in ("CreatedDate", *_STAMP_FIELDS):
            each = by_name.get(name.lower())
            if each is not None and name not in values:
                row[each.slot] = created
        self.derive(table, row, row.__setitem__)
        self.add_row(table, row)
        if kind == "User":
            self.insert("UserLogin", UserId=row[0], LastModifiedDate=created)
            self._add_profile_assignment(row, created)
        return str(row[0])

    def amend(self, kind: str, record_id: str, **values: Any) -> None:
        """Change a record without rules and without a log entry; the audit fields stay unless they are given."""
        table = self.tables[kind]
        row = table.rows[record_id]
        for name, value in values.items():
            self.put(table, row, table.kind.slot(name), value)
        self.derive(table, row, lambda slot, value: self.put(table, row, slot, value))

    # Changing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, caller: str, api: str) -> Iterator[Transaction]:
        """Yield a transaction that commits at the end of the block, or leaves nothing behind when it raises."""
        transaction = Transaction(self, caller, api)
        try:
            yield transaction
        except BaseException:
            transaction.rollback_to((0, 0))
            raise
        transaction.commit()

    def log_in(self, user_id: str, channel: Channel) -> bool:
        """Let a person log in; return whether the org let them.

        Only the browser moves `LastLoginDate`: use over the other channels shows in `LoginHistory` alone, and for an
        app with a refresh token in `OauthToken`.
        """
        user = self._user(user_id)
        login = self.tables["UserLogin"].where("UserId", user[0])[0]
        now = self.clock.now()
        users, logins = OBJECTS["User"], OBJECTS["UserLogin"]
        status = "Success"
        if not user[self._active_slot]:
            status = "User is Inactive"
        elif login[logins.slot("IsFrozen")]:
            status = "User is Frozen"
        apps = {"ui": "Browser", "api": "Data Loader", "sso": "Okta", "mobile": "Salesforce for iOS", "partner": "N/A"}
        self.insert(
            "LoginHistory",
            UserId=user[0],
            LoginTime=now,
            LoginType=LOGIN_TYPES[channel],
            Status=status,
            Application=apps[channel],
            SourceIp="192.0.2.10",
        )
        if status != "Success":
            return False
        if channel == "ui":
            with self.transaction(caller=PERSON, api=PERSON) as transaction:
                transaction.set_system(self.tables["User"], user, users.slot("LastLoginDate"), now)
        if channel in {"api", "mobile"}:
            self._use_token(user[0], apps[channel], now)
        return True

    def person_sets(self, kind: str, record_id: str, **values: Any) -> None:
        """Let a person change a record in the browser: same rules, logged apart from the API's writes."""
        with self.transaction(caller=PERSON, api=PERSON) as transaction:
            transaction.update(kind, record_id, values)

    def person_assigns(self, user_id: str, name: str) -> None:
        """Let a person give a user the permission set, or the permission set licence, of a name."""
        kinds = (
            ("PermissionSet", "Name", "PermissionSetAssignment"),
            ("PermissionSetLicense", "DeveloperName", "PermissionSetLicenseAssign"),
        )
        with self.transaction(caller=PERSON, api=PERSON) as transaction:
            for kind, naming, assignment in kinds:
                for row in self.tables[kind].where(naming, name):
                    transaction.create(assignment, {"AssigneeId": user_id, f"{kind}Id": row[0]})
                    return
        raise SalesforceError("NOT_FOUND", f"no permission set and no licence of one is named {name}", status=404)

    def set_frozen(self, user_id: str, *, frozen: bool) -> None:
        """Let a person freeze or unfreeze a user."""
        login = self.tables["UserLogin"].where("UserId", self._user(user_id)[0])[0]
        self.person_sets("UserLogin", login[0], IsFrozen=frozen)

    # Logs ---------------------------------------------------------------------------------------------------------

    def next_seq(self) -> int:
        """Return the next number of the sequence that all three logs share."""
        self._seq += 1
        return self._seq

    def log_request(self, **entry: Any) -> None:
        """Append to the request log."""
        self.request_log.append(RequestEntry(seq=self.next_seq(), at=self.clock.now().isoformat(), **entry))

    # Inside -------------------------------------------------------------------------------------------------------

    def _user(self, user_id: str) -> Row:
        row = self.find("User", user_id)
        if row is None:
            raise SalesforceError("NOT_FOUND", f"no user {user_id}", status=404)
        return row

    def _use_token(self, user_id: str, app: str, now: datetime) -> None:
        table = self.tables["OauthToken"]
        kind = table.kind
        for row in table.where("UserId", user_id):
            if row[kind.slot("AppName")] == app:
                table.put(row, kind.slot("LastUsedDate"), now)
                table.put(row, kind.slot("UseCount"), row[kind.slot("UseCount")] + 1)
                return
        self.insert("OauthToken", UserId=user_id, AppName=app, LastUsedDate=now, UseCount=1)

    def add_row(self, table: Table, row: Row) -> None:
        table.add(row)
        if table.kind.name == "User":
            self._count_seat(row, 1)

    def remove_row(self, table: Table, row: Row) -> None:
        if table.kind.name == "User":
            self._count_seat(row, -1)
        table.remove(row)

    def put(self, table: Table, row: Row, slot: int, value: Any) -> None:
        counted = table.kind.name == "User" and slot in (self._active_slot, self.profile_slot)
        if counted:
            self._count_seat(row, -1)
        table.put(row, slot, value)
        if counted:
            self._count_seat(row, 1)

    def _count_seat(self, user: Row, change: int) -> None:
        if user[self._active_slot]:
            licence = self.licence_of(user[self.profile_slot])
            if licence is not None:
                self._seats_used[licence] += change

    def derive(self, table: Table, row: Row, put: Callable[[int, Any], None]) -> None:
        """Set the stored fields that follow from others."""
        kind = table.kind
        name = kind.name
        if name in {"User", "Lead"}:
            first, last = row[kind.slot("FirstName")], row[kind.slot("LastName")]
            put(kind.slot("Name"), f"{first} {last}" if first else last)
        if name == "User" and isinstance(row[kind.slot("Username")], str):
            put(kind.slot("Username"), row[kind.slot("Username")].lower())
        if name == "Opportunity":
            closed, won = OPPORTUNITY_STAGES.get(row[kind.slot("StageName")], (False, False))
            put(kind.slot("IsClosed"), closed)
            put(kind.slot("IsWon"), won)
        if name == "Case":
            closed = CASE_STATUSES.get(row[kind.slot("Status")], False)
            put(kind.slot("IsClosed"), closed)
            if row[kind.slot("CaseNumber")] is None:
                put(kind.slot("CaseNumber"), f"{len(table.rows) + 1001:08d}")

    def _add_profile_assignment(self, user: Row, at: datetime) -> None:
        for owned in self.tables["PermissionSet"].where("ProfileId", user[self.profile_slot] or ""):
            self.insert("PermissionSetAssignment", AssigneeId=user[0], PermissionSetId=owned[0], SystemModstamp=at)


Savepoint = tuple[int, int]


class Transaction:
    """Changes that are committed together; it can go back to a savepoint, so that one row may fail alone."""

    def __init__(self, org: Org, caller: str, api: str) -> None:
        self.org = org
        self.caller = caller
        self.api = api
        self._undo: list[Callable[[], None]] = []
        self._entries: list[tuple[str, str, str, str, Any, Any]] = []
        self._first: ObjectType | None = None

    def savepoint(self) -> Savepoint:
        return len(self._undo), len(self._entries)

    def rollback_to(self, savepoint: Savepoint) -> None:
        undo, entries = savepoint
        while len(self._undo) > undo:
            self._undo.pop()()
        del self._entries[entries:]

    def commit(self) -> None:
        log = self.org.person_log if self.caller == PERSON else self.org.write_log
        at = self.org.clock.now().isoformat()
        for api, kind, record_id, name, before, after in self._entries:
            log.append(WriteEntry(self.org.next_seq(), at, api, kind, record_id, name, before, after, self.caller))

    def create(self, kind_name: str, values: Mapping[str, Any]) -> str:
        """Create a record and return its id.

        Raises:
            SalesforceError: the type or a field may not be created, a value is wrong, or a rule forbids it.
        """
        kind = _known(kind_name)
        if not kind.createable:
            raise SalesforceError("INVALID_TYPE_FOR_OPERATION", f"entity type cannot be inserted: {kind.label}")
        self._one_side(kind)
        changes = self._checked(kind, values, creating=True)
        missing = [
            each.name for each in kind.fields if each.required and changes.get(each.slot, each.default) in (None, "")
        ]
        if missing:
            raise SalesforceError(
                "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", fields=missing
            )
        table = self.org.tables[kind.name]
        row = table.blank()
        for slot, value in changes.items():
            row[slot] = value
        now = self.org.clock.now()
        by_name = kind.by_name
        for name in ("CreatedDate", *_STAMP_FIELDS):
            if name.lower() in by_name:
                row[by_name[name.lower()].slot] = now
        if "ownerid" in by_name and row[by_name["ownerid"].slot] is None:
            row[by_name["ownerid"].slot] = self.org.run_as
        self.org.derive(table, row, row.__setitem__)
        rules.before_create(self.org, kind, row)
        self._add(table, row)
        for slot in changes:
            self._record(kind, row[0], kind.fields[slot].name, None, row[slot])
        if kind.name == "User":
            self._add(self.org.tables["UserLogin"], self._login_row(row[0], now))
            self._swap_profile_assignment(row, now)
        return str(row[0])

    def update(self, kind_name: str, record_id: str, values: Mapping[str, Any]) -> None:
        """Change a record.

        Raises:
            SalesforceError: no such record, a field may not be written, a value is wrong, or a rule forbids it.
        """
        kind = _known(kind_name)
        if not kind.updateable:
            raise SalesforceError("INVALID_TYPE_FOR_OPERATION", f"entity type cannot be updated: {kind.label}")
        row = self._row(kind, record_id)
        self._one_side(kind)
        changes = self._checked(kind, values, creating=False)
        for slot, value in changes.items():
            each = kind.fields[slot]
            if value is None and each.required:
                raise SalesforceError(
                    "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{each.name}]", fields=[each.name]
                )
        rules.before_update(self.org, kind, row, changes)
        table = self.org.tables[kind.name]
        for slot, value in changes.items():
            before = row[slot]
            self._put(table, row, slot, value)
            self._record(kind, row[0], kind.fields[slot].name, before, value)
        self.org.derive(table, row, lambda slot, value: self._put(table, row, slot, value))
        now = self.org.clock.now()
        for name in _STAMP_FIELDS:
            if name.lower() in kind.by_name:
                self._put(table, row, kind.slot(name), now)
        if "lastmodifiedbyid" in kind.by_name:
            self._put(table, row, kind.slot("LastModifiedById"), self._author())
        if kind.name == "User" and self.org.profile_slot in changes:
            self._swap_profile_assignment(row, now)

    def delete(self, kind_name: str, record_id: str) -> None:
        """Remove a record; logged as its `IsDeleted` becoming true.

        Raises:
            SalesforceError: no such record, or the type cannot be deleted.
        """
        kind = _known(kind_name)
        if not kind.deletable:
            raise SalesforceError("INVALID_TYPE_FOR_OPERATION", f"entity type cannot be deleted: {kind.label}")
        row = self._row(kind, record_id)
        self._one_side(kind)
        rules.before_delete(self.org, kind, row)
        self._take_out(self.org.tables[kind.name], row)
        self._record(kind, row[0], "IsDeleted", before=False, after=True)

    def set_system(self, table: Table, row: Row, slot: int, value: Any) -> None:
        """Set a field that the platform itself keeps, and log it."""
        before = row[slot]
        self._put(table, row, slot, value)
        self._record(table.kind, row[0], table.kind.fields[slot].name, before, value)

    # Inside -------------------------------------------------------------------------------------------------------

    def _author(self) -> str | None:
        """Return the user that changes are stamped with."""
        if self.caller == PERSON:
            return SOMEBODY
        named = self.org.tables["User"].where("Username", self.caller.lower())
        return str(named[0][0]) if named else None

    def _one_side(self, kind: ObjectType) -> None:
        """Refuse to change setup objects and CRM records in one transaction."""
        first = self._first
        if first is None:
            self._first = kind
        elif first.setup != kind.setup:
            raise SalesforceError(
                "MIXED_DML_OPERATION",
                "DML operation on setup object is not permitted after you have updated a non-setup object (or vice "
                f"versa): {kind.name}, original object: {first.name}",
            )

    def _row(self, kind: ObjectType, record_id: str) -> Row:
        found = normalise_id(record_id)
        if found is None:
            raise SalesforceError(
                "MALFORMED_ID", f"{kind.label} ID: id value of incorrect type: {record_id}", fields=["Id"]
            )
        row = self.org.tables[kind.name].rows.get(found)
        if row is None:
            raise SalesforceError("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id")
        return row

    def _checked(self, kind: ObjectType, values: Mapping[str, Any], *, creating: bool) -> dict[int, Any]:
        """Return the values by slot, each checked against its field."""
        changes: dict[int, Any] = {}
        locked = []
        for name, value in values.items():
            each = kind.by_name.get(name.lower())
            if each is None:
                raise SalesforceError("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind.name}")
            if not (each.createable if creating else each.updateable):
                locked.append(each.name)
                continue
            changes[each.slot] = self._value(each, value)
        if locked:
            raise SalesforceError(
                "INVALID_FIELD_FOR_INSERT_UPDATE",
                f"Unable to create/update fields: {', '.join(locked)}. Please check the security settings of this "
                "field and verify that it is read/write for your profile or permission set.",
                fields=locked,
            )
        return changes

    def _value(self, each: Field, value: Any) -> Any:
        """Return a JSON value in the form in which rows hold it."""
        if each.type == "boolean":
            if not isinstance(value, bool):
                raise _unreadable(each, value)
            return value
        if value is None or value == "":
            return None
        if each.type in NUMBER_TYPES:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _unreadable(each, value)
            return value
        if not isinstance(value, str):
            raise _unreadable(each, value)
        if each.type == "reference":
            return self._reference(each, value)
        if each.type == "date" or each.type == "datetime":
            return _time_value(each, value)
        if len(value) > each.length:
            raise SalesforceError(
                "STRING_TOO_LONG",
                f"{each.label}: data value too large: {value[:60]} (max length={each.length})",
                fields=[each.name],
            )
        if each.type == "email" and (value.count("@") != 1 or value.strip("@") != value):
            raise SalesforceError(
                "INVALID_EMAIL_ADDRESS", f"{each.label}: invalid email address: {value}", fields=[each.name]
            )
        if each.restricted and value not in each.values:
            raise SalesforceError(
                "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
                f"{each.label}: bad value for restricted picklist field: {value}",
                fields=[each.name],
            )
        return value

    def _reference(self, each: Field, value: str) -> str:
        found = normalise_id(value)
        kind = BY_PREFIX.get(found[:3]) if found else None
        if found is None or kind is None or kind.name not in each.refers:
            raise SalesforceError(
                "MALFORMED_ID", f"{each.label}: id value of incorrect type: {value}", fields=[each.name]
            )
        if found not in self.org.tables[kind.name].rows:
            raise SalesforceError(
                "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY",
                f"insufficient access rights on cross-reference id: {value}",
                fields=[each.name],
            )
        return found

    def _put(self, table: Table, row: Row, slot: int, value: Any) -> None:
        before = row[slot]
        self._undo.append(lambda: self.org.put(table, row, slot, before))
        self.org.put(table, row, slot, value)

    def _add(self, table: Table, row: Row) -> None:
        self._undo.append(lambda: self.org.remove_row(table, row))
        self.org.add_row(table, row)

    def _take_out(self, table: Table, row: Row) -> None:
        self._undo.append(lambda: self.org.add_row(table, row))
        self.org.remove_row(table, row)

    def _record(self, kind: ObjectType, record_id: str, name: str, before: Any, after: Any) -> None:
        self._entries.append((self.api, kind.name, record_id, name, json_value(before), json_value(after)))

    def _login_row(self, user_id: str, now: datetime) -> Row:
        table = self.org.tables["UserLogin"]
        row = table.blank()
        row[table.kind.slot("UserId")] = user_id
        row[table.kind.slot("LastModifiedDate")] = now
        return row

    def _swap_profile_assignment(self, user: Row, now: datetime) -> None:
        """Keep the assignment to the permission set that the user's profile owns in step with the profile."""
        assignments, sets = self.org.tables["PermissionSetAssignment"], self.org.tables["PermissionSet"]
        set_slot, owned_slot = assignments.kind.slot("PermissionSetId"), sets.kind.slot("IsOwnedByProfile")
        for row in assignments.where("AssigneeId", user[0]):
            if sets.rows[row[set_slot]][owned_slot]:
                self._take_out(assignments, row)
        for owned in sets.where("ProfileId", user[self.org.profile_slot]):
            row = assignments.blank()
            row[assignments.kind.slot("AssigneeId")] = user[0]
            row[set_slot] = owned[0]
            row[assignments.kind.slot("SystemModstamp")] = now
            self._add(assignments, row)


def _known(name: str) -> ObjectType:
    kind = find_object(name)
    if kind is None:
        raise SalesforceError("NOT_FOUND", "The requested resource does not exist", status=404)
    return kind


def _unreadable(each: Field, value: Any) -> SalesforceError:
    return SalesforceError(
        "JSON_PARSER_ERROR",
        f"Cannot deserialize instance of {each.type} from the value {str(value)[:60]!r} of {each.name}",
        fields=[each.name],
    )


def _time_value(each: Field, value: str) -> date | datetime:
    try:
        if each.type == "date":
            return date.fromisoformat(value)
        found = datetime.fromisoformat(value)
    except ValueError:
        raise _unreadable(each, value) from None
    if found.tzinfo is None:
        raise _unreadable(each, value)
    return found
