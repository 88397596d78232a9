"""Protocols that outer ranks implement and inner ranks use."""

from typing import Protocol


class Protector(Protocol):
    """Keeps the store's master key: a key file, a passphrase, a TPM, a token key."""

    @property
    def name(self) -> str:
        """Which kind it is, as `hsmbridge doctor` shows it."""
        ...

    def protect(self, master_key: bytes) -> bytes:
        """The protected form, to be kept in the store."""
        ...

    def recover(self, protected: bytes) -> bytes:
        """The master key. Raises StoreError (MASTER_KEY_UNAVAILABLE)."""
        ...


class MaterialSeal(Protocol):
    """Encrypts software key material under the store's master key (AES-256-GCM)."""

    def seal(self, material: bytes, binding: bytes) -> bytes:
        """`material` encrypted; `binding` is authenticated with it and must be given again to open it."""
        ...

    def open(self, sealed: bytes, binding: bytes) -> bytes:
        """The material. Raises StoreError (STORE_TAMPERED) where it or its binding was changed."""
        ...
