"""The business rules that make a write fail in a real org, with Salesforce's codes and wording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import SalesforceError
from .schema import OBJECTS, ObjectType, hierarchy_fields

if TYPE_CHECKING:
    from .org import Org

Row = list[Any]

_USER = OBJECTS["User"]
_ACTIVE = _USER.slot("IsActive")
_PROFILE = _USER.slot("ProfileId")
_USERNAME = _USER.slot("Username")
_FULL_CRM = "Salesforce"
_OWNED = {"Opportunity": "opportunity", "Case": "case", "Lead": "lead"}


def before_create(org: Org, kind: ObjectType, row: Row) -> None:
    """Raise if a record may not be created."""
    if kind is _USER:
        _username_is_free(org, row)
        if row[_ACTIVE]:
            _seat_is_free(org, row[_PROFILE])
    if kind.name in _OWNED:
        _owner_can_own(org, kind, row[kind.slot("OwnerId")])
    if kind.name == "PermissionSetAssignment":
        _permission_set_fits(org, row)
    if kind.name == "PermissionSetLicenseAssign":
        _add_on_fits(org, row)


def before_update(org: Org, kind: ObjectType, row: Row, changes: Mapping[int, Any]) -> None:
    """Raise if a record may not be changed so; `changes` maps slots to values."""
    if kind is _USER:
        _before_user(org, row, changes)
    if kind.name in _OWNED:
        owner = kind.slot("OwnerId")
        if owner in changes and changes[owner] != row[owner]:
            _owner_can_own(org, kind, changes[owner])


def before_delete(org: Org, kind: ObjectType, row: Row) -> None:
    """Raise if a record may not be deleted."""
    if kind.name == "PermissionSetAssignment":
        owned = org.get("PermissionSet", row[kind.slot("PermissionSetId")], "IsOwnedByProfile")
        if owned:
            raise SalesforceError("FIELD_INTEGRITY_EXCEPTION", "a profile's own permission set cannot be unassigned")


def _before_user(org: Org, row: Row, changes: Mapping[int, Any]) -> None:
    was_active, is_active = row[_ACTIVE], changes.get(_ACTIVE, row[_ACTIVE])
    profile = changes.get(_PROFILE, row[_PROFILE])
    if changes.get(_USERNAME, row[_USERNAME]) != row[_USERNAME]:
        changed = row.copy()
        changed[_USERNAME] = changes[_USERNAME].lower()
        _username_is_free(org, changed)
    if was_active and not is_active:
        _can_be_deactivated(org, row)
    if profile != row[_PROFILE]:
        _can_change_profile(org, row, profile, active=bool(is_active))
    elif is_active and not was_active:
        _seat_is_free(org, profile)


def _username_is_free(org: Org, row: Row) -> None:
    for other in org.tables["User"].where("Username", row[_USERNAME]):
        if other[0] != row[0]:
            raise SalesforceError(
                "DUPLICATE_USERNAME",
                "Duplicate Username. The username already exists in this or another Salesforce organization.",
                fields=["Username"],
            )


def _seat_is_free(org: Org, profile_id: str) -> None:
    licence = org.licence_of(profile_id)
    if licence is not None and org.seats_free(licence) < 1:
        name = org.get("UserLicense", licence, "Name")
        raise SalesforceError("LICENSE_LIMIT_EXCEEDED", f"License Limit Exceeded: {name}", fields=["IsActive"])


def _is_admin_profile(org: Org, profile_id: str) -> bool:
    return bool(
        org.get("Profile", profile_id, "PermissionsModifyAllData")
        and org.get("Profile", profile_id, "PermissionsManageUsers")
    )


def _not_last_admin(org: Org, row: Row) -> None:
    if not _is_admin_profile(org, row[_PROFILE]):
        return
    admins = {each for each in org.tables["Profile"].rows if _is_admin_profile(org, each)}
    others = (
        other
        for other in org.tables["User"].rows.values()
        if other[_ACTIVE] and other[_PROFILE] in admins and other[0] != row[0]
    )
    if next(others, None) is None:
        raise SalesforceError(
            "CANNOT_DISABLE_LAST_ADMIN",
            "You cannot deactivate or change the profile of the last active administrator of the organization.",
        )


def _can_be_deactivated(org: Org, row: Row) -> None:
    _not_last_admin(org, row)
    user_id = row[0]
    for each in hierarchy_fields():
        if org.tables["User"].where(each.name, user_id):
            raise SalesforceError(
                "FIELD_INTEGRITY_EXCEPTION",
                f"Cannot inactivate user that is the value of a hierarchy field: {each.label}",
            )
    settings = org.settings
    blocks = (
        (settings.default_case_owner, "You cannot deactivate a user who is the default owner of cases"),
        (settings.automated_case_user, "You cannot deactivate the Automated Case User"),
        (settings.default_lead_owner, "You cannot deactivate a user who is the default owner of leads"),
        (settings.default_lead_creator, "You cannot disable the Web to Lead Default Creator"),
        (settings.default_workflow_user, "You cannot deactivate the Default Workflow User"),
    )
    for holder, why in blocks:
        if holder == user_id:
            raise SalesforceError("FIELD_INTEGRITY_EXCEPTION", f"You cannot deactivate this user. {why}")
    if user_id in settings.approvers:
        raise SalesforceError(
            "FIELD_INTEGRITY_EXCEPTION",
            "You cannot deactivate this user. The user is an approver in one or more approval processes",
        )


def _can_change_profile(org: Org, row: Row, profile_id: str, *, active: bool) -> None:
    if active and not _is_admin_profile(org, profile_id):
        _not_last_admin(org, row)
    before, after = org.licence_of(row[_PROFILE]), org.licence_of(profile_id)
    if before == after or before is None or after is None:
        return
    incompatible = SalesforceError(
        "FIELD_INTEGRITY_EXCEPTION",
        "You can only assign profiles that are compatible with the user's license and its permission sets.",
        fields=["ProfileId"],
    )
    if after not in org.settings.licences_convertible.get(before, set()):
        raise incompatible
    assignments = org.tables["PermissionSetAssignment"]
    for row_of_set in assignments.where("AssigneeId", row[0]):
        set_id = row_of_set[assignments.kind.slot("PermissionSetId")]
        if org.get("PermissionSet", set_id, "IsOwnedByProfile"):
            continue
        if not _licence_allows(org, org.get("PermissionSet", set_id, "LicenseId"), after):
            raise incompatible
    add_ons = org.tables["PermissionSetLicenseAssign"]
    for row_of_add_on in add_ons.where("AssigneeId", row[0]):
        if not _licence_allows(org, row_of_add_on[add_ons.kind.slot("PermissionSetLicenseId")], after):
            raise incompatible
    if active:
        _seat_is_free(org, profile_id)


def _licence_allows(org: Org, needed: str | None, licence: str) -> bool:
    """Tell whether a user with a licence may hold what needs a user licence or a permission set licence."""
    if needed is None:
        return True
    if needed in org.tables["UserLicense"].rows:
        return needed == licence
    allowed = org.settings.licences_of_add_on.get(needed)
    return allowed is None or licence in allowed


def _permission_set_fits(org: Org, row: Row) -> None:
    kind = OBJECTS["PermissionSetAssignment"]
    user_id, set_id = row[kind.slot("AssigneeId")], row[kind.slot("PermissionSetId")]
    for other in org.tables["PermissionSetAssignment"].where("AssigneeId", user_id):
        if other[kind.slot("PermissionSetId")] == set_id:
            raise SalesforceError(
                "DUPLICATE_VALUE", "Duplicate PermissionSetAssignment. Assignee and set exist already."
            )
    licence = org.licence_of(org.get("User", user_id, "ProfileId"))
    if licence is not None and not _licence_allows(org, org.get("PermissionSet", set_id, "LicenseId"), licence):
        raise SalesforceError(
            "FIELD_INTEGRITY_EXCEPTION", "the user license doesn't allow the permission set", fields=["PermissionSetId"]
        )


def _add_on_fits(org: Org, row: Row) -> None:
    kind = OBJECTS["PermissionSetLicenseAssign"]
    user_id, add_on = row[kind.slot("AssigneeId")], row[kind.slot("PermissionSetLicenseId")]
    if org.get("PermissionSetLicense", add_on, "UsedLicenses") >= org.get(
        "PermissionSetLicense", add_on, "TotalLicenses"
    ):
        raise SalesforceError("LICENSE_LIMIT_EXCEEDED", "License Limit Exceeded", fields=["PermissionSetLicenseId"])
    licence = org.licence_of(org.get("User", user_id, "ProfileId"))
    if licence is not None and not _licence_allows(org, add_on, licence):
        raise SalesforceError("FIELD_INTEGRITY_EXCEPTION", "the user license doesn't allow the permission set license")


def _owner_can_own(org: Org, kind: ObjectType, owner_id: str | None) -> None:
    if owner_id is None:
        raise SalesforceError("REQUIRED_FIELD_MISSING", "Required fields are missing: [OwnerId]", fields=["OwnerId"])
    group = org.tables["Group"].rows.get(owner_id)
    if group is not None:
        if group[OBJECTS["Group"].slot("Type")] != "Queue":
            raise SalesforceError(
                "INVALID_CROSS_REFERENCE_KEY", "Owner ID: owner cannot be a public group", fields=["OwnerId"]
            )
        return
    if not org.get("User", owner_id, "IsActive"):
        raise SalesforceError(
            "INACTIVE_OWNER_OR_USER",
            f"operation performed with inactive user [{owner_id[:15]}] as owner of {_OWNED[kind.name]}",
            fields=["OwnerId"],
        )
    licence = org.licence_of(org.get("User", owner_id, "ProfileId"))
    name = org.get("UserLicense", licence, "Name") if licence else None
    # Platform users work on cases' records of other kinds, but have no leads and opportunities; the others own nothing.
    allowed = {_FULL_CRM, "Salesforce Integration"} | ({"Salesforce Platform"} if kind.name == "Case" else set())
    if name not in allowed:
        raise SalesforceError(
            "OP_WITH_INVALID_USER_TYPE_EXCEPTION", "Operation not valid for this user type", fields=["OwnerId"]
        )
