"""The configuration as supervisor and workers want it. Imported by `hsmbridge serve` alone: it needs both."""

from hsmbridge import __version__
from hsmbridge.config.secrets import read_p11kit_pin
from hsmbridge.config.sections import Config, ProviderSection
from hsmbridge.core.secrets import Secret
from hsmbridge.daemon.spec import P11KitSpec, SshAgentSpec, StoreSpec, WorkerSpec, encode_worker_spec
from hsmbridge.providers.registry import Isolation, ProviderSpec
from hsmbridge.supervisor import FrontEndSocket, PinSource, SupervisedProvider, SupervisorSettings


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
        spread=daemon.cpu_affinity == "spread",
        drain_timeout=daemon.drain_timeout,
        # A context hands what it held back to its provider as a whole.
        max_frame=max(int(daemon.max_frame), int(daemon.max_held)),
        front_ends=_front_end_sockets(config),
    )


def _front_end_sockets(config: Config) -> tuple[FrontEndSocket, ...]:
    p11kit, ssh_agent = config.frontends.p11kit, config.frontends.ssh_agent
    sockets = []
    if p11kit is not None:
        sockets.append(FrontEndSocket(name="p11kit", path=config.p11kit_socket, mode=int(p11kit.socket_mode)))
    if ssh_agent is not None:
        mode = int(ssh_agent.socket_mode)
        sockets.append(FrontEndSocket(name="ssh_agent", path=config.ssh_agent_socket, mode=mode))
    return tuple(sockets)


def _p11kit_spec(config: Config) -> P11KitSpec | None:
    section = config.frontends.p11kit
    if section is None:
        return None
    return P11KitSpec(
        tokens=section.tokens,
        templates=section.templates,
        login=section.login,
        trust_stores=section.trust_stores,
        pin=read_p11kit_pin(section),
    )


def _ssh_agent_spec(config: Config) -> SshAgentSpec | None:
    section = config.frontends.ssh_agent
    if section is None:
        return None
    return SshAgentSpec(slots=section.slots, forwarding=section.forwarding == "allow")


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
            tcti=config.store.tcti or "",
            pcrs=config.store.pcrs,
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
        p11kit=_p11kit_spec(config),
        ssh_agent=_ssh_agent_spec(config),
        max_held=int(daemon.max_held),
        max_keys=daemon.max_keys,
        max_contexts=daemon.max_contexts,
        max_keys_per_principal=daemon.max_keys_per_principal,
        max_bytes_per_principal=int(daemon.max_bytes_per_principal),
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
        module_arguments=section.module_arguments,
        srk_handle=section.srk_handle,
        srk_name=section.srk_name,
        parameter_encryption=section.parameter_encryption,
        environment=section.environment,
    )


def _pin_source(section: ProviderSection) -> PinSource | None:
    if section.pin_file is None and section.pin_fd is None and section.pin_credential is None:
        return None
    file = "" if section.pin_file is None else str(section.pin_file)
    return PinSource(file=file, fd=section.pin_fd, credential=section.pin_credential or "")
