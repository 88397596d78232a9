"""Signatures and MACs by a TPM: RSASSA-PKCS1-v1_5, RSASSA-PSS (RFC 8017), ECDSA (FIPS 186-5), HMAC (FIPS 198-1).

A TPM is not told the length of a PSS salt and does not say it: one that is FIPS 140 certified, and swtpm, takes the
length of the hash, others the longest that fits (part 1 annex B.7), and verification accepts any. So the public key
checks here, in software, that the length is the one asked for.
"""

from hmac import compare_digest

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tpm2_pytss import TPM2_RC, TPM2B_PUBLIC, TSS2_Exception

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Scheme
from hsmbridge.core.errors import HsmBridgeError, RequestError, SignatureInvalid, Status
from hsmbridge.core.params import SignatureParameters
from hsmbridge.providers.tpm import sequences
from hsmbridge.providers.tpm.device import Opened
from hsmbridge.providers.tpm.errors import base_code
from hsmbridge.providers.tpm.key_use import KeyUse
from hsmbridge.providers.tpm.schemes import (
    NO_TICKET,
    SIGNATURE_SCHEMES,
    check_mac_parameters,
    digest_to_sign,
    hash_id,
    signature_from_tpm,
    signature_to_tpm,
    tpm_digest,
)

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}
# libtpms calls what OpenSSL refuses a failure; that the TPM is not in failure mode was seen before a verdict is asked.
_NO_SIGNATURE = frozenset(
    int(code)
    for code in (
        TPM2_RC.SIGNATURE,
        TPM2_RC.VALUE,
        TPM2_RC.SIZE,
        TPM2_RC.RANGE,
        TPM2_RC.ECC_POINT,
        TPM2_RC.FAILURE,
    )
)


def sign(use: KeyUse, message: bytes, parameters: SignatureParameters) -> bytes:
    """A signature, ECDSA in DER. Raises RequestError (INVALID_ARGUMENT, NOT_SUPPORTED)."""
    row = use.row
    digest = digest_to_sign(row, message, parameters)
    to_sign = tpm_digest(digest)
    scheme = SIGNATURE_SCHEMES[row.name]

    def command(opened: Opened) -> bytes:
        return bytes(opened.esapi.sign(use.object(opened), to_sign, scheme, NO_TICKET).marshal())

    signature = signature_from_tpm(row, use.tpm.run(command))
    if row.scheme is Scheme.RSASSA_PSS and not _salt_fits(use, digest, signature, parameters):
        raise RequestError(
            Status.NOT_SUPPORTED,
            f"This TPM does not make RSASSA-PSS signatures with a salt of {_salt_length(row, parameters)} bytes;"
            " choose another salt_length, or RSASSA-PKCS1-v1_5.",
        )
    return signature


def verify(use: KeyUse, message: bytes, signature: bytes, parameters: SignatureParameters) -> None:
    """Raises SignatureInvalid, RequestError (INVALID_ARGUMENT)."""
    row = use.row
    digest = digest_to_sign(row, message, parameters)
    claimed = signature_to_tpm(row, use.key.row, signature)
    signed = tpm_digest(digest)

    def command(opened: Opened) -> None:
        opened.esapi.verify_signature(use.object(opened), signed, claimed)

    use.tpm.run(command, _verdict)
    if row.scheme is Scheme.RSASSA_PSS and not _salt_fits(use, digest, signature, parameters):
        raise SignatureInvalid(Status.SIGNATURE_INVALID)


def mac(use: KeyUse, message: bytes, parameters: SignatureParameters) -> bytes:
    """An HMAC. Raises RequestError (INVALID_ARGUMENT)."""
    check_mac_parameters(use.row, parameters)
    hash_ = hash_id(use.row)

    def command(opened: Opened) -> bytes:
        return sequences.mac(opened, use.object(opened), hash_, message)

    return use.tpm.run(command)


def verify_mac(use: KeyUse, message: bytes, expected: bytes, parameters: SignatureParameters) -> None:
    """Raises SignatureInvalid."""
    if not compare_digest(mac(use, message, parameters), expected):
        raise SignatureInvalid(Status.SIGNATURE_INVALID)


def _verdict(failure: TSS2_Exception) -> HsmBridgeError | None:
    return SignatureInvalid(Status.SIGNATURE_INVALID) if base_code(failure) in _NO_SIGNATURE else None


def _salt_length(row: Algorithm, parameters: SignatureParameters) -> int:
    return ALGORITHMS[row.hash].output_size if parameters.salt_length is None else parameters.salt_length


def _salt_fits(use: KeyUse, digest: bytes, signature: bytes, parameters: SignatureParameters) -> bool:
    public = _rsa_public_key(use.key.public)
    hash_ = _HASHES[use.row.hash]
    pss = padding.PSS(padding.MGF1(hash_), _salt_length(use.row, parameters))
    try:
        public.verify(signature, digest, pss, Prehashed(hash_))
    except InvalidSignature:
        return False
    return True


def _rsa_public_key(public: TPM2B_PUBLIC) -> rsa.RSAPublicKey:
    key = load_der_public_key(public.to_der())
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("an RSA algorithm took a key that is none")
    return key
