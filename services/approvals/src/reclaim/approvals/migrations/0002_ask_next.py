"""Who is being asked, and when an unanswered question is put again or to the next one."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "approvals_0002"
down_revision = "approvals_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("ask_next_at", UtcDateTime))
    op.add_column("requests", sa.Column("asking", sa.Text, nullable=False, server_default="manager"))
    waits = sa.text("ask_next_at IS NOT NULL")
    op.create_index("requests_ask_next_at", "requests", ["ask_next_at"], sqlite_where=waits, postgresql_where=waits)
