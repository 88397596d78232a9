"""A key for another TPM: TPM2_Duplicate for a storage key there, written as an importable TSS2 PRIVATE KEY.

The new parent is given as its public area (a TPM2B_PUBLIC, as `tpm2_readpublic -o` writes it) or, where it is an
ECC P-256 key of the usual template, as its SubjectPublicKeyInfo. Only a key that was made with the export permission
has the policy for it, and it is never duplicated without a parent, which would be in the clear.
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_RC,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMS_ECC_POINT,
    TPMT_SYM_DEF_OBJECT,
    TPMU_PUBLIC_ID,
    TSS2_Exception,
)

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.errors import base_code, origin
from hsmbridge.providers.tpm.held_keys import HeldKey
from hsmbridge.providers.tpm.policies import duplication_session
from hsmbridge.providers.tpm.references import check_same_tpm, is_duplicable
from hsmbridge.providers.tpm.storage_root import storage_key_template
from hsmbridge.providers.tpm.tss2_file import OWNER_HIERARCHY, Tss2Key, Tss2Kind, to_pem

_STORAGE_KEY = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT
_COORDINATE = 32
_NO_PARENT = frozenset(
    int(code)
    for code in (TPM2_RC.TYPE, TPM2_RC.SYMMETRIC, TPM2_RC.ATTRIBUTES, TPM2_RC.KEY, TPM2_RC.ECC_POINT, TPM2_RC.VALUE)
)


def duplicate(tpm: Tpm, key: HeldKey, recipient: bytes) -> bytes:
    """The file for the recipient's TPM.

    Raises RequestError: KEY_OPERATION_NOT_PERMITTED for a key that was made to stay, INVALID_ARGUMENT for what is no
    storage key.
    """
    if not is_duplicable(key.public, key.binding):
        raise RequestError(
            Status.KEY_OPERATION_NOT_PERMITTED,
            "This key was made to stay in its TPM; only one made here with the export permission can be duplicated.",
        )
    parent_area = _parent(recipient)

    def command(opened: Opened) -> bytes:
        check_same_tpm(key.parent_name, opened.root.name)
        object_ = opened.keys.acquire(key)
        opened.keys.make_room()  # for the parent; the key, used last, stays
        parent = opened.esapi.load_external(parent_area, None, ESYS_TR.RH_NULL)
        try:
            with duplication_session(opened.esapi, key.binding) as session:
                none = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
                _, private, secret = opened.esapi.duplicate(object_, parent, None, none, session1=session)
        finally:
            opened.esapi.flush_context(parent)
        return to_pem(Tss2Key(Tss2Kind.IMPORTABLE, OWNER_HIERARCHY, key.public, private, bytes(secret)))

    return tpm.run(command, _refused)


def _parent(recipient: bytes) -> TPM2B_PUBLIC:
    try:
        if recipient.startswith(b"-----"):
            return _usual_parent(load_pem_public_key(recipient))
        if recipient.startswith(b"\x30"):
            return _usual_parent(load_der_public_key(recipient))
        public, used = TPM2B_PUBLIC.unmarshal(recipient)
    except (ValueError, UnsupportedAlgorithm, TSS2_Exception) as cause:
        raise _no_storage_key(repr(cause)) from None
    area = public.publicArea
    if used != len(recipient) or int(area.objectAttributes) & _STORAGE_KEY != _STORAGE_KEY:
        raise _no_storage_key()
    return public


def _usual_parent(key: object) -> TPM2B_PUBLIC:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _no_storage_key("a public key of another type")
    numbers = key.public_numbers()
    template = storage_key_template()
    area = template.publicArea
    area.unique = TPMU_PUBLIC_ID(
        ecc=TPMS_ECC_POINT(x=numbers.x.to_bytes(_COORDINATE), y=numbers.y.to_bytes(_COORDINATE))
    )
    return template


def _refused(failure: TSS2_Exception) -> HsmBridgeError | None:
    return _no_storage_key(origin(failure)) if base_code(failure) in _NO_PARENT else None


def _no_storage_key(origin_: str = "") -> HsmBridgeError:
    return RequestError(
        Status.INVALID_ARGUMENT,
        "The recipient is no storage key of a TPM: give the public area of its storage root key"
        " (tpm2_readpublic -c 0x81000001 -o FILE), or that key's SubjectPublicKeyInfo where it is of ECC P-256.",
        origin=origin_,
    )
