"""One use of a loaded key: which key it is, and how it gets into the TPM."""

from dataclasses import dataclass

from tpm2_pytss import ESYS_TR

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.held_keys import HeldKey
from hsmbridge.providers.tpm.references import check_same_tpm


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key, an algorithm that takes it, and the TPM that holds it."""

    tpm: Tpm
    key: HeldKey
    row: Algorithm

    def object(self, opened: Opened) -> ESYS_TR:
        """The key in an object slot, for the next command of an action. Raises ProviderError (WRONG_TOKEN)."""
        check_same_tpm(self.key.parent_name, opened.root.name)
        return opened.keys.acquire(self.key)


def key_use(tpm: Tpm, key: HeldKey, row: Algorithm) -> KeyUse:
    """Raises RequestError (KEY_TYPE_MISMATCH) where the algorithm does not take the key."""
    if key.row.name not in row.key_types:
        raise RequestError(
            Status.KEY_TYPE_MISMATCH, f"{row.name} takes keys of type {', '.join(row.key_types)}, not {key.row.name}."
        )
    return KeyUse(tpm, key, row)
