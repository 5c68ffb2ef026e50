"""The object types of the simulated org: fields, types, what may be written, and what points at what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

FieldType = Literal[
    "id",
    "reference",
    "string",
    "email",
    "phone",
    "textarea",
    "picklist",
    "boolean",
    "int",
    "double",
    "currency",
    "date",
    "datetime",
]

TEXT_TYPES: frozenset[str] = frozenset({"string", "email", "phone", "textarea", "picklist"})
NUMBER_TYPES: frozenset[str] = frozenset({"int", "double", "currency"})
ID_TYPES: frozenset[str] = frozenset({"id", "reference"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object type. `slot` is its place in a row, set when the type is put together."""

    name: str
    type: FieldType
    label: str
    length: int = 255
    required: bool = False
    createable: bool = True
    updateable: bool = True
    filterable: bool = True
    default: Any = None
    refers: tuple[str, ...] = ()
    relationship: str | None = None
    values: tuple[str, ...] = ()
    restricted: bool = False
    computed: bool = False
    indexed: bool = False
    slot: int = -1

    @property
    def custom(self) -> bool:
        return self.name.endswith("__c")

    @property
    def groupable(self) -> bool:
        return self.type not in {"datetime", "textarea", "currency", "double"}

    @property
    def sortable(self) -> bool:
        return self.type != "textarea"


@dataclass(frozen=True, slots=True)
class ObjectType:
    """An object type; `setup` tells the administration objects, which may not share a transaction with CRM records."""

    name: str
    label: str
    prefix: str
    setup: bool
    fields: tuple[Field, ...]
    createable: bool = False
    updateable: bool = False
    deletable: bool = False
    by_name: dict[str, Field] = field(init=False, repr=False, compare=False)
    by_relationship: dict[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        placed = tuple(replace(each, slot=slot) for slot, each in enumerate(self.fields))
        object.__setattr__(self, "fields", placed)
        object.__setattr__(self, "by_name", {each.name.lower(): each for each in placed})
        object.__setattr__(
            self, "by_relationship", {each.relationship.lower(): each for each in placed if each.relationship}
        )

    def slot(self, name: str) -> int:
        """Return a field's place in a row, by its exact name in any case."""
        return self.by_name[name.lower()].slot


def _label(name: str) -> str:
    words: list[str] = []
    for char in name.removesuffix("__c").replace("_", " "):
        if char.isupper() and words and words[-1] != " " and not words[-1].isupper():
            words.append(" ")
        words.append(char)
    return "".join(words)


def _text(name: str, length: int = 255, **more: Any) -> Field:
    return Field(name, more.pop("type", "string"), more.pop("label", _label(name)), length=length, **more)


def _read_only(name: str, kind: FieldType, **more: Any) -> Field:
    return Field(name, kind, more.pop("label", _label(name)), createable=False, updateable=False, **more)


def _flag(name: str, *, default: bool = False, **more: Any) -> Field:
    return Field(name, "boolean", more.pop("label", _label(name)), default=default, **more)


def _ref(name: str, *refers: str, relationship: str | None = None, **more: Any) -> Field:
    label = more.pop("label", _label(name.removesuffix("Id")) + " ID")
    if relationship is None:
        relationship = name.replace("__c", "__r") if name.endswith("__c") else name.removesuffix("Id")
    return Field(
        name, "reference", label, length=18, refers=refers, relationship=relationship or None, indexed=True, **more
    )


def _picklist(name: str, *values: str, **more: Any) -> Field:
    return Field(name, "picklist", more.pop("label", _label(name)), values=values, **more)


_STAMPS = (
    _read_only("CreatedDate", "datetime"),
    replace(_ref("CreatedById", "User", createable=False, updateable=False), indexed=False),
    _read_only("LastModifiedDate", "datetime"),
    replace(_ref("LastModifiedById", "User", createable=False, updateable=False), indexed=False),
    _read_only("SystemModstamp", "datetime"),
)


def _object(
    name: str,
    prefix: str,
    fields: Iterable[Field],
    *,
    setup: bool = True,
    label: str | None = None,
    stamps: bool = True,
    writes: str = "",
) -> ObjectType:
    """Put an object type together; `writes` holds the letters of create, update and delete that the API allows."""
    record_id = Field("Id", "id", "Record ID", length=18, createable=False, updateable=False)
    return ObjectType(
        name=name,
        label=label or _label(name),
        prefix=prefix,
        setup=setup,
        fields=(record_id, *fields, *(_STAMPS if stamps else ())),
        createable="c" in writes,
        updateable="u" in writes,
        deletable="d" in writes,
    )


_PERMISSIONS = (
    _flag("PermissionsModifyAllData"),
    _flag("PermissionsManageUsers"),
    _flag("PermissionsViewAllData"),
    _flag("PermissionsApiEnabled"),
    _flag("PermissionsApiUserOnly"),
)

_LICENCE_COUNTS = (
    _read_only("Status", "picklist", values=("Active", "Disabled"), default="Active"),
    _read_only("TotalLicenses", "int", default=0),
    _read_only("UsedLicenses", "int", computed=True),
)

OPPORTUNITY_STAGES = {
    "Prospecting": (False, False),
    "Qualification": (False, False),
    "Proposal/Price Quote": (False, False),
    "Negotiation/Review": (False, False),
    "Closed Won": (True, True),
    "Closed Lost": (True, False),
}
"""Stage to (is closed, is won)."""

CASE_STATUSES = {"New": False, "Working": False, "Escalated": False, "Closed": True}
"""Status to is closed."""

LOGIN_TYPES = {
    "ui": "Application",
    "api": "Remote Access 2.0",
    "sso": "SAML Sfdc Initiated SSO",
    "mobile": "Remote Access Client",
    "partner": "Partner Product",
}
"""Channel to `LoginHistory.LoginType`."""

_OBJECTS = (
    _object(
        "Organization",
        "00D",
        (
            _read_only("Name", "string"),
            _read_only("OrganizationType", "picklist", values=("Enterprise Edition",), default="Enterprise Edition"),
            _flag("IsSandbox", default=True, createable=False, updateable=False),
            _read_only("InstanceName", "string", default="SB0"),
            _read_only("TimeZoneSidKey", "picklist", default="UTC"),
            _read_only("DefaultLocaleSidKey", "picklist", default="en_US"),
        ),
    ),
    _object(
        "UserLicense",
        "100",
        (
            _read_only("Name", "string"),
            _read_only("MasterLabel", "string"),
            _read_only("LicenseDefinitionKey", "string"),
            *_LICENCE_COUNTS,
        ),
    ),
    _object(
        "PermissionSetLicense",
        "0PL",
        (
            _read_only("DeveloperName", "string"),
            _read_only("MasterLabel", "string"),
            _read_only("PermissionSetLicenseKey", "string"),
            *_LICENCE_COUNTS,
        ),
    ),
    _object(
        "Profile",
        "00e",
        (
            _read_only("Name", "string"),
            _ref("UserLicenseId", "UserLicense", createable=False, updateable=False),
            _read_only("UserType", "picklist", default="Standard"),
            *(replace(each, createable=False, updateable=False) for each in _PERMISSIONS),
        ),
    ),
    _object(
        "PermissionSet",
        "0PS",
        (
            _read_only("Name", "string"),
            _read_only("Label", "string"),
            _ref("LicenseId", "UserLicense", "PermissionSetLicense", createable=False, updateable=False),
            _flag("IsOwnedByProfile", createable=False, updateable=False),
            _ref("ProfileId", "Profile", createable=False, updateable=False),
            _flag("IsCustom", default=True, createable=False, updateable=False),
            *(replace(each, createable=False, updateable=False) for each in _PERMISSIONS),
        ),
    ),
    _object(
        "PermissionSetAssignment",
        "0Pa",
        (
            _ref("AssigneeId", "User", required=True, updateable=False),
            _ref("PermissionSetId", "PermissionSet", required=True, updateable=False),
            _flag("IsActive", default=True, createable=False, updateable=False),
            _read_only("SystemModstamp", "datetime"),
        ),
        stamps=False,
        writes="cd",
    ),
    _object(
        "PermissionSetLicenseAssign",
        "2La",
        (
            _ref("AssigneeId", "User", required=True, updateable=False),
            _ref("PermissionSetLicenseId", "PermissionSetLicense", required=True, updateable=False),
        ),
        writes="cd",
    ),
    _object(
        "User",
        "005",
        (
            _text("Username", 80, required=True, indexed=True),
            _text("FirstName", 40),
            _text("LastName", 80, required=True),
            _read_only("Name", "string", label="Full Name"),
            _text("Email", 128, type="email", required=True),
            _text("Alias", 8, required=True),
            _text("CommunityNickname", 40, label="Nickname"),
            _text("Title", 80),
            _text("Department", 80),
            _text("Division", 80),
            _text("CompanyName", 80),
            _text("EmployeeNumber", 20),
            _text("Phone", 40, type="phone"),
            _text("FederationIdentifier", 512, label="SAML Federation ID"),
            _flag("IsActive", default=True, label="Active"),
            _read_only(
                "UserType",
                "picklist",
                values=("Standard", "CsnOnly", "PowerPartner", "Guest"),
                default="Standard",
            ),
            _ref("ProfileId", "Profile", required=True, label="Profile ID"),
            _ref("ManagerId", "User", label="Manager ID"),
            _ref("DelegatedApproverId", "User", relationship="", label="Delegated Approver ID"),
            _read_only("LastLoginDate", "datetime", label="Last Login"),
            _read_only("LastPasswordChangeDate", "datetime", label="Last Password Change or Reset"),
            _picklist("TimeZoneSidKey", required=True, default="America/Los_Angeles", label="Time Zone"),
            _picklist("LocaleSidKey", required=True, default="en_US", label="Locale"),
            _picklist("EmailEncodingKey", required=True, default="UTF-8", label="Email Encoding"),
            _picklist("LanguageLocaleKey", required=True, default="en_US", label="Language"),
            _ref("Backup_Approver__c", "User", label="Backup Approver"),
            Field("Reclaim_Hold_Until__c", "date", "Reclaim Hold Until"),
            *_STAMPS,
        ),
        stamps=False,
        writes="cu",
    ),
    _object(
        "UserLogin",
        "0Yw",
        (
            # A plain id in Salesforce too: no `User` relationship to walk.
            _ref("UserId", "User", relationship="", createable=False, updateable=False),
            _flag("IsFrozen", label="Frozen"),
            _flag("IsPasswordLocked"),
            _read_only("LastModifiedDate", "datetime"),
            replace(_ref("LastModifiedById", "User", createable=False, updateable=False), indexed=False),
        ),
        stamps=False,
        writes="u",
    ),
    _object(
        "LoginHistory",
        "0Ya",
        (
            _ref("UserId", "User", relationship="", createable=False, updateable=False),
            _read_only("LoginTime", "datetime"),
            _read_only("LoginType", "picklist", values=tuple(LOGIN_TYPES.values())),
            _read_only("Status", "string", filterable=False),
            _read_only("Application", "string"),
            _read_only("SourceIp", "string"),
            _read_only("LoginUrl", "string"),
        ),
        stamps=False,
    ),
    _object(
        "OauthToken",
        "0CQ",
        (
            _ref("UserId", "User", createable=False, updateable=False),
            _read_only("AppName", "string"),
            _read_only("LastUsedDate", "datetime"),
            _read_only("UseCount", "int", default=0),
            _read_only("CreatedDate", "datetime"),
        ),
        stamps=False,
        writes="d",
    ),
    _object(
        "Group",
        "00G",
        (
            _text("Name", 40, required=True),
            _text("DeveloperName", 80),
            _picklist("Type", "Regular", "Queue", "Role", default="Regular", restricted=True, updateable=False),
        ),
        writes="cu",
    ),
    _object(
        "GroupMember",
        "011",
        (
            _ref("GroupId", "Group", required=True, updateable=False),
            _ref("UserOrGroupId", "User", "Group", required=True, relationship="", updateable=False),
            _read_only("SystemModstamp", "datetime"),
        ),
        stamps=False,
        writes="cd",
    ),
    _object(
        "CronJobDetail",
        "08a",
        (_read_only("Name", "string"), _read_only("JobType", "string", default="7")),
        stamps=False,
    ),
    _object(
        "CronTrigger",
        "08e",
        (
            _ref("OwnerId", "User", relationship="", createable=False, updateable=False),
            _ref("CronJobDetailId", "CronJobDetail", createable=False, updateable=False),
            _read_only("State", "string", default="WAITING"),
            _read_only("CronExpression", "string"),
            _read_only("NextFireTime", "datetime"),
            _read_only("PreviousFireTime", "datetime"),
            _read_only("CreatedDate", "datetime"),
            _ref("CreatedById", "User", createable=False, updateable=False),
        ),
        stamps=False,
    ),
    _object(
        "AsyncApexJob",
        "707",
        (
            _read_only("JobType", "picklist", values=("ScheduledApex", "BatchApex", "Future", "Queueable")),
            _read_only("Status", "picklist", values=("Queued", "Processing", "Completed", "Aborted", "Failed")),
            _read_only("CompletedDate", "datetime"),
            _read_only("CreatedDate", "datetime"),
            _ref("CreatedById", "User", createable=False, updateable=False),
        ),
        stamps=False,
    ),
    _object(
        "Dashboard",
        "01Z",
        (
            _read_only("Title", "string"),
            _read_only("DeveloperName", "string"),
            _read_only("Type", "picklist", values=("SpecifiedUser", "LoggedInUser"), default="SpecifiedUser"),
            _ref("RunningUserId", "User", createable=False, updateable=False),
        ),
        setup=False,
    ),
    _object(
        "ProcessInstanceWorkitem",
        "04i",
        (
            _ref("ActorId", "User", "Group", createable=False, updateable=False),
            _ref("OriginalActorId", "User", "Group", createable=False, updateable=False),
            _read_only("ProcessInstanceId", "string", length=18),
            _read_only("CreatedDate", "datetime"),
            _read_only("SystemModstamp", "datetime"),
        ),
        setup=False,
        stamps=False,
    ),
    _object(
        "Opportunity",
        "006",
        (
            _text("Name", 120, required=True),
            _ref("OwnerId", "User"),
            _picklist("StageName", *OPPORTUNITY_STAGES, required=True, label="Stage"),
            Field("CloseDate", "date", "Close Date", required=True),
            Field("Amount", "currency", "Amount"),
            _flag("IsClosed", createable=False, updateable=False, label="Closed"),
            _flag("IsWon", createable=False, updateable=False, label="Won"),
            _flag("IsDeleted", createable=False, updateable=False, label="Deleted"),
            *_STAMPS,
        ),
        setup=False,
        stamps=False,
        writes="cud",
    ),
    _object(
        "Case",
        "500",
        (
            _read_only("CaseNumber", "string"),
            _text("Subject"),
            _ref("OwnerId", "User", "Group"),
            _picklist("Status", *CASE_STATUSES, default="New"),
            _picklist("Priority", "High", "Medium", "Low", default="Medium"),
            _picklist("Origin", "Phone", "Email", "Web"),
            _flag("IsClosed", createable=False, updateable=False, label="Closed"),
            _read_only("ClosedDate", "datetime"),
            _flag("IsDeleted", createable=False, updateable=False, label="Deleted"),
            *_STAMPS,
        ),
        setup=False,
        stamps=False,
        writes="cud",
    ),
    _object(
        "Lead",
        "00Q",
        (
            _text("FirstName", 40),
            _text("LastName", 80, required=True),
            _read_only("Name", "string", label="Full Name"),
            _text("Company", required=True),
            _text("Email", 80, type="email"),
            _ref("OwnerId", "User", "Group"),
            _picklist("Status", "Open", "Working", "Closed", default="Open"),
            _flag("IsConverted", createable=False, updateable=False, label="Converted"),
            _flag("IsDeleted", createable=False, updateable=False, label="Deleted"),
            *_STAMPS,
        ),
        setup=False,
        stamps=False,
        writes="cud",
    ),
)

OBJECTS: dict[str, ObjectType] = {each.name: each for each in _OBJECTS}
_BY_LOWER: dict[str, ObjectType] = {each.name.lower(): each for each in _OBJECTS}
BY_PREFIX: dict[str, ObjectType] = {each.prefix: each for each in _OBJECTS}

NAME_FIELDS: frozenset[str] = frozenset(
    {"id", "name", "firstname", "lastname", "email", "username", "alias", "title", "isactive", "profileid", "type"}
)
"""What may be read through a relationship that points at several types (an owner: a user or a queue)."""


def find_object(name: str) -> ObjectType | None:
    """Return the object type of that name, in any case."""
    return _BY_LOWER.get(name.lower())


def hierarchy_fields() -> list[Field]:
    """Return the custom fields of User that point at another user: their values cannot be deactivated."""
    return [each for each in OBJECTS["User"].fields if each.custom and each.refers == ("User",)]
