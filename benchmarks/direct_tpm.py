"""What a program does that signs with a TPM by itself: one ESAPI connection, the key loaded once."""

from collections.abc import Callable
from hashlib import sha256

from tpm2_pytss import ESAPI
from tpm2_pytss.constants import TPM2_ALG, TPM2_RH, TPM2_ST, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_DIGEST,
    TPM2B_PUBLIC,
    TPMS_SCHEME_HASH,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
    TPMU_SIG_SCHEME,
)


def direct_tpm_signer(tcti: str, message: bytes) -> tuple[Callable[[], object], Callable[[], None]]:
    """A P-256 signature over `message` by the TPM at `tcti`, and what closes the connection."""
    esapi = ESAPI(tcti)
    parent, *_ = esapi.create_primary(None, "ecc")
    attributes = (
        TPMA_OBJECT.USERWITHAUTH
        | TPMA_OBJECT.SIGN_ENCRYPT
        | TPMA_OBJECT.FIXEDTPM
        | TPMA_OBJECT.FIXEDPARENT
        | TPMA_OBJECT.SENSITIVEDATAORIGIN
        | TPMA_OBJECT.NODA
    )
    private, public, *_ = esapi.create(parent, None, TPM2B_PUBLIC.parse("ecc:ecdsa", objectAttributes=attributes))
    key = esapi.load(parent, private, public)
    esapi.flush_context(parent)
    scheme = TPMT_SIG_SCHEME(
        scheme=TPM2_ALG.ECDSA, details=TPMU_SIG_SCHEME(any=TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256))
    )
    ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)

    def sign() -> object:
        return bytes(esapi.sign(key, TPM2B_DIGEST(sha256(message).digest()), scheme, ticket))

    return sign, esapi.close
