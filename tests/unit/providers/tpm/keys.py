"""Keys that tests make and load, and keys whose secret a test knows: brought in as the TPM's owner could."""

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tpm2_pytss import (
    TPM2_ALG,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_SENSITIVE_CREATE,
    TPMT_SYM_DEF_OBJECT,
)
from tpm2_pytss.utils import wrap

from hsmbridge.core.calls import KeyTarget, MadeKey
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, references
from hsmbridge.providers.tpm.device import Opened
from hsmbridge.providers.tpm.templates import public_template

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
        template = public_template(self.row, permissions, references.binding_digest(BINDING))

        def command(opened: Opened) -> bytes:
            opened.keys.make_room()
            if isinstance(secret, bytes):
                area = template.publicArea
                area.objectAttributes &= ~TPMA_OBJECT.SENSITIVEDATAORIGIN
                sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=secret))
                private, public, *_ = opened.esapi.create(opened.root.handle, sensitive, template)
            else:
                private, public = _import_rsa(opened, template, secret)
            wrapped = references.private_key_der(private, public, 0x81000001)
            return references.encode(opened.root.name, wrapped)

        self.made = MadeKey(tpm._tpm.run(command), b"", tpm.describe().protection)
        self.handle = self.load(tpm)


def _import_rsa(opened: Opened, public: TPM2B_PUBLIC, secret: rsa.RSAPrivateKey) -> tuple[object, TPM2B_PUBLIC]:
    area = public.publicArea
    area.objectAttributes &= ~(TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN)
    unique = area.unique
    unique.rsa = secret.public_key().public_numbers().n.to_bytes(secret.key_size // 8)
    sensitive = TPM2B_SENSITIVE.from_pem(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    parent, *_ = opened.esapi.read_public(opened.root.handle)
    key, duplicate, seed = wrap(parent.publicArea, public, sensitive)
    none = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
    return opened.esapi.import_(opened.root.handle, key, public, duplicate, seed, none), public
