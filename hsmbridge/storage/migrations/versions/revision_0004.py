"""PINs of PKCS#11 applications, and how many wrong ones were given."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "pins",
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("initialized", sa.BigInteger, nullable=False),
        sa.Column("so_digest", sa.LargeBinary, nullable=False),
        sa.Column("so_wrong", sa.Integer, nullable=False),
        sa.Column("so_until", sa.BigInteger, nullable=False),
        sa.Column("user_digest", sa.LargeBinary, nullable=False),
        sa.Column("user_wrong", sa.Integer, nullable=False),
        sa.Column("user_until", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("principal", "token", name="pk_pins"),
    )
