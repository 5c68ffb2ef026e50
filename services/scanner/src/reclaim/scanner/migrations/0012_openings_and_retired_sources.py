"""Suites' cases that merges wait for, and the sources that somebody retired."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json

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
    op.add_column("scan_runs", sa.Column("suites", Json, nullable=False, server_default="[]"))
    op.create_index("openings_holder", "openings", ["holder_id"])
