"""The OpenSSL provider without a daemon: keys of cryptography stand where those of the service do."""

import ctypes
import gc
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding

from hsmbridge.client.tls import dispatch, key_management, key_table, load_slot_key, openssl, signature
from hsmbridge.errors import CertificateError, ConnectionLost, RequestError, Status
from tests.unit.client import tls_peers
from tests.unit.client.tls_peers import TLS12, TLS13, VERSIONS, Peers

ROOT = Path(__file__).resolve().parents[3]
KEYS: dict[str, Callable[[], tls_peers.SigningKey]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}
VERSION_NAMES = pytest.mark.parametrize("version", VERSIONS, ids=VERSIONS.values())
FOR_LOADING = 2
"""Signatures before the first handshake: of the certificate, and the one that proves the key."""
BROKEN = ConnectionLost(Status.CONNECTION_LOST, "The connection is lost.")


Body = Callable[..., int | None]
Raising = Callable[[Body, Callable[..., bool]], None]


class Failing(rsa.RSAPrivateKey):
    """An RSA key that signs as often as it is told to, and then raises."""

    def __init__(self, problem: BaseException, signatures: int) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self._problem = problem
        self.signatures_left = signatures

    @property
    def key_size(self) -> int:
        return 2048

    def public_key(self) -> rsa.RSAPublicKey:
        return self._key.public_key()

    def sign(self, data: bytes, padding: AsymmetricPadding, algorithm: object) -> bytes:
        self.signatures_left -= 1
        if self.signatures_left < 0:
            raise self._problem
        assert isinstance(algorithm, hashes.HashAlgorithm)
        return self._key.sign(data, padding, algorithm)

    def _none(self, *_: object) -> object:
        raise AssertionError

    decrypt = private_numbers = private_bytes = __copy__ = __deepcopy__ = _none  # type: ignore[assignment]  # unused


@pytest.mark.parametrize("kind", KEYS)
@VERSION_NAMES
def test_both_ends_authenticate_with_keys_behind_the_provider(kind: str, version: ssl.TLSVersion) -> None:
    peers = Peers(KEYS[kind](), KEYS[kind]())
    assert (peers.server_use.signatures, peers.client_use.signatures) == (0, 0)
    assert peers.handshake(version) == VERSIONS[version]
    assert (peers.server_use.signatures, peers.client_use.signatures) == (1, 1)
    assert peers.server_use.failure is None


@VERSION_NAMES
def test_a_server_has_an_rsa_and_an_ec_key_at_once(version: ssl.TLSVersion) -> None:
    first, second = KEYS["RSA"](), KEYS["P-256"]()
    server = tls_peers.server_context(None)
    used = [load_slot_key(server, key, [tls_peers.certificate(key, "localhost")]) for key in (first, second)]
    for ciphers, counted in (("aRSA", [1, 0]), ("aECDSA", [1, 1])):
        if version == TLS12:
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
            client.set_ciphers(ciphers)
            tls_peers.handshake(server, client, version)
            assert [one.signatures for one in used] == counted
    if version == TLS13:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        tls_peers.handshake(server, client, version)
        assert sum(one.signatures for one in used) == 1


def test_the_certificates_between_go_along() -> None:
    root_key, between_key, key = KEYS["P-256"](), KEYS["RSA"](), KEYS["P-256"]()
    root = tls_peers.certificate(root_key, "root")
    between = tls_peers.certificate(root_key, "between", between_key.public_key(), root)
    chain = [tls_peers.certificate(between_key, "localhost", key.public_key(), between), between]
    client = tls_peers.client_context(root)
    server = tls_peers.server_context(None)
    load_slot_key(server, key, chain[:1])
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_peers.handshake(server, client)
    load_slot_key(server, key, chain)
    assert tls_peers.handshake(server, client) == "TLSv1.3"


@pytest.mark.parametrize("problem", [BROKEN, KeyboardInterrupt(), RecursionError(), MemoryError()], ids=repr)
@VERSION_NAMES
def test_a_signature_that_fails_ends_the_handshake_and_is_told(version: ssl.TLSVersion, problem: Exception) -> None:
    key = Failing(problem, FOR_LOADING)
    peers = Peers(key, KEYS["P-256"]())
    with pytest.raises(ssl.SSLError):
        peers.handshake(version)
    assert peers.server_use.failure is problem
    key.signatures_left = 1
    assert peers.handshake(version) == VERSIONS[version]
    assert peers.server_use.failure is None


def test_a_client_whose_signature_fails_sends_none() -> None:
    key = Failing(BROKEN, FOR_LOADING)
    peers = Peers(KEYS["P-256"](), key)
    for version in VERSIONS:
        with pytest.raises(ssl.SSLError):
            peers.handshake(version)
        assert peers.client_use.failure is BROKEN


def test_a_key_that_does_not_sign_is_not_loaded() -> None:
    key = Failing(BROKEN, 1)
    chain = [tls_peers.certificate(key, "localhost")]
    with pytest.raises(ConnectionLost):
        load_slot_key(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), key, chain)


# --- exceptions that no callback can catch -------------------------------------------------------------------------


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[Raising]:
    """Makes calls of the callback with a given body raise before its first line, as a signal handler may."""
    chosen: list[tuple[Body, Callable[..., bool]]] = []
    original = dispatch.Guarded.__call__

    def call(self: dispatch.Guarded, *arguments: object) -> int | None:
        if any(self._body is body and which(*arguments) for body, which in chosen):
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(dispatch.Guarded, "__call__", call)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield lambda body, which: chosen.append((body, which))
    chosen.clear()


def every(*_: object) -> bool:
    return True


def with_a_buffer(_number: object, out: object, *_: object) -> bool:
    """Whether a signature is asked for, and not its size."""
    return out is not None


@pytest.mark.parametrize("which", [every, with_a_buffer], ids=["size", "signature"])
@pytest.mark.parametrize("kind", ["RSA", "P-256"])
@VERSION_NAMES
def test_no_octet_goes_out_for_a_signature_whose_callback_never_began(
    raising: Raising, which: Callable[..., bool], kind: str, version: ssl.TLSVersion
) -> None:
    peers = Peers(KEYS[kind](), KEYS[kind]())
    raising(signature._sign, which)
    with pytest.raises(ssl.SSLError):
        peers.handshake(version)
    assert peers.server_use.signatures == 0


@pytest.mark.parametrize(
    "body",
    [
        signature._new,
        signature._init,
        signature._sign,
        signature._set_params,
        signature._free,
        key_management._has,
        key_management._match,
        key_management._export,
    ],
    ids=lambda body: body.__name__,
)
@VERSION_NAMES
def test_a_callback_that_never_began_crashes_nothing(raising: Raising, body: Body, version: ssl.TLSVersion) -> None:
    peers = Peers(KEYS["RSA"](), KEYS["P-256"]())
    raising(body, every)
    for _ in range(3):
        try:
            peers.handshake(version)
        except ssl.SSLError:
            continue


def in_a_process(code: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    setup = "import gc, os, signal, ssl, sys\nfrom tests.unit.client.test_tls_provider import *\n"
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", setup + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_signal_handlers_that_raise_at_any_moment_crash_nothing() -> None:
    answer = in_a_process(
        """
import random
class Alarm(Exception): pass
def ring(*_): raise Alarm
sys.unraisablehook = lambda _: None
peers = [Peers(KEYS[kind](), KEYS[kind]()) for kind in ("P-256", "RSA")]
signal.signal(signal.SIGALRM, ring)
done = failed = 0
for turn in range(600):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.004))
            peers[turn % 2].handshake(TLS12 if turn % 4 < 2 else TLS13)
            done += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (Alarm, ssl.SSLError):
        failed += 1
for one in peers:
    assert one.handshake() == "TLSv1.3"
print(done > 0, failed > 0)
"""
    )
    assert (answer.returncode, answer.stdout) == (0, "True True\n"), answer.stderr


# --- lives and ends ------------------------------------------------------------------------------------------------


def test_keys_and_signatures_end_with_their_contexts() -> None:
    gc.collect()
    before = len(key_table.keys), len(key_table.signings)
    for _ in range(20):
        peers = Peers(KEYS["P-256"](), KEYS["P-256"]())
        peers.handshake()
        del peers
    gc.collect()
    assert (len(key_table.keys), len(key_table.signings)) == before
    assert len(key_table.arriving) == 0


def test_contexts_that_live_until_the_interpreter_ends_end_in_silence() -> None:
    answer = in_a_process(
        """
peers = Peers(KEYS["P-256"](), KEYS["RSA"]())
peers.handshake()
ssl.kept = sys.kept = peers
leaked = [peers]
leaked.append(leaked)
"""
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_a_child_process_goes_on_with_its_parents_contexts() -> None:
    answer = in_a_process(
        """
peers = Peers(KEYS["P-256"](), KEYS["RSA"]())
child = os.fork()
version = peers.handshake()
if child:
    print(version, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert (answer.returncode, answer.stdout.splitlines()[-1]) == (0, "TLSv1.3 0"), answer.stderr


def test_threads_share_a_context() -> None:
    peers = Peers(KEYS["P-256"](), KEYS["RSA"]())
    peers.handshake()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: peers.handshake(), range(50))) == {"TLSv1.3"}
    assert peers.server_use.signatures == peers.client_use.signatures == 51


def test_other_keys_of_the_process_are_left_alone(tmp_path: Path) -> None:
    peers = Peers(KEYS["P-256"](), KEYS["P-256"]())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    library = ctypes.CDLL(ssl._ssl.__file__)  # type: ignore[attr-defined]  # a module of its own, not in typeshed
    library.OSSL_PROVIDER_available.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    assert library.OSSL_PROVIDER_available(None, b"hsmbridge") == 0
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    client = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    assert tls_peers.handshake(context, client) == "TLSv1.3"
    assert peers.handshake() == "TLSv1.3"


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_chain_of_another_key_is_refused() -> None:
    ours, other = KEYS["P-256"](), KEYS["P-256"]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for chain in ([], [tls_peers.certificate(other, "localhost")]):
        with pytest.raises(CertificateError) as caught:
            load_slot_key(context, ours, chain)
        assert caught.value.status is Status.CERTIFICATE_INVALID


@pytest.mark.parametrize(
    "key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())], ids=["Ed25519", "secp256k1"]
)
def test_a_key_that_tls_does_not_take_is_refused(key: object) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = [tls_peers.certificate(key, "localhost")] if isinstance(key, ec.EllipticCurvePrivateKey) else []
    with pytest.raises(RequestError) as caught:
        load_slot_key(context, key, chain)
    assert caught.value.status is Status.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("", "built into"),
        ("/nonexistent.so", "cannot be reached"),
        ("libc.so.6", "cannot be reached"),
    ],
)
def test_an_ssl_module_without_a_shared_openssl_is_refused(path: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        openssl._library(path)
    assert caught.value.status is Status.NOT_SUPPORTED


def test_another_openssl_than_that_of_the_ssl_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "OPENSSL_VERSION", "OpenSSL 3.0.0 7 sep 2021")
    with pytest.raises(RequestError, match="another one"):
        openssl._library(ssl._ssl.__file__)  # type: ignore[attr-defined]  # a module of its own, not in typeshed


def test_an_openssl_of_another_major_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "MAJOR", 4)
    with pytest.raises(RequestError, match="major version"):
        openssl._library(ssl._ssl.__file__)  # type: ignore[attr-defined]  # a module of its own, not in typeshed


def test_an_openssl_that_lacks_a_function_is_refused() -> None:
    with pytest.raises(RequestError, match="is missing"):
        openssl.functions(ctypes.CDLL("libc.so.6"))


def test_an_unknown_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "PYTHONS", ((3, 98), (3, 99)))
    openssl.openssl.cache_clear()
    with pytest.raises(RequestError, match=r"CPython 3\.98"):
        openssl.openssl()


def test_a_context_of_an_unknown_layout_is_refused() -> None:
    class Other(ssl.SSLContext):
        security_level = 99  # what it tells is not what its SSL_CTX tells

    with pytest.raises(RequestError, match="SSLContext"):
        openssl.context_pointer(openssl.openssl(), Other(ssl.PROTOCOL_TLS_SERVER))


def test_a_subclass_of_sslcontext_is_as_good() -> None:
    class Own(ssl.SSLContext):
        pass

    key = KEYS["P-256"]()
    chain = [tls_peers.certificate(key, "localhost")]
    context = Own(ssl.PROTOCOL_TLS_SERVER)
    load_slot_key(context, key, chain)
    assert tls_peers.handshake(context, tls_peers.client_context(chain[0])) == "TLSv1.3"


def test_the_size_asked_for_is_one_that_no_signature_can_have() -> None:
    size = [0]
    number = key_table.signings.add(key_table.Signing(key=key_table.ProvidedKey(KEYS["P-256"](), lambda _: None)))
    assert signature._sign(number, None, size, 0, None, 0) == 1
    assert size[0] > 0xFFFF
    key_table.signings.drop(number)
