"""A SCIM server that somebody else wrote (scim2-server), on loopback, behind a door where things go wrong on demand."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from scim2_models import ScimProvider
from scim2_server.memory import InMemoryStorage
from scim2_server.testserver.application import BEARER_TOKEN_SCHEME, BearerTokenApplication
from scim2_server.utils import (
    load_default_resource_types,
    load_default_schemas,
    load_default_service_provider_config,
)

TOKEN = "scim-token"


class ScimServer:
    """The server, and what happens at its door.

    `before_writes` is called with an account's id right before it is written; `tamper` gets the path and the body of
    each answer to a GET, and returns another body. `patch` and `etag` take these features away, the way a server that
    never had them shows it. `blocked` accounts cannot be written, writes of `locked` ones get 503, and so do the next
    `busy` ones; `lose_answers` counts writes that are carried out and not answered. `writes` counts those that were
    carried out, `requests` has every call with its status, `bodies` what each sent. `no_filter_on` is what no filter
    may ask for.
    """

    def __init__(self) -> None:
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                door.answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        config = load_default_service_provider_config()
        config.authentication_schemes = [BEARER_TOKEN_SCHEME]
        self._provider = ScimProvider.from_discovery(
            load_default_schemas().values(), load_default_resource_types().values(), config=config
        )
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v2"
        self.reset()
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def reset(self) -> None:
        """Forget all accounts and all that was set."""
        self.patch = self.etag = True
        self.max_results: int | None = None
        self.writes = 0
        self.requests: list[tuple[str, str, int]] = []
        self.blocked: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.recover()
        self.storage = InMemoryStorage()
        self.app = BearerTokenApplication(self.storage, self._provider, bearer_tokens=[TOKEN])

    def recover(self) -> None:
        """Let everything be well again."""
        self.locked: set[str] = set()
        self.lose_answers = self.busy = 0
        self.refuse_all = False
        self.no_filter_on = ""
        self.before_writes: Callable[[str], None] | None = None
        self.tamper: Callable[[str, Any], Any] | None = None

    def add(self, user: dict[str, Any], *, created: datetime, changed: datetime) -> str:
        """Create an account by the protocol, and let it have been created and changed at these times."""
        schemas = ["urn:ietf:params:scim:schemas:core:2.0:User", *(name for name in user if name.startswith("urn:"))]
        body = json.dumps({"schemas": schemas, **user}).encode()
        status, _headers, answer = self._serve("POST", "/v2/Users", "", body, {"Authorization": f"Bearer {TOKEN}"})
        assert status == 201, answer
        user_id = str(json.loads(answer)["id"])
        self.amend(user_id, created=created, changed=changed)
        return user_id

    def add_group(self, group: dict[str, Any]) -> str:
        """Create a group by the protocol."""
        body = json.dumps({"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], **group}).encode()
        status, _headers, answer = self._serve("POST", "/v2/Groups", "", body, {"Authorization": f"Bearer {TOKEN}"})
        assert status == 201, answer
        return str(json.loads(answer)["id"])

    def remove_group(self, group_id: str) -> None:
        """Delete a group by the protocol."""
        status, _headers, answer = self._serve(
            "DELETE", f"/v2/Groups/{group_id}", "", b"", {"Authorization": f"Bearer {TOKEN}"}
        )
        assert status == 204, answer

    def amend(self, user_id: str, *, created: datetime, changed: datetime) -> None:
        """Let an account have been created and changed at these times."""
        (stored,) = (each for each in self.storage.resources if each.id == user_id)
        stored.meta.created, stored.meta.last_modified = created, changed

    def user(self, user_id: str) -> dict[str, Any]:
        """Return an account as the protocol shows it."""
        found: dict[str, Any] = json.loads(
            self._serve("GET", f"/v2/Users/{user_id}", "", b"", {"Authorization": f"Bearer {TOKEN}"})[2]
        )
        return found

    def person_sets(self, user_id: str, **values: Any) -> None:
        """Let somebody else change an account."""
        body = json.dumps({**self.user(user_id), **values}).encode()
        status, _headers, answer = self._serve(
            "PUT", f"/v2/Users/{user_id}", "", body, {"Authorization": f"Bearer {TOKEN}"}
        )
        assert status == 200, answer

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one call: refuse it at the door, or let the server answer it."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path, _, query = request.path.partition("?")
        self.headers.append(dict(request.headers))
        if request.command in ("PATCH", "PUT") and self.before_writes is not None:
            self.before_writes(path.rsplit("/", 1)[-1])
        status, headers, answer = self._refused(request.command, path, query) or self._serve(
            request.command, path, query, body, dict(request.headers)
        )
        if path.endswith("/ServiceProviderConfig") and status == 200:
            answer = self._configured(answer)
        if request.command == "GET" and status == 200 and self.tamper is not None:
            answer = json.dumps(self.tamper(path, json.loads(answer))).encode()
        self.requests.append((request.command, request.path, status))
        self.bodies.append(body)
        if request.command in ("PATCH", "PUT") and status < 300:
            self.writes += 1
            if self.lose_answers:
                self.lose_answers -= 1
                request.close_connection = True
                request.connection.shutdown(socket.SHUT_RDWR)
                return
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "etag" if not self.etag else ""):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def _refused(self, method: str, path: str, query: str) -> tuple[int, list[tuple[str, str]], bytes] | None:
        user_id = path.rsplit("/", 1)[-1]
        if self.refuse_all:
            return _error(429, "", "Too many requests", ("Retry-After", "3600"))
        if method in ("PATCH", "PUT") and self.busy:
            self.busy -= 1
            return _error(503, "", "Try again")
        if method in ("PATCH", "PUT") and user_id in self.locked:
            return _error(503, "", "Try again")
        if method == "PATCH" and not self.patch:
            return _error(501, "", "PATCH is not supported")
        if method in ("PATCH", "PUT") and user_id in self.blocked:
            return _error(400, "mutability", "The account is managed by the directory")
        if self.no_filter_on and self.no_filter_on in unquote_plus(query):
            return _error(400, "invalidFilter", "The filter is not supported")
        return None

    def _configured(self, answer: bytes) -> bytes:
        config = json.loads(answer)
        config["patch"]["supported"], config["etag"]["supported"] = self.patch, self.etag
        if self.max_results is not None:
            config["filter"]["maxResults"] = self.max_results
        return json.dumps(config).encode()

    def _serve(
        self, method: str, path: str, query: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self._http.server_port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": headers.get("Content-Type", "application/scim+json"),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.url_scheme": "http",
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
        }
        begun: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, sent: list[tuple[str, str]], _error: Any = None) -> None:
            begun.append((status, sent))

        answer = b"".join(self.app(environ, start_response))
        status, sent = begun[0]
        return int(status.split()[0]), sent, answer


def _error(
    status: int, scim_type: str, detail: str, *headers: tuple[str, str]
) -> tuple[int, list[tuple[str, str]], bytes]:
    body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": str(status), "detail": detail}
    if scim_type:
        body["scimType"] = scim_type
    return status, [("Content-Type", "application/scim+json"), *headers], json.dumps(body).encode()


class ScimmyServer(ScimServer):
    """The same door before another server: scimmy-routers, in a process of Node.js, from where `home` has it."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            ["node", str(home / "server.mjs"), TOKEN], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip().isdigit(), "the server did not start: run make test-node, which installs it"
        self._port = int(line)
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self._call("POST", "/control/reset", b"", {})
        # It has no versions, and says so.
        self.etag = False

    def amend(self, user_id: str, *, created: datetime, changed: datetime) -> None:
        body = {"id": user_id, "created": created.isoformat(), "changed": changed.isoformat()}
        self._call("POST", "/control/amend", json.dumps(body).encode(), {"Content-Type": "application/json"})

    def close(self) -> None:
        super().close()
        self._process.terminate()
        self._process.communicate(timeout=10)

    def _serve(
        self, method: str, path: str, query: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        sent = {"Content-Type": "application/scim+json", **headers}
        return self._call(method, f"{path}?{query}" if query else path, body, sent)

    def _call(
        self, method: str, target: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
        own = {name: value for name, value in headers.items() if name.lower() not in _HOP}
        connection.request(method, target, body or None, own)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        shown = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        return answer.status, shown, content


_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "host", "content-length", "accept-encoding"})
