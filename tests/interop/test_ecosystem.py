"""Keys in slots through the libraries that people use: x509, PyJWT, AsyncSSH, CMS; openssl and ssh-keygen check.

Each signs with a key in software, in SoftHSM and in a TPM; what verifies knows nothing of this project.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import asyncssh
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from cryptography.x509.oid import NameOID

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.client.pyca import private_key
from hsmbridge.lab.lab import Lab

P = KeyOperationPermission
SIGNING = P.SIGN | P.VERIFY
PROVIDERS = ("software", "softhsm", "tpm")
CONTENT = b"what is signed\r\n"
_numbers = count()

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(scope="module")
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with hsmbridge_lab.stack(timeout=60) as made:
        yield made


def signer(stack: CryptoStack, key_type: str, provider: str) -> CertificateIssuerPrivateKeyTypes:
    key = private_key(stack, new_slot(stack, key_type, provider, SIGNING))
    assert isinstance(
        key,
        rsa.RSAPrivateKey
        | ec.EllipticCurvePrivateKey
        | ed25519.Ed25519PrivateKey
        | mldsa.MLDSA44PrivateKey
        | mldsa.MLDSA65PrivateKey
        | mldsa.MLDSA87PrivateKey,
    )
    return key


def new_slot(stack: CryptoStack, key_type: str, provider: str, permissions: P) -> str:
    name = f"ecosystem-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider])
    return name


def openssl(*arguments: str | Path, given: bytes = b"") -> str:
    answer = subprocess.run(["openssl", *arguments], input=given, capture_output=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    return (answer.stdout + answer.stderr).decode(errors="replace")


# --- X.509 ---------------------------------------------------------------------------------------------------------

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a slot")])
KINDS = [
    *((key_type, provider) for key_type in ("RSA-2048", "EC-P256") for provider in PROVIDERS),
    ("EC-P384", "softhsm"),
    ("EC-P521", "software"),
    ("Ed25519", "software"),
    ("Ed25519", "softhsm"),
]
each_kind = pytest.mark.parametrize(("key_type", "provider"), KINDS)


def hash_for(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA256 | None:
    return hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else None


def authority(key: CertificateIssuerPrivateKeyTypes) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hash_for(key))
    )


@each_kind
def test_a_certification_request(stack: CryptoStack, key_type: str, provider: str) -> None:
    key = signer(stack, key_type, provider)
    request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hash_for(key))
    text = openssl("req", "-verify", "-noout", given=request.public_bytes(Encoding.PEM))
    assert "verify OK" in text


@each_provider
def test_a_certification_request_with_pss(stack: CryptoStack, provider: str) -> None:
    key = signer(stack, "RSA-2048", provider)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    builder = x509.CertificateSigningRequestBuilder().subject_name(NAME)
    request = builder.sign(key, hashes.SHA256(), rsa_padding=pss)
    text = openssl("req", "-verify", "-text", "-noout", given=request.public_bytes(Encoding.PEM))
    assert "verify OK" in text
    assert "rsassaPss" in text


@each_kind
def test_a_certificate_and_a_revocation_list(stack: CryptoStack, key_type: str, provider: str, tmp_path: Path) -> None:
    key = signer(stack, key_type, provider)
    ca, now = authority(key), datetime.now(UTC)
    revocations = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(NAME)
        .last_update(now - timedelta(hours=1))
        .next_update(now + timedelta(hours=1))
        .sign(key, hash_for(key))
    )
    (tmp_path / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    (tmp_path / "crl.pem").write_bytes(revocations.public_bytes(Encoding.PEM))
    pem = tmp_path / "ca.pem"
    checked = openssl("verify", "-check_ss_sig", "-crl_check", "-CAfile", pem, "-CRLfile", tmp_path / "crl.pem", pem)
    assert checked.strip().endswith("OK")


@pytest.mark.parametrize("key_type", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_x509_with_ml_dsa(stack: CryptoStack, key_type: str) -> None:
    """OpenSSL of this system has no ML-DSA; the one that cryptography brings along has."""
    key = signer(stack, key_type, "software")
    ca = authority(key)
    ca.verify_directly_issued_by(ca)
    request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, None)
    assert request.is_signature_valid


# --- JSON Web Tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "key_type", "provider"),
    [
        *((algorithm, "RSA-2048", provider) for algorithm in ("RS256", "PS256") for provider in PROVIDERS),
        *(("ES256", "EC-P256", provider) for provider in PROVIDERS),
        ("ES384", "EC-P384", "softhsm"),
        ("ES512", "EC-P521", "software"),
        ("EdDSA", "Ed25519", "software"),
        ("EdDSA", "Ed25519", "softhsm"),
    ],
)
def test_a_json_web_token(stack: CryptoStack, algorithm: str, key_type: str, provider: str, tmp_path: Path) -> None:
    key = signer(stack, key_type, provider)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    token = jwt.encode({"sub": "a slot"}, key, algorithm=algorithm)
    assert jwt.decode(token, key.public_key(), algorithms=[algorithm]) == {"sub": "a slot"}
    signed, _, encoded = token.rpartition(".")
    signature = jwt.utils.base64url_decode(encoded)
    if algorithm.startswith("ES"):
        # A JSON Web Signature has both numbers one after the other (RFC 7518 section 3.4); openssl wants them in DER.
        half = len(signature) // 2
        signature = encode_dss_signature(
            *(int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        )
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "signed").write_text(signed)
    names = (
        "-pubin",
        "-inkey",
        tmp_path / "public.pem",
        "-sigfile",
        tmp_path / "signature",
        "-in",
        tmp_path / "signed",
    )
    pss = ("-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest") if algorithm == "PS256" else ()
    digest = () if algorithm == "EdDSA" else ("-digest", f"sha{algorithm[2:]}")
    assert "Verified Successfully" in openssl("pkeyutl", "-verify", *names, "-rawin", *digest, *pss)


# --- SSH -----------------------------------------------------------------------------------------------------------


class ServiceKeyPair(asyncssh.SSHKeyPair):
    """A key pair of AsyncSSH whose private half is a private-key object, wherever the key is."""

    def __init__(self, key: CertificateIssuerPrivateKeyTypes) -> None:
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        public = asyncssh.import_public_key(line)
        algorithms = public.sig_algorithms
        # In an executor, so that the event loop does not wait for the daemon.
        super().__init__(
            public.algorithm, public.algorithm, algorithms, algorithms, public.public_data, None, use_executor=True
        )
        self._private_key = key

    def sign(self, data: bytes) -> bytes:
        return _string(self.sig_algorithm) + _string(self._signature(data))

    def _signature(self, data: bytes) -> bytes:
        match self._private_key:
            case rsa.RSAPrivateKey() as key:
                hash_ = hashes.SHA256() if self.sig_algorithm == b"rsa-sha2-256" else hashes.SHA512()
                return key.sign(data, padding.PKCS1v15(), hash_)
            case ec.EllipticCurvePrivateKey() as key:
                digests = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
                pair = decode_dss_signature(key.sign(data, ec.ECDSA(digests[key.key_size])))
                return b"".join(_string(one.to_bytes(one.bit_length() // 8 + 1, "big")) for one in pair)
            case ed25519.Ed25519PrivateKey() as key:
                return key.sign(data)
            case _:
                raise ValueError("SSH has no signatures of this kind.")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


SSH_KINDS = pytest.mark.parametrize(
    ("key_type", "provider"),
    [
        *((key_type, provider) for key_type in ("RSA-2048", "EC-P256") for provider in PROVIDERS),
        ("EC-P521", "software"),
        ("Ed25519", "softhsm"),
    ],
)


def authorized(key: CertificateIssuerPrivateKeyTypes) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@SSH_KINDS
def test_an_ssh_signature_of_a_file(stack: CryptoStack, key_type: str, provider: str, tmp_path: Path) -> None:
    key = signer(stack, key_type, provider)
    (tmp_path / "signers").write_text(f"somebody {authorized(key)}\n")
    (tmp_path / "signature").write_bytes(asyncssh.create_sshsig(ServiceKeyPair(key), CONTENT))
    answer = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-n", "file", "-I", "somebody", "-f", "signers", "-s", "signature"],
        cwd=tmp_path,
        input=CONTENT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer
    assert b"Good" in answer.stdout


@SSH_KINDS
def test_an_ssh_client_and_its_server(stack: CryptoStack, key_type: str, provider: str) -> None:
    client, host = signer(stack, key_type, provider), signer(stack, "EC-P256", provider)

    async def connect() -> str:
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[ServiceKeyPair(host)],
            authorized_client_keys=asyncssh.import_authorized_keys(authorized(client)),
            process_factory=_echo,
        )
        connection = await asyncssh.connect(
            "127.0.0.1",
            server.get_port(),
            username="somebody",
            known_hosts=([asyncssh.import_public_key(authorized(host))], [], []),
            client_keys=[ServiceKeyPair(client)],
            config=None,
            agent_path=None,
        )
        answer = await connection.run("hello")
        connection.close()
        server.close()
        return str(answer.stdout)

    assert asyncio.run(asyncio.wait_for(connect(), 60)) == "hello"


def _echo(process: "asyncssh.SSHServerProcess[str]") -> None:
    process.stdout.write(process.command or "")
    process.exit(0)


# --- CMS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ECDSA", "PKCS1", "PSS"])
@each_provider
def test_a_cms_signature(stack: CryptoStack, provider: str, scheme: str, tmp_path: Path) -> None:
    key = signer(stack, "EC-P256" if scheme == "ECDSA" else "RSA-2048", provider)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    certificate = authority(key)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    signed = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(CONTENT)
        .add_signer(certificate, key, hashes.SHA256(), rsa_padding=pss if scheme == "PSS" else None)
        .sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])
    )
    (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    verified = ("cms", "-verify", "-inform", "DER", "-binary", "-purpose", "any", "-CAfile", tmp_path / "ca.pem")
    assert CONTENT.decode().strip() in openssl(*verified, given=signed)


@pytest.mark.parametrize(("provider", "digest"), [("software", "sha256"), ("softhsm", "sha1"), ("tpm", "sha256")])
def test_a_secret_that_openssl_encrypted(stack: CryptoStack, provider: str, digest: str, tmp_path: Path) -> None:
    key = private_key(stack, new_slot(stack, "RSA-2048", provider, P.ENCRYPT | P.DECRYPT))
    assert isinstance(key, rsa.RSAPrivateKey)
    public, sealed = tmp_path / "public.pem", tmp_path / "sealed"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    openssl(
        *("pkeyutl", "-encrypt", "-pubin", "-inkey", public, "-out", sealed),
        *("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", f"rsa_oaep_md:{digest}"),
        given=CONTENT,
    )
    hash_ = hashes.SHA1() if digest == "sha1" else hashes.SHA256()
    assert key.decrypt(sealed.read_bytes(), padding.OAEP(padding.MGF1(hash_), hash_, None)) == CONTENT
