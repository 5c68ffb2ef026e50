"""What is installed where, news of use to look at, and what a scan says about sources of use."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime

revision = "scanner_0007"
down_revision = "scanner_0006"


def upgrade() -> None:
    op.create_table(
        "installations",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("holder_key", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
        sa.Column("installed_at", UtcDateTime),
        sa.Column("first_seen_at", UtcDateTime, nullable=False),
        sa.Column("heard_at", UtcDateTime, nullable=False),
    )
    op.create_index("installations_holder", "installations", ["holder_key", "product"])
    op.create_table(
        "inventories",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("heard_at", UtcDateTime, nullable=False),
        sa.Column("silence_seconds", sa.Integer, nullable=False),
    )
    op.create_table(
        "usage_news",
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("heard_at", UtcDateTime, nullable=False),
    )
    op.add_column("scan_runs", sa.Column("stale", Json, nullable=False, server_default="[]"))
    op.add_column("candidates", sa.Column("devices", Json, nullable=False, server_default="[]"))
