"""What is set aside names its case, and is found by it when the case begins."""

from reclaim.common.migrate import add_case_of_set_aside

revision = "itsm_gateway_0009"
down_revision = "itsm_gateway_0008"


def upgrade() -> None:
    add_case_of_set_aside()
