"""Limits by the number they were set under: the clocks of two hosts do not say which came last."""

import sqlalchemy as sa
from alembic import op

revision = "lifecycle_0008"
down_revision = "lifecycle_0007"


def upgrade() -> None:
    op.add_column("brake_limit", sa.Column("number", sa.Integer))
    op.execute(
        "UPDATE brake_limit SET number = (SELECT count(*) FROM brake_limit AS other "
        "WHERE other.connection_id = brake_limit.connection_id AND other.id <= brake_limit.id)"
    )
    with op.batch_alter_table("brake_limit") as table:
        table.alter_column("number", existing_type=sa.Integer, nullable=False)
        table.drop_index("ix_brake_limit_connection_id")
        table.create_index("brake_limit_number", ["connection_id", "number"], unique=True)
