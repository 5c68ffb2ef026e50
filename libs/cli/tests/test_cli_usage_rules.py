"""Rules on use from the command line: what is sent, and what is refused before anything is."""

from __future__ import annotations

import pytest

from libs.cli.tests.test_cli_products import Services, run, services  # noqa: F401

RULE = ("rule", "add", "--name", "Idle", "--connection", "Org", "--product", "SFDC", "--on-timeout", "keep")
GRACE = ("--grace-days", "14")


@pytest.fixture(autouse=True)
def org(services: Services) -> None:  # noqa: F811
    services.answers["GET", "/scanner/api/connections"] = (200, [{"id": "c1", "name": "Org"}])
    services.answers["POST", "/scanner/api/rules"] = (201, {"id": "rule-1"})


def test_a_rule_on_hours(services: Services) -> None:  # noqa: F811
    done = run(*RULE, *GRACE, "--minimum-hours", "7.5", "--window-months", "2", "--include-no-activity")
    assert done.exit_code == 0, done.output
    sent = services.sent()
    assert {name: sent[name] for name in ("condition", "minimum_hours", "window_unit", "window_count")} == {
        "condition": "hours",
        "minimum_hours": "7.5",
        "window_unit": "months",
        "window_count": 2,
    }
    assert (sent["inactive_days"], sent["include_no_activity"], sent["channels"]) == (None, True, [])


def test_a_rule_on_last_use_over_some_channels(services: Services) -> None:  # noqa: F811
    done = run(*RULE, *GRACE, "--inactive-days", "60", "--channel", "ui", "--channel", "sso")
    assert done.exit_code == 0, done.output
    sent = services.sent()
    assert (sent["condition"], sent["inactive_days"], sent["channels"]) == ("last_used", 60, ["ui", "sso"])


@pytest.mark.parametrize(
    "windows", [(), ("--window-days", "30", "--window-months", "1")], ids=["no window", "two windows"]
)
def test_hours_need_one_window(services: Services, windows: tuple[str, ...]) -> None:  # noqa: F811
    done = run(*RULE, *GRACE, "--minimum-hours", "20", *windows)
    assert done.exit_code == 2
    assert services.asked == []
