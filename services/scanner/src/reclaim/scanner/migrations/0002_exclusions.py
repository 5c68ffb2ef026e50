"""Seats that people want left alone."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "scanner_0002"
down_revision = "scanner_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "exclusions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("connection_id", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("ended_by", sa.Text),
    )
    in_force = sa.text("ended_at IS NULL")
    op.create_index(
        "exclusions_in_force", "exclusions", ["created_at"], sqlite_where=in_force, postgresql_where=in_force
    )
