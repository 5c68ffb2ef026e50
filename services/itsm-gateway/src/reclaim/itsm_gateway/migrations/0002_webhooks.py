"""Secrets of webhooks, and what came by them."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import BigKey, UtcDateTime

revision = "itsm_gateway_0002"
down_revision = "itsm_gateway_0001"


def upgrade() -> None:
    op.create_table(
        "webhook_secret",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.UniqueConstraint("connection_id", "slot", name="uq_webhook_secret_slot"),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("number", BigKey, primary_key=True, autoincrement=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("webhook_id", sa.Text, nullable=False),
        sa.Column("secret_id", sa.Text),
        sa.Column("case_id", sa.Text),
        sa.Column("ticket", sa.Text),
        sa.Column("says", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("body_hash", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("settled_at", UtcDateTime),
        sa.Column("replayed_by", sa.Text),
    )
    op.create_index("ix_webhook_delivery_state", "webhook_delivery", ["state", "due"])
    op.create_index("ix_webhook_delivery_case_id", "webhook_delivery", ["case_id"])
