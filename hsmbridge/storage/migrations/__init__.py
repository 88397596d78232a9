"""Migrations of the store (Alembic), shipped with the package and run when a store is opened.

Forward only. One that adds a column makes it nullable: a null stands outside the row MACs, so rows written before
stay authentic.
"""

import sqlalchemy as sa

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.storage.schema import REVISION

_VERSION_TABLE = "alembic_version"


def migrate(connection: sa.Connection) -> None:
    """Bring the store up to the newest schema, in the transaction that `connection` is in.

    Raises:
        StoreError: STORE_VERSION where a newer hsmbridge wrote it.
    """
    found = _revision(connection)
    if found == REVISION:
        return
    # Imported only now: most opens find nothing to do, and Alembic takes its time.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "hsmbridge.storage:migrations")
    config.set_main_option("path_separator", "os")
    if found is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(found)
        except CommandError as unknown:
            raise StoreError(Status.STORE_VERSION, origin=f"revision {found}") from unknown
    command.upgrade(config, REVISION)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(_VERSION_TABLE):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar_one_or_none()  # noqa: S608 - a constant
    return None if found is None else str(found)
