"""The register of seats, and who works for whom."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Amount, UtcDateTime

revision = "scanner_0005"
down_revision = "scanner_0004"


def upgrade() -> None:
    op.create_table(
        "known_seats",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("holder_id", sa.Text, primary_key=True),
        sa.Column("device_id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("product_name", sa.Text, nullable=False),
        sa.Column("holder_name", sa.Text, nullable=False),
        sa.Column("holder_email", sa.Text),
        sa.Column("holder_key", sa.Text, nullable=False),
        sa.Column("email_key", sa.Text),
        sa.Column("department", sa.Text),
        sa.Column("account_type", sa.Text),
        sa.Column("active", sa.Boolean),
        sa.Column("account_created_at", UtcDateTime),
        sa.Column("manager_id", sa.Text),
        sa.Column("manager_name", sa.Text),
        sa.Column("manager_email", sa.Text),
        sa.Column("price", Amount),
        sa.Column("currency", sa.Text),
        sa.Column("granted_at", UtcDateTime),
        sa.Column("version", sa.Text),
        sa.Column("device_name", sa.Text),
        sa.Column("device_platform", sa.Text),
        sa.Column("last_used_at", UtcDateTime),
        sa.Column("first_seen_at", UtcDateTime, nullable=False),
        sa.Column("last_seen_at", UtcDateTime, nullable=False),
    )
    op.create_index("known_seats_holder_key", "known_seats", ["holder_key"])
    op.create_index("known_seats_email_key", "known_seats", ["email_key"])
    op.create_table(
        "people",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("email", sa.Text),
        sa.Column("manager_known", sa.Boolean, nullable=False),
        sa.Column("manager_id", sa.Text),
        sa.Column("groups_known", sa.Boolean, nullable=False),
    )
    op.create_index("people_manager", "people", ["connection_id", "manager_id"])
    op.create_table(
        "memberships",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("person_id", sa.Text, primary_key=True),
        sa.Column("group_name", sa.Text, primary_key=True),
    )
