"""Requests, their timelines, and the ledger of webhooks."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import BigKey, UtcDateTime
from reclaim.common.migrate import create_messaging_tables

revision = "itsm_gateway_0001"
down_revision = None


def upgrade() -> None:
    create_messaging_tables()
    op.create_table(
        "case_route",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("through_the_desk", sa.Boolean, nullable=False),
    )
    op.create_table(
        "ticket_request",
        sa.Column("number", BigKey, primary_key=True, autoincrement=True),
        sa.Column("case_id", sa.Text, nullable=False, unique=True),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("product", sa.Text, nullable=False),
        sa.Column("product_name", sa.Text, nullable=False),
        sa.Column("holder_name", sa.Text, nullable=False),
        sa.Column("holder_email", sa.Text),
        sa.Column("department", sa.Text),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("rule_name", sa.Text, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("flagged_at", UtcDateTime, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("failure", sa.Text),
    )
    op.create_table(
        "ticket_step",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("case_id", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("ix_ticket_step_case_id", "ticket_step", ["case_id"])
    op.create_table(
        "webhook_ledger",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("webhook_id", sa.Text, primary_key=True),
        sa.Column("received", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_webhook_ledger_received", "webhook_ledger", ["received"])
