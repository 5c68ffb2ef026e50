"""Tickets of tasks beside those of questions, whether a ticket was closed, and set-ups that are under way."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "itsm_gateway_0004"
down_revision = "itsm_gateway_0003"


def upgrade() -> None:
    op.execute("ALTER TABLE ticket RENAME COLUMN case_id TO reference")
    op.add_column("ticket", sa.Column("case_id", sa.Text, nullable=False, server_default=""))
    op.add_column("ticket", sa.Column("kind", sa.Text, nullable=False, server_default="question"))
    op.add_column("ticket", sa.Column("closed_since", sa.BigInteger))
    op.execute("UPDATE ticket SET case_id = reference")
    # When it was closed is not known; long enough ago for whoever opens it now to mean it.
    op.execute("UPDATE ticket SET closed_since = 0 WHERE state = 'closed'")
    op.create_index("ix_ticket_case_id", "ticket", ["case_id"])

    op.execute("ALTER TABLE ticket_word RENAME COLUMN case_id TO reference")
    op.drop_index("ix_ticket_word_case_id", "ticket_word")
    op.create_index("ix_ticket_word_reference", "ticket_word", ["reference"])
    op.add_column("ticket_word", sa.Column("act", sa.Text, nullable=False, server_default="comment"))
    op.execute("UPDATE ticket_word SET act = 'end' WHERE closes")
    op.drop_column("ticket_word", "closes")

    op.add_column("webhook_delivery", sa.Column("kind", sa.Text, nullable=False, server_default="question"))

    op.create_table(
        "desk_setup",
        sa.Column("desk_id", sa.Text, primary_key=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("fields", sa.Text),
        sa.Column("results", sa.Text),
        sa.Column("tested_at", UtcDateTime),
        sa.Column("trial", sa.Text),
        sa.Column("trial_at", UtcDateTime),
        sa.Column("listening_at", UtcDateTime),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
    )
