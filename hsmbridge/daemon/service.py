"""From the configuration to a running service: what `hsmbridge serve` does."""

from pathlib import Path

from hsmbridge import __version__
from hsmbridge.config import Config, ProviderSection, load_config, read_passphrase
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.daemon.spec import StoreSpec, WorkerSpec, encode_worker_spec
from hsmbridge.daemon.worker import FIRST_CALLS_COLUMN
from hsmbridge.providers.registry import Isolation, ProviderSpec
from hsmbridge.supervisor import PinSource, SupervisedProvider, SupervisorSettings
from hsmbridge.supervisor.supervisor import COUNTER_COLUMNS

PROVIDERS_MAX = COUNTER_COLUMNS - FIRST_CALLS_COLUMN


def load_settings(path: Path | None) -> SupervisorSettings:
    """Read the configuration and translate it. Raises RequestError (INVALID_CONFIGURATION)."""
    return supervisor_settings(load_config(path))


def supervisor_settings(config: Config) -> SupervisorSettings:
    """What the supervisor is told, the workers' specification included. Reads the passphrase of the store."""
    if len(config.providers) > PROVIDERS_MAX:
        raise RequestError(
            Status.INVALID_CONFIGURATION, f"There are {len(config.providers)} providers; at most {PROVIDERS_MAX} fit."
        )
    providers = tuple(_supervised(config, name, section) for name, section in config.providers.items())
    return SupervisorSettings(
        runtime_dir=config.runtime_dir,
        state_dir=config.state_dir,
        providers=providers,
        worker_spec=encode_worker_spec(_worker_spec(config, [provider.spec for provider in providers])),
        socket=config.socket,
        socket_mode=int(config.daemon.socket_mode),
        workers=config.daemon.workers,
        drain_timeout=config.daemon.drain_timeout,
        max_frame=int(config.daemon.max_frame),
    )


def _supervised(config: Config, name: str, section: ProviderSection) -> SupervisedProvider:
    spec = ProviderSpec(
        name=name,
        uri=section.uri,
        isolation=config.isolation(name),
        threads=section.threads,
        sessions=section.sessions,
        srk_handle=section.srk_handle,
        environment=section.environment,
    )
    return SupervisedProvider(spec=spec, pin=_pin_source(section))


def _pin_source(section: ProviderSection) -> PinSource | None:
    if section.pin_file is None and section.pin_fd is None and section.pin_credential is None:
        return None
    return PinSource(
        file="" if section.pin_file is None else str(section.pin_file),
        fd=section.pin_fd,
        credential=section.pin_credential or "",
    )


def _worker_spec(config: Config, providers: list[ProviderSpec]) -> WorkerSpec:
    passphrase = read_passphrase(config.store)
    daemon = config.daemon
    return WorkerSpec(
        version=__version__,
        store=StoreSpec(
            url=config.store_url,
            protector=config.store.protector,
            key_file=str(config.key_file),
            passphrase=b"" if passphrase is None else passphrase.reveal(),
            durability=daemon.durability,
        ),
        providers=tuple(spec for spec in providers if spec.isolation is Isolation.PROCESS),
        in_process=tuple(spec for spec in providers if spec.isolation is Isolation.THREAD),
        order=tuple(spec.name for spec in providers),
        creators={name: section.creators for name, section in config.namespaces.items()},
        workers=daemon.workers,
        max_frame=int(daemon.max_frame),
        max_connections=daemon.max_connections,
        max_connections_per_principal=daemon.max_connections_per_principal,
        max_in_flight=daemon.max_in_flight,
        default_timeout=daemon.default_timeout,
        drain_timeout=daemon.drain_timeout,
        log_level=config.log.level,
        audit_uses=config.log.audit_uses,
    )
