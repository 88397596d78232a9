"""What a TPM states of a key: TPM2_Certify by an attestation key (part 1 section 31, part 2 section 10.12).

With PCRs named, it states these besides, by TPM2_Quote with the same key over the same nonce.

The attestation key is a restricted ECDSA P-256 key, which signs nothing but what the TPM itself says. It is a primary
key of the endorsement hierarchy by a fixed template: the TPM derives the same one each time, until it is given a new
endorsement seed, and nothing of it is stored. The certificates are the maker's of the TPM's endorsement keys; that
attestation and endorsement key are in one TPM is shown by TPM2_ActivateCredential, which is no matter of this module.
"""

import hashlib
from contextlib import suppress

from cryptography import x509
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_ECC,
    TPM2_RC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPML_PCR_SELECTION,
    TPMS_ATTEST,
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

from hsmbridge.core.calls import Attestation, Quote
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.errors import base_code, origin
from hsmbridge.providers.tpm.held_keys import HeldKey
from hsmbridge.providers.tpm.references import check_same_tpm

FORMAT = "tpm2-certify"
_NONCE_MAX = 64
_PCRS = range(24)
_QUOTES = 5
"""How often PCRs are quoted that change between being read and being quoted."""
_NV_FIRST = 0x01C00000
# TCG EK Credential Profile: RSA 2048 and P-256 in the low range; in the high range, certificates have even numbers.
_CERTIFICATES = frozenset({0x01C00002, 0x01C0000A, *range(0x01C00012, 0x01C0001F, 2)})


def attest(tpm: Tpm, key: HeldKey, nonce: bytes, pcrs: tuple[int, ...] = ()) -> Attestation:
    """The TPM's statement over a key, and over PCRs where any are named, each with the nonce.

    Raises RequestError: INVALID_ARGUMENT for a nonce or a PCR that the TPM does not take, NOT_SUPPORTED where it has no
    SHA-256 bank of it; ProviderError.
    """
    if not 1 <= len(nonce) <= _NONCE_MAX:
        raise _bad_nonce()
    numbers = tuple(sorted(set(pcrs)))
    if any(number not in _PCRS for number in numbers):
        raise RequestError(Status.INVALID_ARGUMENT, f"PCRs are numbered 0 to {_PCRS[-1]}.")

    def command(opened: Opened) -> Attestation:
        check_same_tpm(key.parent_name, opened.root.name)
        esapi = opened.esapi
        object_ = opened.keys.acquire(key)
        opened.keys.make_room()  # for the attestation key; the key, used last, stays
        signer, public, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), _template(), ESYS_TR.RH_ENDORSEMENT)
        try:
            its_own = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
            statement, signature = esapi.certify(object_, signer, bytes(nonce), its_own)
            quote = _quote(esapi, signer, bytes(nonce), numbers) if numbers else None
        finally:
            esapi.flush_context(signer)
        return Attestation(
            format=FORMAT,
            statement=bytes(statement),
            signature=bytes(signature),
            attestation_key=bytes(public.to_der()),
            certificates=_certificates(opened),
            subject=bytes(key.public.marshal()),
            quote=quote,
        )

    return tpm.run(command, _verdict)


def _quote(esapi: ESAPI, signer: ESYS_TR, nonce: bytes, numbers: tuple[int, ...]) -> Quote:
    selection = TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, numbers)))
    its_own = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
    for _ in range(_QUOTES):
        values = tuple((number, _pcr(esapi, number)) for number in numbers)
        quoted, signature = esapi.quote(signer, selection, nonce, its_own)
        statement, _rest = TPMS_ATTEST.unmarshal(bytes(quoted))
        if bytes(statement.attested.quote.pcrDigest) == hashlib.sha256(b"".join(value for _, value in values)).digest():
            return Quote(bytes(quoted), bytes(signature), values)
    raise ProviderError(Status.PROVIDER_FAILED, "The PCRs change while they are quoted; ask again when they rest.")


def _pcr(esapi: ESAPI, number: int) -> bytes:
    _, _, values = esapi.pcr_read(f"sha256:{number}")
    if values.count != 1:
        raise RequestError(Status.NOT_SUPPORTED, f"The TPM has no PCR {number} in a SHA-256 bank.")
    return bytes(values[0])


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
