"""What Alembic runs: the migrations, on the connection and in the transaction that `migrate` was given."""

import sqlalchemy as sa
from alembic import context

from hsmbridge.storage.schema import metadata

_connection = context.config.attributes["connection"]
if not isinstance(_connection, sa.Connection):
    raise TypeError("migrations run through hsmbridge.storage.migrations.migrate")
context.configure(connection=_connection, target_metadata=metadata, transactional_ddl=True, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
