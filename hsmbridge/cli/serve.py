"""`serve`: become the supervisor of a daemon."""

from collections.abc import Callable

import click

from hsmbridge.cli.configuration import config_option
from hsmbridge.config import StoreSection, load_config, read_passphrase
from hsmbridge.core.secrets import Secret
from hsmbridge.supervisor.settings import SupervisorSettings


@click.command()
@config_option
def serve(config_file: str | None) -> None:
    """Serve keys until told to stop (SIGTERM); SIGHUP reads the configuration again.

    The log goes to stderr, one JSON object a line.
    """
    import logging

    from hsmbridge.daemon.check import check_store
    from hsmbridge.providers.host.log import log_to_stderr
    from hsmbridge.supervisor import Supervisor

    config = load_config(config_file)
    log_to_stderr("supervisor", level=logging.getLevelNamesMapping()[config.log.level.upper()])
    load = _loader(config_file)
    supervisor = Supervisor(load(), load, check=check_store)
    supervisor.start()
    supervisor.run()


def _loader(config_file: str | None) -> Callable[[], SupervisorSettings]:
    """Reads the configuration, now and at each reload; a passphrase that came from a descriptor is remembered."""
    from hsmbridge.config.service import supervisor_settings

    remembered: dict[int, Secret | None] = {}

    def passphrase(store: StoreSection) -> Secret | None:
        if store.passphrase_file is not None or store.passphrase_fd is None:
            return read_passphrase(store)
        if store.passphrase_fd not in remembered:
            remembered[store.passphrase_fd] = read_passphrase(store)
        return remembered[store.passphrase_fd]

    def load() -> SupervisorSettings:
        config = load_config(config_file)
        return supervisor_settings(config, passphrase(config.store))

    return load
