"""When an unanswered question is put again."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "approvals_0002"
down_revision = "approvals_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("remind_at", UtcDateTime))
    waits = sa.text("remind_at IS NOT NULL")
    op.create_index("requests_remind_at", "requests", ["remind_at"], sqlite_where=waits, postgresql_where=waits)
