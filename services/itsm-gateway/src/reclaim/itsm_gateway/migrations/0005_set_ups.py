"""Each set-up has a test ticket of its own, and the webhook that it waits for is found without reading them all."""

import sqlalchemy as sa
from alembic import op

revision = "itsm_gateway_0005"
down_revision = "itsm_gateway_0004"


def upgrade() -> None:
    # One that is under way goes on with the ticket that it has opened.
    op.add_column("desk_setup", sa.Column("token", sa.Text, nullable=False, server_default=""))
    op.create_index("ix_webhook_delivery_received", "webhook_delivery", ["connection_id", "received_at"])
