"""One realistic example of every event, and a minimal one where the contract leaves something out.

`write_golden` turns them into the golden documents; the tests hold today's code against those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from reclaim.common import envelope
from reclaim.common.contracts import (
    AttentionRaised,
    CaseClosed,
    CaseWithdrawn,
    CheaperLicence,
    CheckFinding,
    ConnectionChanged,
    DecisionReceived,
    DeskChanged,
    Event,
    FulfilmentAnnounced,
    FulfilmentReported,
    FulfilmentRequested,
    Money,
    NoticeDelivered,
    NoticeFailed,
    PagesServed,
    Person,
    Policy,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    TicketUndecided,
    UsageJudged,
    UsageQuestioned,
    UserFlagged,
    UserFrozen,
    UserRestored,
)

CASE: Final = "019a4471-5f80-7c3e-9d51-2b6f0c9f7a10"
OTHER_CASE: Final = "019a4471-5f80-7c3e-9d51-2b6f0c9f7a11"
TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

FULL_SEAT: Final = Seat(
    connection_id="salesforce-emea",
    product="sales-cloud-enterprise",
    product_name="Sales Cloud Enterprise",
    holder=Person(id="0055g00000Abc12AAB", name="Zoë Müller-Ōtsuka", email="zoe.mueller@example.com"),
    department="Sales, DACH",
    price=Money(amount=Decimal("175.00"), currency="EUR"),
)
BARE_SEAT: Final = Seat(
    connection_id="salesforce-emea",
    product="platform-login",
    product_name="Platform Login",
    holder=Person(id="0055g00000Abc13AAB", name="Integration Probe"),
)
FULL_POLICY: Final = Policy(
    rule_id="rule-unused-sales-cloud",
    rule_version=7,
    rule_name="Sales Cloud, no sign-in for 60 days",
    inactive_days=60,
    route="both",
    decision_days=14,
    on_timeout="freeze",
    grace_days=14,
    hand_over=True,
    dry_run=False,
    young_days=45,
    warn_only=("open_opportunities", "report_owner"),
)
BARE_POLICY: Final = Policy(
    rule_id="rule-preview",
    rule_version=1,
    rule_name="Platform, 90 days",
    inactive_days=90,
    route="email",
    decision_days=21,
    on_timeout="escalate",
    grace_days=30,
    hand_over=False,
    dry_run=True,
)


def at(hour: int, minute: int = 0, second: int = 0) -> datetime:
    """Return an instant of the examples' day."""
    return datetime(2026, 11, 2, hour, minute, second, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Example:
    """An event with its envelope. Without `traceparent` the envelope leaves that out."""

    id: str
    source: str
    event: Event
    time: datetime
    traceparent: str | None = None

    def encode(self) -> bytes:
        """Return what today's code puts on the wire."""
        return envelope.encode(
            self.event, source=self.source, time=self.time, event_id=self.id, traceparent=self.traceparent
        )


EXAMPLES: Final[Mapping[type[Event], tuple[Example, ...]]] = {
    UserFlagged: (
        Example(
            id="019a4471-6001-7000-8000-000000000001",
            source="scanner",
            time=at(9, 0, 1),
            traceparent=TRACE,
            event=UserFlagged(
                case_id=CASE,
                seat=FULL_SEAT,
                approver=Person(id="0055g00000Mgr01AAB", name="Ana Lima", email="ana.lima@example.com"),
                policy=FULL_POLICY,
                findings=(
                    CheckFinding(check="recently_active", outcome="pass", evidence="last sign-in 2026-08-03"),
                    CheckFinding(check="open_opportunities", outcome="warn", evidence="2 open, worth 1.200 €"),
                ),
                last_used_at=datetime(2026, 8, 3, 14, 30, 15, 250_000, tzinfo=UTC),
                flagged_at=at(9),
            ),
        ),
        Example(
            id="019a4471-6001-7000-8000-000000000002",
            source="scanner",
            time=at(9, 0, 2),
            event=UserFlagged(
                case_id=OTHER_CASE,
                seat=BARE_SEAT,
                approver=None,
                policy=BARE_POLICY,
                findings=(),
                last_used_at=None,
                flagged_at=at(9),
            ),
        ),
    ),
    CaseWithdrawn: (
        Example(
            id="019a4471-600c-7000-8000-000000000001",
            source="scanner",
            time=at(9, 30, 1),
            traceparent=TRACE,
            event=CaseWithdrawn(
                case_id=CASE,
                kind="exempted",
                reason="Zoë Müller-Ōtsuka is excluded until 2027-01-31: parental leave.",
                actor="maria.ops",
                withdrawn_at=at(9, 30),
            ),
        ),
    ),
    UsageQuestioned: (
        Example(
            id="019a4471-600d-7000-8000-000000000001",
            source="lifecycle",
            time=at(10, 0, 1),
            traceparent=TRACE,
            event=UsageQuestioned(
                case_id=CASE,
                asked_at=at(10),
                last_used_at=datetime(2026, 8, 3, 14, 30, 15, 250_000, tzinfo=UTC),
                read=True,
            ),
        ),
        Example(
            id="019a4471-600d-7000-8000-000000000002",
            source="lifecycle",
            time=at(10, 0, 2),
            event=UsageQuestioned(case_id=OTHER_CASE, asked_at=at(10)),
        ),
    ),
    UsageJudged: (
        Example(
            id="019a4471-600e-7000-8000-000000000001",
            source="scanner",
            time=at(10, 0, 4),
            traceparent=TRACE,
            event=UsageJudged(
                case_id=CASE,
                use="unused",
                reason="3.50 hours of 20 from 2026-10-01 00:00 UTC to 2026-11-01 00:00 UTC.",
                asked_at=at(10),
                judged_at=at(10, 0, 3),
            ),
        ),
    ),
    NoticeDelivered: (
        Example(
            id="019a4471-6002-7000-8000-000000000001",
            source="approvals",
            time=at(9, 5, 1),
            traceparent=TRACE,
            event=NoticeDelivered(
                case_id=CASE, channel="email", recipient="ana.lima@example.com", delivered_at=at(9, 5)
            ),
        ),
    ),
    NoticeFailed: (
        Example(
            id="019a4471-6003-7000-8000-000000000001",
            source="itsm-gateway",
            time=at(9, 6, 1),
            traceparent=TRACE,
            event=NoticeFailed(
                case_id=CASE,
                channel="itsm",
                reason="The desk refused the ticket: unknown assignment group 'Licences'.",
                remedy="Correct the assignment group of the desk's connection, then send the question again.",
                failed_at=at(9, 6),
            ),
        ),
    ),
    DecisionReceived: (
        Example(
            id="019a4471-6004-7000-8000-000000000001",
            source="approvals",
            time=at(10, 0, 1),
            traceparent=TRACE,
            event=DecisionReceived(
                case_id=CASE,
                decision="revoke",
                channel="email",
                actor="ana.lima@example.com",
                reason='Left the team; "free it", she said.',
                decided_at=at(10),
                ip="203.0.113.7",
                user_agent="Mozilla/5.0 (X11; Linux x86_64)",
            ),
        ),
        Example(
            id="019a4471-6004-7000-8000-000000000002",
            source="itsm-gateway",
            time=at(10, 0, 2),
            event=DecisionReceived(
                case_id=OTHER_CASE, decision="keep", channel="itsm", actor="RITM0012345", reason="", decided_at=at(10)
            ),
        ),
    ),
    UserFrozen: (
        Example(
            id="019a4471-6005-7000-8000-000000000001",
            source="lifecycle",
            time=at(10, 1, 1),
            traceparent=TRACE,
            event=UserFrozen(
                case_id=CASE,
                seat=FULL_SEAT,
                decision="revoke",
                frozen_at=at(10, 1),
                grace_ends_at=at(10, 1) + timedelta(days=14),
                dry_run=False,
            ),
        ),
        Example(
            id="019a4471-6005-7000-8000-000000000002",
            source="lifecycle",
            time=at(10, 1, 2),
            event=UserFrozen(
                case_id=OTHER_CASE,
                seat=BARE_SEAT,
                decision="timeout",
                frozen_at=at(10, 1),
                grace_ends_at=at(10, 1) + timedelta(days=30),
                dry_run=True,
            ),
        ),
    ),
    UserRestored: (
        Example(
            id="019a4471-6006-7000-8000-000000000001",
            source="lifecycle",
            time=at(11, 0, 1),
            traceparent=TRACE,
            event=UserRestored(
                case_id=CASE,
                seat=FULL_SEAT,
                actor="zoe.mueller@example.com",
                reason="Back from parental leave.",
                restored_at=at(11),
                dry_run=False,
            ),
        ),
        Example(
            id="019a4471-6006-7000-8000-000000000002",
            source="lifecycle",
            time=at(11, 0, 2),
            event=UserRestored(
                case_id=OTHER_CASE, seat=BARE_SEAT, actor="operator", reason="", restored_at=at(11), dry_run=True
            ),
        ),
    ),
    FulfilmentRequested: (
        Example(
            id="019a4471-600b-7000-8000-000000000001",
            source="lifecycle",
            time=at(11, 30, 1),
            traceparent=TRACE,
            event=FulfilmentRequested(
                case_id=CASE,
                seat=FULL_SEAT,
                rule_id=FULL_POLICY.rule_id,
                rule_name=FULL_POLICY.rule_name,
                method="downgrade",
                instructions="Move Zoë Müller-Ōtsuka from Sales Cloud Enterprise to Platform Login.",
                requested_at=at(11, 30),
                dry_run=False,
                downgrade_to=CheaperLicence(
                    product="platform-login",
                    product_name="Platform Login",
                    price=Money(amount=Decimal("175.00"), currency="EUR"),
                    profile="Standard Platform User",
                ),
            ),
        ),
        Example(
            id="019a4471-600b-7000-8000-000000000002",
            source="lifecycle",
            time=at(11, 30, 1),
            event=FulfilmentRequested(
                case_id=OTHER_CASE,
                seat=BARE_SEAT,
                rule_id=BARE_POLICY.rule_id,
                rule_name=BARE_POLICY.rule_name,
                method="deactivate",
                instructions="Take the seat of Integration Probe in Platform Login back.",
                requested_at=at(11, 30),
                dry_run=True,
            ),
        ),
    ),
    FulfilmentAnnounced: (
        Example(
            id="019a4471-600e-7000-8000-000000000001",
            source="lifecycle",
            time=at(11, 31, 1),
            traceparent=TRACE,
            event=FulfilmentAnnounced(
                case_id=CASE,
                seat=FULL_SEAT,
                decision="downgrade",
                announced_at=at(11, 31),
                grace_ends_at=at(11, 59),
                dry_run=False,
                downgrade_to=CheaperLicence(
                    product="platform-login",
                    product_name="Platform Login",
                    price=Money(amount=Decimal("175.00"), currency="EUR"),
                    profile="Standard Platform User",
                ),
            ),
        ),
        Example(
            id="019a4471-600e-7000-8000-000000000002",
            source="lifecycle",
            time=at(11, 31, 1),
            event=FulfilmentAnnounced(
                case_id=OTHER_CASE,
                seat=BARE_SEAT,
                decision="timeout",
                announced_at=at(11, 31),
                grace_ends_at=at(11, 59),
                dry_run=True,
            ),
        ),
    ),
    TicketUndecided: (
        Example(
            id="019a4471-600f-7000-8000-000000000001",
            source="itsm-gateway",
            time=at(11, 32, 1),
            traceparent=TRACE,
            event=TicketUndecided(
                case_id=CASE,
                reason="Ticket INC0010001 was closed without an answer.",
                remedy="Decide on the case's page, or have the ticket answered.",
                noticed_at=at(11, 32),
            ),
        ),
    ),
    FulfilmentReported: (
        Example(
            id="019a4471-600d-7000-8000-000000000001",
            source="itsm-gateway",
            time=at(11, 45, 1),
            traceparent=TRACE,
            event=FulfilmentReported(
                case_id=CASE,
                done=True,
                channel="itsm",
                actor="zoe.mueller@example.com",
                note="Ticket INC0001234",
                reported_at=at(11, 45),
            ),
        ),
        Example(
            id="019a4471-600d-7000-8000-000000000002",
            source="itsm-gateway",
            time=at(11, 45, 1),
            event=FulfilmentReported(
                case_id=OTHER_CASE, done=False, channel="console", actor="operator", note="", reported_at=at(11, 45)
            ),
        ),
    ),
    SeatReclaimed: (
        Example(
            id="019a4471-6007-7000-8000-000000000001",
            source="lifecycle",
            time=at(12, 0, 1),
            traceparent=TRACE,
            event=SeatReclaimed(
                case_id=CASE,
                seat=FULL_SEAT,
                rule_id=FULL_POLICY.rule_id,
                rule_name=FULL_POLICY.rule_name,
                method="deactivate",
                records_transferred=12,
                reclaimed_at=at(12),
                dry_run=False,
            ),
        ),
        Example(
            id="019a4471-6007-7000-8000-000000000002",
            source="lifecycle",
            time=at(12, 0, 2),
            event=SeatReclaimed(
                case_id=OTHER_CASE,
                seat=BARE_SEAT,
                rule_id=BARE_POLICY.rule_id,
                rule_name=BARE_POLICY.rule_name,
                method="downgrade",
                records_transferred=0,
                reclaimed_at=at(12),
                dry_run=True,
            ),
        ),
    ),
    SeatReactivated: (
        Example(
            id="019a4471-6008-7000-8000-000000000001",
            source="lifecycle",
            time=at(13, 0, 1),
            traceparent=TRACE,
            event=SeatReactivated(
                case_id=CASE,
                seat=FULL_SEAT,
                rule_id=FULL_POLICY.rule_id,
                rule_name=FULL_POLICY.rule_name,
                actor="maria.ops",
                reason="Moved to the key accounts team.",
                reactivated_at=at(13),
                dry_run=False,
            ),
        ),
        Example(
            id="019a4471-6008-7000-8000-000000000002",
            source="lifecycle",
            time=at(13, 0, 2),
            event=SeatReactivated(
                case_id=OTHER_CASE,
                seat=BARE_SEAT,
                rule_id=BARE_POLICY.rule_id,
                rule_name=BARE_POLICY.rule_name,
                actor="maria.ops",
                reason="",
                reactivated_at=at(13),
                dry_run=True,
            ),
        ),
    ),
    CaseClosed: (
        Example(
            id="019a4471-6009-7000-8000-000000000001",
            source="lifecycle",
            time=at(14, 0, 1),
            traceparent=TRACE,
            event=CaseClosed(case_id=CASE, outcome="reclaimed", reason="The seat is free.", closed_at=at(14)),
        ),
    ),
    AttentionRaised: (
        Example(
            id="019a4471-600a-7000-8000-000000000001",
            source="lifecycle",
            time=at(15, 0, 1),
            traceparent=TRACE,
            event=AttentionRaised(
                case_id=CASE,
                seat=FULL_SEAT,
                reason="Salesforce refused the freeze: FIELD_INTEGRITY_EXCEPTION.",
                remedy="Look at the user in Salesforce, then try the step again or close the case.",
                raised_at=at(15),
            ),
        ),
        Example(
            id="019a4471-600a-7000-8000-000000000002",
            source="lifecycle",
            time=at(15, 0, 2),
            event=AttentionRaised(case_id=OTHER_CASE, seat=BARE_SEAT, reason="", remedy="", raised_at=at(15)),
        ),
    ),
    PagesServed: (
        Example(
            id="019a4471-60f0-7000-8000-000000000001",
            source="approvals",
            time=at(15, 0, 1),
            traceparent=TRACE,
            event=PagesServed(since=at(2), until=at(15), beat=1_763_193_600_000),
        ),
    ),
    ConnectionChanged: (
        Example(
            id="019a4471-600b-7000-8000-000000000001",
            source="scanner",
            time=at(8, 0, 1),
            traceparent=TRACE,
            event=ConnectionChanged(
                connection_id="salesforce-emea",
                name="Salesforce EMEA",
                kind="salesforce",
                settings={"login_url": "https://login.salesforce.com", "api_version": "62.0"},
                credentials="gAAAAABpBx8A-sealed-text-that-only-the-installation-can-open==",
                version=3,
                removed=True,
            ),
        ),
        Example(
            id="019a4471-600b-7000-8000-000000000002",
            source="scanner",
            time=at(8, 0, 2),
            event=ConnectionChanged(
                connection_id="org-2", name="Second org", kind="salesforce", settings={}, credentials="", version=1
            ),
        ),
    ),
    DeskChanged: (
        Example(
            id="019a4471-6010-7000-8000-000000000001",
            source="itsm-gateway",
            time=at(8, 10, 1),
            traceparent=TRACE,
            event=DeskChanged(desk_id="jira-emea", platform="jira", asks=False, version=3, removed=True),
        ),
        Example(
            id="019a4471-6010-7000-8000-000000000002",
            source="itsm-gateway",
            time=at(8, 10, 2),
            event=DeskChanged(desk_id="servicenow", platform="servicenow", asks=True, version=1),
        ),
    ),
}
