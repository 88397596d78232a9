"""The renewal service as a process: its control socket, its metrics, and consumers that never see an expired pair."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from est import refusals
from est.ca.profile import Profile
from est.key_places import KeyPlaces
from est.server.listener import Handler, Listener
from est.server.messages import Peer, ServerRequest, ServerResponse
from est.service import control
from est.service.configuration import read_service_file
from est.service.control import ControlSocket, ask
from est.service.generations import Generations
from est.service.metrics import metrics_text
from est.service.running import RenewalService
from est.service.standing import Standing
from hsmbridge.core.errors import (
    STATUS_TABLE,
    AccessError,
    HsmBridgeError,
    RequestError,
    ResourceError,
    Status,
    WireError,
)
from hsmbridge.lab.lab import Lab
from tests.integration.est.command import est_here
from tests.integration.est.lab import USERS, Site, make_site

HOST = "localhost"


def _exit(status: Status) -> int:
    return STATUS_TABLE[status].exit_code


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the path of a socket."""
    made = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def places(hsmbridge_lab: Lab) -> Iterator[KeyPlaces]:
    with KeyPlaces(hsmbridge_lab.socket) as made:
        yield made


def configure(folder: Path, site: Site, listener: Listener, names: tuple[str, ...], more: str = "") -> Path:
    (folder / "password").write_text(USERS["device"])
    anchors = (site.root.certificate, site.authority.issuer.certificate)
    (folder / "anchors.pem").write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in anchors))
    tables = "".join(
        f'[certificate.{name}]\nfolder = "{folder / name}"\nserver = "{HOST}:{listener.port}"\n'
        f'ca = "{folder / "anchors.pem"}"\nsubject = "CN={name}"\ndns = ["{HOST}"]\nuser = "device"\n'
        f'password_file = "{folder / "password"}"\n{more.replace("NAME", name)}\n'
        for name in names
    )
    own = f'[service]\ncontrol = "{folder / "control"}"\nmetrics = "{folder / "est.prom"}"\n'
    (folder / "service.toml").write_text(tables + own)
    return folder / "service.toml"


@contextlib.contextmanager
def service(file: Path, lab: Lab | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "est.cli", "service", str(file)]
    command += ["--socket", str(lab.socket)] if lab else []
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert running.stdout is not None
        assert "alive" in running.stdout.readline()
        yield running
    finally:
        running.kill()
        running.wait(20)
        assert running.stdout is not None
        running.stdout.close()


def test_the_control_socket_tells_renews_and_hands_out_the_chain(folder: Path) -> None:
    site = make_site(Profile(lifetime=3600))
    with site.serving() as listener:
        file = configure(folder, site, listener, ("a", "b"))
        with service(file) as running:
            # The first enrolment may be under way still; this is another one.
            first = json.loads(est_here("control", folder / "control", "renew", "a").stdout)
            second = json.loads(est_here("control", folder / "control", "renew", "a").stdout)
            assert first["serial"] != second["serial"]
            assert second["reason"] == ""
            chain = est_here("control", folder / "control", "chain", "a").stdout
            certificate, issuer = x509.load_pem_x509_certificates(chain.encode())
            assert f"{certificate.serial_number:x}" == second["serial"]
            assert issuer == site.authority.issuer.certificate
            ask(folder / "control", "renew", "b")
            listed = json.loads(est_here("control", folder / "control", "status").stdout)
            assert [one["name"] for one in listed] == ["a", "b"]
            assert all(one["not_after"] > time.time() for one in listed)
            metrics = est_here("control", folder / "control", "metrics").stdout
            assert 'est_renewals_total{certificate="a"}' in metrics
            unknown = est_here("control", folder / "control", "renew", "c", expect=_exit(Status.RESOURCE_NOT_FOUND))
            assert "no certificate of this name" in unknown.stderr
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
    assert not (folder / "control").exists()
    assert "est_certificate_not_after_seconds" in (folder / "est.prom").read_text()
    assert (folder / "est.prom").stat().st_mode & 0o777 == 0o644
    est_here("control", folder / "control", "status", expect=_exit(Status.CONNECTION_LOST))


def test_a_service_manager_is_told_when_it_is_ready_and_when_it_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(Profile(lifetime=3600))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, site.serving() as listener:
        manager.bind(str(folder / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        with service(configure(folder, site, listener, ("a",))) as running:
            assert manager.recv(100) == b"READY=1"
            # Ready is who answers.
            ask(folder / "control", "status")
            running.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert running.wait(20) == 0


def test_a_wish_during_an_attempt_waits_for_the_attempt_after_it(folder: Path) -> None:
    site = make_site(Profile(lifetime=3600))
    arrived, released = threading.Event(), threading.Event()

    def held(handler: Handler) -> Handler:
        def handle(request: ServerRequest, peer: Peer) -> ServerResponse:
            if request.target.endswith("/simpleenroll"):
                arrived.set()
                assert released.wait(30)
            return handler(request, peer)

        return handle

    stop = threading.Event()
    with site.serving(held) as listener:
        keeping = RenewalService(read_service_file(configure(folder, site, listener, ("a",))).kept, KeyPlaces())
        thread = threading.Thread(target=keeping.run, args=(stop,))
        thread.start()
        try:
            assert arrived.wait(30)
            wishes = [threading.Thread(target=keeping.keepers["a"].renew_now, args=(30,)) for _ in range(2)]
            for wish in wishes:
                wish.start()
            released.set()
            for wish in wishes:
                wish.join()
            # The first enrolment, and one renewal for both wishes or one for each.
            assert 2 <= keeping.keepers["a"].standing().renewals <= 3
        finally:
            stop.set()
            thread.join(30)


def test_a_failed_renewal_is_told_by_the_control_socket(folder: Path) -> None:
    site = make_site(Profile(lifetime=3600))
    with site.serving() as listener:
        file = configure(folder, site, listener, ("a",))
        told = read_service_file(file)
    keeping = RenewalService(told.kept, KeyPlaces())
    stop = threading.Event()
    thread = threading.Thread(target=keeping.run, args=(stop,))
    thread.start()
    try:
        with ControlSocket(folder / "control", keeping):
            answer = ask(folder / "control", "renew", "a")
            assert isinstance(answer, dict)
            assert answer["failures_in_a_row"] >= 1
            assert "No connection" in answer["reason"]
            assert "No connection" in est_here("control", folder / "control", "renew", "a", expect=1).stdout
    finally:
        stop.set()
        thread.join(20)


@pytest.fixture
def idle(folder: Path) -> Iterator[Path]:
    """A control socket of a service without certificates."""
    with ControlSocket(folder / "control", RenewalService((), KeyPlaces())):
        yield folder / "control"


# Connects more often than the socket takes requests, asks nothing, reads what it is told, and holds them all.
STRANGER = """
import os, socket, sys
os.setuid(65534)
held = []
for _ in range(24):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
    said = held[-1].recv(4096).decode()
print(said, end="", flush=True)
sys.stdin.read()
"""


def test_somebody_else_is_refused_by_the_uid_that_the_kernel_names_and_keeps_nobody_out(idle: Path) -> None:
    idle.parent.chmod(0o755)
    command = [sys.executable, "-c", STRANGER, str(idle)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert json.loads(stranger.stdout.readline())["error"]["status"] == "ACCESS_DENIED"
        assert ask(idle, "status") == []


def test_a_request_an_octet_at_a_time_is_not_waited_for(idle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.3)
    deadline = time.monotonic() + 20
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(idle))
        sock.settimeout(0.05)
        ended = False
        while not ended and time.monotonic() < deadline:
            try:
                sock.sendall(b" ")
                ended = sock.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended


def test_an_allowed_uid_is_answered(folder: Path) -> None:
    folder.chmod(0o755)
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        's.sendall(b\'{"command": "status"}\\n\'); print(s.recv(4096).decode())'
    )
    with ControlSocket(folder / "control", RenewalService((), KeyPlaces()), (65534,)):
        said = subprocess.check_output([sys.executable, "-c", script, str(folder / "control")], timeout=30)
    assert json.loads(said) == {"ok": []}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", "MALFORMED_FRAME"),
        (b"[]", "MALFORMED_FRAME"),
        (b"{}", "INVALID_ARGUMENT"),
        (b"x" * 9000, "DATA_TOO_LARGE"),
    ],
)
def test_what_is_no_request_gets_an_error(idle: Path, line: bytes, kind: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(idle))
        sock.sendall(line + b"\n")
        assert json.loads(sock.recv(4096))["error"]["status"] == kind


def test_a_place_that_is_no_socket_is_left_alone(folder: Path) -> None:
    (folder / "control").write_text("precious")
    with pytest.raises(RequestError, match="no socket"):
        ControlSocket(folder / "control", RenewalService((), KeyPlaces()))
    assert (folder / "control").read_text() == "precious"
    with pytest.raises(WireError):
        ask(folder / "nothing", "status")


@pytest.mark.parametrize(
    "table",
    ["[service]\nnothing = 1", "[service]\nallow = ['root']", "[service]\ncontrol = 1", "service = 1"],
)
def test_a_wrong_table_of_the_service_is_refused(folder: Path, table: str) -> None:
    site = make_site()
    with site.serving() as listener:
        file = configure(folder, site, listener, ("a",))
    lines = file.read_text().partition("[service]")[0]
    file.write_text(f"{table}\n{lines}" if table.startswith("service") else lines + table)
    with pytest.raises(RequestError):
        read_service_file(file)


@pytest.mark.parametrize("more", ['slot = "x"', 'provider = "softhsm"', "rekey = 1"])
def test_a_slot_needs_its_provider(folder: Path, more: str) -> None:
    site = make_site()
    with site.serving() as listener, pytest.raises(RequestError):
        read_service_file(configure(folder, site, listener, ("a",), more))


@given(st.text(max_size=20))
def test_metrics_have_one_line_for_each_value_whatever_the_name(name: str) -> None:
    lines = metrics_text([Standing(name)]).split("\n")
    assert len(lines) == 6 * 3 + 1
    assert all(one.startswith(("#", "est_")) or not one for one in lines)


def test_errors_keep_their_kind_over_the_socket() -> None:
    for made, kind in (("ACCESS_DENIED", AccessError), ("RESOURCE_NOT_FOUND", ResourceError), ("?", WireError)):
        assert isinstance(refusals.named(made, "x"), kind)
        assert isinstance(refusals.named(made, "x"), HsmBridgeError)


class Consumer:
    """A TLS server with the pair of a folder; it reads it again when a file was touched, as one does on a signal."""

    def __init__(self, folder: Path, places: KeyPlaces) -> None:
        self._folder, self._places = folder, places
        self._generations = Generations(folder, places)
        self._word = -1
        self._context: ssl.SSLContext | None = None
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._stopping = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._socket.close()

    def _current(self) -> ssl.SSLContext:
        word = (self._folder / "reload").stat().st_mtime_ns
        if self._context is None or word != self._word:
            identity = self._generations.identity()
            assert identity is not None
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            identity.key.use_for_tls(context, identity.chain)
            self._context, self._word = context, word
        return self._context

    def _serve(self) -> None:
        while not self._stopping:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                continue
            with plain, contextlib.suppress(OSError), self._current().wrap_socket(plain, server_side=True) as sock:
                sock.sendall(b"ok")


def handshake(port: int, trust: ssl.SSLContext) -> int:
    """The serial number that the consumer shows; raises where the handshake fails, for an expired one too."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        trust.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        assert sock.recv(2) == b"ok"
        der = sock.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("slots", "renewals"), [(2, 3), pytest.param(10, 6, marks=pytest.mark.all)], ids=["2 slots", "10 slots"]
)
def test_consumers_never_fail_a_handshake_while_the_service_is_killed(
    hsmbridge_lab: Lab, places: KeyPlaces, folder: Path, slots: int, renewals: int
) -> None:
    """Certificates of 30 seconds with keys in SoftHSM slots; kill -9 at random instants; handshakes all the while."""
    site = make_site(Profile(lifetime=30))
    names = tuple(f"w{number}" for number in range(slots))
    prefix = f"kill-{slots}-{os.getpid()}"
    more = f'slot = "{prefix}-NAME"\nprovider = "softhsm"\nreload = ["touch", "{folder}/NAME/reload"]\n'
    trust = ssl.create_default_context()
    for one in (site.root.certificate, site.authority.issuer.certificate):
        trust.load_verify_locations(cadata=one.public_bytes(serialization.Encoding.DER))
    chance = random.Random(slots)
    seen: dict[str, set[int]] = {name: set() for name in names}
    consumers: dict[str, Consumer] = {}
    end = time.monotonic() + 240
    with site.serving() as listener:
        file = configure(folder, site, listener, names, more)
        try:
            while min(map(len, seen.values())) < renewals:
                assert time.monotonic() < end, {name: len(held) for name, held in seen.items()}
                with service(file, hsmbridge_lab) as running:
                    killed = time.monotonic() + 2 + chance.random() * 4
                    while time.monotonic() < killed:
                        for name in names:
                            if name not in consumers and (folder / name / "reload").exists():
                                consumers[name] = Consumer(folder / name, places)
                            if name in consumers:
                                seen[name].add(handshake(consumers[name].port, trust))
                    running.kill()
        finally:
            for consumer in consumers.values():
                consumer.stop()
    for name in names:
        mine = [one for one in site.authority.record.certificates() if one.subject == f"CN={name}"]
        # A kill between the server's record and our disk costs one more certificate, for the same key.
        keys_used = {
            x509.load_der_x509_certificate(one.der)
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            for one in mine
        }
        assert len(seen[name]) <= len(keys_used) <= len(mine)
        kept = [one.name for one in places.stack.list_slots() if f"{prefix}-{name}-" in one.name]
        # The pair in use, the one before, and one that waits for its certificate.
        assert len(kept) <= 3
