"""The configuration as supervisor and workers want it. Imported by `hsmbridge serve` alone: it needs both."""

from hsmbridge import __version__
from hsmbridge.config.sections import Config, ProviderSection
from hsmbridge.core.secrets import Secret
from hsmbridge.daemon.spec import StoreSpec, WorkerSpec, encode_worker_spec
from hsmbridge.providers.registry import Isolation, ProviderSpec
from hsmbridge.supervisor import PinSource, SupervisedProvider, SupervisorSettings


def supervisor_settings(config: Config, passphrase: Secret | None) -> SupervisorSettings:
    """What the supervisor is told. `passphrase` is that of the store, where its protector needs one."""
    daemon = config.daemon
    return SupervisorSettings(
        runtime_dir=config.runtime_dir,
        state_dir=config.state_dir,
        providers=tuple(
            SupervisedProvider(spec=provider_spec(config, name), pin=_pin_source(section))
            for name, section in config.providers.items()
        ),
        worker_spec=encode_worker_spec(worker_spec(config, passphrase)),
        socket=config.socket,
        socket_mode=int(daemon.socket_mode),
        workers=daemon.workers,
        drain_timeout=daemon.drain_timeout,
        max_frame=int(daemon.max_frame),
    )


def worker_spec(config: Config, passphrase: Secret | None) -> WorkerSpec:
    """What every worker is told."""
    daemon = config.daemon
    specs = [provider_spec(config, name) for name in config.providers]
    return WorkerSpec(
        version=__version__,
        store=StoreSpec(
            url=config.store_url,
            protector=config.store.protector,
            key_file=str(config.key_file),
            passphrase=b"" if passphrase is None else passphrase.reveal(),
            durability=daemon.durability,
        ),
        providers=tuple(spec for spec in specs if spec.isolation is Isolation.PROCESS),
        in_process=tuple(spec for spec in specs if spec.isolation is Isolation.THREAD),
        order=tuple(config.providers),
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


def provider_spec(config: Config, name: str) -> ProviderSpec:
    """What a provider is opened with, without its PIN."""
    section = config.providers[name]
    return ProviderSpec(
        name=name,
        uri=section.uri,
        isolation=config.isolation(name),
        threads=section.threads,
        sessions=section.sessions,
        srk_handle=section.srk_handle,
        environment=section.environment,
    )


def _pin_source(section: ProviderSection) -> PinSource | None:
    if section.pin_file is None and section.pin_fd is None and section.pin_credential is None:
        return None
    file = "" if section.pin_file is None else str(section.pin_file)
    return PinSource(file=file, fd=section.pin_fd, credential=section.pin_credential or "")
