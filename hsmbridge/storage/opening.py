"""Opening the store: file, migrations, master key, owner; the only way to a `Store`."""

import sqlalchemy as sa

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.protocols import Protector
from hsmbridge.storage import sqlite
from hsmbridge.storage.changes import ChangeCounter
from hsmbridge.storage.database import Database
from hsmbridge.storage.master import MasterKey, open_master_key
from hsmbridge.storage.migrations import migrate
from hsmbridge.storage.owners import FileOwners, opening
from hsmbridge.storage.records import Durability
from hsmbridge.storage.store import Store


def open_store(
    url: str,
    protector: Protector,
    *,
    durability: Durability = Durability.POWER_LOSS,
    changes: ChangeCounter | None = None,
) -> Store:
    """Open the store at `url` ("sqlite:////absolute/path"), making or migrating it if need be.

    Several processes may open one store at once. The directory PATH.owners beside the file says which of them live.

    Args:
        changes: the counter that all processes of this node share; without it this process must be the only one.

    Raises:
        StoreError: STORE_UNAVAILABLE, saying what is wrong with directory or file; STORE_VERSION where a newer
            hsmbridge wrote it; MASTER_KEY_UNAVAILABLE; STORE_TAMPERED where the master key's record was changed.
    """
    try:
        path = sqlite.database_path(sa.make_url(url))
    except sa.exc.ArgumentError:
        raise StoreError(Status.STORE_UNAVAILABLE, "The store's URL cannot be read; correct it.") from None
    sqlite.prepare_file(path)
    directory = path.with_name(f"{path.name}.owners")
    database = Database(sqlite.open_engine(path))
    try:
        with opening(directory):
            master = _prepare(database, protector)
            owners = FileOwners(directory)
            owners.forget_dead()
    except OSError as failure:
        database.close()
        raise StoreError(
            Status.STORE_UNAVAILABLE,
            "The store's directory cannot be written; give its owner read and write access.",
            origin=str(failure),
        ) from failure
    except BaseException:
        database.close()
        raise
    counter = changes or ChangeCounter.private()
    # A process of this row may have died between a commit and its bump.
    counter.bump()
    return Store(
        database,
        master,
        owners,
        counter,
        durability=durability,
        protector_name=protector.name,
        url_shown=sa.make_url(url).get_backend_name(),
    )


def _prepare(database: Database, protector: Protector) -> MasterKey:
    with database.outside_transaction() as connection:
        sqlite.use_write_ahead_log(connection)
    with database.writing() as connection:
        migrate(connection)
        return open_master_key(connection, protector)
