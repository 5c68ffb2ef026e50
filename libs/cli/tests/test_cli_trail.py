"""An erasure is asked of both services that keep addresses, and is on record only once it was done."""

from __future__ import annotations

import json

from libs.cli.tests.test_cli_products import Services, run, services

__all__ = ["services"]

ARGUMENTS = ("audit", "erase", "--actor", "ada@example.com", "--reason", "Ada asked", "-o", "json")


def test_an_erasure_is_done_in_approvals_and_then_recorded(services: Services) -> None:
    services.answers["POST", "/approvals/api/erase"] = (200, {"actor": "ada@example.com", "answers": 2})
    services.answers["POST", "/lifecycle/api/audit/erase"] = (200, {"actor": "ada@example.com", "entries": 3})
    done = run(*ARGUMENTS)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"actor": "ada@example.com", "entries": 3, "answers": 2}
    assert [(path, json.loads(body)) for _, path, body in services.asked] == [
        ("/approvals/api/erase", {"actor": "ada@example.com"}),
        ("/lifecycle/api/audit/erase", {"actor": "ada@example.com", "reason": "Ada asked"}),
    ]


def test_an_erasure_that_approvals_did_not_make_is_not_recorded(services: Services) -> None:
    services.answers["POST", "/approvals/api/erase"] = (403, {"detail": "This needs the role admin."})
    assert run(*ARGUMENTS).exit_code != 0
    assert [path for _, path, _ in services.asked] == ["/approvals/api/erase"]
