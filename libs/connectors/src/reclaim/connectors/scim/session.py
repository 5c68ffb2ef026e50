"""Calls to one SCIM service: what it can do, its accounts one by one and in pages, and the one attribute we write.

`ReadSession` can ask and nothing else. `WriteSession` adds one change, of `active`, and makes its request by itself:
there is no way to hand it another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import msgspec

from reclaim.common.clock import Clock
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.http import Answer, ClientCredentials, Http, SignIn, Token, Tuning
from reclaim.connectors.ports import Guard, Incomplete, unguarded
from reclaim.connectors.scim.profile import ScimProfile
from reclaim.connectors.scim.refusals import ScimError, refusal_of

Resource = dict[str, Any]

ENTERPRISE: Final = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"

_ACCEPT: Final = "application/scim+json, application/json"
_PATCH_OP: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_ABSENT: Final = frozenset({403, 404, 405, 501})
_NO_PATCH: Final = frozenset({405, 501})


@dataclass(frozen=True, slots=True)
class Features:
    """What the service says it can do; None where it does not say."""

    patch: bool | None = None
    filter: bool | None = None
    etag: bool = False
    most_results: int | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of resource: where it is listed, and what one of it is called."""

    path: str
    one: str


_USERS: Final = _Kind("Users", "account")
_GROUPS: Final = _Kind("Groups", "group")


class ReadSession:
    """Asks one SCIM service. There is no way to change anything through it."""

    def __init__(
        self, profile: ScimProfile, clock: Clock, tuning: Tuning | None = None, outgoing: Outgoing | None = None
    ) -> None:
        self.profile = profile
        self.clock = clock
        self.tuning = tuning or Tuning()
        self._http = Http(
            profile.host,
            clock,
            _sign_in(profile, clock),
            self._may_send(),
            refusal=lambda answer: refusal_of(profile.host, answer),
            tuning=self.tuning,
            outgoing=outgoing,
        )
        self._asking = asyncio.Lock()
        self._features: Features | None = None

    def _may_send(self) -> tuple[tuple[str, str], ...]:
        token = (("POST", self.profile.token_url),) if self.profile.token_url else ()
        return (("GET", f"{self.profile.base}/"), *token)

    async def features(self) -> Features:
        """Return what the service can do; asked once. A service that does not tell is taken at its answers."""
        async with self._asking:
            if self._features is None:
                try:
                    body = (await self._get("ServiceProviderConfig")).body()
                except ScimError as error:
                    if error.answered not in _ABSENT:
                        raise
                    body = None
                self._features = _features(body)
            return self._features

    async def user(self, user_id: str) -> Resource | None:
        """Return one account with all its attributes, or None if there is none of that id.

        Raises:
            Incomplete: what came is not that account.
            Transient, Permanent: as every call.
        """
        return await self._one(_USERS, user_id)

    async def group(self, group_id: str) -> Resource | None:
        """Return one group with its members, or None if there is none of that id; raises as `user`."""
        return await self._one(_GROUPS, group_id)

    async def _one(self, kind: _Kind, record_id: str) -> Resource | None:
        try:
            answer = await self._get(f"{kind.path}/{quote(record_id, safe='')}")
        except ScimError as error:
            if error.answered == 404:
                return None
            raise
        body = answer.body()
        if not isinstance(body, dict) or body.get("id") != record_id:
            raise Incomplete(f"{self.profile.host} answered the question for one {kind.one} with something else.")
        return body

    async def count(self, condition: str) -> int:
        """Return how many accounts match a filter, as the service counts them."""
        _, total = await self._page(_USERS, condition, start=1, count=1)
        return total

    def users(self, condition: str = "") -> AsyncIterator[list[Resource]]:
        """Yield the accounts that match a filter ("" for all), a page at a time, each account once.

        Raises:
            Incomplete: the listing ended before all that were announced had been seen.
            Transient, Permanent: as every call.
        """
        return self._all(_USERS, condition)

    def groups(self, condition: str) -> AsyncGenerator[list[Resource], None]:
        """Yield the groups that match a filter ("" for all), with their members; raises as `users`."""
        return self._all(_GROUPS, condition)

    async def _all(self, kind: _Kind, condition: str) -> AsyncGenerator[list[Resource], None]:
        """Yield what matches a filter, a page at a time.

        SCIM pages by position and promises no snapshot, so what cannot be whole is an error: one that went while they
        were listed may have made another one slip through between two pages.
        """
        features = await self.features()
        size = min(self.profile.page_size, features.most_results or self.profile.page_size)
        seen: set[str] = set()
        start, announced = 1, None
        while True:
            page, total = await self._page(kind, condition, start=start, count=size)
            if announced is not None and total < announced:
                raise Incomplete(
                    f"{self.profile.host} had {announced} {kind.one}s and now has {total}: some went while they were "
                    "listed, and others may have slipped through. Run it again."
                )
            announced = total
            fresh = [each for each in page if each["id"] not in seen]
            seen.update(each["id"] for each in fresh)
            if fresh:
                yield fresh
            start += len(page)
            if not fresh or start > total:
                break
        if len(seen) < announced:
            raise Incomplete(
                f"{self.profile.host} announced {announced} {kind.one}s and gave {len(seen)}: what was read is not "
                "everything. Run it again; if it stays, enter another page_size."
            )

    async def close(self) -> None:
        """Close the connections to the service."""
        await self._http.close()

    async def _page(self, kind: _Kind, condition: str, *, start: int, count: int) -> tuple[list[Resource], int]:
        params = {"startIndex": str(start), "count": str(count)}
        if condition:
            params["filter"] = condition
        body = (await self._get(kind.path, params)).body()
        if not isinstance(body, dict) or not isinstance(body.get("totalResults"), int):
            raise Incomplete(f"{self.profile.host} answered a listing without saying how many {kind.one}s there are.")
        rows = body.get("Resources")
        rows = rows if isinstance(rows, list) else []
        if not all(isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"] for row in rows):
            raise Incomplete(f"{self.profile.host} listed one {kind.one} without an id.")
        return rows, body["totalResults"]

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Answer:
        return await self._http.get(f"{self.profile.base}/{path}", params, accept=_ACCEPT)


class WriteSession(ReadSession):
    """Asks one SCIM service, and switches accounts off and on. Only an actor has one."""

    _patches: bool | None = None

    def _may_send(self) -> tuple[tuple[str, str], ...]:
        users = f"{self.profile.base}/Users/"
        return (*super()._may_send(), ("PATCH", users), ("PUT", users))

    async def set_active(self, user: Resource, *, value: bool, guard: Guard = unguarded) -> None:
        """Set `active` of an account as it was read, and nothing else. Sent once, if the guard lets it.

        By PATCH; where the service has none, by PUT of the account as it was read with that one value changed. Where
        the service has versions (ETags), it refuses with 412 what was changed by somebody else in between.

        Raises:
            Busy: nothing is known to have changed (`unsure`: nor is it known not to have).
            ScimError: the service refuses it.
            Stopped: the guard does not let it be sent; nothing was done.
            Transient, Permanent: as every call.
        """
        features = await self.features()
        if self._patches is None:
            self._patches = features.patch is not False
        version = (user.get("meta") or {}).get("version") if isinstance(user.get("meta"), dict) else None
        condition = {"If-Match": version} if features.etag and isinstance(version, str) and version else {}
        if self._patches:
            operation = {"op": "replace", "path": "active", "value": value}
            await guard()
            try:
                await self._write("PATCH", user["id"], {"schemas": [_PATCH_OP], "Operations": [operation]}, condition)
            except ScimError as error:
                if error.answered not in _NO_PATCH:
                    raise
                self._patches = False
            else:
                return
        await guard()
        await self._write("PUT", user["id"], {**_without_meta(user), "active": value}, condition)

    async def _write(self, method: str, user_id: str, body: Resource, condition: Mapping[str, str]) -> None:
        await self._http.send(
            method,
            f"{self.profile.base}/Users/{quote(user_id, safe='')}",
            content=msgspec.json.encode(body),
            headers={"Accept": _ACCEPT, "Content-Type": "application/scim+json", **condition},
        )


def _without_meta(user: Resource) -> Resource:
    return {name: value for name, value in user.items() if name != "meta"}


def _sign_in(profile: ScimProfile, clock: Clock) -> SignIn:
    if profile.token is not None:
        return Token("Bearer", profile.token)
    return ClientCredentials(
        clock,
        system=profile.host,
        token_url=profile.token_url,
        client_id=profile.client_id,
        client_secret=profile.client_secret,
        scope=profile.scope,
    )


def _features(body: object) -> Features:
    if not isinstance(body, dict):
        return Features()

    def supported(name: str) -> bool | None:
        part = body.get(name)
        value = part.get("supported") if isinstance(part, dict) else None
        return value if isinstance(value, bool) else None

    filters = body.get("filter")
    most = filters.get("maxResults") if isinstance(filters, dict) else None
    return Features(
        patch=supported("patch"),
        filter=supported("filter"),
        etag=supported("etag") is True,
        most_results=most if isinstance(most, int) and not isinstance(most, bool) and most > 0 else None,
    )
