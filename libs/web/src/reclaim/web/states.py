"""Which colour a state has on every page: `good`, `notice` (a person is asked), `bad`, `busy` or `neutral`."""

from __future__ import annotations

from typing import Final

TONES: Final[dict[str, tuple[str, ...]]] = {
    "good": (
        "active", "approved", "connected", "delivered", "healthy", "kept", "ok", "pass", "reclaimed", "restored",
        "succeeded", "verified",
    ),
    "notice": (
        "appealed", "awaiting_decision", "awaiting_fulfilment", "draft", "flagged", "needs_review", "paused", "warn",
    ),
    "bad": ("attention", "bounced", "error", "failed", "parked", "revoke", "stopped", "unreachable"),
    "busy": (
        "announced", "deactivating", "downgrading", "freezing", "frozen", "in_grace", "pending", "queued", "reclaiming",
        "restoring", "running", "sending",
    ),
}  # fmt: skip
_BY_STATE: Final = {state: tone for tone, states in TONES.items() for state in states}


def tone_of(state: str) -> str:
    """Return the tone of a state; one that has none of its own is `neutral`."""
    return _BY_STATE.get(state.lower().replace("-", "_").replace(" ", "_"), "neutral")
