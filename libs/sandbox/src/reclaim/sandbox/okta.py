"""A simulated Okta tenant: its System Log over real HTTP, and people who sign in to applications.

As strict as the org: a question that it does not understand is refused in Okta's own shape, never guessed at. Events
may reach the log late, the log forgets after 90 days, a window of calls may be used up, and a token may end.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import jwt
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from reclaim.common.clock import Clock
from reclaim.common.routing import Router

from .faults import Fault, Faults
from .salesforce import drop

API_TOKEN: Final = "sandbox-okta-token"  # noqa: S105 - the token of a tenant that does not exist
"""The tenant's default API token. A constant, for the simulated tenant alone: it opens nothing else."""

SCOPE: Final = "okta.logs.read"
APPS_SCOPE: Final = "okta.apps.read"
RETENTION: Final = timedelta(days=90)
OLDEST_QUESTION: Final = timedelta(days=180)
TOKEN_LASTS: Final = timedelta(hours=1)
MOST_EVENTS: Final = 1_000
DEFAULT_EVENTS: Final = 100
MOST_APPS: Final = 200
DEFAULT_APPS: Final = 20

_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_WORD: Final = re.compile(r'\s*(?:(\()|(\))|(and|or)\b|([A-Za-z.]+)\s+(\w+)\s+"((?:[^"\\]|\\.)*)")', re.IGNORECASE)

Event = dict[str, Any]


class OktaError(Exception):
    """A refusal in Okta's shape: a status, its code and a summary."""

    def __init__(self, status: int, code: str, summary: str) -> None:
        super().__init__(summary)
        self.status = status
        self.body = {
            "errorCode": code,
            "errorSummary": summary,
            "errorLink": code,
            "errorId": f"oae{secrets.token_hex(8)}",
            "errorCauses": [],
        }


@dataclass(slots=True)
class Logged:
    """One event, and the instant from which the log shows it."""

    at: datetime
    arrived_at: datetime
    event: Event


@dataclass(slots=True)
class Tenant:
    """The tenant's log, and who may read it. `clients` are service apps with a public key (PEM), by client id.

    `apps` are the application instances by id: what they are called, and their status. `scopes` are what service apps
    were granted. `window` are how many calls may be made within `window_seconds` of the machine's own time.
    """

    clock: Clock
    events: list[Logged] = field(default_factory=list)
    api_tokens: set[str] = field(default_factory=lambda: {API_TOKEN})
    clients: dict[str, str] = field(default_factory=dict)
    apps: dict[str, tuple[str, str]] = field(default_factory=dict)
    scopes: set[str] = field(default_factory=lambda: {SCOPE, APPS_SCOPE})
    window: int = 120
    window_seconds: int = 60

    def add_app(self, app_id: str, label: str, *, status: str = "ACTIVE") -> None:
        """Add an application instance."""
        self.apps[app_id] = (label, status)

    def sign_in(
        self,
        user: str,
        app_id: str,
        *,
        app_name: str = "",
        at: datetime | None = None,
        result: str = "SUCCESS",
        account: str | None = None,
        actor_type: str = "User",
        late: timedelta = timedelta(0),
        event_type: str = "user.authentication.sso",
    ) -> Event:
        """Let somebody sign in to an application, which is there from then on; return the event.

        Args:
            user: the sign-in name in the tenant.
            app_id: the application instance.
            app_name: what it is called.
            at: when; by default now.
            result: the outcome, such as SUCCESS or FAILURE.
            account: the name in the application, where the event tells it.
            actor_type: what signed in: a User, or something else.
            late: how long after `at` the log shows it.
            event_type: another event than a sign-in.
        """
        at = at or self.clock.now()
        self.apps.setdefault(app_id, (app_name or app_id, "ACTIVE"))
        target: list[dict[str, Any]] = [_target("AppInstance", app_id, app_name or app_id, app_name or app_id)]
        if account is not None:
            target.append(_target("AppUser", f"0ua{secrets.token_hex(8)}", account, account))
        event: Event = {
            "uuid": _uuid(len(self.events)),
            "published": _stamp(at),
            "eventType": event_type,
            "version": "0",
            "severity": "INFO",
            "displayMessage": "User single sign on to app",
            "actor": {"id": f"00u{len(user):017d}", "type": actor_type, "alternateId": user, "displayName": user},
            "outcome": {"result": result, "reason": None},
            "target": target,
        }
        self.events.append(Logged(at, at + late, event))
        self.events.sort(key=lambda each: (each.at, each.event["uuid"]))
        return event


class Okta:
    """The tenant's HTTP face; `router` mounts it."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self.faults = faults
        self.seconds: Callable[[], float] = time.time
        self.attach(Tenant(clock))
        self.router = Router()
        self.router.add_api_route("/api/v1/logs", self.logs, methods=["GET"], include_in_schema=False)
        self.router.add_api_route("/api/v1/apps", self.apps, methods=["GET"], include_in_schema=False)
        self.router.add_api_route("/oauth2/v1/token", self.token, methods=["POST"], include_in_schema=False)

    def attach(self, tenant: Tenant) -> None:
        """Face another tenant from now on; tokens that were given out are gone."""
        self.tenant = tenant
        self.requests: deque[tuple[str, int]] = deque(maxlen=10_000)
        """Query and status of each question, oldest first."""
        self._tokens: dict[str, tuple[str, datetime]] = {}
        self._assertions: set[str] = set()
        self._window: tuple[int, int] = (0, 0)

    def use_calls(self, calls: int) -> None:
        """Let somebody else use up calls of this window."""
        for _ in range(calls):
            self._count()

    def end_tokens(self) -> None:
        """Let every access token end."""
        self._tokens.clear()

    async def logs(self, request: Request) -> Response:
        """Answer `GET /api/v1/logs`."""
        return await self._answered(request, SCOPE, self._events)

    async def apps(self, request: Request) -> Response:
        """Answer `GET /api/v1/apps`."""
        return await self._answered(request, APPS_SCOPE, self._applications)

    async def _answered(
        self, request: Request, scope: str, answer_to: Callable[[Request], tuple[list[dict[str, Any]], list[str]]]
    ) -> Response:
        fault = self.faults.take("GET", request.url.path, frozenset())
        if fault is not None and fault.kind == "connection_lost":
            return await drop(request, fault)
        headers, left = self._count()
        try:
            if fault is not None:
                raise _struck(fault)
            self._admit(request, scope, left)
            found, link = answer_to(request)
        except OktaError as error:
            self.requests.append((request.url.query, error.status))
            extra = {"Retry-After": str(fault.params["retry_after"])} if fault and "retry_after" in fault.params else {}
            return JSONResponse(error.body, error.status, {**headers, **extra})
        self.requests.append((request.url.query, 200))
        answer = JSONResponse(found, 200, headers)
        for each in link:
            answer.headers.append("Link", each)
        return answer

    async def token(self, request: Request) -> Response:
        """Answer a request for an access token: client credentials with a signed assertion, the only way there is."""
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if form.get("grant_type") != "client_credentials":
            return _oauth_error("unsupported_grant_type", "The grant type is not supported by the service app.")
        if form.get("client_assertion_type") != _ASSERTION:
            return _oauth_error("invalid_client", "A client_assertion must be provided.", status=401)
        base = f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}"
        if not self._knows(form.get("client_assertion", ""), f"{base}/oauth2/v1/token"):
            return _oauth_error("invalid_client", "The client_assertion token is invalid.", status=401)
        scope = form.get("scope", "")
        if scope not in self.tenant.scopes:
            return _oauth_error("invalid_scope", "One or more scopes are not configured for the service app.")
        token = secrets.token_urlsafe(24)
        self._tokens[token] = (scope, self.tenant.clock.now() + TOKEN_LASTS)
        lasts = int(TOKEN_LASTS.total_seconds())
        return JSONResponse(
            {"access_token": token, "token_type": "Bearer", "expires_in": lasts, "scope": scope},
            headers={"Cache-Control": "no-store"},
        )

    def _knows(self, assertion: str, audience: str) -> bool:
        """Tell whether an assertion is one of a client's, for us, in time, and used for the first time."""
        now = self.tenant.clock.now().timestamp()
        try:
            issuer = str(jwt.decode(assertion, options={"verify_signature": False}).get("iss"))
            claims = jwt.decode(
                assertion,
                self.tenant.clients.get(issuer, ""),
                algorithms=["RS256"],
                audience=audience,
                # The tenant's clock may stand days ahead of the machine's.
                options={
                    "verify_exp": False,
                    "verify_iat": False,
                    "require": ["iss", "sub", "aud", "exp", "jti"],
                },
            )
        except (jwt.InvalidTokenError, jwt.InvalidKeyError, ValueError):
            return False
        fresh = claims["sub"] == issuer and now < float(claims["exp"]) <= now + 3_600
        if not fresh or claims["jti"] in self._assertions:
            return False
        self._assertions.add(claims["jti"])
        return True

    def _admit(self, request: Request, scope: str, left: int) -> None:
        self._authorise(request, scope)
        if left < 0:
            raise OktaError(429, "E0000047", "API call exceeded rate limit due to too many requests.")

    def _authorise(self, request: Request, scope: str) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme == "SSWS" and any(hmac.compare_digest(token, each) for each in self.tenant.api_tokens):
            return
        given, ends = self._tokens.get(token, ("", None)) if scheme == "Bearer" else ("", None)
        if ends is None or ends <= self.tenant.clock.now():
            raise OktaError(401, "E0000011", "Invalid token provided")
        if given != scope:
            raise OktaError(403, "E0000006", "You do not have permission to perform the requested action")

    def _count(self) -> tuple[dict[str, str], int]:
        """Count one call; return the headers that tell of it, and how many are left (below 0: one too many)."""
        length = self.tenant.window_seconds
        window = int(self.seconds()) // length
        used = self._window[1] if self._window[0] == window else 0
        self._window = (window, used + 1)
        left = self.tenant.window - used - 1
        headers = {
            "X-Rate-Limit-Limit": str(self.tenant.window),
            "X-Rate-Limit-Remaining": str(max(left, 0)),
            "X-Rate-Limit-Reset": str((window + 1) * length),
        }
        return headers, left

    def _applications(self, request: Request) -> tuple[list[dict[str, Any]], list[str]]:
        params = dict(request.query_params)
        if unknown := set(params) - {"after", "filter", "limit"}:
            raise OktaError(400, "E0000053", f"field is not valid: {min(unknown)}")
        limit = params.get("limit", str(DEFAULT_APPS))
        if not limit.isdecimal() or not 1 <= int(limit) <= MOST_APPS:
            raise OktaError(400, "E0000001", "Api validation failed: 'limit': must be between 1 and 200.")
        if params.get("filter", 'status eq "ACTIVE"') != 'status eq "ACTIVE"':
            raise OktaError(400, "E0000031", "Invalid search criteria.")
        after = params.get("after", "")
        shown = [
            {"id": app_id, "name": label.lower().replace(" ", "_"), "label": label, "status": status}
            for app_id, (label, status) in sorted(self.tenant.apps.items())
            if app_id > after and ("filter" not in params or status == "ACTIVE")
        ]
        page = shown[: int(limit)]
        here = f"{request.url.scheme}://{request.url.netloc}{request.url.path}"
        links = [f'<{here}?{request.url.query}>; rel="self"']
        if len(shown) > len(page):
            links.append(f'<{here}?{urlencode({**params, "after": page[-1]["id"]})}>; rel="next"')
        return page, links

    def _events(self, request: Request) -> tuple[list[Event], list[str]]:
        params = dict(request.query_params)
        if unknown := set(params) - {"since", "until", "after", "filter", "limit", "sortOrder"}:
            raise OktaError(400, "E0000053", f"field is not valid: {min(unknown)}")
        if params.get("sortOrder", "ASCENDING") != "ASCENDING":
            raise OktaError(400, "E0000001", "Api validation failed: 'sortOrder': only ASCENDING is simulated.")
        now = self.tenant.clock.now()
        until = _instant(params, "until", now)
        since = _instant(params, "since", until - timedelta(days=7))
        if since < now - OLDEST_QUESTION:
            raise OktaError(
                400, "E0000053", "Invalid parameter: The since parameter is over 180 days prior to the current day."
            )
        limit = params.get("limit", str(DEFAULT_EVENTS))
        if not limit.isdecimal() or int(limit) > MOST_EVENTS:
            raise OktaError(400, "E0000001", "Api validation failed: 'limit': must be between 0 and 1000.")
        matches = _condition(params["filter"]) if params.get("filter") else lambda _event: True
        position = _position(params["after"]) if "after" in params else ("", "")
        shown = [
            each.event
            for each in self.tenant.events
            if max(since, now - RETENTION) <= each.at < until
            and each.arrived_at <= now
            and (each.event["published"], each.event["uuid"]) > position
            and matches(each.event)
        ]
        page = shown[: int(limit)]
        here = f"{request.url.scheme}://{request.url.netloc}{request.url.path}"
        links = [f'<{here}?{request.url.query}>; rel="self"']
        if len(shown) > len(page) or "until" not in params:
            last = (page[-1]["published"], page[-1]["uuid"]) if page else position
            after = base64.urlsafe_b64encode("|".join(last).encode()).decode()
            links.append(f'<{here}?{urlencode({**params, "after": after})}>; rel="next"')
        return page, links


def _struck(fault: Fault) -> OktaError:
    """Return what a fault answers with instead."""
    if fault.kind == "too_many_requests":
        return OktaError(429, "E0000047", "API call exceeded rate limit due to too many requests.")
    if fault.kind == "session_expired":
        return OktaError(401, "E0000011", "Invalid token provided")
    return OktaError(503, "E0000009", "Your last request took too long to complete.")


def _condition(text: str) -> Callable[[Event], bool]:
    """Return the test that a filter asks for: `eventType eq` and `target.id eq`, with `and`, `or` and brackets."""
    words: list[tuple[str, ...]] = []
    at = 0
    while at < len(text.rstrip()):
        found = _WORD.match(text, at)
        if found is None:
            raise OktaError(400, "E0000053", f"Invalid filter '{text}': not understood at position {at}.")
        words.append(tuple(part or "" for part in found.groups()))
        at = found.end()

    def either() -> Callable[[Event], bool]:
        parts = [both()]
        while words and words[0][2].lower() == "or":
            words.pop(0)
            parts.append(both())
        return lambda event: any(part(event) for part in parts)

    def both() -> Callable[[Event], bool]:
        parts = [single()]
        while words and words[0][2].lower() == "and":
            words.pop(0)
            parts.append(single())
        return lambda event: all(part(event) for part in parts)

    def single() -> Callable[[Event], bool]:
        opening, _closing, _word, attribute, operator, value = words.pop(0) if words else ("",) * 6
        if opening:
            inner = either()
            if not words or not words.pop(0)[1]:
                raise OktaError(400, "E0000053", f"Invalid filter '{text}': a bracket is not closed.")
            return inner
        if operator != "eq" or attribute not in ("eventType", "target.id"):
            raise OktaError(
                400,
                "E0000031",
                "The supplied combination of operator and field is not currently supported. "
                f"Operator: {operator}, Field: {attribute}",
            )
        if attribute == "eventType":
            return lambda event: bool(event["eventType"] == value)
        return lambda event: any(each["id"] == value for each in event["target"])

    matches = either()
    if words:
        raise OktaError(400, "E0000053", f"Invalid filter '{text}': something follows its end.")
    return matches


def _position(after: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(after, altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    published, found, uuid = text.partition("|")
    if not found:
        raise OktaError(400, "E0000053", "Invalid parameter: after")
    return published, uuid


def _instant(params: dict[str, str], name: str, default: datetime) -> datetime:
    if name not in params:
        return default
    try:
        at = datetime.fromisoformat(params[name])
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise OktaError(
            400,
            "E0000001",
            f"Api validation failed: '{name}': The date format in your query is not recognized. Please enter dates "
            "using ISO8601 string format.",
        )
    return at


def _target(kind: str, target_id: str, alternate: str, name: str) -> dict[str, Any]:
    return {"id": target_id, "type": kind, "alternateId": alternate, "displayName": name, "detailEntry": None}


def _oauth_error(error: str, description: str, *, status: int = 400) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uuid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-{secrets.token_hex(6)}"
