"""The commands of sources of use: what they send, what they print, and how they exit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from libs.cli.tests.test_cli_products import Services, run, services  # noqa: F401 - the fixture
from reclaim.cli import usage

CONNECTIONS = [{"id": "c1", "name": "SSO"}, {"id": "c2", "name": "Org"}]
APPS = [
    {"id": "0oawiki", "name": "Wiki", "active": True, "chosen": False, "profile": None},
    {"id": "0oatwin1", "name": "Twin", "active": True, "chosen": False, "profile": None},
    {"id": "0oatwin2", "name": "Twin", "active": True, "chosen": False, "profile": None},
]
IMPORTS = "/scanner/api/usage/imports"


def an_import(**more: Any) -> dict[str, Any]:
    return {
        "id": "i1",
        "source": "sccm",
        "status": "finished",
        "rows": 3,
        "bad": 0,
        "kept": 3,
        "bytes": 10,
        "bytes_read": 10,
        "vouched": None,
        "problem": None,
        "remedy": None,
        "findings": {"unknown": {}},
        "refused": [],
        **more,
    }


@pytest.fixture
def known(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:  # noqa: F811
    monkeypatch.setattr(usage, "POLL", 0)
    services.answers["GET", "/scanner/api/connections"] = (200, CONNECTIONS)
    services.answers["GET", "/scanner/api/connections/c1/applications"] = (200, APPS)
    services.answers["POST", IMPORTS] = (202, an_import(status="queued"))
    services.answers["GET", f"{IMPORTS}/i1"] = (200, an_import())
    return services


def test_whether_a_file_is_everything_is_said_in_plain_words(known: Services, tmp_path: Path) -> None:
    file = tmp_path / "october.csv"
    file.write_bytes(b"x")
    known.answers["GET", f"{IMPORTS}/i1"] = (200, an_import(vouched="Not marked complete."))
    said = run("usage", "import", str(file), "--shape", "sccm").output
    assert "is it everything?" in said
    assert "vouched" not in said


def test_a_file_is_sent_as_it_is_with_what_was_said_about_it(known: Services, tmp_path: Path) -> None:
    file = tmp_path / "october.csv"
    file.write_bytes(b"x" * 700_000)
    result = run(
        "usage", "import", str(file), "--shape", "sccm", "--source", "Head office", "--complete",
        "--date-order", "month_first",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    method, path, body = next(asked for asked in known.asked if asked[0] == "POST")
    assert (method, urlsplit(path).path, len(body)) == ("POST", IMPORTS, 700_000)
    said = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
    assert said == {
        "shape": "sccm",
        "what": "usage",
        "source": "Head office",
        "file_name": "october.csv",
        "complete": "true",
        "time_zone": "UTC",
        "date_order": "month_first",
        "silence_days": "40",
    }


@pytest.mark.parametrize(
    ("answer", "shows"),
    [
        (an_import(bad=1, refused=[{"line": 7, "reason": "is no CSV", "row": "a;b"}]), "is no CSV"),
        (an_import(status="failed", problem="The file did not arrive whole."), "did not arrive whole"),
    ],
    ids=["refused", "failed"],
)
def test_what_was_not_kept_is_told_and_is_the_exit_code(
    known: Services, tmp_path: Path, answer: dict[str, Any], shows: str
) -> None:
    known.answers["GET", f"{IMPORTS}/i1"] = (200, answer)
    file = tmp_path / "october.csv"
    file.write_text("User\n")
    result = run("usage", "import", str(file), "--shape", "csv")
    assert result.exit_code == 1
    assert shows in result.output


def test_a_heading_that_is_none_is_told_in_the_services_words(known: Services, tmp_path: Path) -> None:
    known.answers["POST", IMPORTS] = (422, {"detail": "Line 1: this is not the heading."})
    file = tmp_path / "october.csv"
    file.write_text("User\n")
    result = run("usage", "import", str(file), "--shape", "csv")
    assert result.exit_code != 0
    assert "Line 1: this is not the heading." in str(result.exception or result.output)


def test_a_stale_source_is_the_exit_code(known: Services) -> None:
    fresh = {"source": "SSO", "product": "WIKI", "complete_until": None, "heard_at": "2026-11-20", "stale": False}
    known.answers["GET", "/scanner/api/usage/sources"] = (200, [fresh])
    assert run("usage", "sources").exit_code == 0
    known.answers["GET", "/scanner/api/usage/sources"] = (200, [{**fresh, "stale": True}])
    assert run("usage", "sources").exit_code == 1


def test_an_application_is_chosen_by_its_name_or_its_id(known: Services) -> None:
    path = "/scanner/api/connections/c1/applications/0oawiki"
    known.answers["PUT", path] = (200, {"rule_status": "needs_review"})
    for wanted in ("Wiki", "0oawiki"):
        result = run("connection", "choose-application", "SSO", wanted, "--seats", "Org", "--product", "WIKI")
        assert result.exit_code == 0, result.output
        assert known.asked[-1][:2] == ("PUT", path)
        assert json.loads(known.asked[-1][2]) == {"seats_connection_id": "c2", "product": "WIKI"}
    twin = run("connection", "choose-application", "SSO", "Twin", "--seats", "Org", "--product", "WIKI")
    assert twin.exit_code == 3
    assert "0oatwin1, 0oatwin2" in " ".join(twin.output.split()), "the line is broken where the terminal ends"


def test_refused_rows_are_written_as_they_come(known: Services, tmp_path: Path) -> None:
    known.answers["GET", f"{IMPORTS}/i1/refused.csv"] = (200, b"line,reason,row\r\n")
    target = tmp_path / "refused.csv"
    assert run("usage", "refused", "i1", str(target)).exit_code == 0
    assert target.read_bytes() == b"line,reason,row\r\n"


def test_a_source_that_is_no_more_is_retired_with_its_reason(known: Services) -> None:
    path = "/scanner/api/usage/sources/retire"
    retired = {"source": "Old agent", "retired_at": "2026-11-20T12:00:00Z", "retired_by": "anna", "reason": "gone"}
    known.answers["POST", path] = (200, retired)
    result = run("usage", "retire", "Old agent", "--reason", "gone")
    assert result.exit_code == 0, result.output
    assert "Old agent" in result.output
    (sent,) = [body for method, asked, body in known.asked if (method, asked) == ("POST", path)]
    assert json.loads(sent) == {"source": "Old agent", "reason": "gone"}
    known.answers["GET", "/scanner/api/usage/sources/retired"] = (200, [retired])
    assert "gone" in run("usage", "retired").output


def test_a_source_is_not_retired_without_a_reason(known: Services) -> None:
    assert run("usage", "retire", "Old agent").exit_code == 2
    assert not [asked for asked in known.asked if asked[0] == "POST"]
