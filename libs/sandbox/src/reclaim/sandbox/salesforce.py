"""The org over HTTP: OAuth, the REST resources, faults, the daily limit and the request log."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections import deque
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response

from reclaim.common.routing import Router

from .auth import Authority, OAuthError, Session
from .errors import SalesforceError
from .faults import Fault, Faults
from .org import Org
from .rest import MAX_PAGE, MIN_PAGE, Call, Reply, Rest, not_found, parse_json

MAX_URL = 16_384
"""Bytes of a URL."""
ABORT = "reclaim.abort"
"""The ASGI extension by which the server lets a fault close the connection without an answer."""

_METHODS = ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD"]
_VERSIONED = re.compile(r"/services/data/v(\d{2}\.0)(?:/(.*))?")
_FROM = re.compile(r"\bfrom\s+(\w+)", re.IGNORECASE)
_SOBJECT = re.compile(r"/sobjects/(\w+)")
_BODY_TYPE = re.compile(rb'"type"\s*:\s*"(\w+)"')
_BATCH = re.compile(r"batchSize\s*=\s*(\d+)", re.IGNORECASE)
_VERSIONS = tuple(f"{number}.0" for number in range(50, 66))


class ApiUsage:
    """How many calls the last 24 hours saw, by the org's clock."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self._minutes: deque[tuple[int, int]] = deque()
        self._used = 0

    def _minute(self) -> int:
        return int(self.org.clock.now().timestamp()) // 60

    def add(self, calls: int) -> None:
        """Count calls."""
        minute = self._minute()
        if self._minutes and self._minutes[-1][0] == minute:
            self._minutes[-1] = (minute, self._minutes[-1][1] + calls)
        else:
            self._minutes.append((minute, calls))
        self._used += calls

    def check(self) -> None:
        """Raise when the limit is reached."""
        used, limit = self.now()
        if used >= limit:
            raise _over_limit()

    def now(self) -> tuple[int, int]:
        """Return how many calls were made, and how many may be."""
        oldest = self._minute() - 24 * 60
        while self._minutes and self._minutes[0][0] <= oldest:
            self._used -= self._minutes.popleft()[1]
        return self._used, self.org.settings.daily_api_limit


class Salesforce:
    """The org's HTTP face; `router` mounts it."""

    def __init__(self, org: Org, faults: Faults) -> None:
        self.faults = faults
        self.attach(org)
        self.router = Router()
        self.router.add_api_route("/services/{rest:path}", self.handle, methods=_METHODS, include_in_schema=False)
        self.router.add_api_route("/id/{org_id}/{user_id}", self.handle, methods=["GET"], include_in_schema=False)

    def attach(self, org: Org) -> None:
        """Face another org from now on; sessions, cursors and jobs of the old one are gone."""
        self.org = org
        self.authority = Authority(org)
        self.usage = ApiUsage(org)
        self.rest = Rest(org)
        self.rest.usage = self.usage.now

    async def handle(self, request: Request) -> Response:
        """Answer one call, whatever it is."""
        prefix = request.scope.get("root_path", "")
        path = request.url.path.removeprefix(prefix)
        raw = await request.body()
        query = request.query_params.get("q")
        objects = _objects(path, query, raw)
        fault = self.faults.take(request.method, path, objects)
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(float(fault.params.get("seconds", 1)))
        if fault is not None and fault.kind == "connection_lost":
            self._log(request, path, Reply(0), None, fault)
            return await drop(request, fault)
        call: Call | None = None
        if len(request.scope.get("raw_path", b"")) + 1 + len(request.scope["query_string"]) > MAX_URL:
            reply = Reply(414, text="URI Too Long")
        elif fault is not None and fault.phase == "instead":
            reply = self._refused(request, fault)
        elif path.startswith(("/services/oauth2/", "/id/")):
            reply = self._oauth(request, path, raw)
        else:
            reply, call = self._data(request, path, raw, prefix, fault)
        self._log(request, path, reply, call, fault)
        if fault is not None and fault.kind == "timeout_after_commit":
            return await drop(request, fault)
        return self._response(reply)

    # Calls --------------------------------------------------------------------------------------------------------

    def _data(
        self, request: Request, path: str, raw: bytes, prefix: str, fault: Fault | None
    ) -> tuple[Reply, Call | None]:
        if path.rstrip("/") == "/services/data":
            versions = [
                {"version": each, "label": f"v{each}", "url": f"{prefix}/services/data/v{each}"} for each in _VERSIONS
            ]
            return Reply(200, versions), None
        match = _VERSIONED.fullmatch(path)
        try:
            session = self._session(request)
            self.usage.check()
            body = parse_json(raw)
        except SalesforceError as error:
            return Reply(error.status, error.as_call_error()), None
        if match is None:
            missing = not_found()
            return Reply(missing.status, missing.as_call_error()), None
        self.usage.add(self._cost(match[2] or "", body))
        call = Call(
            method=request.method,
            path=match[2] or "",
            params=dict(request.query_params),
            body=body,
            version=match[1],
            session=session,
            fault=fault,
            batch=_batch_size(request.headers.get("sforce-query-options", "")),
            prefix=prefix,
        )
        return self.rest.answer(call), call

    def _cost(self, path: str, body: Any) -> int:
        if self.org.settings.composite_counts_each and path.strip("/") == "composite" and isinstance(body, dict):
            parts = body.get("compositeRequest")
            return max(len(parts), 1) if isinstance(parts, list) else 1
        return 1

    def _session(self, request: Request) -> Session:
        session = self.authority.session(_bearer(request))
        if session is None:
            raise SalesforceError("INVALID_SESSION_ID", "Session expired or invalid", status=401)
        return session

    def _refused(self, request: Request, fault: Fault) -> Reply:
        """Answer as a fault has it, without doing anything."""
        if fault.kind == "session_expired":
            self.authority.end(_bearer(request))
        if fault.kind == "login_refused":
            return Reply(400, {"error": "invalid_grant", "error_description": "authentication failure"})
        headers = {}
        if "retry_after" in fault.params:
            headers["Retry-After"] = str(fault.params["retry_after"])
        refusal = {
            "server_unavailable": SalesforceError(
                "SERVER_UNAVAILABLE", "The server is temporarily unavailable, try again later", status=503
            ),
            "query_timeout": SalesforceError("QUERY_TIMEOUT", "Your query request was running for too long."),
            "request_limit": _over_limit(),
            "session_expired": SalesforceError("INVALID_SESSION_ID", "Session expired or invalid", status=401),
            "too_many_requests": SalesforceError("REQUEST_LIMIT_EXCEEDED", "Too many requests", status=429),
            "call_lock": SalesforceError(
                "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record or 1 records"
            ),
            "invalid_locator": SalesforceError("INVALID_QUERY_LOCATOR", "invalid query locator"),
        }[fault.kind]
        return Reply(refusal.status, refusal.as_call_error(), headers)

    # OAuth --------------------------------------------------------------------------------------------------------

    def _oauth(self, request: Request, path: str, raw: bytes) -> Reply:
        if path == "/services/oauth2/token" and request.method == "POST":
            return self._token(request, raw)
        if path == "/services/oauth2/revoke" and request.method == "POST":
            self.authority.end(_form(raw).get("token", ""))
            return Reply(200)
        if path == "/services/oauth2/userinfo" or path.startswith("/id/"):
            try:
                session = self._session(request)
            except SalesforceError as error:
                return Reply(error.status, error.as_call_error())
            return Reply(
                200,
                {
                    "user_id": session.user_id,
                    "organization_id": self._org_id(),
                    "preferred_username": session.username,
                    "name": self.org.get("User", session.user_id, "Name"),
                    "email": self.org.get("User", session.user_id, "Email"),
                    "active": True,
                },
            )
        missing = not_found()
        return Reply(missing.status, missing.as_call_error())

    def _token(self, request: Request, raw: bytes) -> Reply:
        base = _base(request)
        form = _form(raw) | _basic(request)
        try:
            token, session = self.authority.grant(form, endpoint=base)
        except OAuthError as error:
            return Reply(400, error.body)
        return Reply(
            200,
            {
                "access_token": token,
                "instance_url": base,
                "id": f"{base}/id/{self._org_id()}/{session.user_id}",
                "token_type": "Bearer",
                "issued_at": str(int(self.org.clock.now().timestamp() * 1000)),
                "scope": "api",
            },
            {"Cache-Control": "no-store"},
        )

    def _org_id(self) -> str:
        return next(iter(self.org.tables["Organization"].rows), "")

    # Edge ---------------------------------------------------------------------------------------------------------

    def _log(self, request: Request, path: str, reply: Reply, call: Call | None, fault: Fault | None) -> None:
        error = None
        if reply.status >= 400:
            body = reply.body[0] if isinstance(reply.body, list) else reply.body
            error = (body or {}).get("errorCode") or (body or {}).get("error") or reply.text
        self.org.log_request(
            method=request.method,
            path=path,
            query=call.query if call is not None else request.query_params.get("q"),
            status=reply.status,
            records=call.records if call is not None else 0,
            error=error,
            fault=fault.kind if fault is not None else None,
        )

    def _response(self, reply: Reply) -> Response:
        used, limit = self.usage.now()
        headers = {"Sforce-Limit-Info": f"api-usage={used}/{limit}", **reply.headers}
        if reply.text is not None:
            return Response(reply.text, reply.status, headers, "text/csv" if reply.status == 200 else "text/plain")
        if reply.body is None:
            return Response(None, reply.status, headers)
        return Response(
            json.dumps(reply.body, ensure_ascii=False, separators=(",", ":")),
            reply.status,
            headers,
            "application/json;charset=UTF-8",
        )


async def drop(request: Request, fault: Fault) -> Response:
    """Leave the caller without an answer: close the connection, or say nothing until the caller gives up."""
    abort = request.scope.get("extensions", {}).get(ABORT)
    if abort is not None and fault.params.get("mode", "close") == "close":
        abort()
    while (await request.receive())["type"] != "http.disconnect":
        continue
    return Response(status_code=503)


def _over_limit() -> SalesforceError:
    return SalesforceError("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", status=403)


def _objects(path: str, query: str | None, raw: bytes) -> frozenset[str]:
    """Return the names, in lower case, of the object types that a call is about."""
    names = set(_SOBJECT.findall(path))
    if query:
        names.update(_FROM.findall(query))
    if raw:
        names.update(each.decode() for each in _BODY_TYPE.findall(raw))
        if b'"query"' in raw:
            names.update(_FROM.findall(raw.decode("utf-8", "replace")))
        if b"compositeRequest" in raw:
            names.update(_SOBJECT.findall(raw.decode("utf-8", "replace")))
    return frozenset(name.lower() for name in names)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() in {"bearer", "oauth"} else ""


def _form(raw: bytes) -> dict[str, str]:
    return dict(parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True))


def _basic(request: Request) -> dict[str, str]:
    """Return the client's id and secret when they came as HTTP Basic."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        client_id, _, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return {}
    return {"client_id": client_id, "client_secret": secret}


def _base(request: Request) -> str:
    """Return the address that the caller reached the org at, with the prefix it may be mounted below."""
    return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}"


def _batch_size(options: str) -> int:
    found = _BATCH.search(options)
    return min(max(int(found[1][:6]), MIN_PAGE), MAX_PAGE) if found else MAX_PAGE
