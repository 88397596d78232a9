"""What a worker is told at its start, through an inherited file descriptor: the configuration, parsed and complete.

It may hold a passphrase, so it is never written anywhere and has no useful repr. PINs stand beside it.
"""

import msgspec

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.engine.contexts import DEFAULT_HELD_MAX
from hsmbridge.providers.registry import ProviderSpec
from hsmbridge.service.session import DEFAULT_LIMITS


class StoreSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where the slots are and what protects their master key.

    Attributes:
        url: of SQLAlchemy.
        protector: "keyfile", "passphrase" or "tpm".
        key_file: path, for the first.
        passphrase: for the second.
        tcti: how to reach the TPM, for the third.
        pcrs: what the third is sealed to.
        durability: "power-loss" or "process-crash"; what nonce leases survive.
    """

    url: str
    protector: str
    key_file: str = ""
    passphrase: bytes = b""
    tcti: str = ""
    pcrs: tuple[int, ...] = ()
    durability: str = "power-loss"

    def __repr__(self) -> str:
        return f"StoreSpec({self.protector})"


class P11KitSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The PKCS#11 front end, in the words of its section; `pin` may be b""."""

    tokens: str
    templates: str
    login: str
    trust_stores: tuple[str, ...] = ()
    pin: bytes = b""

    def __repr__(self) -> str:
        return "P11KitSpec(...)"


class SshAgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The SSH agent front end: which slots it offers (all, where there is none), and to forwarded connections too."""

    slots: tuple[str, ...]
    forwarding: bool


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs; sizes in bytes, times in seconds.

    Attributes:
        providers: those in host processes, in the order of the configuration with the others by `order`.
        in_process: those that the worker opens by itself.
        order: instance names in the order of the configuration; the column of a provider's calls is 1 + its place.
        max_held: what one context holds back at most.
        max_keys, max_contexts: ephemeral keys and contexts of one connection.
        max_keys_per_principal, max_bytes_per_principal: what all connections of a principal may have together.
        creators: namespace to the principals that may create slots there, beside each caller's own namespace.
    """

    version: str
    store: StoreSpec
    providers: tuple[ProviderSpec, ...]
    in_process: tuple[ProviderSpec, ...]
    order: tuple[str, ...]
    creators: dict[str, tuple[str, ...]]
    workers: int
    max_frame: int
    max_connections: int
    max_connections_per_principal: int
    max_in_flight: int
    default_timeout: float
    drain_timeout: float
    log_level: str = "info"
    audit_uses: bool = False
    p11kit: P11KitSpec | None = None
    ssh_agent: SshAgentSpec | None = None
    max_held: int = DEFAULT_HELD_MAX
    max_keys: int = DEFAULT_LIMITS.keys
    max_contexts: int = DEFAULT_LIMITS.contexts
    max_keys_per_principal: int = DEFAULT_LIMITS.principal_keys
    max_bytes_per_principal: int = DEFAULT_LIMITS.principal_bytes

    def __repr__(self) -> str:
        return "WorkerSpec(...)"


def encode_worker_spec(spec: WorkerSpec) -> bytes:
    """The bytes that the supervisor passes on without reading."""
    return msgspec.msgpack.encode(spec)


def decode_worker_spec(content: bytes) -> WorkerSpec:
    """What the supervisor passed on. Raises RequestError (INVALID_CONFIGURATION)."""
    try:
        return msgspec.msgpack.decode(content, type=WorkerSpec)
    except msgspec.MsgspecError:
        raise RequestError(Status.INVALID_CONFIGURATION, "The worker's specification cannot be read.") from None
