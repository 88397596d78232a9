"""What a TPM states of a key: TPM2_Certify by an attestation key (part 1 section 31, part 2 section 10.12).

The attestation key is a restricted ECDSA P-256 key, which signs nothing but what the TPM itself says. It is a primary
key of the endorsement hierarchy by a fixed template: the TPM derives the same one each time, until it is given a new
endorsement seed, and nothing of it is stored. The certificates are the maker's of the TPM's endorsement keys; that
attestation and endorsement key are in one TPM is shown by TPM2_ActivateCredential, which is no matter of this module.
"""

from contextlib import suppress

from cryptography import x509
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_ECC,
    TPM2_RC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_ECC_PARMS,
    TPMS_SCHEME_HASH,
    TPMT_ECC_SCHEME,
    TPMT_KDF_SCHEME,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF_OBJECT,
    TPMU_ASYM_SCHEME,
    TPMU_PUBLIC_PARMS,
    TSS2_Exception,
)
from tpm2_pytss.utils import NVReadEK

from hsmbridge.core.calls import Attestation
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.errors import base_code, origin
from hsmbridge.providers.tpm.held_keys import HeldKey
from hsmbridge.providers.tpm.references import check_same_tpm

FORMAT = "tpm2-certify"
_NONCE_MAX = 64
_NV_FIRST = 0x01C00000
# TCG EK Credential Profile: RSA 2048 and P-256 in the low range; in the high range, certificates have even numbers.
_CERTIFICATES = frozenset({0x01C00002, 0x01C0000A, *range(0x01C00012, 0x01C0001F, 2)})


def attest(tpm: Tpm, key: HeldKey, nonce: bytes) -> Attestation:
    """The TPM's statement over a key and a nonce.

    Raises RequestError (INVALID_ARGUMENT) for a nonce that the TPM does not take, ProviderError.
    """
    if not 1 <= len(nonce) <= _NONCE_MAX:
        raise _bad_nonce()

    def command(opened: Opened) -> Attestation:
        check_same_tpm(key.parent_name, opened.root.name)
        esapi = opened.esapi
        object_ = opened.keys.acquire(key)
        opened.keys.make_room()  # for the attestation key; the key, used last, stays
        signer, public, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), _template(), ESYS_TR.RH_ENDORSEMENT)
        try:
            its_own = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
            statement, signature = esapi.certify(object_, signer, bytes(nonce), its_own)
        finally:
            esapi.flush_context(signer)
        return Attestation(
            format=FORMAT,
            statement=bytes(statement),
            signature=bytes(signature),
            attestation_key=bytes(public.to_der()),
            certificates=_certificates(opened),
            subject=bytes(key.public.marshal()),
        )

    return tpm.run(command, _verdict)


def _certificates(opened: Opened) -> tuple[bytes, ...]:
    read = NVReadEK(opened.esapi)
    found = []
    for index in opened.connection.handles(_NV_FIRST):
        if index in _CERTIFICATES:
            # A maker may have filled the space up, or left it empty.
            with suppress(ValueError, TSS2_Exception):
                found.append(_one_structure(bytes(read(index))))
    return tuple(found)


def _one_structure(content: bytes) -> bytes:
    """A certificate without what follows it in its place. Raises ValueError."""
    if content[:2] != b"\x30\x82":
        raise ValueError("no DER of the length of a certificate")
    certificate = content[: 4 + int.from_bytes(content[2:4])]
    x509.load_der_x509_certificate(certificate)
    return certificate


def _template() -> TPM2B_PUBLIC:
    ecdsa = TPMU_ASYM_SCHEME(ecdsa=TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256))
    return TPM2B_PUBLIC(
        publicArea=TPMT_PUBLIC(
            type=TPM2_ALG.ECC,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=TPMA_OBJECT.FIXEDTPM
            | TPMA_OBJECT.FIXEDPARENT
            | TPMA_OBJECT.SENSITIVEDATAORIGIN
            | TPMA_OBJECT.USERWITHAUTH
            | TPMA_OBJECT.RESTRICTED
            | TPMA_OBJECT.SIGN_ENCRYPT
            | TPMA_OBJECT.NODA,
            parameters=TPMU_PUBLIC_PARMS(
                eccDetail=TPMS_ECC_PARMS(
                    symmetric=TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
                    scheme=TPMT_ECC_SCHEME(scheme=TPM2_ALG.ECDSA, details=ecdsa),
                    curveID=TPM2_ECC.NIST_P256,
                    kdf=TPMT_KDF_SCHEME(scheme=TPM2_ALG.NULL),
                )
            ),
        )
    )


def _verdict(failure: TSS2_Exception) -> HsmBridgeError | None:
    code = base_code(failure)
    if code == TPM2_RC.SIZE:
        return _bad_nonce()
    if code in (TPM2_RC.AUTH_FAIL, TPM2_RC.BAD_AUTH):
        return ProviderError(
            Status.PIN_INCORRECT,
            "The TPM's endorsement hierarchy has a password, and hsmbridge has none: it cannot attest.",
            origin=origin(failure),
        )
    return None


def _bad_nonce() -> HsmBridgeError:
    return RequestError(
        Status.INVALID_ARGUMENT, "A TPM signs a nonce of 1 byte up to the length of its longest hash: take 32 bytes."
    )
