"""From a row of the key type table and permissions to the public area that TPM2_Create takes (part 2 section 12.2).

Keys carry no scheme where the TPM lets the caller choose one, and only the uses that their permissions need: SIGN and
VERIFY make it a signing key, DERIVE an agreeing one; RSA encryption needs a decrypting key in both directions; an AES
key encrypts, decrypts or both. FIXEDTPM and FIXEDPARENT keep the key where it is, NODA keeps its use from counting
against the dictionary-attack lockout: its password is empty, so there is nothing to guess.
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
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names

_BOUND = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
)
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


def public_template(row: KeyType, permissions: P, binding: bytes) -> TPM2B_PUBLIC:
    """What to create.

    Args:
        row: one that `made_by_tpm` accepts.
        permissions: what the key is to be used for.
        binding: 32 bytes that the TPM keeps with the key, as its authPolicy.

    Raises:
        RequestError: NOT_SUPPORTED for permissions that a TPM key cannot have, or none that it can use.
    """
    return TPM2B_PUBLIC(
        publicArea=TPMT_PUBLIC(
            type=_TYPES[row.family],
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_BOUND | _uses(row, permissions),
            authPolicy=binding,
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


def _uses(row: KeyType, permissions: P) -> int:
    if P.EXPORT in permissions:
        raise RequestError(
            Status.NOT_SUPPORTED, "A TPM key cannot leave its TPM; make it without the export permission."
        )
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
