"""Key transport in CMS: RSAES-OAEP (RFC 3560) with a digest of the recipient's choosing; PKCS#1 v1.5 is read only."""

from collections.abc import Callable

from asn1crypto import cms
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from est import oids, refusals

OAEP_DIGESTS: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
    "sha1": hashes.SHA1,
}
"""Digests of RSAES-OAEP, the preferred first. SHA-1 is no weakness in OAEP, and all that some tokens have."""


def transport_info(
    public_key: rsa.RSAPublicKey, named: cms.RecipientIdentifier, secret: bytes, digest: str
) -> cms.KeyTransRecipientInfo:
    """The content-encryption key `secret` for the holder of a key; `named` says who that is."""
    return cms.KeyTransRecipientInfo(
        {
            "version": "v0" if named.name == "issuer_and_serial_number" else "v2",
            "rid": named,
            "key_encryption_algorithm": {"algorithm": oids.RSAES_OAEP, "parameters": oaep_parameters(digest)},
            "encrypted_key": public_key.encrypt(secret, _oaep(digest, digest)),
        }
    )


def oaep_parameters(digest: str) -> dict[str, object]:
    """RSAES-OAEP-params with one digest for the label and for MGF1."""
    named = {"algorithm": digest}
    return {"hash_algorithm": named, "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": named}}


def _oaep(digest: str, generator: str) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(OAEP_DIGESTS[generator]()), OAEP_DIGESTS[digest](), None)


def read_padding(algorithm: cms.KeyEncryptionAlgorithm) -> padding.AsymmetricPadding:
    """What the sender padded with.

    Raises:
        WireError: it is not known.
    """
    if str(algorithm["algorithm"].dotted) == oids.RSA_ENCRYPTION:
        return padding.PKCS1v15()
    if str(algorithm["algorithm"].dotted) != oids.RSAES_OAEP:
        raise refusals.malformed("The key is encrypted in a way that is not known.")
    parameters = algorithm["parameters"].native or {}
    digest, generator = (
        (parameters.get("hash_algorithm") or {}).get("algorithm", "sha1"),
        ((parameters.get("mask_gen_algorithm") or {}).get("parameters") or {}).get("algorithm", "sha1"),
    )
    return _oaep(str(digest), str(generator))
