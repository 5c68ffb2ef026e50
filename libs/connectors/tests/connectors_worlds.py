"""The worlds that the contract suites run over: an org in memory, a simulated Salesforce org, and SCIM servers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Protocol

from libs.connectors.tests.scim_server import TOKEN, ScimServer
from reclaim.common.clock import FixedClock
from reclaim.common.errors import Transient
from reclaim.common.outgoing import Outgoing
from reclaim.connectors import scim
from reclaim.connectors.fake import FakeOrg, FakeRecord, FakeUser, Trouble
from reclaim.connectors.ports import ConnectionProfile, Refused, SeatActor, SeatReader, Stopped
from reclaim.connectors.salesforce import Tuning, open_actor, open_reader
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.demo_org import build_base
from reclaim.sandbox.org import Org

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SINCE = NOW - timedelta(days=90)
DAY = timedelta(days=1)
HERE = Outgoing(["127.0.0.1", "localhost"])
QUICK = Tuning(attempts=3, wait_initial=0.001, wait_max=0.01, wait_jitter=0.001, read_timeout=5, patience=20)
QUICK_SCIM = scim.Tuning(
    attempts=3, wait_initial=0.001, wait_max=0.01, wait_jitter=0.001, answer_timeout=5, patience=20
)


class Letting:
    """A guard that lets so many calls be sent, and stops what comes after them."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        if not self.left:
            raise Stopped(ENGAGED)
        self.left -= 1


ENGAGED = "the kill switch is engaged"


class SeatWorld(Protocol):
    """A system with seats that a test can fill, and look into from outside.

    `tells_use` says whether it tells of a last use; `flag` is what it calls the switch of an account, `refusal` the
    code with which it refuses to switch one off that is blocked; `together` accounts are written by one call.
    """

    clock: FixedClock
    reader: SeatReader
    actor: SeatActor
    product: str
    run_as: str
    nobody: str
    tells_use: bool
    flag: str
    refusal: str
    together: int

    def add(self, **traits: Any) -> str:
        """Add a user, by default a person unused for 200 days; return the holder's id."""

    def active(self, holder: str) -> bool: ...

    def writes(self) -> int: ...

    def group(self, name: str, holders: Sequence[str] = (), groups: Sequence[str] = ()) -> str:
        """Add a group with these people and groups (by id) in it; return its id."""

    def block(self, holder: str) -> None:
        """Let something stand in the way of deactivating the holder."""

    def lock(self, *ids: str) -> None:
        """Let somebody hold these accounts or records, until `recover`."""

    def lose_the_next_answer(self, operation: str) -> None:
        """Carry the next write of this operation out, and let its caller hear nothing."""

    def be_busy_once(self) -> None:
        """Answer the next call that writes with 503, and do nothing of it."""

    def use_up_the_calls(self) -> None:
        """Let the org take no more calls today, until `recover`."""

    def recover(self) -> None:
        """Let everything be well again."""


class World(SeatWorld, Protocol):
    """An org that a test can fill, and look into from outside."""

    def give(self, holder: str, kind: str) -> str:
        """Give a holder one open record."""

    def close_record(self, record_id: str) -> None: ...

    def state(self, holder: str) -> tuple[bool, bool]:
        """Return whether the account is active, and whether it is frozen."""

    def owner(self, record_id: str) -> str: ...

    def seats_bought(self, total: int) -> None: ...

    def somebody_sets_frozen(self, holder: str, *, frozen: bool) -> None:
        """Let an administrator of the org freeze or unfreeze the holder."""

    def end_sessions(self) -> None:
        """Let the org forget who is signed in; where there are no sessions nothing is to forget."""

    def grant(self, holder: str) -> tuple[str, str, str]:
        """Give a permission set that needs the licence, one that needs none, and an add-on; return their ids."""

    def ungrantable(self, holder: str) -> None:
        """Let something stand in the way of the cheaper licence."""


class Fake:
    product = "SFDC"
    nobody = "005000000000000AAA"
    tells_use = True
    flag = "IsActive"
    refusal = "FIELD_INTEGRITY_EXCEPTION"
    together = 1

    def __init__(self) -> None:
        self.clock = FixedClock(NOW)
        self.org = FakeOrg(self.clock, page_size=2)
        self._numbers = count(1)
        self.run_as = self.org.run_as = self.add()
        self.org.users[self.run_as].product = "other"
        self.org.profiles = {"Standard User": "SFDC", "Standard Platform User": "AUL"}
        self.org.needs = {"Forecasting": "SFDC"}
        self.reader: SeatReader = self.org.reader()
        self.actor: SeatActor = self.org.actor()

    def add(self, **traits: Any) -> str:
        user_id = f"u{next(self._numbers):04d}"
        values = {"created_at": NOW - 400 * DAY, "last_used_at": NOW - 200 * DAY, "name": user_id, **traits}
        for flag in ("integration", "administrator", "exempt", "scheduled", "approvals", "queue"):
            if values.get(flag) is True:
                values[flag] = "evidence"
        self.org.users[user_id] = FakeUser(user_id, **values)
        return user_id

    def group(self, name: str, holders: Sequence[str] = (), groups: Sequence[str] = ()) -> str:
        self.org.groups[name] = {*holders, *groups}
        return name

    def give(self, holder: str, kind: str) -> str:
        record_id = f"r{len(self.org.records):04d}"
        self.org.records[record_id] = FakeRecord(record_id, kind, holder)
        return record_id

    def close_record(self, record_id: str) -> None:
        self.org.records[record_id].open = False

    def active(self, holder: str) -> bool:
        return self.state(holder)[0]

    def state(self, holder: str) -> tuple[bool, bool]:
        user = self.org.users[holder]
        return user.active, user.frozen

    def owner(self, record_id: str) -> str:
        return self.org.records[record_id].owner

    def writes(self) -> int:
        return len(self.org.writes)

    def block(self, holder: str) -> None:
        self.org.users[holder].blocked = Refused("FIELD_INTEGRITY_EXCEPTION", "the default owner of cases", "Change it")

    def seats_bought(self, total: int) -> None:
        self.org.licences["SFDC"] = total

    def somebody_sets_frozen(self, holder: str, *, frozen: bool) -> None:
        self.org.users[holder].frozen, self.org.users[holder].frozen_by_another = frozen, True

    def lock(self, *ids: str) -> None:
        self.org.trouble = lambda _operation, each: "before" if each in ids else "none"

    def lose_the_next_answer(self, operation: str) -> None:
        def trouble(asked: str, _id: str) -> Trouble:
            # The fake asks for each row; an answer that is lost is lost for all of them.
            return "after" if asked == operation else "none"

        self.org.trouble = trouble

    def be_busy_once(self) -> None:
        troubles: list[Trouble] = ["before"]
        self.org.trouble = lambda _operation, _id: troubles.pop() if troubles else "none"

    def use_up_the_calls(self) -> None:
        self.org.down = Transient("the org takes no more calls today")

    def end_sessions(self) -> None:
        """The fake knows no sessions."""

    def recover(self) -> None:
        self.org.down = None
        self.org.trouble = lambda _operation, _id: "none"

    def grant(self, holder: str) -> tuple[str, str, str]:
        self.org.licences["AUL"] = 25
        user = self.org.users[holder]
        user.profile = "Standard User"
        user.permission_sets += ["Forecasting", "Other"]
        user.permission_set_licences += ["Console"]
        return "Forecasting", "Other", "Console"

    def ungrantable(self, holder: str) -> None:
        self.org.licences["AUL"] = 0


class Simulated:
    product = "SFDC"
    nobody = "005000000000000AAA"
    tells_use = True
    flag = "IsActive"
    refusal = "FIELD_INTEGRITY_EXCEPTION"
    together = 200

    def __init__(self, sandbox: Sandbox) -> None:
        self.clock = FixedClock(NOW)
        self.org = Org(self.clock)
        self.base = build_base(self.org, seats=50)
        self.run_as = str(self.org.run_as)
        self.sandbox = sandbox
        self._numbers = count(1)
        sandbox.world.salesforce.attach(self.org)
        profile = ConnectionProfile(
            "c1",
            "Org",
            "salesforce",
            {"instance_url": self.sandbox.url, "client_id": self.sandbox.client_id},
            {"client_secret": self.sandbox.client_secret},
        )
        sandbox.world.faults.clear()
        self.reader = open_reader(profile, self.clock, QUICK, outgoing=HERE)
        self.actor = open_actor(profile, self.clock, QUICK, outgoing=HERE)

    def add(self, **traits: Any) -> str:
        number = next(self._numbers)
        profile = "API Only" if traits.get("integration") else "Standard User"
        user_id = self.org.insert(
            "User",
            Username=f"user{number}@example.com",
            FirstName="User",
            LastName=str(number),
            Email=f"user{number}@example.com",
            Department=traits.get("department"),
            ProfileId=self.base.profiles[profile],
            ManagerId=traits.get("manager_id"),
            IsActive=traits.get("active", True),
            CreatedDate=traits.get("created_at", NOW - 400 * DAY),
            LastLoginDate=traits.get("last_used_at", NOW - 200 * DAY),
        )
        login = self._login(user_id)
        if traits.get("frozen"):
            self.org.amend("UserLogin", login, IsFrozen=True)
        if "frozen_changed_at" in traits:
            self.org.amend("UserLogin", login, LastModifiedDate=traits["frozen_changed_at"])
        if "seen_elsewhere_at" in traits:
            at = traits["seen_elsewhere_at"]
            login_type = "Remote Access 2.0"
            self.org.insert("LoginHistory", UserId=user_id, LoginTime=at, LoginType=login_type, Status="Success")
        for flag, name in (("administrator", "Delegated_User_Admin"), ("exempt", "Reclaim_Exempt")):
            if traits.get(flag):
                set_id = self.base.permission_sets[name]
                self.org.insert("PermissionSetAssignment", AssigneeId=user_id, PermissionSetId=set_id)
        if traits.get("scheduled"):
            detail = self.org.insert("CronJobDetail", Name="Nightly")
            self.org.insert("CronTrigger", OwnerId=user_id, CronJobDetailId=detail, State="WAITING")
        if traits.get("approvals"):
            self.org.insert("ProcessInstanceWorkitem", ActorId=user_id)
        if traits.get("queue"):
            queue = self.org.insert("Group", Name="Support", Type="Queue")
            self.org.insert("GroupMember", GroupId=queue, UserOrGroupId=user_id)
        return user_id

    def group(self, name: str, holders: Sequence[str] = (), groups: Sequence[str] = ()) -> str:
        group_id = self.org.insert("Group", Name=name, Type="Regular")
        for each in (*holders, *groups):
            self.org.insert("GroupMember", GroupId=group_id, UserOrGroupId=each)
        return group_id

    def give(self, holder: str, kind: str) -> str:
        more: dict[str, Any] = {
            "Opportunity": {"Name": "Deal", "StageName": "Prospecting", "CloseDate": NOW.date()},
            "Case": {"Subject": "Help", "Status": "New"},
            "Lead": {"LastName": "Doe", "Company": "Acme"},
        }[kind]
        return self.org.insert(kind, OwnerId=holder, **more)

    def close_record(self, record_id: str) -> None:
        self.org.amend("Opportunity", record_id, StageName="Closed Won")

    def active(self, holder: str) -> bool:
        return self.state(holder)[0]

    def state(self, holder: str) -> tuple[bool, bool]:
        return self.org.get("User", holder, "IsActive"), self.org.get("UserLogin", self._login(holder), "IsFrozen")

    def owner(self, record_id: str) -> str:
        kind = {"006": "Opportunity", "500": "Case", "00Q": "Lead"}[record_id[:3]]
        return str(self.org.get(kind, record_id, "OwnerId"))

    def writes(self) -> int:
        return len(self.org.write_log)

    def block(self, holder: str) -> None:
        self.org.settings.default_case_owner = holder

    def seats_bought(self, total: int) -> None:
        self.org.amend("UserLicense", self.base.licences["Salesforce"], TotalLicenses=total)

    def somebody_sets_frozen(self, holder: str, *, frozen: bool) -> None:
        self.org.set_frozen(holder, frozen=frozen)

    def lock(self, *ids: str) -> None:
        rows = [each for row in ids for each in (row, self._login(row) if row.startswith("005") else row)]
        self.sandbox.world.faults.add("row_lock", method="PATCH", times=None, params={"ids": rows})

    def lose_the_next_answer(self, operation: str) -> None:
        self.sandbox.world.faults.add("timeout_after_commit", method="PATCH")

    def be_busy_once(self) -> None:
        self.sandbox.world.faults.add("server_unavailable", method="PATCH")

    def use_up_the_calls(self) -> None:
        self.sandbox.world.faults.add("request_limit", times=None)

    def end_sessions(self) -> None:
        self.sandbox.world.salesforce.authority.end_all()

    def recover(self) -> None:
        self.sandbox.world.faults.clear()

    def grant(self, holder: str) -> tuple[str, str, str]:
        sets = self.base.permission_sets["Forecasting"], self.org.insert("PermissionSet", Name="Other", Label="Other")
        (add_on,) = self.org.tables["PermissionSetLicense"].rows
        for set_id in sets:
            self.org.insert("PermissionSetAssignment", AssigneeId=holder, PermissionSetId=set_id)
        self.org.insert("PermissionSetLicenseAssign", AssigneeId=holder, PermissionSetLicenseId=add_on)
        return *sets, add_on

    def ungrantable(self, holder: str) -> None:
        self.org.amend("UserLicense", self.base.licences["Salesforce Platform"], TotalLicenses=0)

    def _login(self, holder: str) -> str:
        return str(self.org.tables["UserLogin"].where("UserId", holder)[0][0])


class Scim:
    """An application that is administered by SCIM: an independent server, behind a door where things go wrong."""

    product = "seat"
    nobody = "no-such-account"
    tells_use = False
    flag = "active"
    refusal = "mutability"
    together = 1

    def __init__(self, server: ScimServer, **settings: str) -> None:
        self.clock = FixedClock(NOW)
        self.server = server
        server.reset()
        self._numbers = count(1)
        self.run_as = self.add(userType="Service")
        profile = ConnectionProfile(
            "c1",
            "Wiki",
            "scim",
            {
                "base_url": server.url,
                "page_size": "3",
                "run_as": self.run_as,
                "user_filter": 'userType eq "Employee"',
                "administrator_filter": 'userType eq "Service"',
                "integration_filter": "none",
                "accept_unseen_work": "true",
                **settings,
            },
            {"token": TOKEN},
        )
        self.reader = scim.open_reader(profile, self.clock, QUICK_SCIM, outgoing=HERE)
        self.actor = scim.open_actor(profile, self.clock, QUICK_SCIM, outgoing=HERE)

    def add(self, **traits: Any) -> str:
        number = next(self._numbers)
        enterprise: dict[str, Any] = {}
        if traits.get("department"):
            enterprise["department"] = traits["department"]
        if traits.get("manager_id"):
            enterprise["manager"] = {"value": traits["manager_id"]}
        user = {
            "userName": f"user{number}@example.com",
            "name": {"givenName": "User", "familyName": str(number)},
            "emails": [{"value": f"user{number}@example.com", "type": "work", "primary": True}],
            "userType": traits.get("userType", "Employee"),
            "active": traits.get("active", True),
            **({ENTERPRISE: enterprise} if enterprise else {}),
        }
        created = traits.get("created_at", NOW - 400 * DAY)
        return self.server.add(user, created=created, changed=traits.get("changed_at", created))

    def group(self, name: str, holders: Sequence[str] = (), groups: Sequence[str] = ()) -> str:
        members = [("User", each) for each in holders] + [("Group", each) for each in groups]
        listed = [{"type": kind, "value": each, "$ref": f"{self.server.url}/{kind}s/{each}"} for kind, each in members]
        return self.server.add_group({"displayName": name, "members": listed})

    def active(self, holder: str) -> bool:
        return bool(self.server.user(holder)["active"])

    def writes(self) -> int:
        return self.server.writes

    def block(self, holder: str) -> None:
        self.server.blocked.add(holder)

    def lock(self, *ids: str) -> None:
        self.server.locked |= set(ids)

    def lose_the_next_answer(self, operation: str) -> None:
        self.server.lose_answers = 1

    def be_busy_once(self) -> None:
        self.server.busy = 1

    def use_up_the_calls(self) -> None:
        self.server.refuse_all = True

    def recover(self) -> None:
        self.server.recover()


ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
