"""What sources report about use, and what they have reported."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime

revision = "scanner_0006"
down_revision = "scanner_0005"


def upgrade() -> None:
    op.create_table(
        "usage_records",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("user_key", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("channel", sa.Text, primary_key=True),
        sa.Column("period_start", UtcDateTime, primary_key=True),
        sa.Column("period_end", UtcDateTime, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("seconds", sa.BigInteger),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("session", sa.Boolean, nullable=False),
        sa.Column("last_used_from", UtcDateTime),
        sa.Column("last_used_by", UtcDateTime),
        sa.Column("heard_at", UtcDateTime, nullable=False),
    )
    op.create_index("usage_records_user", "usage_records", ["product", "user_key"])
    op.create_index("usage_records_device", "usage_records", ["product", "device"])
    op.create_table(
        "usage_reports",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("period_start", UtcDateTime, primary_key=True),
        sa.Column("period_end", UtcDateTime, nullable=False),
        sa.Column("heard_at", UtcDateTime, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.Column("channels", Json, nullable=False),
        sa.Column("timed", sa.Boolean, nullable=False),
        sa.Column("anonymised", sa.Boolean, nullable=False),
        sa.Column("late_seconds", sa.Integer, nullable=False),
        sa.Column("silence_seconds", sa.Integer, nullable=False),
    )
