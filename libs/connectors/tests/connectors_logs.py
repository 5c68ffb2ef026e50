"""The sources of usage that the contract of usage runs over: a log in memory, and a simulated Okta tenant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from reclaim.common.clock import FixedClock
from reclaim.common.errors import Transient
from reclaim.common.outgoing import Outgoing
from reclaim.connectors import okta
from reclaim.connectors.fake import FakeLog
from reclaim.connectors.ports import ConnectionProfile, UsageReader
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.okta import API_TOKEN, Tenant

HERE = Outgoing(["127.0.0.1", "localhost"])
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
DAY = timedelta(days=1)
WIKI, MAIL = "0oawiki0000000000001", "0oamail0000000000001"
QUICK = okta.Tuning(attempts=3, wait_initial=0.001, wait_max=0.01, wait_jitter=0.001, answer_timeout=5, patience=20)


class LogWorld(Protocol):
    """A log that a test can fill."""

    clock: FixedClock
    reader: UsageReader

    def sign_in(self, user: str, app: str, *, at: datetime, ok: bool = True, late: timedelta = timedelta(0)) -> None:
        """Let somebody try to sign in; the log shows it `late`."""

    def break_down(self) -> None:
        """Let the log answer nobody."""


class InMemory:
    def __init__(self) -> None:
        self.clock = FixedClock(NOW)
        self.log = FakeLog(self.clock)
        self.reader: UsageReader = self.log

    def sign_in(self, user: str, app: str, *, at: datetime, ok: bool = True, late: timedelta = timedelta(0)) -> None:
        self.log.sign_in(user, app, at=at, ok=ok, late=late)

    def break_down(self) -> None:
        self.log.down = Transient("the log is away")


class SimulatedOkta:
    def __init__(self, sandbox: Sandbox, **settings: str) -> None:
        self.clock = FixedClock(NOW)
        self.sandbox = sandbox
        self.tenant = Tenant(self.clock)
        sandbox.world.okta.attach(self.tenant)
        sandbox.world.faults.clear()
        profile = ConnectionProfile(
            "c1", "Acme SSO", "okta", {"org_url": sandbox.url, **settings}, {"api_token": API_TOKEN}
        )
        self.reader = okta.open_reader(profile, self.clock, QUICK, outgoing=HERE)

    def sign_in(self, user: str, app: str, *, at: datetime, ok: bool = True, late: timedelta = timedelta(0)) -> None:
        self.tenant.sign_in(user, app, at=at, result="SUCCESS" if ok else "FAILURE", late=late)

    def break_down(self) -> None:
        self.sandbox.world.faults.add("server_unavailable", path_regex="^/api/v1/logs", times=None)
