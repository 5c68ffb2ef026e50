"""What has happened to a request so far, as a page shows it."""

from __future__ import annotations

from reclaim.approvals import letters
from reclaim.approvals.domain import Request
from reclaim.web.pages import TimelineEntry


def history(request: Request) -> list[TimelineEntry]:
    """Return the steps in the order in which they happened."""
    entries: list[TimelineEntry] = []
    if request.delivered_at:
        asked = request.approver.name if request.approver else None
        entries.append(TimelineEntry(request.delivered_at, "Manager asked by mail", asked))
    if request.ask_failed_at and request.status == "open":
        entries.append(
            TimelineEntry(request.ask_failed_at, "Nobody could be asked", None, request.ask_failure, tone="bad")
        )
    if request.decided_at:
        title = "Decided: keep" if request.decision == "keep" else "Decided: revoke"
        entries.append(
            TimelineEntry(request.decided_at, title, request.decided_by, request.justification or None, tone="good")
        )
    if request.frozen_at:
        why = "nobody answered in time" if request.frozen_because == "timeout" else None
        entries.append(TimelineEntry(request.frozen_at, "Account frozen", None, why, tone="notice"))
    if request.appealed_at:
        entries.append(
            TimelineEntry(
                request.appealed_at, "Asked for back", request.appealed_by, request.appeal_reason or None, tone="notice"
            )
        )
    if request.restored_at:
        entries.append(TimelineEntry(request.restored_at, "Freeze undone", request.restored_by, tone="good"))
    if request.reclaimed_at:
        records = request.records_transferred or 0
        detail = f"{records:,} open records handed over" if records else None
        entries.append(TimelineEntry(request.reclaimed_at, "Seat freed", None, detail, tone="good"))
    if request.reactivated_at:
        entries.append(TimelineEntry(request.reactivated_at, "Seat given back", request.reactivated_by, tone="notice"))
    if request.closed_at:
        entries.append(TimelineEntry(request.closed_at, "Case ended", None, letters.how_closed(request)))
    return sorted(entries, key=lambda entry: entry.at)
