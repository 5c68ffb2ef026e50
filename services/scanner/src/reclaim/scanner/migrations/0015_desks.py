"""The service desks that a rule may name, as the gateway tells of them."""

import sqlalchemy as sa
from alembic import op

revision = "scanner_0015"
down_revision = "scanner_0014"


def upgrade() -> None:
    op.create_table(
        "desks",
        sa.Column("desk_id", sa.Text, primary_key=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("asks", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("removed", sa.Boolean, nullable=False),
    )
