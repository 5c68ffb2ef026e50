"""The whole story against the container stack, from outside, while its services are killed one after the other.

It needs a stack without any case, because the story counts all there are: before playing it again, make a new one
by `make down ARGS=--volumes` and `make up PROFILES=sandbox`. The org is made anew by the test itself.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from reclaim.common.contracts import SERVICES
from tests.containers.stack import OURS, Stack
from tests.e2e.test_e2e_story import check
from tests.e2e.world import START, Embedded, final_state

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

PATIENCE = 300.0
"""Seconds for a step: what a killed lifecycle was doing is nobody else's until its lease of 120 s is over."""

ORG: dict[str, Any] = {"users": 200, "seed": 7}

CRASH_AFTER = {
    "Rule ": "scanner",  # a scan is asked for
    "Scanned ": "approvals",  # the managers are mailed
    "Asked ": "itsm-gateway",  # the managers answer
    " managers decided to revoke": "lifecycle",  # accounts are frozen
    "the grace period ends": "savings",  # seats are reclaimed, and booked
}
"""What the story says → the service that is killed then, and what it is killed in the middle of."""


@pytest.fixture
def empty_stack(stack: Stack) -> Stack:
    with stack.client() as client:
        cases = client.get("/lifecycle/api/summary")["cases"]
    if any(cases.values()):
        pytest.fail(
            f"The stack {stack.name!r} holds cases already. Start the story with an empty one: "
            "make down ARGS=--volumes && make up PROFILES=sandbox",
            pytrace=False,
        )
    stack.clock.advance(START - stack.clock.now())
    stack.sandbox("POST", "/reset", json=ORG)
    return stack


def test_the_story_ends_as_in_one_process_though_every_service_is_killed(tmp_path: Path, empty_stack: Stack) -> None:
    with Embedded(tmp_path, **ORG) as world, world.story() as story:
        story.play()
        calm = final_state(story)

    stack = empty_stack
    killed: list[str] = []
    before = {service: stack.restarts(service) for service in SERVICES}

    def note(text: str) -> None:
        print(text)
        for moment, service in CRASH_AFTER.items():
            if moment in text:
                stack.crash(service)
                killed.append(service)

    with stack.client(patience=PATIENCE) as client:
        story = stack.story(client, patience=PATIENCE, stubborn=PATIENCE, note=note)
        try:
            outcome = story.play()
            for service in SERVICES:
                stack.wait_until_healthy(service)
            check(outcome, story)
            assert final_state(story) == calm
        finally:
            story.close()

    assert sorted(killed) == sorted(SERVICES)
    assert {service: stack.restarts(service) - before[service] for service in SERVICES} == dict.fromkeys(SERVICES, 1)
    savings = outcome.figures["savings"]
    assert Decimal(savings["annualized_run_rate"]) > 0
    assert Decimal(savings["year_to_date"]) > 0
    _nothing_secret_was_logged(stack)


def _nothing_secret_was_logged(stack: Stack) -> None:
    mailed = {
        link.partition("/approvals/d/")[2].partition("?")[0]
        for message in stack.sandbox("GET", "/mailbox/messages", params={"limit": 100_000})
        for link in message["links"]
        if "/approvals/d/" in link
    }
    assert mailed
    secrets = mailed | {
        secret
        for name, value in stack.settings.items()
        if not name.endswith("_OPERATOR")
        for secret in re.findall(r"[\w$=+/,-]{12,}", value)
    }
    for service in OURS:
        log = stack.log(service)
        assert [secret for secret in secrets if secret in log] == [], f"the log of {service}"
    visits = [line for line in stack.log("ingress").splitlines() if "/approvals/d/" in line]
    assert visits
    assert all('"path":"/approvals/d/..."' in line for line in visits)
