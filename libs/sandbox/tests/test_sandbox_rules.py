"""The rules that make a write fail, and the logs that say what was written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reclaim.common.clock import FixedClock
from reclaim.sandbox.demo_org import Base
from reclaim.sandbox.errors import SalesforceError
from reclaim.sandbox.ids import make_id
from reclaim.sandbox.org import SOMEBODY, Org

NOW = datetime(2026, 3, 18, 12, 30, tzinfo=UTC)
MISSING = make_id("005", 999_999)


def update(org: Org, kind: str, record_id: str, **values: Any) -> None:
    with org.transaction(caller="api@test", api="sobject") as transaction:
        transaction.update(kind, record_id, values)


def create(org: Org, kind: str, **values: Any) -> str:
    with org.transaction(caller="api@test", api="sobject") as transaction:
        return transaction.create(kind, values)


def refused(org: Org, kind: str, record_id: str | None = None, **values: Any) -> SalesforceError:
    """Try a write that must fail, and check that it left nothing behind."""
    log = list(org.write_log)
    before = {name: {key: list(row) for key, row in table.rows.items()} for name, table in org.tables.items()}
    with pytest.raises(SalesforceError) as error:
        create(org, kind, **values) if record_id is None else update(org, kind, record_id, **values)
    assert org.write_log == log
    assert {name: {key: list(row) for key, row in table.rows.items()} for name, table in org.tables.items()} == before
    return error.value


# Fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"Foo": 1}, "INVALID_FIELD"),
        ({"LastLoginDate": "2026-01-01T00:00:00Z"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"Name": "x"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"Id": MISSING}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"IsFrozen": True}, "INVALID_FIELD"),
        ({"IsActive": "false"}, "JSON_PARSER_ERROR"),
        ({"IsActive": 0}, "JSON_PARSER_ERROR"),
        ({"IsActive": None}, "JSON_PARSER_ERROR"),
        ({"Title": 5}, "JSON_PARSER_ERROR"),
        ({"Title": ["x"]}, "JSON_PARSER_ERROR"),
        ({"Title": "x" * 81}, "STRING_TOO_LONG"),
        ({"LastName": None}, "REQUIRED_FIELD_MISSING"),
        ({"LastName": ""}, "REQUIRED_FIELD_MISSING"),
        ({"Email": "nobody"}, "INVALID_EMAIL_ADDRESS"),
        ({"Email": "@"}, "INVALID_EMAIL_ADDRESS"),
        ({"ManagerId": "x"}, "MALFORMED_ID"),
        ({"ManagerId": make_id("00e", 1)}, "MALFORMED_ID"),
        ({"ManagerId": MISSING}, "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY"),
        ({"Reclaim_Hold_Until__c": "soon"}, "JSON_PARSER_ERROR"),
    ],
)
def test_a_field_takes_only_what_fits(org: Org, people: Any, values: dict[str, Any], code: str) -> None:
    assert refused(org, "User", people(), **values).code == code


def test_values_are_kept_in_their_types(org: Org, people: Any) -> None:
    one, two = people(), people()
    update(org, "user", one[:15], managerid=two[:15], Title="", Reclaim_Hold_Until__c="2026-05-01", FirstName=None)
    assert org.get("User", one, "ManagerId") == two
    assert org.get("User", one, "Title") is None
    assert org.get("User", one, "Reclaim_Hold_Until__c").isoformat() == "2026-05-01"
    assert org.get("User", one, "Name") == "Number001"


def test_picklists_numbers_and_times(org: Org, people: Any) -> None:
    owner = people()
    assert refused(org, "Group", Name="g", Type="Gang").code == "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"
    opportunity = create(org, "Opportunity", Name="o", StageName="Prospecting", CloseDate="2026-05-01", OwnerId=owner)
    assert refused(org, "Opportunity", opportunity, Amount="5").code == "JSON_PARSER_ERROR"
    assert refused(org, "Opportunity", opportunity, Amount=True).code == "JSON_PARSER_ERROR"
    update(org, "Opportunity", opportunity, Amount=12.5, StageName="Closed Won")
    assert org.get("Opportunity", opportunity, "IsClosed") is True
    assert org.get("Opportunity", opportunity, "IsWon") is True


def test_every_write_moves_the_audit_dates(org: Org, people: Any, clock: FixedClock) -> None:
    user = people()
    clock.advance(timedelta(hours=3))
    update(org, "User", user, Title="x")
    assert org.get("User", user, "LastModifiedDate") == NOW + timedelta(hours=3)
    assert org.get("User", user, "SystemModstamp") == NOW + timedelta(hours=3)
    assert org.get("User", user, "CreatedDate") == NOW
    login = people.login_row(user)
    update(org, "UserLogin", login, IsFrozen=True)
    assert org.get("UserLogin", login, "LastModifiedDate") == NOW + timedelta(hours=3)


def test_every_write_names_its_author(org: Org, people: Any) -> None:
    user = people()
    login = people.login_row(user)
    assert org.get("UserLogin", login, "LastModifiedById") is None
    with org.transaction(caller=org.get("User", str(org.run_as), "Username"), api="sobject") as transaction:
        transaction.update("UserLogin", login, {"IsFrozen": True})
    assert org.get("UserLogin", login, "LastModifiedById") == org.run_as
    org.set_frozen(user, frozen=False)
    assert org.get("UserLogin", login, "LastModifiedById") == SOMEBODY


def test_creating(org: Org, people: Any, base: Base) -> None:
    missing = refused(org, "Opportunity", Name="o")
    assert (missing.code, missing.fields) == ("REQUIRED_FIELD_MISSING", ["StageName", "CloseDate"])
    assert refused(org, "User", LastName="x").code == "REQUIRED_FIELD_MISSING"
    assert refused(org, "UserLogin", IsFrozen=True).code == "INVALID_TYPE_FOR_OPERATION"
    assert refused(org, "Profile", Name="x").code == "INVALID_TYPE_FOR_OPERATION"
    case = create(org, "Case", Subject="s")
    assert org.get("Case", case, "OwnerId") == org.run_as
    assert case.startswith("500")
    new = {"Username": "New@Test.example", "LastName": "New", "Email": "n@test.example", "Alias": "n"}
    user = create(org, "User", **new, ProfileId=base.profiles["Sales User"])
    assert org.get("User", user, "Username") == "new@test.example"
    assert len(org.tables["UserLogin"].where("UserId", user)) == 1
    assert len(org.tables["PermissionSetAssignment"].where("AssigneeId", user)) == 1
    again = refused(org, "User", **new, ProfileId=base.profiles["Sales User"])
    assert again.code == "DUPLICATE_USERNAME"
    assert refused(org, "User", people(), Username="NEW@test.example").code == "DUPLICATE_USERNAME"


def test_what_does_not_exist(org: Org, base: Base) -> None:
    assert refused(org, "User", MISSING, Title="x").code == "INVALID_CROSS_REFERENCE_KEY"
    assert refused(org, "User", "nonsense", Title="x").code == "MALFORMED_ID"
    assert refused(org, "Nothing", MISSING, Title="x").status == 404
    assert (
        refused(org, "UserLicense", base.licences["Salesforce"], TotalLicenses=5).code == "INVALID_TYPE_FOR_OPERATION"
    )


def test_deleting(org: Org, people: Any, base: Base) -> None:
    user = people()
    given = create(org, "PermissionSetAssignment", AssigneeId=user, PermissionSetId=base.permission_sets["Forecasting"])
    own = org.tables["PermissionSetAssignment"].where("AssigneeId", user)[0][0]
    with org.transaction(caller="a", api="sobject") as transaction:
        transaction.delete("PermissionSetAssignment", given)
        with pytest.raises(SalesforceError) as profile_own:
            transaction.delete("PermissionSetAssignment", own)
        with pytest.raises(SalesforceError) as no_user:
            transaction.delete("User", user)
    assert profile_own.value.code == "FIELD_INTEGRITY_EXCEPTION"
    assert no_user.value.code == "INVALID_TYPE_FOR_OPERATION"
    assert org.write_log[-1].field == "IsDeleted"
    assert org.find("PermissionSetAssignment", given) is None


# Licences ---------------------------------------------------------------------------------------------------------


def used(org: Org, base: Base, name: str) -> int:
    return int(org.get("UserLicense", base.licences[name], "UsedLicenses"))


def test_seats_are_counted_from_the_active_users(org: Org, people: Any, base: Base) -> None:
    user = people()
    people(IsActive=False)
    assert used(org, base, "Salesforce") == 1
    update(org, "User", user, IsActive=False)
    assert used(org, base, "Salesforce") == 0
    update(org, "User", user, IsActive=True)
    update(org, "User", user, ProfileId=base.profiles["Standard Platform User"])
    assert (used(org, base, "Salesforce"), used(org, base, "Salesforce Platform")) == (0, 1)
    org.amend("User", user, IsActive=False)
    assert used(org, base, "Salesforce Platform") == 0


def test_a_freeze_frees_no_seat(org: Org, people: Any, base: Base) -> None:
    user = people()
    update(org, "UserLogin", people.login_row(user), IsFrozen=True)
    assert used(org, base, "Salesforce") == 1


def test_no_more_active_users_than_seats(org: Org, people: Any, base: Base) -> None:
    total = org.get("UserLicense", base.licences["Salesforce"], "TotalLicenses")
    everybody = [people() for _ in range(total)]
    spare = people(IsActive=False)
    error = refused(org, "User", spare, IsActive=True)
    assert (error.code, error.message) == ("LICENSE_LIMIT_EXCEEDED", "License Limit Exceeded: Salesforce")
    more = {"Username": "m@t.example", "LastName": "M", "Email": "m@t.example", "Alias": "m"}
    assert refused(org, "User", **more, ProfileId=base.profiles["Sales User"]).code == "LICENSE_LIMIT_EXCEEDED"
    platform = people("Standard Platform User")
    assert refused(org, "User", platform, ProfileId=base.profiles["Sales User"]).code == "LICENSE_LIMIT_EXCEEDED"
    update(org, "User", everybody[0], IsActive=False)
    update(org, "User", spare, IsActive=True)
    # Deactivating and changing within the licence never needs a seat.
    update(org, "User", everybody[1], ProfileId=base.profiles["Sales User"])


def test_a_downgrade_needs_a_compatible_profile(org: Org, people: Any, base: Base) -> None:
    user = people()
    integration = base.profiles["Minimum Access - API Only Integrations"]
    error = refused(org, "User", user, ProfileId=integration)
    assert (error.code, error.fields) == ("FIELD_INTEGRITY_EXCEPTION", ["ProfileId"])
    assert error.message.startswith("You can only assign profiles that are compatible")


def test_a_downgrade_needs_permission_sets_that_the_licence_allows(org: Org, people: Any, base: Base) -> None:
    user = people()
    platform = base.profiles["Standard Platform User"]
    create(org, "PermissionSetAssignment", AssigneeId=user, PermissionSetId=base.permission_sets["Reclaim_Exempt"])
    held = create(org, "PermissionSetAssignment", AssigneeId=user, PermissionSetId=base.permission_sets["Forecasting"])
    add_on = next(iter(org.tables["PermissionSetLicense"].rows))
    assigned = create(org, "PermissionSetLicenseAssign", AssigneeId=user, PermissionSetLicenseId=add_on)
    assert org.get("PermissionSetLicense", add_on, "UsedLicenses") == 1
    for kind, record_id in (("PermissionSetAssignment", held), ("PermissionSetLicenseAssign", assigned)):
        assert refused(org, "User", user, ProfileId=platform).code == "FIELD_INTEGRITY_EXCEPTION"
        with org.transaction(caller="a", api="sobject") as transaction:
            transaction.delete(kind, record_id)
    update(org, "User", user, ProfileId=platform)
    sets = {row[2] for row in org.tables["PermissionSetAssignment"].where("AssigneeId", user)}
    owned = org.tables["PermissionSet"].where("ProfileId", platform)[0][0]
    assert sets == {owned, base.permission_sets["Reclaim_Exempt"]}
    again = refused(
        org, "PermissionSetAssignment", AssigneeId=user, PermissionSetId=base.permission_sets["Forecasting"]
    )
    assert again.code == "FIELD_INTEGRITY_EXCEPTION"
    assert refused(org, "PermissionSetLicenseAssign", AssigneeId=user, PermissionSetLicenseId=add_on).code == (
        "FIELD_INTEGRITY_EXCEPTION"
    )
    twice = refused(
        org, "PermissionSetAssignment", AssigneeId=user, PermissionSetId=base.permission_sets["Reclaim_Exempt"]
    )
    assert twice.code == "DUPLICATE_VALUE"


def test_add_on_licences_run_out(org: Org, people: Any, base: Base) -> None:
    add_on = next(iter(org.tables["PermissionSetLicense"].rows))
    for _ in range(org.get("PermissionSetLicense", add_on, "TotalLicenses")):
        create(org, "PermissionSetLicenseAssign", AssigneeId=people(), PermissionSetLicenseId=add_on)
    error = refused(org, "PermissionSetLicenseAssign", AssigneeId=people(), PermissionSetLicenseId=add_on)
    assert error.code == "LICENSE_LIMIT_EXCEEDED"


# Deactivation -----------------------------------------------------------------------------------------------------


def test_the_last_administrator_stays(org: Org, people: Any, base: Base) -> None:
    one, two = people("System Administrator"), people("System Administrator")
    update(org, "User", one, IsActive=False)
    assert refused(org, "User", two, IsActive=False).code == "CANNOT_DISABLE_LAST_ADMIN"
    assert refused(org, "User", two, ProfileId=base.profiles["Standard User"]).code == "CANNOT_DISABLE_LAST_ADMIN"
    update(org, "User", two, Title="still here")


def test_the_value_of_a_hierarchy_field_stays(org: Org, people: Any) -> None:
    user, other = people(), people()
    update(org, "User", other, Backup_Approver__c=user)
    error = refused(org, "User", user, IsActive=False)
    assert error.code == "FIELD_INTEGRITY_EXCEPTION"
    assert error.message == "Cannot inactivate user that is the value of a hierarchy field: Backup Approver"
    update(org, "User", other, Backup_Approver__c=None)
    update(org, "User", user, IsActive=False)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("default_case_owner", "default owner of cases"),
        ("automated_case_user", "Automated Case User"),
        ("default_lead_owner", "default owner of leads"),
        ("default_lead_creator", "Web to Lead Default Creator"),
        ("default_workflow_user", "Default Workflow User"),
        ("approvers", "approver"),
    ],
)
def test_whoever_holds_a_default_stays(org: Org, people: Any, setting: str, words: str) -> None:
    user = people()
    setattr(org.settings, setting, {user} if setting == "approvers" else user)
    error = refused(org, "User", user, IsActive=False)
    assert error.code == "FIELD_INTEGRITY_EXCEPTION"
    assert words in error.message
    # What is off already may be switched off again.
    org.amend("User", user, IsActive=False)
    update(org, "User", user, IsActive=False)


# Ownership --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "word"), [("Opportunity", "opportunity"), ("Case", "case"), ("Lead", "lead")])
def test_an_inactive_user_can_take_nothing_over(org: Org, people: Any, kind: str, word: str) -> None:
    owner, gone = people(), people(IsActive=False)
    record = org.insert(kind, OwnerId=owner)
    error = refused(org, kind, record, OwnerId=gone)
    assert error.code == "INACTIVE_OWNER_OR_USER"
    assert error.message == f"operation performed with inactive user [{gone[:15]}] as owner of {word}"
    org.amend("User", owner, IsActive=False)
    # A record whose owner left can still be changed, and handed on.
    update(org, kind, record, OwnerId=owner)
    update(org, kind, record, OwnerId=people())


def test_who_may_own_what(org: Org, people: Any) -> None:
    owner = people()
    records = {kind: org.insert(kind, OwnerId=owner) for kind in ("Opportunity", "Case", "Lead")}
    platform, chatter = people("Standard Platform User"), people("Chatter Free User")
    queue, group = org.insert("Group", Name="q", Type="Queue"), org.insert("Group", Name="g", Type="Regular")
    for kind in ("Opportunity", "Lead"):
        assert refused(org, kind, records[kind], OwnerId=platform).code == "OP_WITH_INVALID_USER_TYPE_EXCEPTION"
    update(org, "Case", records["Case"], OwnerId=platform)
    for kind, record in records.items():
        assert refused(org, kind, record, OwnerId=chatter).code == "OP_WITH_INVALID_USER_TYPE_EXCEPTION"
        assert refused(org, kind, record, OwnerId=None).code == "REQUIRED_FIELD_MISSING"
    update(org, "Case", records["Case"], OwnerId=queue)
    update(org, "Lead", records["Lead"], OwnerId=queue)
    assert refused(org, "Case", records["Case"], OwnerId=group).code == "INVALID_CROSS_REFERENCE_KEY"
    assert refused(org, "Opportunity", records["Opportunity"], OwnerId=queue).code == "MALFORMED_ID"


# Transactions and logs --------------------------------------------------------------------------------------------


def test_setup_and_business_objects_do_not_mix(org: Org, people: Any) -> None:
    user = people()
    case = org.insert("Case", OwnerId=user)
    with org.transaction(caller="a", api="x") as transaction:
        transaction.update("Case", case, {"Subject": "first"})
        with pytest.raises(SalesforceError) as mixed:
            transaction.update("User", user, {"Title": "second"})
    assert mixed.value.code == "MIXED_DML_OPERATION"
    assert "User, original object: Case" in mixed.value.message
    assert [each.object for each in org.write_log] == ["Case"]


def test_the_write_log_holds_every_field_of_every_write(org: Org, people: Any, clock: FixedClock) -> None:
    user = people(Title="old")
    login = people.login_row(user)
    update(org, "UserLogin", login, IsFrozen=True)
    clock.advance(timedelta(minutes=1))
    update(org, "UserLogin", login, IsFrozen=True)
    update(org, "User", user, Title="new", Reclaim_Hold_Until__c="2026-05-01")
    entries = [(each.object, each.id, each.field, each.before, each.after, each.caller) for each in org.write_log]
    assert entries == [
        ("UserLogin", login, "IsFrozen", False, True, "api@test"),
        ("UserLogin", login, "IsFrozen", True, True, "api@test"),
        ("User", user, "Title", "old", "new", "api@test"),
        ("User", user, "Reclaim_Hold_Until__c", None, "2026-05-01", "api@test"),
    ]
    assert [each.at for each in org.write_log[:2]] == ["2026-03-18T12:30:00+00:00", "2026-03-18T12:31:00+00:00"]
    assert [each.seq for each in org.write_log] == sorted({each.seq for each in org.write_log})


def test_seeding_leaves_no_trace(org: Org, people: Any) -> None:
    org.amend("User", people(), IsActive=False)
    assert org.write_log == []
    assert org.person_log == []


def test_a_failed_transaction_leaves_nothing(org: Org, people: Any, base: Base) -> None:
    user, other = people(), people()
    before = used(org, base, "Salesforce")
    with pytest.raises(RuntimeError, match="stop"):
        _fail_halfway(org, base, user, other)
    assert used(org, base, "Salesforce") == before
    assert org.get("User", user, "IsActive") is True
    assert org.get("User", other, "ProfileId") == base.profiles["Standard User"]
    assert len(org.tables["PermissionSetAssignment"].where("AssigneeId", other)) == 1
    assert org.tables["User"].where("Username", "made@test.example") == []
    assert org.write_log == []


def _fail_halfway(org: Org, base: Base, user: str, other: str) -> None:
    with org.transaction(caller="a", api="x") as transaction:
        transaction.update("User", user, {"IsActive": False})
        transaction.update("User", other, {"ProfileId": base.profiles["Standard Platform User"]})
        made = {"Username": "made@test.example", "LastName": "M", "Email": "m@t.example", "Alias": "m"}
        transaction.create("User", {**made, "ProfileId": base.profiles["Sales User"]})
        raise RuntimeError("stop")


# People -----------------------------------------------------------------------------------------------------------


def test_people_are_logged_apart(org: Org, people: Any) -> None:
    user = people()
    org.set_frozen(user, frozen=True)
    org.person_sets("User", user, IsActive=False)
    assert org.write_log == []
    assert [(each.api, each.caller, each.field, each.after) for each in org.person_log] == [
        ("person", "person", "IsFrozen", True),
        ("person", "person", "IsActive", False),
    ]
    update(org, "User", user, IsActive=True)
    assert [each.caller for each in org.write_log] == ["api@test"]
    assert org.write_log[0].seq > org.person_log[-1].seq


def test_people_meet_the_same_rules(org: Org, people: Any) -> None:
    admin = people("System Administrator")
    with pytest.raises(SalesforceError, match="CANNOT_DISABLE_LAST_ADMIN"):
        org.person_sets("User", admin, IsActive=False)


@pytest.mark.parametrize(
    ("channel", "login_type", "moves_last_login", "token"),
    [
        ("ui", "Application", True, False),
        ("api", "Remote Access 2.0", False, True),
        ("mobile", "Remote Access Client", False, True),
        ("sso", "SAML Sfdc Initiated SSO", False, False),
        ("partner", "Partner Product", False, False),
    ],
)
def test_logging_in(
    org: Org, people: Any, clock: FixedClock, channel: Any, login_type: str, moves_last_login: bool, token: bool
) -> None:
    user = people()
    assert org.log_in(user, channel)
    clock.advance(timedelta(days=1))
    assert org.log_in(user[:15], channel)
    history = org.tables["LoginHistory"].where("UserId", user)
    assert {(row[3], row[4]) for row in history} == {(login_type, "Success")}
    assert len(history) == 2
    assert (org.get("User", user, "LastLoginDate") == clock.now()) is moves_last_login
    tokens = org.tables["OauthToken"].where("UserId", user)
    assert [(row[3], row[4]) for row in tokens] == ([(clock.now(), 2)] if token else [])


def test_the_frozen_and_the_inactive_cannot_log_in(org: Org, people: Any) -> None:
    frozen, inactive = people(), people(IsActive=False)
    org.set_frozen(frozen, frozen=True)
    assert not org.log_in(frozen, "ui")
    assert not org.log_in(inactive, "api")
    assert org.get("User", frozen, "LastLoginDate") is None
    assert [row[4] for row in org.tables["LoginHistory"].rows.values()] == ["User is Frozen", "User is Inactive"]
    org.set_frozen(frozen, frozen=False)
    assert org.log_in(frozen, "ui")
    with pytest.raises(SalesforceError, match="no user"):
        org.log_in(MISSING, "ui")
