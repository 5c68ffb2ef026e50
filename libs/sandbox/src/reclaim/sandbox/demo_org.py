"""A believable org, the same for the same seed: licences, managers, open business, and every reason to be left alone.

Each user with a full licence has exactly one expectation (`Org.expectations`): `reclaimable`, `active`, or the one
check that must protect them. Users with other licences are `other_licence`. All dates count back from the clock's now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import cycle
from random import Random
from typing import Any

from .org import Org
from .schema import CASE_STATUSES, LOGIN_TYPES, OPPORTUNITY_STAGES

SHARES: dict[str, float] = {
    "reclaimable": 0.13,
    "new_account": 0.03,
    "active_elsewhere": 0.04,
    "integration_user": 0.005,
    "administrator": 0.006,
    "exempt": 0.015,
    "already_frozen": 0.015,
    "scheduled_jobs": 0.01,
    "pending_approvals": 0.01,
    "queue_member": 0.01,
    "no_successor": 0.015,
}
"""What share of the full licences each expectation gets, at least one user each; the rest are active."""

EXEMPT_SET = "Reclaim_Exempt"
RUN_AS = "reclaim.integration@larkfield.example"
"""The user that the default connected app acts as."""

_TEAM = 10
# fmt: off
_FIRST = (
    "Ada", "Amir", "Anika", "Arjun", "Asha", "Ben", "Bianca", "Bo", "Carla", "Cem", "Chen", "Clara", "Dana",
    "David", "Dilan", "Elif", "Emil", "Esra", "Farah", "Felix", "Fiona", "Gita", "Goran", "Hana", "Henrik", "Hugo",
    "Ida", "Imani", "Ines", "Ivan", "Jana", "Joao", "Jonas", "Kaia", "Karim", "Kenji", "Lara", "Leo", "Lina",
    "Lukas", "Mara", "Marco", "Mei", "Milo", "Mina", "Nadia", "Niko", "Nina", "Noor", "Oskar", "Paula", "Pedro",
    "Priya", "Rafael", "Rosa", "Ruth", "Samir", "Sara", "Sofia", "Tara", "Tomas", "Vera", "Yara", "Zoe",
)
# fmt: on
# fmt: off
_LAST = (
    "Abbott", "Alvarez", "Andersen", "Aydin", "Barros", "Bauer", "Becker", "Bello", "Berg", "Bianchi", "Bishop",
    "Brandt", "Castro", "Chen", "Costa", "Dahl", "Dias", "Dubois", "Ekström", "Fischer", "Flores", "Fontaine",
    "Garcia", "Greco", "Gruber", "Haas", "Hansen", "Hartley", "Herrera", "Ito", "Ivanov", "Jansen", "Kaya",
    "Keller", "Khan", "Klein", "Kovac", "Larsen", "Lindgren", "Lopez", "Marino", "Mehta", "Meyer", "Moreau",
    "Nakamura", "Novak", "Okafor", "Olsen", "Park", "Pereira", "Petrov", "Rossi", "Sato", "Schmidt", "Silva",
    "Singh", "Sorensen", "Tanaka", "Torres", "Varga", "Vogel", "Weber", "Wright", "Yilmaz",
)
# fmt: on
_DEPARTMENTS = ("Sales", "Customer Service", "Marketing", "Finance", "Field Service", "Partner Sales", "Operations")
_COMPANIES = (
    "Harbour & Sons",
    "Tessel Works",
    "Copperline",
    "Blue Fjord",
    "Orchard Lane",
    "Kestrel Freight",
    "Mondo Tile",
)
_OPEN_STAGES = [stage for stage, (closed, _) in OPPORTUNITY_STAGES.items() if not closed]
_OPEN_STATUSES = [status for status, closed in CASE_STATUSES.items() if not closed]


@dataclass(frozen=True, slots=True)
class Base:
    """The ids of what every org has: its licences, profiles and permission sets, by name."""

    licences: dict[str, str]
    profiles: dict[str, str]
    permission_sets: dict[str, str]


def build_base(org: Org, *, seats: int = 1_200) -> Base:
    """Set up licences, profiles, permission sets, two administrators and the integration user.

    Args:
        org: an org without rows.
        seats: how many full licences it has bought; the other licences are in proportion.
    """
    long_ago = org.clock.now() - timedelta(days=2_000)
    org.insert("Organization", Name="Larkfield Instruments", CreatedDate=long_ago)
    licences = {
        name: org.insert(
            "UserLicense",
            Name=name,
            MasterLabel=name,
            LicenseDefinitionKey=key,
            TotalLicenses=max(int(seats * share), 25),
            CreatedDate=long_ago,
        )
        for name, key, share in (
            ("Salesforce", "SFDC", 1.0),
            ("Salesforce Platform", "AUL", 0.5),
            ("Chatter Free", "PID_CHATTER", 1.0),
            ("Salesforce Integration", "PID_INTEGRATION", 0.02),
        )
    }
    profiles: dict[str, str] = {}
    permission_sets: dict[str, str] = {}
    admin = {
        "PermissionsModifyAllData": True,
        "PermissionsManageUsers": True,
        "PermissionsViewAllData": True,
        "PermissionsApiEnabled": True,
    }
    for name, licence, permissions in (
        ("System Administrator", "Salesforce", admin),
        ("Standard User", "Salesforce", {"PermissionsApiEnabled": True}),
        ("Sales User", "Salesforce", {"PermissionsApiEnabled": True}),
        ("API Only", "Salesforce", {"PermissionsApiEnabled": True, "PermissionsApiUserOnly": True}),
        ("Standard Platform User", "Salesforce Platform", {"PermissionsApiEnabled": True}),
        ("Chatter Free User", "Chatter Free", {}),
        (
            "Minimum Access - API Only Integrations",
            "Salesforce Integration",
            {"PermissionsApiEnabled": True, "PermissionsApiUserOnly": True},
        ),
    ):
        user_type = "CsnOnly" if licence == "Chatter Free" else "Standard"
        profiles[name] = org.insert(
            "Profile",
            Name=name,
            UserLicenseId=licences[licence],
            UserType=user_type,
            CreatedDate=long_ago,
            **permissions,
        )
        org.insert(
            "PermissionSet",
            Name=f"X00e{len(profiles):012d}",
            Label=f"00e{len(profiles):012d}",
            IsOwnedByProfile=True,
            IsCustom=False,
            ProfileId=profiles[name],
            LicenseId=licences[licence],
            CreatedDate=long_ago,
            **permissions,
        )
    for name, label, more in (
        (EXEMPT_SET, "Reclaim: exempt", {}),
        ("Delegated_User_Admin", "Delegated user administration", {"PermissionsManageUsers": True}),
        ("Forecasting", "Forecasting", {"LicenseId": licences["Salesforce"]}),
        (
            "Reclaim_Integration",
            "Reclaim integration",
            {"PermissionsManageUsers": True, "PermissionsModifyAllData": True, "PermissionsViewAllData": True},
        ),
    ):
        permission_sets[name] = org.insert("PermissionSet", Name=name, Label=label, CreatedDate=long_ago, **more)
    org.settings.licences_convertible = {
        licences["Salesforce"]: {licences["Salesforce Platform"], licences["Chatter Free"]},
        licences["Salesforce Platform"]: {licences["Salesforce"], licences["Chatter Free"]},
        licences["Chatter Free"]: {licences["Salesforce"], licences["Salesforce Platform"]},
    }
    add_on = org.insert(
        "PermissionSetLicense",
        DeveloperName="SalesConsoleUser",
        MasterLabel="Sales Console User",
        PermissionSetLicenseKey="SalesConsoleUser",
        TotalLicenses=max(seats // 20, 5),
        CreatedDate=long_ago,
    )
    org.settings.licences_of_add_on = {add_on: {licences["Salesforce"]}}
    org.run_as = org.insert(
        "User",
        Username=RUN_AS,
        LastName="Reclaim Integration",
        Email="operations@larkfield.example",
        Alias="reclaim",
        ProfileId=profiles["Minimum Access - API Only Integrations"],
        CreatedDate=long_ago,
    )
    org.insert("PermissionSetAssignment", AssigneeId=org.run_as, PermissionSetId=permission_sets["Reclaim_Integration"])
    org.expectations[org.run_as] = "other_licence"
    return Base(licences, profiles, permission_sets)


def build_demo_org(org: Org, *, users: int = 1_000, seed: int = 2024) -> None:
    """Fill an empty org with `users` active full licences, and everybody else that such a company has.

    Raises:
        ValueError: fewer than 50 users were asked for: not every reason would have somebody to show it.
    """
    if users < 50:
        raise ValueError(f"{users} users are too few: a demo org needs at least 50 to show every reason")
    _Builder(org, build_base(org, seats=int(users * 1.1)), Random(seed)).build(users)  # noqa: S311 - not a secret


class _Builder:
    def __init__(self, org: Org, base: Base, random: Random) -> None:
        self.org = org
        self.base = base
        self.random = random
        self.now: datetime = org.clock.now()
        self.made = 0
        self.managers: list[str] = []
        self.former = ""
        self.mailless = ""
        self.frozen = ""

    def ago(self, first: float, last: float) -> datetime:
        """Return an instant between so many and so many days ago, to the second."""
        seconds = int(self.random.uniform(first, last) * 86_400)
        return self.now.replace(microsecond=0) - timedelta(seconds=seconds)

    def user(
        self, expectation: str, *, profile: str = "Standard User", login: datetime | None = None, **more: Any
    ) -> str:
        """Add a user, with the login history that fits the last login, and note what to expect."""
        first, last = self.random.choice(_FIRST), self.random.choice(_LAST)
        self.made += 1
        folded = last.lower().replace("ö", "o")
        address = f"{first.lower()}.{folded}.{self.made}@larkfield.example"
        created = more.pop("CreatedDate", None)
        if created is None:
            created = (login or self.now) - timedelta(seconds=int(self.random.uniform(180, 1_500) * 86_400))
            created = created.replace(microsecond=0)
        values: dict[str, Any] = {
            "Username": address,
            "FirstName": first,
            "LastName": last,
            "Email": address,
            "Alias": f"{first[:1]}{last[:4]}".lower(),
            "CommunityNickname": f"{first.lower()}.{self.made}",
            "EmployeeNumber": f"E{self.made:06d}",
            "FederationIdentifier": address,
            "Department": _DEPARTMENTS[self.made % len(_DEPARTMENTS)],
            "CompanyName": "Larkfield Instruments",
            "ProfileId": self.base.profiles[profile],
            "LastLoginDate": login,
            "CreatedDate": created,
            **more,
        }
        user_id = self.org.insert("User", **values)
        self.org.expectations[user_id] = expectation
        if login is not None and login > self.now - timedelta(days=180):
            self.history(user_id, login, "ui")
        return user_id

    def trait(self, user_id: str, name: str) -> None:
        self.org.traits.setdefault(user_id, set()).add(name)

    def history(self, user_id: str, at: datetime, channel: str, status: str = "Success") -> None:
        self.org.insert(
            "LoginHistory",
            UserId=user_id,
            LoginTime=at,
            LoginType=LOGIN_TYPES[channel],
            Status=status,
            Application="Browser" if channel == "ui" else "N/A",
            SourceIp=f"192.0.2.{self.random.randrange(1, 255)}",
        )

    def business(self, owner: str, kind: str, *, closed: bool = False) -> None:
        """Give a user one opportunity, case or lead; open unless told otherwise."""
        company = self.random.choice(_COMPANIES)
        created = self.ago(20, 300)
        if kind == "Opportunity":
            day = (self.now + timedelta(days=self.random.randrange(5, 60))).date()
            self.org.insert(
                "Opportunity",
                Name=f"{company} - {self.random.choice(('renewal', 'expansion', 'new business'))}",
                OwnerId=owner,
                StageName="Closed Won" if closed else self.random.choice(_OPEN_STAGES),
                CloseDate=created.date() if closed else day,
                Amount=float(self.random.randrange(20, 900) * 100),
                CreatedDate=created,
            )
        elif kind == "Case":
            self.org.insert(
                "Case",
                Subject=self.random.choice(
                    ("Calibration overdue", "Invoice question", "Part missing", "Login problem")
                ),
                OwnerId=owner,
                Status="Closed" if closed else self.random.choice(_OPEN_STATUSES),
                Origin="Email",
                ClosedDate=self.ago(1, 15) if closed else None,
                CreatedDate=created,
            )
        else:
            self.org.insert(
                "Lead",
                FirstName=self.random.choice(_FIRST),
                LastName=self.random.choice(_LAST),
                Company=company,
                OwnerId=owner,
                IsConverted=closed,
                CreatedDate=created,
            )

    # The company --------------------------------------------------------------------------------------------------

    def build(self, users: int) -> None:
        wanted = {name: max(1, round(users * share)) for name, share in SHARES.items()}
        # Three ways to have no successor, and three to be a queue's: each needs somebody to show it.
        wanted["no_successor"] = max(3, wanted["no_successor"])
        wanted["queue_member"] = max(3, wanted["queue_member"])
        administrators = 3
        heads = max(3, users // (_TEAM + 1))
        self._leaders(administrators, heads)
        self._others(users)
        plan = [name for name, count in wanted.items() for _ in range(count)]
        plan += ["active"] * (users - len(plan) - administrators - heads)
        self.random.shuffle(plan)
        # Whoever needs a frozen manager comes after somebody was frozen.
        plan.sort(key=lambda name: name != "already_frozen")
        makers = {name: getattr(self, f"_{name}") for name in (*SHARES, "active")}
        turns = dict.fromkeys(makers, 0)
        bosses = cycle(self.managers)
        for name in plan:
            makers[name](next(bosses), turns[name])
            turns[name] += 1

    def _leaders(self, administrators: int, heads: int) -> None:
        for _ in range(administrators):
            admin = self.user("active", profile="System Administrator", login=self.ago(0.1, 5), Title="Administrator")
        settings = self.org.settings
        settings.automated_case_user = settings.default_workflow_user = admin
        top = self.user("active", login=self.ago(0.1, 5), Title="Managing Director")
        directors = [
            self.user("active", login=self.ago(0.1, 10), Title="Director", ManagerId=top)
            for _ in range(max(1, (heads - 2) // _TEAM))
        ]
        for number in range(heads - 2 - len(directors)):
            boss = directors[number % len(directors)]
            self.managers.append(self.user("active", login=self.ago(0.1, 20), Title="Team Lead", ManagerId=boss))
        if not self.managers:
            self.managers.append(directors[0])
        self.mailless = self.user("active", login=self.ago(1, 20), Title="Team Lead", ManagerId=top, Email=None)

    def _others(self, users: int) -> None:
        """Add those who hold no full licence or none any more."""
        for number in range(max(3, users // 12)):
            user_id = self.user(
                "other_licence",
                profile="Standard Platform User",
                login=self.ago(1, 300),
                ManagerId=self.managers[number % len(self.managers)],
            )
            if number % 7 == 0:
                self.business(user_id, "Case")
        for _ in range(max(2, users // 25)):
            self.user("other_licence", profile="Chatter Free User", login=self.ago(1, 400), UserType="CsnOnly")
        for _ in range(2):
            self.user("other_licence", profile="Minimum Access - API Only Integrations")
        for _ in range(max(2, users // 16)):
            self.former = self.user("inactive", login=self.ago(100, 700), IsActive=False)

    # One maker for each expectation; `turn` counts how many were made, so that variants take turns. -----------------

    def _active(self, manager: str, turn: int) -> None:
        user_id = self.user(
            "active", profile=("Sales User", "Standard User")[turn % 2], login=self.ago(0.1, 40), ManagerId=manager
        )
        if turn % 2 == 0:
            self.business(user_id, "Opportunity")
        if turn % 4 == 0:
            self.business(user_id, "Case")
        if turn % 8 == 0:
            self.business(user_id, "Lead")

    def _idle(self, expectation: str, manager: str | None, **more: Any) -> str:
        """Add a user whose last login in the browser is long ago."""
        return self.user(expectation, login=self.ago(100, 400), ManagerId=manager, **more)

    def _reclaimable(self, manager: str, turn: int) -> None:
        if turn == 0:
            self.trait(self._idle("reclaimable", None), "no_manager")
            return
        if turn == 1:
            self.trait(self._idle("reclaimable", self.mailless), "manager_without_mail")
            return
        if turn % 5 == 2:
            user_id = self.user("reclaimable", ManagerId=manager, CreatedDate=self.ago(150, 900))
            self.trait(user_id, "never_logged_in")
            return
        user_id = self._idle("reclaimable", manager)
        if turn % 5 == 3:
            self.trait(user_id, "open_business")
            for kind in ("Opportunity", "Case", "Lead")[: 1 + turn % 3]:
                self.business(user_id, kind)
        elif turn % 5 == 4:
            self.trait(user_id, "closed_business")
            self.business(user_id, "Opportunity", closed=True)
            self.business(user_id, "Case", closed=True)
            self.business(user_id, "Lead", closed=True)
        elif turn % 10 == 5:
            self.trait(user_id, "failed_login")
            self.history(user_id, self.ago(1, 20), "ui", "Invalid Password")

    def _new_account(self, manager: str, turn: int) -> None:
        if turn % 2 == 0:
            self.trait(self.user("new_account", ManagerId=manager, CreatedDate=self.ago(1, 14)), "created")
            return
        user_id = self._idle("new_account", manager)
        self.trait(user_id, "thawed")
        login = self.org.tables["UserLogin"].where("UserId", user_id)[0]
        self.org.amend("UserLogin", login[0], LastModifiedDate=self.ago(1, 14))

    def _active_elsewhere(self, manager: str, turn: int) -> None:
        user_id = self._idle("active_elsewhere", manager)
        recent = self.ago(1, 30)
        channel = ("api", "sso", "mobile", "token", "partner")[turn % 5]
        self.trait(user_id, channel)
        if channel != "token":
            self.history(user_id, recent, channel)
        if channel in {"api", "mobile", "token"}:
            self.org.insert(
                "OauthToken",
                UserId=user_id,
                AppName="Salesforce for iOS" if channel == "mobile" else "Data Loader",
                LastUsedDate=recent,
                UseCount=self.random.randrange(3, 400),
                CreatedDate=self.ago(200, 400),
            )

    def _integration_user(self, _manager: str, _turn: int) -> None:
        self._idle("integration_user", None, profile="API Only", Title="Integration")

    def _administrator(self, manager: str, turn: int) -> None:
        if turn % 2:
            user_id = self._idle("administrator", manager)
            self._assign(user_id, "Delegated_User_Admin")
        else:
            self._idle("administrator", manager, profile="System Administrator")

    def _exempt(self, manager: str, _turn: int) -> None:
        self._assign(self._idle("exempt", manager), EXEMPT_SET)

    def _assign(self, user_id: str, permission_set: str) -> None:
        self.org.insert(
            "PermissionSetAssignment",
            AssigneeId=user_id,
            PermissionSetId=self.base.permission_sets[permission_set],
        )

    def _already_frozen(self, manager: str, _turn: int) -> None:
        user_id = self._idle("already_frozen", manager)
        login = self.org.tables["UserLogin"].where("UserId", user_id)[0]
        self.org.amend("UserLogin", login[0], IsFrozen=True, LastModifiedDate=self.ago(45, 90))
        self.frozen = user_id

    def _scheduled_jobs(self, manager: str, turn: int) -> None:
        user_id = self._idle("scheduled_jobs", manager)
        variant = ("cron", "dashboard", "batch")[turn % 3]
        self.trait(user_id, variant)
        if variant == "dashboard":
            self.org.insert(
                "Dashboard", Title=f"Pipeline {turn}", DeveloperName=f"Pipeline_{turn}", RunningUserId=user_id
            )
            return
        detail = self.org.insert("CronJobDetail", Name=f"Nightly clean-up {turn}")
        self.org.insert(
            "CronTrigger",
            OwnerId=user_id,
            CreatedById=user_id,
            CronJobDetailId=detail,
            CronExpression="0 0 3 * * ?",
            NextFireTime=self.now + timedelta(hours=5),
        )
        if variant == "batch":
            self.org.insert("AsyncApexJob", JobType="ScheduledApex", Status="Queued", CreatedById=user_id)

    def _pending_approvals(self, manager: str, turn: int) -> None:
        user_id = self._idle("pending_approvals", manager)
        # A manager has one delegate only: a second one would take the first one's reason away.
        if turn % 2 and self.org.get("User", manager, "DelegatedApproverId") is None:
            self.trait(user_id, "delegated_approver")
            self.org.amend("User", manager, DelegatedApproverId=user_id)
        else:
            self.trait(user_id, "approver")
            self.org.insert(
                "ProcessInstanceWorkitem",
                ActorId=user_id,
                OriginalActorId=user_id,
                ProcessInstanceId=f"04gSb0{turn:09d}AAA",
                CreatedDate=self.ago(1, 20),
            )

    def _queue_member(self, manager: str, turn: int) -> None:
        user_id = self._idle("queue_member", manager)
        queue = self.org.insert("Group", Name=f"Intake {turn}", DeveloperName=f"Intake_{turn}", Type="Queue")
        self.org.insert("GroupMember", GroupId=queue, UserOrGroupId=user_id)
        if turn == 0:
            self.org.settings.default_case_owner = user_id
            self.trait(user_id, "default_case_owner")
        elif turn == 1:
            self.org.settings.default_lead_owner = user_id
            self.trait(user_id, "default_lead_owner")
        elif turn == 2:
            self.org.amend("User", manager, Backup_Approver__c=user_id)
            self.trait(user_id, "hierarchy_field")

    def _no_successor(self, _manager: str, turn: int) -> None:
        variant, boss = (("no_manager", None), ("manager_inactive", self.former), ("manager_frozen", self.frozen))[
            turn % 3
        ]
        user_id = self._idle("no_successor", boss)
        self.trait(user_id, variant)
        self.business(user_id, ("Opportunity", "Case", "Lead")[turn // 3 % 3])
