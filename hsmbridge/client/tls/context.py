"""Giving an SSLContext a key of the service: certificate chain, key, and a first signature to prove it."""

import ctypes
import ssl
from collections.abc import Sequence
from threading import RLock, Thread
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from hsmbridge.client.tls.key_table import ProvidedKey, TlsPrivateKey
from hsmbridge.client.tls.openssl import Address, OpenSsl, context_pointer, openssl
from hsmbridge.client.tls.provider import make_pkey
from hsmbridge.core.errors import CertificateError, KeyUseError, RequestError, Status

_RSA_PKCS1_PSS_PADDING: Final = 6
_RSA_PSS_SALTLEN_DIGEST: Final = -1
_MESSAGE: Final = b"hsmbridge"
_TRIED: Final = (
    (b"SHA256", hashes.SHA256()),
    (b"SHA384", hashes.SHA384()),
    (b"SHA512", hashes.SHA512()),
)


class SlotKeyInUse:
    """What became of a key that an SSLContext uses. Handshakes go on without it: it need not be kept.

    Attributes:
        failure: why the last signature of a handshake failed; None once one succeeded again.
        signatures: how many were made.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.signatures = 0
        # A signal handler may run inside of `_report`, and may make a handshake of its own.
        self._lock = RLock()

    def _report(self, problem: BaseException | None) -> None:
        with self._lock:
            self.failure = problem
            self.signatures += problem is None


def load_slot_key(context: ssl.SSLContext, private_key: object, chain: Sequence[x509.Certificate]) -> SlotKeyInUse:
    """Make `context`, of a client or of a server, authenticate with a key that stays in the service.

    As `SSLContext.load_cert_chain`, with the private key out of reach: each full handshake asks the daemon for a
    signature, in the thread of the handshake. RSA (PKCS1v15 and PSS) and EC keys; TLS 1.2 and 1.3. A second call
    with a key of the other kind adds it. A signature is made at once, to prove that all parts fit.

    Args:
        private_key: of `hsmbridge.client.pyca.private_key`; any that implements cryptography's classes will do.
        chain: begins with the certificate of this key.

    Raises:
        RequestError: NOT_SUPPORTED, where this Python or its OpenSSL is not known, or for other kinds of keys.
        CertificateError: CERTIFICATE_INVALID, where the chain is empty or is not that of the key.
        HsmBridgeError: what hinders the key from signing.
    """
    if not isinstance(private_key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise RequestError(Status.NOT_SUPPORTED, "TLS takes RSA and EC keys of the service.")
    if not chain or chain[0].public_key() != private_key.public_key():
        raise CertificateError(
            Status.CERTIFICATE_INVALID, "The chain has to begin with the certificate of the private key."
        )
    in_use = SlotKeyInUse()
    problems: list[BaseException] = []

    def load() -> None:
        try:
            _load(context, private_key, chain, in_use)
        except BaseException as problem:  # noqa: BLE001 - raised again in the thread of the caller
            problems.append(problem)

    # Signal handlers run in the main thread alone, so none can raise inside OpenSSL's calls while things are set up.
    worker = Thread(target=load, name="hsmbridge-tls", daemon=True)
    worker.start()
    worker.join()
    if problems:
        raise problems[0]
    return in_use


def _load(
    context: ssl.SSLContext, private_key: TlsPrivateKey, chain: Sequence[x509.Certificate], in_use: SlotKeyInUse
) -> None:
    library = openssl()
    pointer = context_pointer(library, context)
    key = ProvidedKey(private_key, in_use._report)  # noqa: SLF001 - for this module and nobody else
    pkey = make_pkey(key)
    try:
        _prove(library, key, pkey, in_use)
        _use(library, pointer, pkey, chain)
    finally:
        library.pkey_free(pkey)


def _prove(library: OpenSsl, key: ProvidedKey, pkey: int, in_use: SlotKeyInUse) -> None:
    """Have libcrypto sign with the key as libssl will, and check the signature. Not counted in `signatures`."""
    for name, digest in _TRIED:
        made = _sign(library, key, pkey, name, _MESSAGE)
        if made:
            _verify(key, made, digest)
            in_use.signatures, in_use.failure = 0, None
            return
        problem = in_use.failure
        if not isinstance(problem, KeyUseError) or problem.status is not Status.ALGORITHM_NOT_ALLOWED:
            break
    if in_use.failure is not None:
        raise in_use.failure
    raise RequestError(Status.NOT_SUPPORTED, f"OpenSSL does not sign with the key: {library.errors()}.")


def _verify(key: ProvidedKey, signature: bytes, digest: hashes.HashAlgorithm) -> None:
    public_key = key.private_key.public_key()
    try:
        if isinstance(public_key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            public_key.verify(signature, _MESSAGE, pss, digest)
        else:
            public_key.verify(signature, _MESSAGE, ec.ECDSA(digest))
    except InvalidSignature:
        raise RequestError(Status.NOT_SUPPORTED, "OpenSSL signs, but not with this key.") from None


def _sign(library: OpenSsl, key: ProvidedKey, pkey: int, digest: bytes, message: bytes) -> bytes:
    """b"" where it fails."""
    signing = library.md_ctx_new()
    parameters, size = ctypes.c_void_p(), ctypes.c_size_t()
    try:
        if library.digest_sign_init(signing, ctypes.byref(parameters), digest, None, None, pkey, None) != 1:
            return b""
        if isinstance(key.private_key, rsa.RSAPrivateKey) and (
            library.pkey_ctx_set_rsa_padding(parameters.value, _RSA_PKCS1_PSS_PADDING) <= 0
            or library.pkey_ctx_set_rsa_pss_saltlen(parameters.value, _RSA_PSS_SALTLEN_DIGEST) <= 0
        ):
            return b""
        if library.digest_sign(signing, None, ctypes.byref(size), message, len(message)) != 1:
            return b""
        out = ctypes.create_string_buffer(size.value)
        done = library.digest_sign(signing, out, ctypes.byref(size), message, len(message))
        return out.raw[: size.value] if done == 1 and size.value < len(out) else b""
    finally:
        library.md_ctx_free(signing)


def _use(library: OpenSsl, context: int, pkey: int, chain: Sequence[x509.Certificate]) -> None:
    certificates: list[Address] = []
    intermediates = library.stack_new()
    try:
        certificates.extend(_x509(library, certificate) for certificate in chain)
        for one in certificates[1:]:
            library.stack_push(intermediates, one)
        if library.context_use(context, certificates[0], pkey, intermediates, 1) != 1:
            raise CertificateError(
                Status.CERTIFICATE_INVALID, f"OpenSSL does not take the certificates: {library.errors()}."
            )
    finally:
        library.stack_free(intermediates)
        for one in certificates:
            library.x509_free(one)


def _x509(library: OpenSsl, certificate: x509.Certificate) -> int:
    der = certificate.public_bytes(Encoding.DER)
    made = library.x509_from_der(None, ctypes.byref(ctypes.c_char_p(der)), len(der))
    if not made:
        raise CertificateError(Status.CERTIFICATE_INVALID, f"OpenSSL does not read it: {library.errors()}.")
    return made
