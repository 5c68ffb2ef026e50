"""Service desks, the tickets that were opened on them, and what those are told."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import BigKey, UtcDateTime

revision = "itsm_gateway_0003"
down_revision = "itsm_gateway_0002"


def upgrade() -> None:
    op.create_table(
        "desk",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("credentials", sa.Text, nullable=False),
        sa.Column("decisions", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("fields", sa.Text, nullable=False),
        sa.Column("asks", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
    )
    op.create_table(
        "ticket",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("desk_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("values", sa.Text, nullable=False),
        sa.Column("requester_email", sa.Text),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("flagged_at", UtcDateTime, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("number", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("says", sa.Text),
        sa.Column("failure", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_ticket_state", "ticket", ["state", "due"])
    op.create_table(
        "ticket_word",
        sa.Column("number", BigKey, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("case_id", sa.Text, nullable=False),
        sa.Column("closes", sa.Boolean, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_ticket_word_state", "ticket_word", ["state", "due"])
    op.create_index("ix_ticket_word_case_id", "ticket_word", ["case_id"])
