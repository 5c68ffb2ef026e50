"""The command against a running product: what it prints, its exit codes, and what it says when things are wrong."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reclaim.cli import output
from reclaim.cli.main import main
from reclaim.cli.setup import generate
from tests.e2e.world import Embedded, free_port

pytestmark = pytest.mark.timeout(240)

DONE, ANSWER_IS_NO, USAGE, REFUSED, UNREACHABLE = 0, 1, 2, 3, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("world"), users=120, seed=3) as started:
        yield started


class Command:
    """Runs `reclaim ...` in this process and gives its exit code and both outputs."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["reclaim", *arguments])
        self._capsys.readouterr()  # what the test itself printed
        code: Any = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        self.out, self.err = self._capsys.readouterr()
        return int(code or 0)

    def json(self, *arguments: str) -> Any:
        code = self(*arguments, "--output", "json")
        assert code == DONE, self.err
        return json.loads(self.out)


@pytest.fixture
def reclaim(
    world: Embedded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output.console, "width", 200)  # it asked for the terminal's when it was imported
    monkeypatch.setenv("RECLAIM_URL", world.url)
    monkeypatch.setenv("RECLAIM_TOKEN", world.token())
    return Command(capsys, monkeypatch)


def connect(reclaim: Command, world: Embedded, name: str, **changes: str) -> int:
    options = {
        "--name": name,
        "--instance-url": world.sandbox_url,
        "--client-id": "reclaim-sandbox",
        "--client-secret": "sandbox-secret",
        **changes,
    }
    flat = [part for pair in options.items() for part in pair]
    return reclaim("connection", "add", "salesforce", "--output", "json", *flat)


def test_from_a_connection_to_the_report(reclaim: Command, world: Embedded, tmp_path: Path) -> None:
    assert connect(reclaim, world, "Org") == DONE, reclaim.err
    assert "sandbox-secret" not in reclaim.out
    assert [one["name"] for one in reclaim.json("connection", "list")] == ["Org"]
    assert reclaim.json("connection", "test", "Org")["works"]

    rule = ["--name", "Idle", "--connection", "Org", "--product", "SFDC", "--inactive-days", "90"]
    rule += ["--on-timeout", "freeze", "--grace-days", "30", "--live"]
    added = reclaim.json("rule", "add", *rule)
    assert added["status"] == "draft"
    preview = reclaim.json("rule", "preview", "Idle")
    assert reclaim("rule", "preview", "Idle") == DONE
    assert "Would be flagged" in reclaim.out
    (yearly,) = preview["yearly"]
    assert f"{float(yearly['amount']):,.2f} {yearly['currency']}" in reclaim.out
    assert reclaim("rule", "diff", "Idle") == DONE
    assert "nothing to compare" in reclaim.err
    assert reclaim.json("rule", "activate", "Idle")["status"] == "active"
    assert reclaim.json("rule", "pause", "Idle")["status"] == "paused"
    assert reclaim.json("rule", "activate", "Idle")["status"] == "active"
    assert reclaim.json("rule", "list")[0]["name"] == "Idle"
    assert len(reclaim.json("rule", "show", "Idle")["versions"]) == 1

    scan = reclaim.json("scan", "run", "Idle")
    assert (scan["status"], scan["flagged"]) == ("finished", preview["flagged"])
    with world.story() as story:
        story.wait_until_asked(scan["flagged"])
    cases = reclaim.json("case", "list", "--state", "awaiting_decision")["cases"]
    kept = reclaim.json("case", "decide", cases[0]["id"], "keep", "--reason", "asked on the phone")
    assert kept["state"] == "kept"
    history = reclaim.json("case", "show", cases[0]["id"])["history"]
    assert history[-1]["actor"] == "story"
    assert history[-1]["evidence"] == "asked on the phone"
    assert reclaim("case", "decide", cases[0]["id"], "revoke", "--reason", "no") == REFUSED
    assert "kept" in reclaim.err

    chosen = ["case", "list", "--rule", "Idle", "--connection", "Org", "--product", "SFDC", "--live"]
    assert {case["state"] for case in reclaim.json(*chosen, "--state", "kept")["cases"]} == {"kept"}
    assert reclaim.json(*chosen, "--find", cases[0]["id"])["cases"][0]["id"] == cases[0]["id"]
    assert reclaim.json("case", "list", "--dry-run")["cases"] == []
    first = reclaim.json("case", "list", "--limit", "1")
    assert reclaim("case", "list", "--limit", "1") == DONE
    assert f"--after {first['next']}" in reclaim.err
    assert reclaim("case", "list") == DONE
    assert "--after" not in reclaim.err
    assert "dry run" not in reclaim.out
    assert reclaim("case", "list", "--state", "nonsense") == REFUSED
    assert "Input should be 'flagged'" in reclaim.err
    assert "literal" not in reclaim.err, "how the form sends no state is nothing to choose"
    assert reclaim("parked", "list", "nonsense") == REFUSED
    assert "approvals" in reclaim.err
    who_is_excluded_is_somebody(reclaim, cases[0]["seat"]["holder"]["id"])
    the_trail_is_signed_exported_and_erased(reclaim, cases[0]["id"], tmp_path)
    assert reclaim.json("savings", "rebuild")["state"] == "done"
    assert "figures" in reclaim.json("savings", "report")
    assert reclaim.json("parked", "list", "lifecycle") == {"parked": []}
    for command in (["case", "list"], ["rule", "list"], ["connection", "list"], ["audit", "verify"], ["audit", "keys"]):
        assert reclaim(*command) == DONE
        assert reclaim.out.strip()


def test_a_rehearsal_is_said_to_be_one(reclaim: Command, world: Embedded) -> None:
    assert connect(reclaim, world, "Stage") == DONE
    rule = ["--name", "Rehearsed", "--connection", "Stage", "--product", "SFDC", "--inactive-days", "90"]
    reclaim.json("rule", "add", *rule, "--on-timeout", "keep", "--grace-days", "30")
    reclaim.json("rule", "activate", "Rehearsed")
    scan = reclaim.json("scan", "run", "Rehearsed")
    assert scan["dry_run"], "nobody asked for it, but the rule is one"
    cases: list[dict[str, Any]] = []
    while not cases:
        cases = reclaim.json("case", "list", "--rule", "Rehearsed", "--limit", "1")["cases"]
    for command in (["case", "list", "--rule", "Rehearsed"], ["case", "show", cases[0]["id"]]):
        assert reclaim(*command) == DONE
        assert "(dry run)" in reclaim.out


def test_the_kill_switch_is_engaged_and_released(reclaim: Command, world: Embedded) -> None:
    with world.client() as client:
        while not client.get("/lifecycle/api/brakes")["connections"]:
            time.sleep(0.1)
    everything = reclaim.json("kill", "engage", "--reason", "something is wrong")
    assert (everything["scope"], everything["engaged_by"]) == ("global", "story")
    assert reclaim.json("kill", "engage", "--reason", "again")["id"] == everything["id"]
    one = reclaim.json("kill", "engage", "--reason", "this one too", "--connection", "Org")
    assert one["scope"] == "connection"
    assert reclaim("kill", "engage", "--reason", "x", "--connection", "Org", "--rule", "Idle") == USAGE
    assert reclaim("kill", "engage", "--reason", "x", "--connection", "Nowhere") == REFUSED
    assert "Org" in reclaim.err
    assert {switch["id"] for switch in reclaim.json("kill", "list")["engaged"]} == {everything["id"], one["id"]}
    assert reclaim.json("kill", "release", "--reason", "mended")["released_by"] == "story"
    assert reclaim("kill", "release", "--reason", "mended") == REFUSED
    assert "connection" in reclaim.err
    reclaim.json("kill", "release", "--reason", "mended", "--connection", "Org")
    reclaim.json("kill", "engage", "--reason", "only that one", "--rule", "Idle")
    assert reclaim("kill", "list") == DONE
    assert "something" in reclaim.out
    assert "Idle" in reclaim.out, "by its name"
    reclaim.json("kill", "release", "--reason", "mended", "--rule", "Idle")
    assert reclaim.json("kill", "list")["engaged"] == []


def who_is_excluded_is_somebody(reclaim: Command, holder: str) -> None:
    excluded = ["exclusion", "add", "person"]
    assert reclaim(*excluded, holder[:-1], "--reason", "parental leave", "--until", "2099-01-31") == DONE
    assert "nobody is protected" in reclaim.err
    assert "the end of 2099-01-31" in reclaim.out
    assert reclaim(*excluded, holder, "--reason", "parental leave") == DONE
    assert reclaim.err == ""
    assert reclaim("exclusion", "list") == DONE
    assert "the end of 2099-01-31" in reclaim.out
    for one in reclaim.json("exclusion", "list"):
        reclaim.json("exclusion", "end", one["id"])


def the_trail_is_signed_exported_and_erased(reclaim: Command, case: str, folder: Path) -> None:
    outside = folder / "checkpoint.json"
    signed = reclaim.json("audit", "checkpoint", "--out", str(outside))
    assert json.loads(outside.read_text()) == signed
    assert reclaim("audit", "checkpoint", "--out", str(outside)) == REFUSED
    verified = reclaim.json("audit", "verify", "--checkpoint", str(outside))
    assert verified["verified"]
    assert verified["newest_checkpoint"] is not None
    outside.write_text(json.dumps(signed | {"hash": "0" * 64}))
    assert reclaim("audit", "verify", "--checkpoint", str(outside)) == ANSWER_IS_NO
    outside.write_text("nothing")
    assert reclaim("audit", "verify", "--checkpoint", str(outside)) == REFUSED
    assert reclaim.json("audit", "keys")["keys"][0]["key_id"] == signed["key_id"]

    assert reclaim("audit", "export", "--format", "jsonl", "--case", case) == DONE
    assert {json.loads(line)["case"] for line in reclaim.out.splitlines()} == {case}
    table = folder / "audit.csv"
    written = reclaim.json("audit", "export", "--format", "csv", "--personal", "--out", str(table))
    assert written["bytes"] == table.stat().st_size
    assert "user_agent" in table.read_text("utf-8-sig").splitlines()[0]
    assert reclaim("audit", "export", "--format", "csv", "--since", "long ago") == REFUSED
    assert "is no date" in reclaim.err
    erased = reclaim.json("audit", "erase", "--actor", "nobody@example.com", "--reason", "asked by mail")
    assert erased == {"actor": "nobody@example.com", "entries": 0, "answers": 0}
    assert reclaim.json("audit", "verify")["verified"]

    waiting = reclaim.json("attention", "list")
    assert waiting["total"] == len(waiting["items"])
    assert waiting["elsewhere"] == [], "one process runs them all"
    assert reclaim.json("attention", "list", "--kind", "message")["items"] == []
    assert reclaim("attention", "list", "--kind", "hunger") == REFUSED
    assert reclaim("attention", "list") == DONE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--client-secret": "wrong"}, "secret"),
        ({"--instance-url": f"http://127.0.0.1:{free_port()}"}, "127.0.0.1"),
        ({"--instance-url": "http://example.com"}, "https"),
        ({"--instance-url": "nonsense"}, "https://"),
    ],
    ids=["wrong secret", "nobody there", "not encrypted", "no address"],
)
def test_a_connection_that_does_not_work_is_not_added(
    reclaim: Command, world: Embedded, changes: dict[str, str], says: str
) -> None:
    assert connect(reclaim, world, "Broken", **changes) == REFUSED
    assert says in reclaim.err
    assert "Traceback" not in reclaim.err
    assert ("--force" in reclaim.err) == (says in {"secret", "127.0.0.1"}), "only what was tried can be added as it is"
    assert "Broken" not in [one["name"] for one in reclaim.json("connection", "list")]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--inactive-days", "3", "30"),
        ("--inactive-days", "99999", "3650"),
        ("--grace-days", "0", "1"),
        ("--decision-days", "900", "60"),
        ("--on-timeout", "shrug", "freeze"),
        ("--schedule", "every full moon", "cron"),
        ("--time-zone", "Mars/Olympus", "zone"),
    ],
)
def test_a_nonsense_rule_is_refused_with_what_to_enter(
    reclaim: Command, world: Embedded, option: str, value: str, says: str
) -> None:
    values = {
        "--name": "Nonsense",
        "--connection": "Org",
        "--product": "SFDC",
        "--inactive-days": "90",
        "--on-timeout": "freeze",
        "--grace-days": "30",
        option: value,
    }
    flat = [part for pair in values.items() for part in pair]
    assert reclaim("rule", "add", *flat) == REFUSED
    assert says in reclaim.err
    assert "Nonsense" not in [one["name"] for one in reclaim.json("rule", "list")]


def test_a_rule_for_a_licence_the_org_does_not_have_is_not_activated(reclaim: Command) -> None:
    rule = ["--name", "Elsewhere", "--connection", "Org", "--product", "NO_SUCH", "--inactive-days", "90"]
    assert reclaim("rule", "add", *rule, "--on-timeout", "keep", "--grace-days", "9") == DONE
    assert reclaim("rule", "activate", "Elsewhere") == REFUSED
    assert "SFDC" in reclaim.err


def test_the_time_out_has_no_default(reclaim: Command) -> None:
    rule = ["--name", "X", "--connection", "Org", "--product", "SFDC", "--inactive-days", "90", "--grace-days", "9"]
    assert reclaim("rule", "add", *rule) == USAGE
    assert "--on-timeout" in reclaim.err


def test_a_connection_can_be_removed(reclaim: Command, world: Embedded) -> None:
    assert connect(reclaim, world, "Spare") == DONE
    assert reclaim.json("connection", "remove", "Spare") == {"removed": "Spare"}
    assert "Spare" not in [one["name"] for one in reclaim.json("connection", "list")]


def test_what_does_not_exist_is_named_with_what_does(reclaim: Command) -> None:
    assert reclaim("rule", "show", "Nowhere") == REFUSED
    assert "Idle" in reclaim.err
    assert reclaim("case", "show", "no-such-case") == REFUSED
    assert "list of cases" in reclaim.err


def test_nobody_there(reclaim: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLAIM_URL", f"http://127.0.0.1:{free_port()}")
    assert reclaim("case", "list") == UNREACHABLE
    assert "reclaim run" in reclaim.err


def test_a_token_without_the_right_is_refused(reclaim: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLAIM_TOKEN", "forged")
    assert reclaim("case", "list") == REFUSED
    assert "token" in reclaim.err


def test_keys_are_made_once_and_never_overwritten(
    reclaim: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reclaim.json("init")
    assert made["operator"] == "admin"
    written = (tmp_path / ".env").read_text()
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert made["password"] not in written
    assert reclaim("init") == REFUSED
    assert (tmp_path / ".env").read_text() == written
    assert reclaim.json("token", "issue", "--name", "ci", "--role", "viewer")["token"]


def test_without_keys_it_says_how_to_make_them(reclaim: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in generate("nobody", "nothing"):
        monkeypatch.delenv(name, raising=False)
    assert reclaim("token", "issue", "--name", "ci") == REFUSED
    assert "reclaim init" in reclaim.err


def test_a_list_that_is_no_json_is_named_and_not_repeated(reclaim: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reclaim("init") == DONE
    monkeypatch.setenv("RECLAIM_OUTGOING_ALLOWED_HOSTS", "desk.internal")
    assert reclaim("run") == REFUSED
    assert "outgoing_allowed_hosts" in reclaim.err
    assert "JSON" in reclaim.err
    assert "desk.internal" not in reclaim.err


def test_a_port_that_is_taken_is_named_in_one_line(reclaim: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reclaim("init") == DONE
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("RECLAIM_PORT", str(port))
        assert reclaim("run", "savings") == REFUSED
    assert f"port {port}" in reclaim.err
    assert "RECLAIM_PORT" in reclaim.err
    assert "Errno" not in reclaim.err


def test_the_address_is_read_from_the_settings_file(
    reclaim: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, token = os.environ["RECLAIM_URL"], os.environ["RECLAIM_TOKEN"]
    monkeypatch.delenv("RECLAIM_URL")
    monkeypatch.delenv("RECLAIM_TOKEN")
    settings = tmp_path / ".env"
    settings.write_text(f"RECLAIM_URL={url}\nRECLAIM_TOKEN={token}\nRECLAIM_PORT={free_port()}\n")
    assert reclaim("case", "list") == DONE, reclaim.err
    settings.write_text(f"RECLAIM_TOKEN={token}\nRECLAIM_PORT={url.rpartition(':')[2]}\n")
    assert reclaim("case", "list") == DONE, reclaim.err


def test_a_token_is_printed_alone_and_whole(reclaim: Command) -> None:
    assert reclaim("init") == DONE
    assert reclaim("token", "issue", "--name", "a program with a rather long name") == DONE
    assert len(reclaim.out.split()) == 1
    assert "…" not in reclaim.out


def test_an_unknown_service_is_named_with_those_there_are(reclaim: Command) -> None:
    assert reclaim("init") == DONE
    assert reclaim("run", "scaner") == REFUSED
    assert "scanner" in reclaim.err
