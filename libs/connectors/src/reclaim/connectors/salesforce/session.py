"""Calls to one org through simple-salesforce: sign-in, time-outs, retries, paging, the daily reserve.

simple-salesforce is synchronous, has no time-outs and repeats nothing, so it runs on a few threads of its own over
one guarded `requests` session. It is opened with an access token and never told how to renew it: renewing is done
here, once a call, so a token that is refused again is an error and not a loop.

`ReadSession` can ask and nothing else; its HTTP session refuses to send anything but GET, and the POST that signs
in. `WriteSession` adds the one call that writes, held to a list of objects, fields and values.
"""

from __future__ import annotations

import asyncio
import contextvars
import http.cookiejar
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import parse_qs, urlsplit

import jwt
import msgspec
import requests
import stamina
import urllib3.exceptions
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError, SalesforceExpiredSession

from reclaim.common.clock import Clock
from reclaim.common.errors import Permanent, ReclaimError
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.addresses import is_loopback
from reclaim.connectors.errors import Busy, SignInRefused, Unreachable, WriteForbidden
from reclaim.connectors.pinned import PinnedAdapter
from reclaim.connectors.ports import Incomplete
from reclaim.connectors.salesforce import soql
from reclaim.connectors.salesforce.errors import ApiLimit, LocatorExpired, first_error, from_answer
from reclaim.connectors.salesforce.profile import OrgProfile
from reclaim.connectors.salesforce.soql import Query

T = TypeVar("T")
Row = dict[str, Any]

GROUPS_PER_CALL: Final = 2_000
"""Salesforce gives an aggregate query one page and no more."""

ROWS_PER_WRITE: Final = 200
"""What one collection call may hold."""

_RESTARTS: Final = 3
_USAGE: Final = re.compile(r"(?:^|[\s;,])api-usage=(\d+)/(\d+)")
_LOCATOR: Final = re.compile(r"/services/data/v[\d.]+/query/([\w-]+)")
_USER_ID: Final = re.compile(r"005[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?")


ASSIGNED: Final[Mapping[str, str]] = {
    "PermissionSetAssignment": "PermissionSetId",
    "PermissionSetLicenseAssign": "PermissionSetLicenseId",
}
"""The assignments that a downgrade takes away and a reactivation puts back, and the field of what is assigned."""

_ASSIGNMENT_PREFIXES: Final = frozenset({"0Pa", "2La"})


@dataclass(frozen=True, slots=True)
class Tuning:
    """How patient a session is. Times are seconds.

    `threads` caps the calls under way at once; Salesforce allows 25 long ones over all clients together.
    `limit_recheck` is for how long a usage near the reserve holds calls back before one asks again.
    """

    threads: int = 4
    connect_timeout: float = 10.0
    read_timeout: float = 150.0
    attempts: int = 5
    wait_initial: float = 0.5
    wait_max: float = 20.0
    wait_jitter: float = 1.0
    patience: float = 180.0
    limit_recheck: float = 300.0

    def retrying(self) -> stamina.AsyncRetryingCaller:
        """Return what repeats a call with growing, jittered waits."""
        return stamina.AsyncRetryingCaller(
            attempts=self.attempts,
            timeout=self.patience,
            wait_initial=self.wait_initial,
            wait_max=self.wait_max,
            wait_jitter=self.wait_jitter,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """API calls used in the last 24 hours out of the allowance, as the org last said, at a monotonic instant."""

    used: int
    allowed: int
    read_at: float


class _Adapter(PinnedAdapter):
    """Sends only the listed requests, each with a time-out, to addresses that may be called."""

    def __init__(
        self, allowed: Sequence[tuple[str, str]], timeout: tuple[float, float], connections: int, outgoing: Outgoing
    ) -> None:
        super().__init__(outgoing, connections)
        self._allowed = allowed
        self._timeout = timeout

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        method, url = request.method or "", (request.url or "").partition("?")[0]
        listed = any(method == verb and _covers(target, url) for verb, target in self._allowed)
        if not listed or not _only_assignments(request):
            raise WriteForbidden(f"This connection may not send {method} {urlsplit(url).path}.")
        return super().send(request, stream, timeout or self._timeout, verify, cert, proxies)


def _only_assignments(request: requests.PreparedRequest) -> bool:
    """Tell whether what a request creates or deletes through the collections is nothing but assignments.

    The last guard before the network: whatever code came to it, no account and no business record goes through.
    """
    target = urlsplit(request.url or "")
    if not target.path.endswith("/composite/sobjects"):
        return True
    if request.method == "DELETE":
        ids = parse_qs(target.query).get("ids", [""])[0].split(",")
        return all(each[:3] in _ASSIGNMENT_PREFIXES for each in ids)
    if request.method == "POST":
        try:
            records = msgspec.json.decode(request.body or b"")["records"]
            return all(record["attributes"]["type"] in ASSIGNED for record in records)
        except (msgspec.DecodeError, KeyError, TypeError):
            return False
    return True


def _covers(target: str, url: str) -> bool:
    return url.startswith(target) if target.endswith("/") else url == target


class _Http(requests.Session):
    """One org's HTTP: known origins only, no redirects, no cookies, no credentials from a netrc file."""

    def __init__(
        self, allowed: Sequence[tuple[str, str]], origins: Sequence[str], tuning: Tuning, outgoing: Outgoing
    ) -> None:
        super().__init__()
        self.adapters.clear()
        adapter = _Adapter(allowed, (tuning.connect_timeout, tuning.read_timeout), tuning.threads, outgoing)
        for origin in origins:
            self.mount(f"{origin}/", adapter)
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self.auth = lambda request: request  # without one, requests would take a netrc entry over our token
        if all(is_loopback(urlsplit(origin).hostname) for origin in origins):
            self.trust_env = False  # a proxy cannot reach this machine's loopback

    def request(self, *args: Any, **more: Any) -> requests.Response:
        more["allow_redirects"] = False
        return super().request(*args, **more)


class _Client(Salesforce):
    """simple-salesforce, opened with a token, at the profile's own scheme, decoding answers fast."""

    def __init__(self, profile: OrgProfile, token: str, http_session: requests.Session) -> None:
        super().__init__(
            instance_url=profile.origin, session_id=token, version=profile.api_version, session=http_session
        )
        # It writes https whatever the profile says; http is only ever for a simulated org.
        self.base_url = f"{profile.base}/services/data/v{profile.api_version}/"
        self.oauth2_url = f"{profile.base}/services/oauth2/"
        self.headers.pop("X-PrettyPrint", None)

    def parse_result_to_json(self, result: requests.Response) -> Any:
        return msgspec.json.decode(result.content)


class ReadSession:
    """Asks one org. There is no way to change anything through it.

    `outgoing` says which addresses may be called; without one, none inside a network.
    """

    def __init__(
        self, profile: OrgProfile, clock: Clock, tuning: Tuning | None = None, outgoing: Outgoing | None = None
    ) -> None:
        self.profile = profile
        self.clock = clock
        self.tuning = tuning or Tuning()
        self.usage: Usage | None = None
        origins = (profile.origin, profile.token_origin)
        self._http = _Http(self._may_send(), origins, self.tuning, outgoing or Outgoing())
        self._http.hooks["response"].append(self._note)
        self._threads = ThreadPoolExecutor(self.tuning.threads, thread_name_prefix="salesforce")
        self._retrying = self.tuning.retrying().on(self._worth_repeating)
        self._signing_in = asyncio.Lock()
        self._client: _Client | None = None
        self._user_id: str | None = None

    def _worth_repeating(self, error: Exception) -> bool | float:
        """Tell whether, or after how many seconds, a failed call is worth repeating."""
        if not isinstance(error, Busy):
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after <= self.tuning.patience else False

    def _may_send(self) -> tuple[tuple[str, str], ...]:
        return (("GET", f"{self.profile.base}/services/"), ("POST", self.profile.token_url))

    async def rows(self, query: Query) -> list[Row]:
        """Return all rows of a query, in as many calls as it has pages.

        Raises:
            Incomplete: the org announced more rows than it gave.
            NotReadable: a permission, object or field is missing.
            Transient, Permanent: see `errors`.
        """
        restarts = 0
        while True:
            found: list[Row] = []
            try:
                async for page in self._pages(query):
                    found += page
            except LocatorExpired:
                restarts += 1
                if restarts > _RESTARTS:
                    raise
            else:
                return found

    async def by_id(self, query: Query) -> AsyncIterator[list[Row]]:
        """Yield the rows of a query in pages, in the order of their ids, which the query must select.

        Each row is yielded once, also when the org forgets its place in the listing: what has to start again starts
        after the last row that was yielded.
        """
        query = replace(query, order="Id")
        rest, restarts = query, 0
        while True:
            try:
                async for page in self._pages(rest):
                    yield page
                    rest, restarts = query.where(soql.greater("Id", page[-1]["Id"])), 0
            except LocatorExpired:
                restarts += 1
                if restarts > _RESTARTS:
                    raise
            else:
                return

    async def grouped(self, query: Query, key: str) -> list[Row]:
        """Return all groups of an aggregate query, of which Salesforce itself gives one page and no more.

        The query must be grouped by `key` first; the groups are fetched in the key's order, a page after the other.
        """
        query = replace(query, order=key, limit=GROUPS_PER_CALL)
        found: list[Row] = []
        rest = query
        while True:
            page = await self.rows(rest)
            if len(page) < GROUPS_PER_CALL:
                return found + page
            # The last key's groups may go on behind the page: they are fetched again, whole.
            last = page[-1][key]
            whole = [row for row in page if row[key] != last]
            if not whole:
                raise Incomplete(f"Salesforce has over {GROUPS_PER_CALL} groups for {key} {last}; none can be trusted.")
            found += whole
            rest = query.where(soql.at_least(key, last))

    async def user_id(self) -> str:
        """Return the id of the user that this session runs as."""
        await self._retrying(self._signed_in)
        if self._user_id is None:
            who = await self._retrying(self._call, lambda client: client.oauth2("userinfo"))
            self._user_id = _as_user_id(who.get("user_id") if isinstance(who, dict) else None)
        if self._user_id is None:
            raise Permanent("Salesforce does not say which user the connection runs as: allow the scope 'openid'.")
        return self._user_id

    async def close(self) -> None:
        """Close connections and let the threads end."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._http.close()

    async def _pages(self, query: Query) -> AsyncIterator[list[Row]]:
        answer = await self._get("query/", {"q": str(query)})
        announced, seen = answer["totalSize"], 0
        while True:
            page: list[Row] = answer["records"]
            seen += len(page)
            if page:
                yield page
            if answer["done"]:
                break
            onward = _LOCATOR.search(str(answer.get("nextRecordsUrl")))
            if onward is None or not page:
                break
            answer = await self._get(f"query/{onward[1]}")
        if seen < announced:
            raise Incomplete(
                f"Salesforce announced {announced} rows and gave {seen}: what was read is not everything. "
                f"Run it again. ({query.sobject})"
            )

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Row:
        answer = await self._retrying(self._call, lambda client: client.restful(path, dict(params or {})))
        if not isinstance(answer, dict) or not isinstance(answer.get("records"), list):
            raise Incomplete("Salesforce answered a query with something that is no list of rows.")
        if not isinstance(answer.get("totalSize"), int) or not isinstance(answer.get("done"), bool):
            raise Incomplete("Salesforce answered a query without saying how many rows there are.")
        return answer

    async def _call(self, work: Callable[[_Client], T]) -> T:
        """Make one call, signing in before it when needed, and once more when the org no longer knows the session."""
        self._spare_the_reserve()
        client = await self._signed_in()
        try:
            return await self._run(lambda: work(client))
        except SalesforceExpiredSession:
            client = await self._signed_in(instead_of=client)
        try:
            return await self._run(lambda: work(client))
        except SalesforceExpiredSession as error:
            code, message = first_error(error.content)
            raise SignInRefused(
                f"Salesforce refuses the session it has just given ({code}: {message}). Check that the user may use "
                "the API, and that no login policy ends its sessions at once."
            ) from None

    async def _run(self, work: Callable[[], T]) -> T:
        """Run on one of the session's threads, and give every failure its meaning."""
        context = contextvars.copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: context.run(work))
        except (ReclaimError, SalesforceExpiredSession):
            raise
        except SalesforceError as error:
            raise from_answer(error.status, error.content) from None
        except msgspec.DecodeError:
            raise Busy("Salesforce's answer is not complete JSON; try again later.", unsure=True) from None
        except requests.RequestException as error:
            self._raise_network(error)

    async def _signed_in(self, instead_of: _Client | None = None) -> _Client:
        """Return the client, signing in when there is none, or when it is the one that no longer works."""
        async with self._signing_in:
            if self._client is None or self._client is instead_of:
                token, user_id = await self._run(self._sign_in)
                self._client = _Client(self.profile, token, self._http)
                self._user_id = user_id or self._user_id
            return self._client

    def _sign_in(self) -> tuple[str, str | None]:
        profile = self.profile
        if profile.private_key is None:
            form = {
                "grant_type": "client_credentials",
                "client_id": profile.client_id,
                "client_secret": profile.client_secret or "",
            }
        else:
            claims = {
                "iss": profile.client_id,
                "sub": profile.username or "",
                "aud": profile.audience,
                "exp": int((self.clock.now() + timedelta(minutes=3)).timestamp()),
            }
            form = {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "assertion": jwt.encode(claims, profile.private_key, algorithm="RS256"),
            }
        answer = self._http.post(profile.token_url, data=form, headers={"Accept": "application/json"})
        try:
            content = msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            content = answer.text
        if answer.status_code == 429 or answer.status_code >= 500:
            raise from_answer(answer.status_code, content)
        token = content.get("access_token") if isinstance(content, dict) else None
        if answer.status_code != 200 or not isinstance(token, str) or not token:
            code, message = first_error(content)
            raise SignInRefused(_sign_in_advice(answer.status_code, code, message))
        return token, _as_user_id(content.get("id"))

    def _note(self, answer: requests.Response, *_args: Any, **_more: Any) -> None:
        """Heed what every answer may say in its headers: the calls used, and when to come back."""
        found = _USAGE.search(answer.headers.get("Sforce-Limit-Info", ""))
        if found:
            self.usage = Usage(int(found[1]), int(found[2]), time.monotonic())
        wait = answer.headers.get("Retry-After", "")
        if answer.status_code in (429, 503) and wait.isascii() and wait.isdigit():
            answer.close()  # nobody else will see it
            raise Busy(
                f"Salesforce answered {answer.status_code} and asks to be called again in {wait} s.",
                unsure=answer.status_code == 503,
                retry_after=float(wait),
            )

    def _spare_the_reserve(self) -> None:
        usage = self.usage
        if usage is None or time.monotonic() - usage.read_at > self.tuning.limit_recheck:
            return
        # Exact in integers: a call is made only while more than the reserve is left.
        if (usage.allowed - usage.used) * 100 <= usage.allowed * self.profile.reserve_percent:
            raise ApiLimit(
                f"The org has used {usage.used} of its {usage.allowed} API calls of the last 24 hours, and Reclaim "
                f"leaves {self.profile.reserve_percent} % of them to others. It goes on when calls are free again; "
                "or lower api_reserve_percent, or have the allowance raised."
            )

    def _raise_network(self, error: requests.RequestException) -> NoReturn:
        sent_to = error.request.url if error.request else None
        host = urlsplit(sent_to or self.profile.origin).hostname
        if isinstance(error, requests.exceptions.SSLError):
            raise Unreachable(
                f"No trusted TLS connection to {host}: check the address and the machine's certificates.", unsure=True
            ) from None
        if isinstance(error, requests.ReadTimeout):
            raise Busy(
                f"{host} did not answer in {self.tuning.read_timeout:g} s; try again later.", unsure=True
            ) from None
        if isinstance(error, requests.ConnectionError):
            reached = not _never_connected(error)
            raise Unreachable(
                f"The connection to {host} broke off; try again later."
                if reached
                else f"{host} cannot be reached: check instance_url and the network.",
                unsure=reached,
            ) from None
        if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
            raise Unreachable(f"The connection to {host} broke off; try again later.", unsure=True) from None
        raise Permanent(f"The call to {host} could not be made ({type(error).__name__}): check its address.") from None


class WriteSession(ReadSession):
    """Asks one org, and writes what the list allows. Only an actor has one."""

    def _may_send(self) -> tuple[tuple[str, str], ...]:
        base = f"{self.profile.base}/services/data/v{self.profile.api_version}"
        return (*super()._may_send(), *((verb, f"{base}/composite/sobjects") for verb in ("PATCH", "POST", "DELETE")))

    async def update(self, sobject: str, field: str, values: Mapping[str, bool | str]) -> dict[str, Row]:
        """Set one field of up to 200 records of one type in one call; return each record's own result, by its id.

        The call is sent once. After an error that is `unsure` the caller reads before it sends anything again.

        Raises:
            WriteForbidden: the list does not allow it; nothing was sent.
            Busy: nothing is known to have changed (`unsure`: nor is it known not to have).
            Transient, Permanent: see `errors`.
        """
        if len(values) > ROWS_PER_WRITE:
            raise WriteForbidden(f"One call may change {ROWS_PER_WRITE} records, not {len(values)}.")
        for record_id, value in values.items():
            if not may_write(sobject, field, value) or not soql.is_id(record_id):
                raise WriteForbidden(f"Reclaim may not set {sobject}.{field} of {record_id!r} to {value!r}.")
        records = [
            {"attributes": {"type": sobject}, "id": record_id, field: value} for record_id, value in values.items()
        ]
        body = msgspec.json.encode({"allOrNone": False, "records": records})
        answer = await self._call(lambda client: client.restful("composite/sobjects", method="PATCH", data=body))
        return dict(zip(values, _results(answer, len(records)), strict=True))

    async def assign(self, sobject: str, pairs: Sequence[tuple[str, str]]) -> list[Row]:
        """Create up to 200 assignments (user id, id of what is assigned) in one call; return each one's own result.

        Sent once, and raising, as `update`.
        """
        field = ASSIGNED.get(sobject)
        if field is None or len(pairs) > ROWS_PER_WRITE or not all(map(_may_assign, pairs)):
            raise WriteForbidden(f"Reclaim may not create these {len(pairs)} records of {sobject}.")
        records = [{"attributes": {"type": sobject}, "AssigneeId": user, field: what} for user, what in pairs]
        body = msgspec.json.encode({"allOrNone": False, "records": records})
        answer = await self._call(lambda client: client.restful("composite/sobjects", method="POST", data=body))
        return _results(answer, len(records))

    async def unassign(self, ids: Sequence[str]) -> list[Row]:
        """Delete up to 200 assignments in one call; return each one's own result. Sent once, and raising, as `update`.

        An id begins with its object's three characters, so nothing but assignments can be deleted.
        """
        if len(ids) > ROWS_PER_WRITE or not all(soql.is_id(each) and each[:3] in _ASSIGNMENT_PREFIXES for each in ids):
            raise WriteForbidden(f"Reclaim may not delete these {len(ids)} records.")
        listed = {"ids": ",".join(ids), "allOrNone": "false"}
        answer = await self._call(lambda client: client.restful("composite/sobjects", listed, method="DELETE"))
        return _results(answer, len(ids))


def _results(answer: object, count: int) -> list[Row]:
    if not isinstance(answer, list) or len(answer) != count or not all(isinstance(row, dict) for row in answer):
        raise Busy("Salesforce did not give a result for every record.", unsure=True)
    return answer


def _may_assign(pair: tuple[str, str]) -> bool:
    user, what = pair
    return bool(_USER_ID.fullmatch(user)) and soql.is_id(what) and what[:3] in {"0PS", "0PL"}


_BUSINESS: Final = frozenset({"Opportunity", "Case", "Lead"})


def may_write(sobject: str, field: str, value: object) -> bool:
    """Tell whether this is one of the only things that Reclaim ever writes to an org."""
    if (sobject, field) in (("UserLogin", "IsFrozen"), ("User", "IsActive")):
        return isinstance(value, bool)
    if (sobject, field) == ("User", "ProfileId"):
        return isinstance(value, str) and soql.is_id(value) and value.startswith("00e")
    return sobject in _BUSINESS and field == "OwnerId" and isinstance(value, str) and bool(_USER_ID.fullmatch(value))


def _as_user_id(text: object) -> str | None:
    """Return the user id at the end of an identity address (`https://.../id/<org>/<user>`), or the id itself."""
    last = text.rsplit("/", 1)[-1] if isinstance(text, str) else ""
    return last if _USER_ID.fullmatch(last) else None


def _never_connected(error: requests.ConnectionError) -> bool:
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        cause = cause.reason
    return isinstance(cause, urllib3.exceptions.NewConnectionError)


def _sign_in_advice(status: int, code: str, message: str) -> str:
    said = f"Salesforce refuses the sign-in ({status} {code}: {message})".replace(" : )", ")")
    if code in ("invalid_client", "invalid_client_id", "invalid_client_credentials"):
        return f"{said}. Check the consumer key and secret of the connected app."
    if code in ("invalid_grant", "invalid_app_access"):
        return (
            f"{said}. Check that the certificate belongs to the private key, that the user is right and pre-authorised "
            "for the connected app, and that token_url is the org's own."
        )
    if code == "unsupported_grant_type":
        return f"{said}. Allow the client credentials flow, or the JWT flow, in the connected app."
    if not code:
        return f"{said}. There is no token endpoint at this address: check instance_url and token_url."
    return f"{said}. Check the connected app and its credentials."
