"""What applications keep with a slot: the attributes that a PKCS#11 application gives its keys."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; null is none."""
    op.add_column("slots", sa.Column("attributes", sa.LargeBinary))
