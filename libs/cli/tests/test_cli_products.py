"""The product commands: what they send, what they print, and how they exit."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from reclaim.cli.main import app
from reclaim.cli.products import parts_of

ROWS = [
    {"id": "r1", "product": "OFFICE", "parent": None, "editable": True},
    {"id": "r2", "product": "WORD", "parent": "OFFICE", "editable": False},
    {"id": "r3", "product": "WORD", "parent": None, "editable": True},
    {"id": "r4", "product": "EXCEL", "parent": "OFFICE", "editable": False},
]


@dataclass
class Services:
    """An HTTP server that notes what is asked and answers what it is told to."""

    url: str = ""
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)

    def sent(self) -> Any:
        return json.loads(self.asked[-1][2])


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    known = Services()
    known.answers["GET", "/scanner/api/rules"] = (200, [{"id": "rule-1", "name": "Idle"}])
    known.answers["GET", "/scanner/api/rules/rule-1/products"] = (200, {"products": ROWS})

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            known.asked.append((self.command, self.path, body))
            path = self.path.partition("?")[0]
            status, answer = known.answers.get((self.command, path), (200, {"products": ROWS}))
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    known.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("RECLAIM_URL", known.url)
    monkeypatch.setenv("RECLAIM_TOKEN", "token")
    monkeypatch.setenv("COLUMNS", "200")
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_suite_is_added_with_its_components(services: Services) -> None:
    services.answers["POST", "/scanner/api/products"] = (201, {"key": "OFFICE", "name": "Office"})
    done = run("product", "add", "OFFICE", "--name", "Office", "--component", "WORD", "--component", "EXCEL")
    assert done.exit_code == 0, done.output
    assert services.sent() == {
        "key": "OFFICE",
        "name": "Office",
        "publisher": "",
        "components": ["WORD", "EXCEL"],
        "processes": [],
    }


def test_only_what_is_given_is_changed(services: Services) -> None:
    assert run("product", "change", "A/B c", "--process", "windows:a.exe").exit_code == 0
    method, path, _ = services.asked[-1]
    assert (method, path) == ("PATCH", "/scanner/api/products/A/B%20c")
    assert services.sent() == {"processes": ["windows:a.exe"]}
    run("product", "change", "K", "--no-components", "--name", "N")
    assert services.sent() == {"name": "N", "components": []}


def test_a_rules_products_are_changed_by_their_key(services: Services) -> None:
    base = "/scanner/api/rules/rule-1/products"
    for arguments, asked in (
        (("add-product", "Idle", "VISIO", "--filter", "f"), ("POST", base, {"product": "VISIO", "filter": "f"})),
        (("change-product", "Idle", "OFFICE", "--by", "WORD"), ("PATCH", f"{base}/r1", {"product": "WORD"})),
        (("change-product", "Idle", "WORD", "--filter", ""), ("PATCH", f"{base}/r3", {"filter": ""})),
        (("remove-product", "Idle", "OFFICE"), ("DELETE", f"{base}/r1", None)),
        (("renew-product", "rule-1", "OFFICE"), ("POST", f"{base}/r1/renew", None)),
        (("remove-product", "Idle", "EXCEL"), ("DELETE", f"{base}/r4", None)),
    ):
        done = run("rule", *arguments)
        assert done.exit_code == 0, done.output
        method, path, body = services.asked[-1]
        assert (method, path) == asked[:2]
        assert (json.loads(body) if body else None) == asked[2]
    assert run("rule", "remove-product", "Idle", "NONE").exit_code == 3


def test_an_import_tells_which_lines_were_left_out(services: Services, tmp_path: Path) -> None:
    bad = [{"line": 3, "reason": "It begins like a formula."}]
    services.answers["POST", "/scanner/api/products.csv"] = (
        200,
        {"added": 1, "changed": 0, "unchanged": 0, "bad": 1, "bad_lines": bad},
    )
    file = tmp_path / "products.csv"
    file.write_bytes(b"key,name\nWORD,Word\n=1,Formula\n")
    done = run("product", "import", str(file), "--output", "json")
    assert done.exit_code == 1
    assert services.asked[-1] == ("POST", "/scanner/api/products.csv?first_line=2", file.read_bytes())
    assert '"line": 3' in done.output
    assert "begins like a formula" in run("product", "import", str(file)).output
    assert run("product", "import", str(tmp_path / "none.csv")).exit_code == 2


def test_an_export_goes_to_a_file_or_to_standard_output(services: Services, tmp_path: Path) -> None:
    services.answers["GET", "/scanner/api/products.csv"] = (200, b"key,name\nWORD,Word\n")
    assert "WORD,Word" in run("product", "export").output
    target = tmp_path / "out.csv"
    assert run("product", "export", str(target)).exit_code == 0
    assert target.read_bytes() == b"key,name\nWORD,Word\n"


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=9).filter(lambda line: b"\n" not in line), max_size=30), st.integers(8, 60)
)
def test_a_file_is_sent_in_parts_that_keep_its_lines_and_their_numbers(lines: list[bytes], most: int) -> None:
    data = b"\n".join([b"key,name", *lines])
    found: dict[int, bytes] = {}
    for first, part in parts_of(io.BytesIO(data), most):
        head, *inside = part.split(b"\n")
        assert head == b"key,name"
        found |= {first + number: line for number, line in enumerate(inside) if line}
        assert len(part) <= most or len([line for line in inside if line]) <= 1
    assert found == dict(enumerate(lines, 2))


def test_parts_of_a_rule_are_changed_by_their_names(services: Services) -> None:
    present = {"version": 3, "grace_days": 14, "products": ["SFDC"], "desk": "", "schedule": "0 6 * * 1"}
    services.answers["GET", "/scanner/api/rules/rule-1"] = (200, present)
    done = run("rule", "change", "Idle", "grace_days=21", "desk=jira", "products=SFDC, AUL", "schedule=")
    assert done.exit_code == 0, done.output
    method, path, _ = services.asked[-1]
    assert (method, path) == ("PATCH", "/scanner/api/rules/rule-1")
    assert services.sent() == {
        "version": 3,
        "grace_days": "21",
        "desk": "jira",
        "products": ["SFDC", "AUL"],
        "schedule": None,
    }
    asked = len(services.asked)
    for odd in ("no_such_part=1", "grace_days"):
        assert run("rule", "change", "Idle", odd).exit_code == 2
    assert {method for method, _path, _body in services.asked[asked:]} == {"GET"}


def test_a_warning_about_a_rule_goes_to_standard_error(services: Services) -> None:
    said = "No service desk is connected as [emea]: no ticket can be opened there."
    present = {"version": 3, "desk": "", "warning": None}
    services.answers["GET", "/scanner/api/rules/rule-1"] = (200, present)
    services.answers["PATCH", "/scanner/api/rules/rule-1"] = (200, {**present, "desk": "[emea]", "warning": said})
    done = run("rule", "change", "Idle", "desk=[emea]")
    assert done.exit_code == 0, done.output
    assert "warning" not in done.stdout
    assert f"warning: {said}" in " ".join(done.stderr.split())
    assert json.loads(run("rule", "change", "Idle", "desk=[emea]", "-o", "json").stdout)["warning"] == said
    assert "warning" not in run("rule", "show", "Idle").output
