"""Who gave a rule its status, and when: activating one is a person's decision."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "scanner_0003"
down_revision = "scanner_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rules", sa.Column("moved_by", sa.Text))
    op.add_column("rules", sa.Column("moved_at", UtcDateTime))
