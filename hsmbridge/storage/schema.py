"""The tables of the store. The migrations make them; a test holds the two against each other.

Lists are comma-separated names (no name has a comma), times are microseconds since 1970 UTC, ids are bytes.
"""

import sqlalchemy as sa

from hsmbridge.core.lifecycle import KeyVersionState

REVISION = "0004"
"""The newest migration; a store at another one is migrated or, if unknown, refused."""

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=_NAMES)

store = sa.Table(
    "store",
    metadata,
    # One row. The master key protected by its Protector, and a value that only the right master key gives.
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("store_id", sa.LargeBinary, nullable=False),
    sa.Column("protector", sa.Text, nullable=False),
    sa.Column("protected_key", sa.LargeBinary, nullable=False),
    sa.Column("check_value", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
)

slots = sa.Table(
    "slots",
    metadata,
    sa.Column("id", sa.LargeBinary, primary_key=True),
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
    sa.Column("attributes", sa.LargeBinary),
)

_NOT_DESTROYED = sa.text("state != 'destroyed'")
sa.Index(
    "uq_slots_live_name",
    slots.c.namespace,
    slots.c.name,
    unique=True,
    sqlite_where=_NOT_DESTROYED,
    postgresql_where=_NOT_DESTROYED,
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("key_id", sa.LargeBinary, primary_key=True),
    sa.Column("slot_id", sa.LargeBinary, sa.ForeignKey("slots.id"), nullable=False),
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
    sa.UniqueConstraint("slot_id", "number"),
)

_ACTIVE = sa.text(f"state = '{KeyVersionState.ACTIVE}'")
sa.Index("uq_versions_one_active", versions.c.slot_id, unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)
_UNFINISHED = sa.text("state IN ('creating', 'abandoned', 'destroying')")
sa.Index("ix_versions_unfinished", versions.c.state, sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED)
sa.Index("ix_versions_provider", versions.c.provider)

access = sa.Table(
    "access",
    metadata,
    sa.Column("slot_id", sa.LargeBinary, sa.ForeignKey("slots.id"), primary_key=True),
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("permissions", sa.BigInteger, nullable=False),
)
sa.Index("ix_access_principal", access.c.principal)

nonce_leases = sa.Table(
    "nonce_leases",
    metadata,
    # Encryptions leased to processes, and the caller's nonces seen, of one key version.
    sa.Column("key_id", sa.LargeBinary, primary_key=True),
    sa.Column("leased", sa.BigInteger, nullable=False),
    sa.Column("remembered", sa.BigInteger, nullable=False),
    sa.Column("greatest", sa.LargeBinary, nullable=False),
    sa.Column("mac", sa.LargeBinary, nullable=False),
)

caller_nonces = sa.Table(
    "caller_nonces",
    metadata,
    sa.Column("key_id", sa.LargeBinary, primary_key=True),
    sa.Column("nonce", sa.LargeBinary, primary_key=True),
)

certificates = sa.Table(
    "certificates",
    metadata,
    # A certificate with its chain, a trust store or a CRL; `slot_id` and `key_id` are b"" where it is bound to no key.
    sa.Column("id", sa.LargeBinary, primary_key=True),
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
    sa.UniqueConstraint("kind", "namespace", "name"),
)

certificate_items = sa.Table(
    "certificate_items",
    metadata,
    sa.Column("certificate_id", sa.LargeBinary, sa.ForeignKey("certificates.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("der", sa.LargeBinary, nullable=False),
)

certificate_access = sa.Table(
    "certificate_access",
    metadata,
    sa.Column("certificate_id", sa.LargeBinary, sa.ForeignKey("certificates.id"), primary_key=True),
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
)
sa.Index("ix_certificate_access_principal", certificate_access.c.principal)

pins = sa.Table(
    "pins",
    metadata,
    # The PINs of PKCS#11 applications: of a principal for a token. A digest is b"" where no PIN is set.
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, primary_key=True),
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
)
