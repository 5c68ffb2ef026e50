"""What was said of each desk: of those that are connected already nothing was, and it is said after the start."""

import sqlalchemy as sa
from alembic import op

revision = "itsm_gateway_0010"
down_revision = "itsm_gateway_0009"


def upgrade() -> None:
    op.create_table(
        "desk_told",
        sa.Column("desk_id", sa.Text, primary_key=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("asks", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("removed", sa.Boolean, nullable=False),
    )
