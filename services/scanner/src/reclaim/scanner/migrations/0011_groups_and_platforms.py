"""Who is in a group is kept by group, installations know their platform, and excluded departments are called that."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "scanner_0011"
down_revision = "scanner_0010"


def upgrade() -> None:
    op.create_table(
        "groups",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("read_at", UtcDateTime, nullable=False),
        sa.Column("whole", sa.Boolean, nullable=False),
    )
    op.drop_column("people", "groups_known")
    op.add_column("installations", sa.Column("platform", sa.Text))
    # Until now what was called a group was a department.
    op.execute("UPDATE exclusions SET kind = 'department' WHERE kind = 'group'")
