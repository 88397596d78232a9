"""What a worker is told at its start, through an inherited file descriptor: the configuration, parsed and complete.

It may hold a passphrase, so it is never written anywhere and has no useful repr. PINs stand beside it.
"""

import msgspec

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.providers.registry import ProviderSpec


class StoreSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where the slots are and what protects their master key.

    Attributes:
        url: of SQLAlchemy.
        protector: "keyfile" or "passphrase".
        key_file: path, for the first.
        passphrase: for the second.
        durability: "power-loss" or "process-crash"; what nonce leases survive.
    """

    url: str
    protector: str
    key_file: str = ""
    passphrase: bytes = b""
    durability: str = "power-loss"

    def __repr__(self) -> str:
        return f"StoreSpec({self.protector})"


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs; sizes in bytes, times in seconds.

    Attributes:
        providers: those in host processes, in the order of the configuration with the others by `order`.
        in_process: those that the worker opens by itself.
        order: instance names in the order of the configuration; the column of a provider's calls is 1 + its place.
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
