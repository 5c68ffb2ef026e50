"""What was taken back for an exclusion is known, so that it is not said again with every scan."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "scanner_0016"
down_revision = "scanner_0015"


def upgrade() -> None:
    op.create_table(
        "takebacks",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("said_at", UtcDateTime, nullable=False),
    )
