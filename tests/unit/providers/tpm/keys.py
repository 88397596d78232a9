"""Keys that tests make and load, and keys whose secret a test knows."""

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider

BINDING = b"a slot, a version"
SIGNING = P.SIGN | P.VERIFY


class Key:
    """A key that was made and loaded."""

    def __init__(self, tpm: TpmProvider, type_: str, permissions: P, *, ephemeral: bool = False) -> None:
        self.row = key_type(type_)
        self.permissions = permissions
        self.key_id: bytes = new_key_id()
        self.made = tpm.generate(KeyTarget(self.key_id, type_, permissions, BINDING, ephemeral=ephemeral))
        self.handle = self.load(tpm)

    def load(self, tpm: TpmProvider, *, reference: bytes | None = None, binding: bytes = BINDING) -> int:
        return tpm.load(
            self.key_id, self.row, self.permissions, self.made.reference if reference is None else reference, binding
        )


class KnownKey(Key):
    """A key that was made outside of the TPM."""

    def __init__(self, tpm: TpmProvider, type_: str, permissions: P, secret: bytes | rsa.RSAPrivateKey) -> None:
        self.row = key_type(type_)
        self.permissions = permissions
        self.key_id = new_key_id()
        target = KeyTarget(self.key_id, type_, permissions, BINDING)
        if isinstance(secret, bytes):
            self.made = tpm.import_key(target, "raw", secret)
        else:
            pkcs8 = secret.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            self.made = tpm.import_key(target, "pkcs8", pkcs8)
        self.handle = self.load(tpm)
