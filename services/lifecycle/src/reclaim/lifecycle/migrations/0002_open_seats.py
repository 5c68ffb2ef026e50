"""Open seats in a table of their own, so that a case changes without touching an index."""

import sqlalchemy as sa
from alembic import op

revision = "lifecycle_0002"
down_revision = "lifecycle_0001"


def upgrade() -> None:
    op.create_table(
        "open_seat",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("holder_id", sa.Text, nullable=False),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("product", sa.Text, nullable=False),
    )
    op.create_index("open_seat_once", "open_seat", ["holder_id", "connection_id", "product"], unique=True)
    op.execute(
        "INSERT INTO open_seat (case_id, holder_id, connection_id, product) "
        "SELECT id, holder_id, connection_id, product FROM reclaim_case WHERE open"
    )
    op.drop_index("case_open_seat", "reclaim_case")
    op.drop_index("case_state", "reclaim_case")
    op.drop_column("reclaim_case", "open")
    op.create_index("case_flagged", "reclaim_case", ["flagged_at", "id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE reclaim_case SET (fillfactor = 50)")
