"""The first schema: the store's master key, slots, versions, access lists, nonces."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "store",
        sa.Column("id", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("store_id", sa.LargeBinary, nullable=False),
        sa.Column("protector", sa.Text, nullable=False),
        sa.Column("protected_key", sa.LargeBinary, nullable=False),
        sa.Column("check_value", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_store"),
    )
    _slots()
    _versions()
    op.create_table(
        "access",
        sa.Column("slot_id", sa.LargeBinary, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("permissions", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("slot_id", "principal", name="pk_access"),
        sa.ForeignKeyConstraint(["slot_id"], ["slots.id"], name="fk_access_slot_id"),
    )
    op.create_index("ix_access_principal", "access", ["principal"])
    op.create_table(
        "nonce_leases",
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("leased", sa.BigInteger, nullable=False),
        sa.Column("remembered", sa.BigInteger, nullable=False),
        sa.Column("greatest", sa.LargeBinary, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_nonce_leases"),
    )
    op.create_table(
        "caller_nonces",
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "nonce", name="pk_caller_nonces"),
    )


def _slots() -> None:
    op.create_table(
        "slots",
        sa.Column("id", sa.LargeBinary, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("key_type", sa.Text, nullable=False),
        sa.Column("providers", sa.Text, nullable=False),
        sa.Column("permissions", sa.BigInteger, nullable=False),
        sa.Column("algorithms", sa.Text, nullable=False),
        sa.Column("nonce_policy", sa.Text, nullable=False),
        sa.Column("fallback", sa.SmallInteger, nullable=False),
        sa.Column("sign_and_decrypt", sa.SmallInteger, nullable=False),
        sa.Column("derive_to_software", sa.SmallInteger, nullable=False),
        sa.Column("imported_wrapping_key", sa.SmallInteger, nullable=False),
        sa.Column("creator", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_slots"),
    )
    not_destroyed = sa.text("state != 'destroyed'")
    op.create_index(
        "uq_slots_live_name",
        "slots",
        ["namespace", "name"],
        unique=True,
        sqlite_where=not_destroyed,
        postgresql_where=not_destroyed,
    )


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("slot_id", sa.LargeBinary, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("fell_back_from", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("permissions", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("reference", sa.LargeBinary, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("protection", sa.Text),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_versions"),
        sa.ForeignKeyConstraint(["slot_id"], ["slots.id"], name="fk_versions_slot_id"),
        sa.UniqueConstraint("slot_id", "number", name="uq_versions_slot_id_number"),
    )
    active = sa.text("state = 'active'")
    op.create_index(
        "uq_versions_one_active",
        "versions",
        ["slot_id"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    unfinished = sa.text("state IN ('creating', 'abandoned', 'destroying')")
    op.create_index(
        "ix_versions_unfinished", "versions", ["state"], sqlite_where=unfinished, postgresql_where=unfinished
    )
    op.create_index("ix_versions_provider", "versions", ["provider"])
