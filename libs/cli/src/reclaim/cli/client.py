"""The services' APIs as the command uses them: one origin, one operator token, problems as errors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

import httpx

from reclaim.common.clock import SystemClock
from reclaim.common.ids import new_id
from reclaim.common.settings import Settings
from reclaim.web.tokens import issue_api_token

TOKEN_LIFETIME: Final = timedelta(hours=12)
PAUSE: Final = 0.2
AWAY: Final = frozenset({502, 503, 504})
CONFLICT: Final = 409
GONE: Final = 410


class ApiError(Exception):
    """A service refused; `str(error)` is its problem document's detail, which says what to do."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Unreachable(Exception):
    """Nobody answers at the address."""


class Client:
    """Calls the services at one origin with an operator's token.

    With `patience` a call whose outcome is unknown is made again for that many seconds, with the same
    `Idempotency-Key`; a service that then says *conflict* has already done what the first call asked for.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 60, patience: float = 0) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back sockets."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        media_type: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the JSON of an answer (None where there is none).

        Raises:
            ApiError: the service refused.
            Unreachable: nobody answered.
        """
        headers = {} if media_type is None else {"Content-Type": media_type}
        deadline = time.monotonic() + self._patience
        if method == "POST":
            headers["Idempotency-Key"] = new_id()
        again = False
        while True:
            try:
                answer = self._http.request(method, path, json=json, content=content, params=params, headers=headers)
            except httpx.HTTPError as error:
                if time.monotonic() < deadline:
                    again = True
                    time.sleep(PAUSE)
                    continue
                raise Unreachable(
                    f"{self.url} does not answer ({type(error).__name__}). Start it with `reclaim run`, or name "
                    "another address with --url or RECLAIM_URL."
                ) from error
            if answer.status_code in AWAY and time.monotonic() < deadline:
                again = True
                time.sleep(PAUSE)
                continue
            if answer.status_code == CONFLICT and again and method != "GET":
                return None
            if answer.is_error:
                raise ApiError(answer.status_code, _detail(answer))
            return answer.json() if answer.content else None

    def get(self, path: str, **params: Any) -> Any:
        """GET, leaving out parameters that are None."""
        return self.call("GET", path, params={name: value for name, value in params.items() if value is not None})

    @contextmanager
    def download(self, path: str, **params: Any) -> Iterator[Iterator[bytes]]:
        """GET what may be of any size, as parts that are never held together."""
        query = {name: value for name, value in params.items() if value is not None}
        try:
            with self._http.stream("GET", path, params=query) as answer:
                if answer.is_error:
                    answer.read()
                    raise ApiError(answer.status_code, _detail(answer))
                yield answer.iter_bytes()
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.url} does not answer, or stopped half-way ({type(error).__name__}).") from error

    def send(self, path: str, pieces: Iterator[bytes], media_type: str, *, size: int, **params: Any) -> Any:
        """POST what may be of any size, piece by piece; it is never held together, and never sent a second time."""
        headers = {"Content-Type": media_type, "Content-Length": str(size)}
        query = {name: value for name, value in params.items() if value not in (None, "")}
        try:
            answer = self._http.post(path, content=pieces, params=query, headers=headers)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.url} does not answer, or stopped half-way ({type(error).__name__}).") from error
        if answer.is_error:
            raise ApiError(answer.status_code, _detail(answer))
        return answer.json()

    def upload(self, path: str, data: bytes, media_type: str, **params: Any) -> Any:
        """POST a file, or a part of one."""
        return self.call("POST", path, content=data, media_type=media_type, params=params)

    def post(self, path: str, json: Any = None, **params: Any) -> Any:
        """POST a JSON document."""
        return self.call("POST", path, json=json, params=params)


def _detail(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
    except ValueError:
        return f"{answer.request.url.path} answered {answer.status_code} without saying why"
    if not isinstance(problem, dict):
        return str(problem)
    said = str(problem.get("detail") or problem.get("title") or answer.status_code)
    errors = problem.get("errors")
    if isinstance(errors, list):
        said = "\n".join([said, *(f"  {_error(error)}" for error in errors if not _repeats(error, said))])
    return said


def _repeats(error: Any, said: str) -> bool:
    return isinstance(error, dict) and said in {error.get("message"), error.get("detail"), error.get("msg")}


def _error(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    where = error.get("field") or ".".join(str(part) for part in error.get("loc", ()))
    return f"{where}: {error.get('message') or error.get('detail') or error.get('msg')}"


def own_token(name: str = "cli") -> str:
    """Return an administrator's token made with this installation's own keys.

    Raises:
        ValidationError: the keys are not set here (see `Settings`).
    """
    keys = Settings().signing_keys()
    return issue_api_token(secret_keys=keys, name=name, role="admin", lifetime=TOKEN_LIFETIME, now=SystemClock().now)
