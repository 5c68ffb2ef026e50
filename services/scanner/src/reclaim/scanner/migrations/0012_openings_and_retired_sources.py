"""Suites' cases that merges wait for, sources that somebody retired, and users of whom nobody knows a seat."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime

revision = "scanner_0012"
down_revision = "scanner_0011"


def upgrade() -> None:
    op.create_table(
        "openings",
        sa.Column("rule_id", sa.Text, primary_key=True),
        sa.Column("suite", sa.Text, primary_key=True),
        sa.Column("holder_id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("cases", Json, nullable=False),
    )
    op.create_table(
        "retired_sources",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("retired_at", UtcDateTime, nullable=False),
        sa.Column("retired_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "unmatched_users",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("user_key", sa.Text, primary_key=True),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", UtcDateTime),
        sa.Column("counted_at", UtcDateTime, nullable=False),
    )
    op.add_column("scan_runs", sa.Column("suites", Json, nullable=False, server_default="[]"))
    op.create_index("openings_holder", "openings", ["holder_id"])
