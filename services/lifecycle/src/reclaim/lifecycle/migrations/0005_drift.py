"""What the daily comparison with the connected systems finds, and when it is due."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "lifecycle_0005"
down_revision = "lifecycle_0004"


def upgrade() -> None:
    op.create_table(
        "drift",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("holder_name", sa.Text, nullable=False),
        sa.Column("product_name", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("remedy", sa.Text, nullable=False),
        sa.Column("found_at", UtcDateTime, nullable=False),
        sa.Column("cleared_at", UtcDateTime),
    )
    op.create_table(
        "drift_run",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.Column("compared_at", UtcDateTime),
        sa.Column("compared", sa.Integer, nullable=False),
        sa.Column("trouble", sa.Text, nullable=False),
    )
