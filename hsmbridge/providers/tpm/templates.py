"""From a row of the key type table and permissions to the public area that TPM2_Create takes (part 2 section 12.2).

Keys carry no scheme where the TPM lets the caller choose one, and only the uses that their permissions need: SIGN and
VERIFY make it a signing key, DERIVE an agreeing one; RSA encryption needs a decrypting key in both directions; an AES
key encrypts, decrypts or both. FIXEDTPM and FIXEDPARENT keep the key where it is, unless it has the export permission,
which makes it a key that TPM2_Duplicate takes. NODA keeps its use from counting against the dictionary-attack lockout:
its password is empty, so there is nothing to guess.
"""

from tpm2_pytss import (
    TPM2_ALG,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMS_ECC_PARMS,
    TPMS_KEYEDHASH_PARMS,
    TPMS_RSA_PARMS,
    TPMS_SCHEME_HASH,
    TPMS_SYMCIPHER_PARMS,
    TPMT_ECC_SCHEME,
    TPMT_KDF_SCHEME,
    TPMT_KEYEDHASH_SCHEME,
    TPMT_PUBLIC,
    TPMT_PUBLIC_PARMS,
    TPMT_RSA_SCHEME,
    TPMT_SYM_DEF_OBJECT,
    TPMU_PUBLIC_PARMS,
    TPMU_SCHEME_KEYEDHASH,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

from hsmbridge.core.algorithms import ALGORITHMS, Scheme
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names
from hsmbridge.providers.tpm.policies import binding_digest, duplicable_digest

_FIXED = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
_USABLE = TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.NODA
_TYPES = {
    Family.RSA: TPM2_ALG.RSA,
    Family.EC: TPM2_ALG.ECC,
    Family.AES: TPM2_ALG.SYMCIPHER,
    Family.HMAC: TPM2_ALG.KEYEDHASH,
}
_USES: dict[Family, tuple[tuple[P, int], ...]] = {
    Family.RSA: (
        (P.SIGN | P.VERIFY, TPMA_OBJECT.SIGN_ENCRYPT),
        (P.ENCRYPT | P.DECRYPT, TPMA_OBJECT.DECRYPT),
    ),
    Family.EC: ((P.SIGN | P.VERIFY, TPMA_OBJECT.SIGN_ENCRYPT), (P.DERIVE, TPMA_OBJECT.DECRYPT)),
    Family.AES: ((P.ENCRYPT, TPMA_OBJECT.SIGN_ENCRYPT), (P.DECRYPT, TPMA_OBJECT.DECRYPT)),
    Family.HMAC: ((P.SIGN | P.VERIFY, TPMA_OBJECT.SIGN_ENCRYPT),),
}


def made_by_tpm(row: KeyType) -> bool:
    """Whether the TPM 2.0 library knows such keys at all; a given TPM may still lack them."""
    return bool(row.tpm_template) and row.family in _TYPES


def public_template(row: KeyType, permissions: P, binding: bytes, *, brought: bool = False) -> TPM2B_PUBLIC:
    """What to create, or to import with its public value added.

    Args:
        row: one that `made_by_tpm` accepts.
        permissions: what the key is to be used for.
        binding: what the store says of the key; the TPM keeps a digest of it with the key.
        brought: the key was made elsewhere. TPM2_Import takes none that is fixed; without a policy for it, such a key
            cannot be duplicated either.

    Raises:
        RequestError: NOT_SUPPORTED for permissions that a TPM key cannot have, or none that it can use.
    """
    leaves = P.EXPORT in permissions
    attributes = _USABLE | _uses(row, permissions)
    if not brought:
        attributes |= TPMA_OBJECT.SENSITIVEDATAORIGIN | (0 if leaves else _FIXED)
    return TPM2B_PUBLIC(
        publicArea=TPMT_PUBLIC(
            type=_TYPES[row.family],
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=attributes,
            authPolicy=duplicable_digest(binding) if leaves else binding_digest(binding),
            parameters=_parameters(row),
        )
    )


def type_parameters(row: KeyType) -> TPMT_PUBLIC_PARMS:
    """What to ask TPM2_TestParms for."""
    return TPMT_PUBLIC_PARMS(type=_TYPES[row.family], parameters=_parameters(row))


def fits(public: TPM2B_PUBLIC, row: KeyType) -> bool:
    """Whether a public area is of this key type."""
    area = public.publicArea
    if area.type != _TYPES[row.family]:
        return False
    parameters = area.parameters
    try:
        return bool(parameters.marshal(area.type) == _parameters(row).marshal(area.type))
    except TSS2_Exception:  # values that no structure has
        return False


def key_type_of(public: TPM2B_PUBLIC) -> KeyType:
    """The key type of a key that somebody else made. Raises RequestError (NOT_SUPPORTED)."""
    area = public.publicArea
    attributes = int(area.objectAttributes)
    if attributes & TPMA_OBJECT.RESTRICTED:
        raise _unusable("is restricted: it wraps keys or signs what the TPM says, and nothing else")
    if not attributes & TPMA_OBJECT.USERWITHAUTH:
        raise _unusable("can be used by a policy only, which hsmbridge does not fulfil")
    for row in KEY_TYPES.values():
        if made_by_tpm(row) and fits(public, row):
            return row
    raise _unusable("is of a type, or bound to a scheme, that hsmbridge does not use in a TPM")


def permissions_of(public: TPM2B_PUBLIC, row: KeyType) -> P:
    """What a key's attributes let it be used for."""
    area = public.publicArea
    attributes = int(area.objectAttributes)
    permissions = P.NONE
    for bits, attribute in _USES[row.family]:
        if attributes & attribute:
            permissions |= bits
    return permissions


def _unusable(why: str) -> RequestError:
    return RequestError(Status.NOT_SUPPORTED, f"The TPM key {why}.")


def _uses(row: KeyType, permissions: P) -> int:
    attributes = 0
    useful = P.NONE
    for bits, attribute in _USES[row.family]:
        useful |= bits
        if permissions & bits:
            attributes |= int(attribute)
    if not attributes:
        raise RequestError(
            Status.NOT_SUPPORTED,
            f"A {row.name} key in a TPM can {', '.join(permission_names(useful))}; give it at least one of these"
            " permissions.",
        )
    return attributes


def _parameters(row: KeyType) -> TPMU_PUBLIC_PARMS:
    none = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
    match row.family:
        case Family.RSA:
            # Exponent 0 stands for 65537.
            return TPMU_PUBLIC_PARMS(
                rsaDetail=TPMS_RSA_PARMS(
                    symmetric=none, scheme=TPMT_RSA_SCHEME(scheme=TPM2_ALG.NULL), keyBits=row.bits, exponent=0
                )
            )
        case Family.EC:
            return TPMU_PUBLIC_PARMS(
                eccDetail=TPMS_ECC_PARMS(
                    symmetric=none,
                    scheme=TPMT_ECC_SCHEME(scheme=TPM2_ALG.NULL),
                    curveID=row.tpm_curve,
                    kdf=TPMT_KDF_SCHEME(scheme=TPM2_ALG.NULL),
                )
            )
        case Family.AES:
            return TPMU_PUBLIC_PARMS(
                symDetail=TPMS_SYMCIPHER_PARMS(
                    sym=TPMT_SYM_DEF_OBJECT(
                        algorithm=TPM2_ALG.AES,
                        keyBits=TPMU_SYM_KEY_BITS(aes=row.bits),
                        mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB),
                    )
                )
            )
        case _:
            hmac = TPMU_SCHEME_KEYEDHASH(hmac=TPMS_SCHEME_HASH(hashAlg=_hmac_hash(row)))
            return TPMU_PUBLIC_PARMS(
                keyedHashDetail=TPMS_KEYEDHASH_PARMS(scheme=TPMT_KEYEDHASH_SCHEME(scheme=TPM2_ALG.HMAC, details=hmac))
            )


def _hmac_hash(row: KeyType) -> int:
    """The hash of the one HMAC algorithm that takes such keys."""
    (hash_,) = {mac.hash for mac in ALGORITHMS.values() if mac.scheme is Scheme.HMAC and mac.takes(row)}
    return ALGORITHMS[hash_].tpm_alg or TPM2_ALG.NULL
