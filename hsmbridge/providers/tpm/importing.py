"""Keys that come in the clear, taken into a TPM: TPM2_Import of what is wrapped for the storage root key here.

The wrapping (part 1 section 23, outer duplication wrapping) keeps the key from who listens on the way to the TPM, so
no inner wrapping is added, whose key would travel beside it. RSA and EC keys come as PKCS#8, secret keys raw.
"""

import hashlib
import secrets

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_private_key
from tpm2_pytss import (
    TPM2_ALG,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE,
    TPMS_ECC_POINT,
    TPMT_SYM_DEF_OBJECT,
    TPMU_PUBLIC_ID,
    TSS2_Exception,
)
from tpm2_pytss.utils import wrap

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.providers.tpm.cache import StateLost
from hsmbridge.providers.tpm.device import Opened
from hsmbridge.providers.tpm.errors import Trouble, origin, trouble
from hsmbridge.providers.tpm.schemes import field_size, sized
from hsmbridge.providers.tpm.templates import public_template

FORMATS = ("raw", "pkcs8")
_EXPONENT = 65537
_SEED_SIZE = 32


class Brought:
    """A key in the clear, in the TPM's structures. It has no repr that shows it."""

    def __init__(
        self, row: KeyType, permissions: KeyOperationPermission, binding: bytes, format_: str, material: bytes
    ) -> None:
        """Raises RequestError: INVALID_ARGUMENT, KEY_TYPE_MISMATCH, NOT_SUPPORTED."""
        self.public = public_template(row, permissions, binding, brought=True)
        if format_ == "spki":
            raise RequestError(
                Status.NOT_SUPPORTED, "A public key by itself is not kept in a TPM; give it to a software provider."
            )
        if format_ not in FORMATS or (format_ == "raw") is not row.symmetric:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"A {row.name} key is imported as {'raw' if row.symmetric else 'pkcs8'}."
            )
        if row.symmetric:
            self._take_secret(row, material)
        else:
            self._take_pair(row, material)

    def _take_secret(self, row: KeyType, value: bytes) -> None:
        if len(value) != row.bytes:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"A {row.name} key has {row.bytes} bytes; this one has {len(value)}."
            )
        # The public area shows a digest of the key, which the seed keeps from being guessed (part 1 section 27.5).
        seed = secrets.token_bytes(_SEED_SIZE)
        self._publish(TPMU_PUBLIC_ID(keyedHash=hashlib.sha256(seed + value).digest()))
        self._keep(TPM2_ALG.SYMCIPHER if row.family is Family.AES else TPM2_ALG.KEYEDHASH, value, seed)

    def _take_pair(self, row: KeyType, pkcs8: bytes) -> None:
        key = _private_key(pkcs8)
        size = field_size(row)
        if isinstance(key, rsa.RSAPrivateKey) and row.family is Family.RSA and key.key_size == row.bits:
            numbers = key.private_numbers()
            if numbers.public_numbers.e != _EXPONENT:
                raise RequestError(Status.NOT_SUPPORTED, f"A TPM takes RSA keys with the exponent {_EXPONENT} only.")
            self._publish(TPMU_PUBLIC_ID(rsa=numbers.public_numbers.n.to_bytes(size)))
            self._keep(TPM2_ALG.RSA, numbers.p.to_bytes(size // 2))
        elif isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == row.parameter_set:
            point = key.public_key().public_numbers()
            unique = TPMS_ECC_POINT(x=point.x.to_bytes(size), y=point.y.to_bytes(size))
            self._publish(TPMU_PUBLIC_ID(ecc=unique))
            self._keep(TPM2_ALG.ECC, key.private_numbers().private_value.to_bytes(size))
        else:
            raise RequestError(Status.KEY_TYPE_MISMATCH, f"The PKCS#8 material is no key of type {row.name}.")

    def _publish(self, unique: TPMU_PUBLIC_ID) -> None:
        area = self.public.publicArea
        area.unique = unique

    def _keep(self, type_: int, secret: bytes, seed: bytes = b"") -> None:
        wire = int(type_).to_bytes(2) + sized(b"") + sized(seed) + sized(secret)
        self._sensitive, _ = TPM2B_SENSITIVE.unmarshal(sized(wire))

    def import_into(self, opened: Opened) -> tuple[TPM2B_PRIVATE, TPM2B_PUBLIC]:
        """Have the TPM take the key under its storage root key. Raises TSS2_Exception, StateLost."""
        parent, name, _ = opened.esapi.read_public(opened.root.handle)
        if bytes(name) != opened.root.name:
            raise StateLost  # else the key would be wrapped for whoever gave that public key
        _, duplicate, seed = wrap(parent.publicArea, self.public, self._sensitive)
        private = take_duplicate(opened, self.public, duplicate, seed)
        # Only loading it makes the TPM see that its halves fit together.
        opened.esapi.flush_context(opened.esapi.load(opened.root.handle, private, self.public))
        return private, self.public


def take_duplicate(opened: Opened, public: TPM2B_PUBLIC, duplicate: TPM2B_PRIVATE, seed: object) -> TPM2B_PRIVATE:
    """TPM2_Import of a duplicate without inner wrapping, under the storage root key. Raises TSS2_Exception."""
    opened.keys.make_room()
    none = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
    return opened.esapi.import_(opened.root.handle, b"", public, duplicate, seed, none)


def refused(failure: TSS2_Exception) -> HsmBridgeError | None:
    """What it means that the TPM does not take a key."""
    if trouble(failure) is not Trouble.VERDICT:
        return None
    return RequestError(
        Status.INVALID_ARGUMENT, "The TPM takes the material for no valid key of this type.", origin=origin(failure)
    )


def _private_key(pkcs8: bytes) -> PrivateKeyTypes:
    try:
        return load_der_private_key(pkcs8, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
        # Without the cause: its words may quote the key.
        raise RequestError(
            Status.INVALID_ARGUMENT,
            "The material is no private key in PKCS#8 (DER, without a password) that can be read.",
            origin=type(cause).__name__,
        ) from None
