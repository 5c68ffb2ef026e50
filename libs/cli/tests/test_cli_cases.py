"""What an operator says of a case from a terminal, and what waits for one."""

from __future__ import annotations

import json

from libs.cli.tests.test_cli_products import Services, run, services

__all__ = ["services"]


def test_an_account_is_said_to_be_deleted_with_how_that_is_known(services: Services) -> None:
    services.answers["POST", "/lifecycle/api/cases/case-1/deleted"] = (200, {"id": "case-1", "state": "skipped"})
    done = run("case", "deleted", "case-1", "--note", "its owner deleted it", "-o", "json")
    assert done.exit_code == 0, done.output
    ((_, _, body),) = services.asked
    assert json.loads(body) == {"note": "its owner deleted it"}


def test_a_freeze_that_was_left_is_undone(services: Services) -> None:
    services.answers["POST", "/lifecycle/api/cases/case-1/unfreeze"] = (200, {"id": "case-1", "state": "restoring"})
    done = run("case", "unfreeze", "case-1", "-o", "json")
    assert json.loads(done.stdout)["state"] == "restoring"


def test_everything_that_waits_is_listed_by_what_it_is(services: Services) -> None:
    item = {"since": "2026-11-02T09:00:00Z", "reason": "why", "remedy": "what", "service": "lifecycle"}
    items = [
        item | {"kind": "left_frozen", "case_id": "case-1", "holder": "Ada"},
        item | {"kind": "override", "trip_id": "trip-1"},
        item | {"kind": "pages", "service": "approvals"},
    ]
    found = {"total": 3, "counts": {"message": 0}, "items": items, "elsewhere": []}
    services.answers["GET", "/lifecycle/api/attention"] = (200, found)
    listed = run("attention", "list").output
    for shown in ("case-1", "Ada", "trip-1", "tripped", "approvals"):
        assert shown in listed
