"""Since when the pages have been up without a break, and when that was noted last."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "approvals_0004"
down_revision = "approvals_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pulse",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("since", UtcDateTime, nullable=False),
        sa.Column("until", UtcDateTime, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("told", sa.BigInteger, nullable=False),
    )
