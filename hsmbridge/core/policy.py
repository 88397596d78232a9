"""Words of a slot's policy: roles, nonce policies, where material lives; and whose a PIN is."""

from enum import StrEnum, unique


@unique
class Role(StrEnum):
    """What an access entry lets its principal do: use the key within a mask, or administer the slot as well."""

    USE = "use"
    ADMINISTER = "administer"


@unique
class NoncePolicy(StrEnum):
    """Who chooses nonces for encryption under a slot, or with an ephemeral key.

    SERVICE: the daemon, from a random epoch and a leased counter. CALLER: the caller, each remembered.
    MONOTONIC: the caller, each greater than the last.
    """

    SERVICE = "service"
    CALLER = "caller"
    MONOTONIC = "monotonic"


@unique
class Protection(StrEnum):
    """Where the material of a key version really lives.

    TOKEN: inside the HSM or TPM, or wrapped by it. SEALED: wrapped by a TPM, used in the daemon's memory.
    FILE: encrypted under the store's master key. MEMORY: ephemeral, never written.
    """

    TOKEN = "token"  # noqa: S105 - where a key lives, not a password
    SEALED = "sealed"
    FILE = "file"
    MEMORY = "memory"


@unique
class PinOwner(StrEnum):
    """Whose PIN it is, of the two that PKCS#11 knows of a token: the security officer's or the user's."""

    SO = "so"
    USER = "user"
