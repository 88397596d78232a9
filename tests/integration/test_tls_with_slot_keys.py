"""TLS with keys in slots: against openssl, over HTTP, in threads, and when key or daemon is gone in between."""

import asyncio
import http.server
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.client.pyca import private_key
from hsmbridge.client.tls import load_slot_key
from hsmbridge.errors import KeyUseError, ProviderError, ResourceError, Status, WireError
from hsmbridge.lab.lab import Lab
from tests.unit.client import tls_peers
from tests.unit.client.tls_peers import CLIENT, SERVER, TLS12, VERSIONS, Peers, SigningKey

ROOT = Path(__file__).resolve().parents[2]
P = KeyOperationPermission
SIGNING = P.SIGN | P.VERIFY | P.GENERATE
PROVIDERS = ("software", "softhsm", "tpm")
_numbers = count()

each_provider = pytest.mark.parametrize("provider", PROVIDERS)
each_key_type = pytest.mark.parametrize("key_type", ["EC-P256", "RSA-2048"])
each_version = pytest.mark.parametrize("version", VERSIONS, ids=VERSIONS.values())


@pytest.fixture
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with hsmbridge_lab.stack(timeout=60) as made:
        yield made


def new_slot(
    stack: CryptoStack, key_type: str = "EC-P256", provider: str = "software", permissions: P = SIGNING
) -> str:
    name = f"tls-{os.getpid()}-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider])
    return name


def slot_key(stack: CryptoStack, slot: str) -> SigningKey:
    key = private_key(stack, slot)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return key


class Site:
    """A slot's key with its certificate, and an ordinary peer of openssl with files, in a directory."""

    def __init__(self, stack: CryptoStack, key_type: str, provider: str, name: str, folder: Path) -> None:
        self.key = slot_key(stack, new_slot(stack, key_type, provider))
        self.certificate = tls_peers.certificate(self.key, name)
        peer = ec.generate_private_key(ec.SECP256R1())
        self.peer_certificate = tls_peers.certificate(peer, CLIENT if name == SERVER else SERVER)
        (folder / "ours.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        (folder / "peer.pem").write_bytes(self.peer_certificate.public_bytes(Encoding.PEM))
        (folder / "peer.key").write_bytes(peer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@each_version
@each_key_type
@each_provider
def test_a_server_with_its_key_in_a_slot_serves_openssl(
    stack: CryptoStack, provider: str, key_type: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    site = Site(stack, key_type, provider, SERVER, tmp_path)
    context = tls_peers.server_context(site.peer_certificate)
    in_use = load_slot_key(context, site.key, [site.certificate])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = subprocess.Popen(
            (
                *("openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-servername", SERVER),
                *("-CAfile", "ours.pem", "-verify_return_error", "-verify_hostname", SERVER),
                *("-cert", "peer.pem", "-key", "peer.key", "-ign_eof", _flag(version)),
            ),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        listener.settimeout(30)
        accepted, _ = listener.accept()
        with accepted, context.wrap_socket(accepted, server_side=True) as connection:
            connection.sendall(b"from a slot\n")
            assert connection.version() == VERSIONS[version]
            assert (connection.getpeercert() or {})["subject"] == ((("commonName", CLIENT),),)
    said, _ = client.communicate(timeout=30)
    assert b"from a slot" in said
    assert b"Verification: OK" in said
    assert in_use.signatures == 1


@each_version
@each_key_type
@each_provider
def test_a_client_with_its_key_in_a_slot_is_known_to_openssl(
    stack: CryptoStack, provider: str, key_type: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    site = Site(stack, key_type, provider, CLIENT, tmp_path)
    context = tls_peers.client_context(site.peer_certificate)
    in_use = load_slot_key(context, site.key, [site.certificate])
    server = subprocess.Popen(
        (
            *("openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-rev", _flag(version)),
            *("-cert", "peer.pem", "-key", "peer.key", "-CAfile", "ours.pem", "-Verify", "1", "-verify_return_error"),
        ),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert server.stdout is not None
    try:
        port = next(int(found[1]) for line in server.stdout if (found := re.match(rb"ACCEPT .*:(\d+)$", line.strip())))
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname=SERVER) as connection,
        ):
            connection.sendall(b"ping\n")
            assert connection.recv(5) == b"gnip\n"
            assert connection.version() == VERSIONS[version]
    finally:
        said, _ = server.communicate(timeout=30)
    assert f"CN = {CLIENT}".encode() in said
    assert in_use.signatures == 1


def _flag(version: ssl.TLSVersion) -> str:
    return "-tls1_2" if version == TLS12 else "-tls1_3"


class _Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


@contextmanager
def https_server(context: ssl.SSLContext) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Greeter) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


def test_https_with_both_keys_in_slots(stack: CryptoStack) -> None:
    peers = Peers(slot_key(stack, new_slot(stack, "EC-P256", "softhsm")), slot_key(stack, new_slot(stack, "RSA-2048")))
    with https_server(peers.server) as port:
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=peers.client))
        for _ in range(3):
            with opener.open(f"https://{SERVER}:{port}/", timeout=30) as answer:
                assert answer.read() == b"hello"
    assert peers.server_use.signatures == peers.client_use.signatures == 3


def test_an_event_loop_of_an_application_serves_with_a_slot_key(stack: CryptoStack) -> None:
    peers = Peers(slot_key(stack, new_slot(stack)), slot_key(stack, new_slot(stack)))

    async def talk() -> bytes:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=peers.server) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=peers.client, server_hostname=SERVER)
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(asyncio.wait_for(talk(), 60)) == b"hello"


@each_key_type
@each_provider
def test_fifty_handshakes_in_eight_threads(stack: CryptoStack, provider: str, key_type: str) -> None:
    peers = Peers(*(slot_key(stack, new_slot(stack, key_type, provider)) for _ in range(2)))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: peers.handshake(), range(50), timeout=100)) == ["TLSv1.3"] * 50
    assert peers.server_use.signatures == peers.client_use.signatures == 50


@pytest.mark.parametrize("digest", ["SHA384", "SHA512"])
@each_provider
def test_a_peer_that_wants_another_digest_than_the_curves_own_gets_it(
    stack: CryptoStack, provider: str, digest: str, tmp_path: Path
) -> None:
    """In TLS 1.2 any digest goes with any curve (RFC 5246 section 7.4.1.4.1)."""
    site = Site(stack, "EC-P256", provider, SERVER, tmp_path)
    context = tls_peers.server_context(None)
    load_slot_key(context, site.key, [site.certificate])
    with https_server(context) as port:
        said = subprocess.run(
            (
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", SERVER, "-tls1_2"),
                *("-CAfile", "ours.pem", "-verify_return_error", "-sigalgs", f"ECDSA+{digest}"),
            ),
            cwd=tmp_path,
            input=b"GET / HTTP/1.0\r\n\r\n",
            capture_output=True,
            timeout=60,
            check=False,  # http.server ends the connection without TLS's goodbye, which s_client may notice
        ).stdout.decode()
    assert "Verification: OK" in said
    assert f"Peer signing digest: {digest}" in said


# --- what goes wrong -----------------------------------------------------------------------------------------------


@each_version
@each_provider
def test_a_key_revoked_in_between_ends_later_handshakes(
    stack: CryptoStack, provider: str, version: ssl.TLSVersion
) -> None:
    slot = new_slot(stack, "EC-P256", provider)
    peers = Peers(slot_key(stack, slot), slot_key(stack, new_slot(stack)))
    assert peers.handshake(version) == VERSIONS[version]
    stack.revoke(slot)
    for _ in range(3):
        with pytest.raises(ssl.SSLError):
            peers.handshake(version)
        assert isinstance(peers.server_use.failure, KeyUseError | ResourceError)


def test_a_rotated_slot_does_not_sign_for_its_former_certificate(stack: CryptoStack) -> None:
    slot = new_slot(stack)
    peers = Peers(slot_key(stack, new_slot(stack)), slot_key(stack, slot))
    assert peers.handshake() == "TLSv1.3"
    stack.rotate(slot)
    with pytest.raises(ssl.SSLError):
        peers.handshake()
    assert isinstance(peers.client_use.failure, KeyUseError)
    assert peers.client_use.failure.status is Status.KEY_STATE_FORBIDS
    key = slot_key(stack, slot)
    chain = [tls_peers.certificate(key, CLIENT)]
    peers.server.load_verify_locations(cadata=tls_peers.pem(chain))
    load_slot_key(peers.client, key, chain)
    assert peers.handshake() == "TLSv1.3"


def test_a_key_that_may_not_sign_is_refused_when_it_is_loaded(stack: CryptoStack) -> None:
    key = slot_key(stack, new_slot(stack, "RSA-2048", permissions=P.ENCRYPT | P.DECRYPT))
    chain = [tls_peers.certificate(ec.generate_private_key(ec.SECP256R1()), SERVER, key.public_key())]
    with pytest.raises(KeyUseError) as caught:
        load_slot_key(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), key, chain)
    assert caught.value.status is Status.KEY_OPERATION_NOT_PERMITTED


def test_a_slot_that_allows_too_little_fails_where_the_peer_chooses_something_else(stack: CryptoStack) -> None:
    name = f"tls-{os.getpid()}-{next(_numbers)}"
    stack.create_slot(name, "RSA-2048", SIGNING, providers=["software"], algorithms=["RSA-PSS-SHA384"])
    key, issuer = slot_key(stack, name), ec.generate_private_key(ec.SECP256R1())
    root = tls_peers.certificate(issuer, "root")
    server = tls_peers.server_context(None)
    in_use = load_slot_key(server, key, [tls_peers.certificate(issuer, SERVER, key.public_key(), root)])
    assert (in_use.signatures, in_use.failure) == (0, None)
    with pytest.raises(ssl.SSLError):
        tls_peers.handshake(server, tls_peers.client_context(root))
    assert isinstance(in_use.failure, KeyUseError)
    assert in_use.failure.status is Status.ALGORITHM_NOT_ALLOWED


def test_without_the_daemon_handshakes_fail_and_with_it_they_go_on(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    peers = Peers(
        slot_key(stack, new_slot(stack, "EC-P256", "softhsm")), slot_key(stack, new_slot(stack, "RSA-2048", "software"))
    )
    assert peers.handshake() == "TLSv1.3"
    hsmbridge_lab.kill_daemon()
    try:
        for version in VERSIONS:
            with pytest.raises(ssl.SSLError):
                peers.handshake(version)
            assert isinstance(peers.server_use.failure, WireError)
    finally:
        hsmbridge_lab.restart_daemon()
    assert peers.handshake() == "TLSv1.3"
    assert peers.server_use.failure is None


def test_a_provider_host_that_is_killed_costs_a_handshake_at_most(hsmbridge_lab: Lab, stack: CryptoStack) -> None:
    peers = Peers(*(slot_key(stack, new_slot(stack, "EC-P256", "softhsm")) for _ in range(2)))
    killed = hsmbridge_lab.kill_host("softhsm")
    try:
        peers.handshake()
    except ssl.SSLError:
        assert isinstance(peers.server_use.failure or peers.client_use.failure, ProviderError)
    hsmbridge_lab.wait_until_available(["softhsm"], replaced=killed)
    assert peers.handshake() == "TLSv1.3"


# --- many ----------------------------------------------------------------------------------------------------------

_MANY = """
import gc, resource, sys, threading
from concurrent.futures import ThreadPoolExecutor
from hsmbridge.client import CryptoStack
from tests.integration.test_tls_with_slot_keys import new_slot, slot_key
from tests.unit.client.tls_peers import TLS12, TLS13, Peers

handshakes, threads = int(sys.argv[2]), 8

def memory():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

with CryptoStack(sys.argv[1]) as stack:
    keys = [slot_key(stack, new_slot(stack, kind)) for kind in ("EC-P256", "EC-P256", "RSA-2048")]
    shared = Peers(keys[0], keys[1])

    def work(number):
        for turn in range(number):
            peers = Peers(keys[turn % 3], keys[1]) if turn % 50 == 0 else shared
            assert peers.handshake(TLS12 if turn % 3 == 0 else TLS13)
            if turn % 100 == 0:
                gc.collect()

    def all_threads(number):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [number // threads] * threads))

    all_threads(max(400, handshakes // 10))
    before = memory()
    all_threads(handshakes)
    grown = memory() - before
    print(grown)
    assert grown < 16 << 20, grown
"""


def many(lab: Lab, handshakes: int, timeout: float) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _MANY, str(lab.socket), str(handshakes)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def test_many_handshakes_under_forced_garbage_collection_leak_nothing(hsmbridge_lab: Lab) -> None:
    many(hsmbridge_lab, 1_000, timeout=110)


@pytest.mark.all
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_handshakes_leak_nothing(hsmbridge_lab: Lab) -> None:
    many(hsmbridge_lab, 100_000, timeout=3500)
