"""What is set aside names its case, and is found by it when the case begins."""

from reclaim.common.migrate import add_case_of_set_aside

revision = "lifecycle_0010"
down_revision = "lifecycle_0009"


def upgrade() -> None:
    add_case_of_set_aside()
