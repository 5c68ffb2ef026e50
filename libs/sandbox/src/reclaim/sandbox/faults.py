"""Faults on demand: what a real org does to its callers on a bad day, set through the control API."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal["instead", "within", "after"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault: when it strikes, which paths it strikes unless told otherwise, and what it looks like.

    `instead` answers without doing the work, `within` changes how the work goes, `after` does the work first.
    """

    phase: Phase
    path: str
    what: str


_ANY = r"^/services/data/"
_QUERY = r"/query\b"
_WRITE = r"/(composite|sobjects)\b"

KINDS: dict[str, FaultKind] = {
    "server_unavailable": FaultKind("instead", _ANY, "503 SERVER_UNAVAILABLE"),
    "query_timeout": FaultKind("instead", _QUERY, "400 QUERY_TIMEOUT"),
    "request_limit": FaultKind("instead", _ANY, "403 REQUEST_LIMIT_EXCEEDED"),
    "session_expired": FaultKind("instead", _ANY, "401 INVALID_SESSION_ID; the session is gone for good"),
    "too_many_requests": FaultKind("instead", _ANY, "429; params.retry_after seconds, if given"),
    "call_lock": FaultKind("instead", _WRITE, "400 UNABLE_TO_LOCK_ROW for the whole call"),
    "invalid_locator": FaultKind("instead", r"/query/[^/]+$", "400 INVALID_QUERY_LOCATOR"),
    "login_refused": FaultKind("instead", r"^/services/oauth2/token$", "400 invalid_grant"),
    "connection_lost": FaultKind("instead", _ANY, "the connection is closed before any work is done"),
    "slow": FaultKind("within", _ANY, "the answer comes after params.seconds (1)"),
    "row_lock": FaultKind("within", _WRITE, "UNABLE_TO_LOCK_ROW on the first params.rows (1) rows, or on params.ids"),
    "row_refused": FaultKind(
        "within",
        _WRITE,
        "a row is refused with what params.refusals names for its id, one of REFUSALS",
    ),
    "truncated_page": FaultKind("within", _QUERY, "a page ends after params.keep rows (half) and says it is the last"),
    "empty_scan": FaultKind("within", _QUERY, "a query answers with no rows at all"),
    "bulk_failed": FaultKind("within", r"/jobs/query/[^/]+$", "a Bulk job ends as Failed"),
    "timeout_after_commit": FaultKind(
        "after", _ANY, "the work is done, and no answer comes: params.mode `close` (default) or `hang`"
    ),
}


REFUSALS: dict[str, tuple[str, str]] = {
    "default_lead_owner": (
        "FIELD_INTEGRITY_EXCEPTION",
        "You cannot deactivate this user. You cannot deactivate a user who is the default owner of leads",
    ),
    "default_case_owner": (
        "FIELD_INTEGRITY_EXCEPTION",
        "You cannot deactivate this user. You cannot deactivate a user who is the default owner of cases",
    ),
    "automated_case_user": (
        "FIELD_INTEGRITY_EXCEPTION",
        "You cannot deactivate this user. You cannot deactivate the Automated Case User",
    ),
    "default_workflow_user": (
        "FIELD_INTEGRITY_EXCEPTION",
        "You cannot deactivate this user. You cannot deactivate the Default Workflow User",
    ),
    "hierarchy_field": (
        "FIELD_INTEGRITY_EXCEPTION",
        "Cannot inactivate user that is the value of a hierarchy field: Backup Approver",
    ),
    "approver": (
        "FIELD_INTEGRITY_EXCEPTION",
        "You cannot deactivate this user. The user is an approver in one or more approval processes",
    ),
    "last_admin": (
        "CANNOT_DISABLE_LAST_ADMIN",
        "You cannot deactivate or change the profile of the last active administrator of the organization.",
    ),
    "incompatible_profile": (
        "FIELD_INTEGRITY_EXCEPTION",
        "You can only assign profiles that are compatible with the user's license and its permission sets.",
    ),
    "no_licence": ("LICENSE_LIMIT_EXCEEDED", "License Limit Exceeded: Salesforce"),
    "validation_rule": ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Ask the approver in HR before you change this user."),
    "permission": ("INSUFFICIENT_ACCESS_OR_READONLY", "insufficient access rights on object id"),
    "owner_of_another_licence": ("OP_WITH_INVALID_USER_TYPE_EXCEPTION", "Operation not valid for this user type"),
    "new": ("SOMETHING_NEW", "A rule that came with the last release forbids this."),
}
"""What an org says when it refuses a row, by name: (code, message)."""


@dataclass(slots=True)
class Fault:
    """One fault that is set: it lets `after` matching calls pass, then strikes `times` of them (`None`: each)."""

    id: int
    kind: str
    method: str | None = None
    path: re.Pattern[str] | None = None
    object: str | None = None
    after: int = 0
    times: int | None = 1
    params: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    fired: int = 0

    @property
    def phase(self) -> Phase:
        return KINDS[self.kind].phase

    def matches(self, method: str, path: str, objects: AbstractSet[str]) -> bool:
        """Tell whether a call is one that this fault counts."""
        if self.method is not None and self.method != method:
            return False
        if self.object is not None and self.object.lower() not in objects:
            return False
        pattern = self.path or re.compile(KINDS[self.kind].path)
        return pattern.search(path) is not None

    def strikes(self) -> bool:
        """Count one matching call; tell whether the fault strikes it."""
        self.seen += 1
        return self.seen > self.after and (self.times is None or self.fired < self.times)

    def describe(self) -> dict[str, Any]:
        """Return the fault as the control API shows it."""
        match = {"method": self.method, "path_regex": self.path.pattern if self.path else None, "object": self.object}
        return {
            "id": self.id,
            "kind": self.kind,
            "match": {name: value for name, value in match.items() if value is not None},
            "after": self.after,
            "times": self.times,
            "params": self.params,
            "seen": self.seen,
            "fired": self.fired,
        }


class Faults:
    """The faults that are set, in the order in which they were; at most one strikes a call."""

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._made = 0

    def add(
        self,
        kind: str,
        *,
        method: str | None = None,
        path_regex: str | None = None,
        object_name: str | None = None,
        after: int = 0,
        times: int | None = 1,
        params: dict[str, Any] | None = None,
    ) -> Fault:
        """Set a fault.

        Raises:
            ValueError: there is no such kind, or the pattern is not one; the message says what there is.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of fault: use one of {', '.join(KINDS)}")
        if kind == "row_refused":
            named = (params or {}).get("refusals")
            if not isinstance(named, dict) or not named or not set(named.values()) <= set(REFUSALS):
                raise ValueError(f"row_refused needs params.refusals, id to one of {', '.join(REFUSALS)}")
        try:
            path = re.compile(path_regex) if path_regex else None
        except re.error as error:
            raise ValueError(f"path_regex {path_regex!r} is not a pattern: {error}") from None
        self._made += 1
        fault = Fault(
            id=self._made,
            kind=kind,
            method=method.upper() if method else None,
            path=path,
            object=object_name,
            after=after,
            times=times,
            params=params or {},
        )
        self._faults[fault.id] = fault
        return fault

    def remove(self, fault_id: int) -> bool:
        """Take a fault away; return whether there was one."""
        return self._faults.pop(fault_id, None) is not None

    def clear(self) -> None:
        self._faults.clear()

    def list(self) -> list[Fault]:
        return [*self._faults.values()]

    def take(self, method: str, path: str, objects: AbstractSet[str]) -> Fault | None:
        """Return the fault that strikes a call, if one does; every matching fault counts the call."""
        struck: Fault | None = None
        for fault in self._faults.values():
            if fault.matches(method, path, objects) and fault.strikes() and struck is None:
                struck = fault
        if struck is not None:
            struck.fired += 1
        return struck
