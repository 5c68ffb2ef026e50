"""What has happened to a request so far, as a page shows it."""

from __future__ import annotations

from reclaim.approvals import letters
from reclaim.approvals.domain import Request
from reclaim.web.pages import TimelineEntry


def history(request: Request, *, holder: bool = False) -> list[TimelineEntry]:
    """Return the steps in the order in which they happened.

    The holder is not shown what the manager wrote, nor who it was.
    """
    entries: list[TimelineEntry] = []
    if request.delivered_at:
        asked = request.approver.name if request.approver and not holder else None
        entries.append(TimelineEntry(request.delivered_at, "Manager asked by mail", asked))
    if request.ask_failed_at and request.status == "open":
        entries.append(
            TimelineEntry(request.ask_failed_at, "Nobody could be asked", None, request.ask_failure, tone="bad")
        )
    if request.decided_at:
        title = "Decided: keep" if request.decision == "keep" else "Decided: revoke"
        who, why = (None, None) if holder else (request.decided_by, request.justification or None)
        entries.append(TimelineEntry(request.decided_at, title, who, why, tone="good"))
    if request.frozen_at:
        why = "nobody answered in time" if request.frozen_because == "timeout" else None
        entries.append(TimelineEntry(request.frozen_at, "Account frozen", None, why, tone="notice"))
    if request.appealed_at:
        own = not holder or request.appealed_by == request.holder_address
        who, why = (request.appealed_by, request.appeal_reason or None) if own else (None, None)
        entries.append(TimelineEntry(request.appealed_at, "Asked for back", who, why, tone="notice"))
    if request.restored_at:
        entries.append(TimelineEntry(request.restored_at, "Freeze undone", request.restored_by, tone="good"))
    if request.reclaimed_at:
        records = request.records_transferred or 0
        detail = f"{records:,} open records handed over" if records else None
        entries.append(TimelineEntry(request.reclaimed_at, "Seat freed", None, detail, tone="good"))
    if request.reactivated_at:
        entries.append(TimelineEntry(request.reactivated_at, "Seat given back", request.reactivated_by, tone="notice"))
    if request.closed_at:
        entries.append(TimelineEntry(request.closed_at, "Case ended", None, _sentence(letters.how_closed(request))))
    return sorted(entries, key=lambda entry: entry.at)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
