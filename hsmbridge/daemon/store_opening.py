"""The store that a worker's specification names: its URL, how durable it writes, and what protects its master key."""

from pathlib import Path

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.protocols import Protector
from hsmbridge.daemon.spec import StoreSpec
from hsmbridge.storage.changes import ChangeCounter
from hsmbridge.storage.opening import open_store
from hsmbridge.storage.protectors import KeyFileProtector, PassphraseProtector
from hsmbridge.storage.records import Durability
from hsmbridge.storage.store import Store


def open_store_of(spec: StoreSpec, changes: ChangeCounter | None = None) -> Store:
    """The store that a specification names. Raises StoreError."""
    return open_store(spec.url, _protector(spec), durability=Durability(spec.durability), changes=changes)


def _protector(spec: StoreSpec) -> Protector:
    match spec.protector:
        case "keyfile":
            return KeyFileProtector(Path(spec.key_file))
        case "passphrase":
            return PassphraseProtector(spec.passphrase)
        case "tpm":
            return _tpm_protector(spec)
        case other:
            raise RequestError(Status.INVALID_CONFIGURATION, f"There is no master key protector {other!r}.")


def _tpm_protector(spec: StoreSpec) -> Protector:
    try:
        from hsmbridge.providers.tpm import TpmProtector, TpmSettings
    except ImportError as missing:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            'protector = "tpm" needs the Python package tpm2-pytss; install it.',
            origin=repr(missing),
        ) from missing
    return TpmProtector(TpmSettings(tcti=spec.tcti), spec.pcrs)
