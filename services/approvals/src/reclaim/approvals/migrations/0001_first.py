"""Requests, where their answers came from, and mails."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime
from reclaim.common.migrate import create_messaging_tables

revision = "approvals_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_messaging_tables()
    op.create_table(
        "requests",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("seat", Json, nullable=False),
        sa.Column("policy", Json, nullable=False),
        sa.Column("findings", Json, nullable=False),
        sa.Column("approver", Json, nullable=False),
        sa.Column("search", sa.Text, nullable=False),
        sa.Column("last_used_at", UtcDateTime),
        sa.Column("flagged_at", UtcDateTime, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("appeal_epoch", sa.Integer, nullable=False),
        sa.Column("delivered_at", UtcDateTime),
        sa.Column("renewed_at", UtcDateTime),
        sa.Column("ask_failed_at", UtcDateTime),
        sa.Column("ask_failure", sa.Text),
        sa.Column("decision", sa.Text),
        sa.Column("decided_at", UtcDateTime),
        sa.Column("decided_by", sa.Text),
        sa.Column("justification", sa.Text, nullable=False),
        sa.Column("decided_link", sa.Text),
        sa.Column("frozen_at", UtcDateTime),
        sa.Column("frozen_because", sa.Text),
        sa.Column("grace_ends_at", UtcDateTime),
        sa.Column("appealed_at", UtcDateTime),
        sa.Column("appealed_by", sa.Text),
        sa.Column("appeal_reason", sa.Text, nullable=False),
        sa.Column("appeal_link", sa.Text),
        sa.Column("restored_at", UtcDateTime),
        sa.Column("restored_by", sa.Text),
        sa.Column("reclaimed_at", UtcDateTime),
        sa.Column("records_transferred", sa.Integer),
        sa.Column("reactivated_at", UtcDateTime),
        sa.Column("reactivated_by", sa.Text),
        sa.Column("closed_at", UtcDateTime),
        sa.Column("outcome", sa.Text),
        sa.Column("closed_reason", sa.Text),
    )
    op.create_index("requests_status", "requests", ["status", "case_id"])
    op.create_table(
        "decision_origins",
        sa.Column("case_id", sa.Text, sa.ForeignKey("requests.case_id"), primary_key=True),
        sa.Column("purpose", sa.Text, primary_key=True),
        sa.Column("ip", sa.Text),
        sa.Column("user_agent", sa.Text),
        sa.Column("recorded_at", UtcDateTime, nullable=False),
    )
    op.create_index("ix_decision_origins_recorded_at", "decision_origins", ["recorded_at"])
    op.create_table(
        "mails",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("once", sa.Text, nullable=False, unique=True),
        sa.Column("case_id", sa.Text, sa.ForeignKey("requests.case_id"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("audience", sa.Text, nullable=False),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("recipient_name", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("jti", sa.Text, nullable=False),
        sa.Column("details", Json, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
    )
    op.create_index("ix_mails_case_id", "mails", ["case_id"])
    op.create_index("mails_status", "mails", ["status", "due"])


def downgrade() -> None:
    for table in ("mails", "decision_origins", "requests", "set_aside", "inbox", "outbox"):
        op.drop_table(table)
