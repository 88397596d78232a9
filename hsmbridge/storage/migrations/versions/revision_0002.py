"""Certificates, trust stores and CRLs, with what they hold and who may use them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "certificates",
        sa.Column("id", sa.LargeBinary, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("slot_id", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("creator", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_certificates"),
        sa.UniqueConstraint("kind", "namespace", "name", name="uq_certificates_kind_namespace_name"),
    )
    op.create_table(
        "certificate_items",
        sa.Column("certificate_id", sa.LargeBinary, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", "position", name="pk_certificate_items"),
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"], name="fk_certificate_items_certificate_id"),
    )
    op.create_table(
        "certificate_access",
        sa.Column("certificate_id", sa.LargeBinary, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", "principal", name="pk_certificate_access"),
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"], name="fk_certificate_access_certificate_id"),
    )
    op.create_index("ix_certificate_access_principal", "certificate_access", ["principal"])
