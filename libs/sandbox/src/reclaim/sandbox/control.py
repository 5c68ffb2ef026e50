"""The control API, `/sandbox/api`: what a demo or a test does to the world, and what it may ask about it.

It is not part of any simulated system. A product that called it would be cheating.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.routing import Router

from .errors import SalesforceError
from .faults import KINDS
from .org import Channel
from .world import World


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Match(_Strict):
    """Which calls a fault counts; what is left out is the kind's default."""

    method: str | None = None
    path_regex: str | None = None
    object: str | None = None


class NewFault(_Strict):
    kind: str
    match: Match = Match()
    after: int = Field(default=0, ge=0)
    times: int | None = Field(default=1, ge=1)
    params: dict[str, Any] = {}


class PersonAction(_Strict):
    """Something a person does to a user in the browser, or a user does."""

    action: Literal["log_in", "deactivate", "reactivate", "freeze", "unfreeze", "update", "assign"]
    user_id: str
    channel: Channel = "ui"
    values: dict[str, Any] = {}


class Reset(_Strict):
    users: int = Field(default=1_000, ge=50, le=1_000_000)
    seed: int = 2024


class Refusals(_Strict):
    """Which recipients bounce, and whether the mail server is down; what is left out stays as it is."""

    recipients: list[str] | None = None
    outage: bool | None = None


class Settings(_Strict):
    """What an administrator sets up; what is left out stays as it is, an empty text clears it."""

    default_case_owner: str | None = None
    automated_case_user: str | None = None
    default_lead_owner: str | None = None
    default_lead_creator: str | None = None
    default_workflow_user: str | None = None
    approvers: list[str] | None = None
    daily_api_limit: int | None = Field(default=None, ge=0)
    composite_counts_each: bool | None = None


class Client(_Strict):
    """A connected app; with a public key (PEM) it may use the JWT bearer grant."""

    client_id: str
    client_secret: str
    public_key: str | None = None


class SignIn(_Strict):
    """Somebody signs in to an application of the Okta tenant; `days_ago` back from the world's now."""

    user: str
    app_id: str
    app_name: str = ""
    account: str | None = None
    result: str = "SUCCESS"
    days_ago: float = Field(default=0, ge=0)
    late_minutes: float = Field(default=0, ge=0)


def control_router(world: World) -> Router:
    """Return the control API over a world."""
    router = Router(prefix="/sandbox/api", tags=["sandbox"])

    @router.get("/write-log")
    async def write_log(
        since: int = 0,
        api: str | None = None,
        caller: Literal["product", "person", "all"] = "product",
        object_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """Committed writes after a sequence number: the API's (`product`), simulated people's, or all in order."""
        org = world.org
        logs = {"product": org.write_log, "person": org.person_log}
        entries = logs[caller] if caller != "all" else sorted(org.write_log + org.person_log, key=lambda each: each.seq)
        return [
            asdict(each)
            for each in entries
            if each.seq > since and api in (None, each.api) and object_name in (None, each.object)
        ]

    @router.get("/request-log")
    async def request_log(since: int = 0, path: str = "") -> list[dict[str, Any]]:
        """Calls after a sequence number whose path holds a text; the newest 100,000 are kept."""
        return [asdict(each) for each in world.org.request_log if each.seq > since and path in each.path]

    @router.get("/summary")
    async def summary() -> dict[str, Any]:
        """How many there are of everything."""
        org = world.org
        used, limit = world.salesforce.usage.now()
        return {
            "now": org.clock.now().isoformat(),
            "records": {name: len(table.rows) for name, table in org.tables.items()},
            "expectations": dict(Counter(org.expectations.values())),
            "licences": [
                {name: org.get("UserLicense", each, field) for name, field in _LICENCE_FIELDS}
                for each in org.tables["UserLicense"].rows
            ],
            "writes": Counter(f"{each.object}.{each.field}" for each in org.write_log),
            "person_writes": len(org.person_log),
            "requests": len(org.request_log),
            "api_usage": {"used": used, "limit": limit},
            "messages": len(world.mailbox.messages),
            "run_as": org.run_as,
        }

    @router.get("/users")
    async def users(
        expect: str | None = None, trait: str | None = None, limit: int = 1_000_000, offset: int = 0
    ) -> list[dict[str, Any]]:
        """Users with what is to be expected of them, in the order of their ids."""
        org = world.org
        found = [
            user_id
            for user_id, expectation in org.expectations.items()
            if expect in (None, expectation) and (trait is None or trait in org.traits.get(user_id, ()))
        ]
        return [_user(world, user_id) for user_id in found[offset : offset + limit]]

    @router.get("/users/{user_id}")
    async def user(user_id: str) -> dict[str, Any]:
        """One user, with what is to be expected."""
        row = world.org.find("User", user_id)
        if row is None:
            raise HTTPException(404, f"no user {user_id}")
        return _user(world, row[0])

    @router.get("/faults")
    async def faults() -> dict[str, Any]:
        """The faults that are set, and the kinds that there are."""
        return {
            "faults": [each.describe() for each in world.faults.list()],
            "kinds": {name: each.what for name, each in KINDS.items()},
        }

    @router.post("/faults", status_code=201)
    async def add_fault(fault: NewFault) -> dict[str, Any]:
        """Set a fault."""
        try:
            made = world.faults.add(
                fault.kind,
                method=fault.match.method,
                path_regex=fault.match.path_regex,
                object_name=fault.match.object,
                after=fault.after,
                times=fault.times,
                params=fault.params,
            )
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        return made.describe()

    @router.delete("/faults", status_code=204)
    async def clear_faults() -> None:
        """Take every fault away."""
        world.faults.clear()

    @router.delete("/faults/{fault_id}", status_code=204)
    async def remove_fault(fault_id: int) -> None:
        """Take one fault away."""
        if not world.faults.remove(fault_id):
            raise HTTPException(404, f"no fault {fault_id}")

    @router.post("/people")
    async def people(action: PersonAction) -> dict[str, Any]:
        """Let a person do something; the same rules hold as for the API, and the changes are logged apart."""
        org = world.org
        try:
            if action.action == "log_in":
                return {"ok": org.log_in(action.user_id, action.channel)}
            if action.action == "assign":
                org.person_assigns(action.user_id, str(action.values.get("name", "")))
            elif action.action in {"freeze", "unfreeze"}:
                org.set_frozen(action.user_id, frozen=action.action == "freeze")
            else:
                changes = {"deactivate": {"IsActive": False}, "reactivate": {"IsActive": True}}
                values = action.values if action.action == "update" else changes[action.action]
                org.person_sets("User", action.user_id, **values)
        except SalesforceError as error:
            raise HTTPException(409, {"errorCode": error.code, "message": error.message}) from None
        return {"ok": True}

    @router.post("/reset")
    async def reset(wanted: Reset) -> dict[str, Any]:
        """Begin anew: another org, no faults, an empty mailbox, no sessions."""
        world.reset(users=wanted.users, seed=wanted.seed)
        return {"users": wanted.users, "seed": wanted.seed}

    @router.post("/sessions/expire", status_code=204)
    async def expire_sessions() -> None:
        """End every session."""
        world.salesforce.authority.end_all()

    @router.put("/settings")
    async def settings(wanted: Settings) -> dict[str, Any]:
        """Change what an administrator has set up."""
        for name, value in wanted.model_dump(exclude_none=True).items():
            setattr(world.org.settings, name, set(value) if name == "approvers" else (None if value == "" else value))
        return {"ok": True}

    @router.post("/clients", status_code=201)
    async def add_client(client: Client) -> dict[str, str]:
        """Register a connected app, or give one another secret or key."""
        world.add_client(client.client_id, client.client_secret, client.public_key)
        return {"client_id": client.client_id}

    @router.post("/okta/sign-ins", status_code=201)
    async def sign_in(wanted: SignIn) -> dict[str, Any]:
        """Let somebody sign in to an application; return the event that the log shows."""
        return world.okta.tenant.sign_in(
            wanted.user,
            wanted.app_id,
            app_name=wanted.app_name,
            account=wanted.account,
            result=wanted.result,
            at=world.clock.now() - timedelta(days=wanted.days_ago),
            late=timedelta(minutes=wanted.late_minutes),
        )

    @router.get("/mailbox/messages")
    async def messages(to: str = "", limit: int = 100, offset: int = 0) -> list[dict[str, Any]]:
        """Messages, newest first; `to` is a part of a recipient's address."""
        return [each.as_json() for each in world.mailbox.newest(to=to, limit=limit, offset=offset)]

    @router.delete("/mailbox/messages", status_code=204)
    async def clear_messages() -> None:
        """Forget the messages."""
        world.mailbox.messages.clear()

    @router.post("/mailbox/refuse")
    async def refuse(wanted: Refusals) -> dict[str, Any]:
        """Let recipients bounce (550), or put everybody off (451)."""
        mailbox = world.mailbox
        if wanted.recipients is not None:
            mailbox.refused = {each.lower() for each in wanted.recipients}
        if wanted.outage is not None:
            mailbox.outage = wanted.outage
        return {"recipients": sorted(mailbox.refused), "outage": mailbox.outage}

    return router


_LICENCE_FIELDS = (("name", "Name"), ("total", "TotalLicenses"), ("used", "UsedLicenses"))


def _assigned(world: World, user_id: str, kind: str, field: str) -> list[str]:
    table = world.org.tables[kind]
    return [row[table.kind.slot(field)] for row in table.where("AssigneeId", user_id)]


def _user(world: World, user_id: str) -> dict[str, Any]:
    org = world.org
    login = org.tables["UserLogin"].where("UserId", user_id)[0]
    last_login = org.get("User", user_id, "LastLoginDate")
    return {
        "id": user_id,
        "login_id": login[0],
        "name": org.get("User", user_id, "Name"),
        "username": org.get("User", user_id, "Username"),
        "email": org.get("User", user_id, "Email"),
        "manager_id": org.get("User", user_id, "ManagerId"),
        "active": org.get("User", user_id, "IsActive"),
        "frozen": login[org.tables["UserLogin"].kind.slot("IsFrozen")],
        "profile_id": org.get("User", user_id, "ProfileId"),
        "profile": org.get("Profile", org.get("User", user_id, "ProfileId"), "Name"),
        "permission_sets": sorted(
            org.get("PermissionSet", assigned, "Name")
            for assigned in _assigned(world, user_id, "PermissionSetAssignment", "PermissionSetId")
            if not org.get("PermissionSet", assigned, "IsOwnedByProfile")
        ),
        "permission_set_licences": sorted(
            org.get("PermissionSetLicense", assigned, "DeveloperName")
            for assigned in _assigned(world, user_id, "PermissionSetLicenseAssign", "PermissionSetLicenseId")
        ),
        "last_login": last_login.isoformat() if last_login else None,
        "expect": org.expectations.get(user_id),
        "traits": sorted(org.traits.get(user_id, ())),
        "owns": {kind: len(org.tables[kind].where("OwnerId", user_id)) for kind in ("Opportunity", "Case", "Lead")},
    }
