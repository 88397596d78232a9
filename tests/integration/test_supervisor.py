"""The supervisor over real processes: what it starts, what survives a kill -9, what it refuses, how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmbridge.core import calls
from hsmbridge.core.errors import Status
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.providers.host.connection import HostClient
from hsmbridge.providers.registry import Isolation, ProviderSpec
from hsmbridge.supervisor import PinSource, SupervisedProvider
from tests.integration.supervised.rig import PATIENCE, Rig, toy
from tests.unit.host.toy_provider import RIGHT_PIN

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PROVISION = str(Path(__file__).parents[2] / "softhsm-config" / "provision")

SIGN = calls.SignCall(1, "ECDSA-P256-SHA256", b"message")


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def pin_file(rig: Rig, pin: str, mode: int = 0o600) -> Path:
    path = rig.root / "pin"
    path.write_text(pin)
    path.chmod(mode)
    return path


@contextmanager
def service_manager(rig: Rig) -> Iterator[socket.socket]:
    """What a service told with NOTIFY_SOCKET = "notify" in the rig's directory says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as events:
        events.bind(str(rig.root / "notify"))
        events.settimeout(PATIENCE)
        yield events


def sign_at(state: dict[str, object]) -> calls.ProviderReply:
    with HostClient(Path(str(state["socket"])), timeout=PATIENCE) as host:
        return host.call(SIGN)


# What is started, and what it gets


def test_a_worker_gets_its_specification_index_counters_and_the_states_of_the_hosts(rig: Rig) -> None:
    rig.configure(workers=2)
    rig.start()
    worker = rig.ask("await", provider="toy", available=True)
    assert worker["spec"] == "spec"
    assert worker["index"] in {0, 1}
    assert worker["rows"] == 2
    assert sign_at(worker["states"]["toy"]) == b"message"


def test_the_socket_has_the_configured_mode_and_the_hosts_are_behind_a_closed_directory(rig: Rig) -> None:
    rig.configure(socket_mode=0o660)
    rig.start()
    state = rig.available()
    modes = [
        path.stat().st_mode & 0o777
        for path in (rig.settings.socket_path, Path(state["socket"]), rig.settings.hosts_directory, rig.root / "state")
    ]
    assert modes == [0o660, 0o600, 0o700, 0o700]


def test_a_host_keeps_no_specification_open_and_leaves_no_core_file(rig: Rig) -> None:
    rig.start()
    host = rig.available()["pid"]
    targets = [link.readlink() for link in Path(f"/proc/{host}/fd").iterdir()]
    assert not [target for target in targets if "memfd" in str(target)], "the specification is still open"
    limits = Path(f"/proc/{host}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_systemd_is_told_that_the_service_is_ready_reloads_and_stops(rig: Rig) -> None:
    with service_manager(rig) as events:
        rig.start(NOTIFY_SOCKET=str(rig.root / "notify"))
        assert events.recv(4096).split(b"\n")[0] == b"READY=1"
        rig.reload()
        assert events.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert events.recv(4096) == b"READY=1"
        assert rig.stop() == 0
        assert events.recv(4096) == b"STOPPING=1"


# PINs


def test_a_pin_reaches_the_host_and_is_in_no_command_line_or_environment(rig: Rig) -> None:
    rig.configure(providers=(toy(uri="toy:pin", pin=PinSource(file=str(pin_file(rig, f"{RIGHT_PIN}\n")))),))
    rig.start()
    worker = rig.ask("await", provider="toy", available=True)
    for pid in (rig.pid, worker["pid"], worker["states"]["toy"]["pid"]):
        told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert RIGHT_PIN.encode() not in told.replace(str(pid).encode(), b"")
    assert RIGHT_PIN not in rig.log.read_text().replace(str(rig.pid), "")
    assert worker["pins"] == {}


def test_a_pin_from_a_file_descriptor_is_kept_for_the_next_start_of_the_host(rig: Rig) -> None:
    source, sink = os.pipe()
    os.write(sink, RIGHT_PIN.encode())
    os.close(sink)
    rig.configure(providers=(toy(uri="toy:pin", pin=PinSource(fd=source)),))
    rig.start(pass_fds=(source,))
    os.close(source)
    first = rig.available()["pid"]
    rig.kill(first)
    assert rig.available(not_pid=first)["pid"] != first


def test_a_pin_from_a_systemd_credential_is_found(rig: Rig) -> None:
    pin_file(rig, RIGHT_PIN, mode=0o440)
    rig.configure(providers=(toy(uri="toy:pin", pin=PinSource(credential="pin")),))
    rig.start(CREDENTIALS_DIRECTORY=str(rig.root))
    assert rig.available()["available"]


def test_a_wrong_pin_is_tried_once_and_again_only_after_a_reload(rig: Rig) -> None:
    starts = rig.root / "starts"
    path = pin_file(rig, "wrong")
    provider = toy(uri="toy:pin", pin=PinSource(file=str(path)), environment={"TOY_STARTS": str(starts)})
    rig.configure(providers=(provider, toy("other", "toy:missing")))
    rig.start()
    state = rig.unavailable(status=Status.PIN_INCORRECT)
    assert "reload" in state["message"]
    # The other provider is tried again after a second; the one with the wrong PIN is not.
    rig.unavailable("other", status=Status.TOKEN_NOT_PRESENT)
    assert len(starts.read_text().splitlines()) == 1

    path.write_text(RIGHT_PIN)
    rig.reload()
    assert rig.available()["available"]
    assert len(starts.read_text().splitlines()) == 2


def test_a_reload_while_a_host_with_a_wrong_pin_is_still_ending_is_not_lost(rig: Rig) -> None:
    path = pin_file(rig, "wrong")
    gate = rig.root / "gate"
    os.mkfifo(gate)
    environment = {"TOY_END_GATE": str(gate)}
    rig.configure(providers=(toy(uri="toy:pin", pin=PinSource(file=str(path)), environment=environment),))
    rig.start()
    rig.unavailable(status=Status.PIN_INCORRECT)
    path.write_text(RIGHT_PIN)
    rig.reload()
    assert rig.available()["available"]


@pytest.mark.parametrize(("corrected", "starts_expected"), [(RIGHT_PIN, 2), ("wrong", 1)])
def test_a_reload_while_a_host_is_starting_tries_again_only_another_pin(
    rig: Rig, corrected: str, starts_expected: int
) -> None:
    path, gate, starts = pin_file(rig, "wrong"), rig.root / "gate", rig.root / "starts"
    os.mkfifo(gate)
    environment = {"TOY_OPEN_GATE": str(gate), "TOY_STARTS": str(starts)}
    provider = toy(uri="toy:pin", pin=PinSource(file=str(path)), environment=environment)
    rig.configure(providers=(provider,))
    with service_manager(rig) as events:
        rig.start(NOTIFY_SOCKET=str(rig.root / "notify"))
        with gate.open("wb"):
            path.write_text(corrected)
            rig.reload()
            for _ in range(3):  # ready, reloading, ready again
                events.recv(4096)
        rig.unavailable(status=Status.PIN_INCORRECT)
        if starts_expected == 2:
            with gate.open("wb"):
                pass
            assert rig.available()["available"]
    assert len(starts.read_text().splitlines()) == starts_expected


def test_a_pin_file_that_others_can_read_is_refused_without_naming_its_path_to_clients(rig: Rig) -> None:
    path = pin_file(rig, RIGHT_PIN, mode=0o644)
    rig.configure(providers=(toy(uri="toy:pin", pin=PinSource(file=str(path))),))
    rig.start()
    message = rig.unavailable(status=Status.INVALID_CONFIGURATION)["message"]
    assert "chmod 600" in message
    assert str(path) not in message
    path.chmod(0o600)
    rig.reload()
    assert rig.available()["available"]


def test_pins_of_providers_inside_the_worker_go_to_the_worker(rig: Rig) -> None:
    good = PinSource(file=str(pin_file(rig, RIGHT_PIN)))
    bad = PinSource(file=str(rig.root / "missing"))
    rig.configure(
        providers=(
            toy("inside", pin=good, isolation=Isolation.THREAD),
            toy("broken", pin=bad, isolation=Isolation.THREAD),
        )
    )
    rig.start()
    pins = rig.ask("who")["pins"]
    assert pins["inside"] == {"pin": RIGHT_PIN}
    assert "cannot be opened" in pins["broken"]["problem"]


def test_a_corrected_pin_of_a_provider_inside_the_workers_restarts_them_at_the_reload(rig: Rig) -> None:
    path = pin_file(rig, "wrong")
    rig.configure(providers=(toy("inside", pin=PinSource(file=str(path)), isolation=Isolation.THREAD),))
    rig.start()
    before = rig.ask("who")
    path.write_text(RIGHT_PIN)
    rig.reload()
    assert rig.ended(before["pid"])
    assert rig.ask("who")["pins"] == {"inside": {"pin": RIGHT_PIN}}


# What dies is replaced


def test_a_killed_host_is_replaced_and_the_workers_are_told(rig: Rig) -> None:
    rig.start()
    before = rig.available()
    rig.kill(before["pid"])
    after = rig.available(not_pid=before["pid"])
    assert after["incarnation"] != before["incarnation"]
    assert sign_at(after) == b"message"
    # starting, available, away, available: nothing was left out.
    assert rig.ask("who")["packets"] >= 4


def test_a_killed_worker_is_replaced_and_knows_the_states(rig: Rig) -> None:
    rig.start()
    before = rig.ask("await", provider="toy", available=True)
    rig.kill(before["pid"])
    after = rig.ask("who")
    assert after["pid"] != before["pid"]
    assert after["index"] == before["index"]
    assert rig.available() == before["states"]["toy"]


def test_a_host_that_crashes_at_its_start_is_away_with_the_signal_as_the_reason(rig: Rig) -> None:
    rig.configure(providers=(toy(uri="toy:crash"),))
    rig.start()
    state = rig.unavailable(because="SIGABRT")
    assert state["message"] == "Provider toy is being restarted: its process was killed by SIGABRT."


def test_a_fault_in_the_providers_code_at_its_start_is_told_by_an_incident_only(rig: Rig) -> None:
    rig.configure(providers=(toy(uri="toy:bug"),))
    rig.start()
    state = rig.unavailable(status=Status.PROVIDER_FAILED)
    assert "secret" not in state["message"]
    assert "ZeroDivisionError" in rig.log.read_text()


def test_a_host_that_does_not_start_in_time_is_killed_and_tried_again(rig: Rig) -> None:
    starts = rig.root / "starts"
    provider = toy(uri="toy:hang", environment={"TOY_STARTS": str(starts)})
    rig.configure(providers=(provider,), host_start_timeout=1.5)
    rig.start()
    rig.unavailable(because="did not start in time")
    first = int(starts.read_text().split()[0])
    assert rig.ended(first)


# Without a supervisor


def test_workers_end_with_their_supervisor_and_hosts_serve_on_until_the_next_one_adopts_them(rig: Rig) -> None:
    rig.start()
    worker = rig.ask("await", provider="toy", available=True)
    before = worker["states"]["toy"]
    with HostClient(Path(before["socket"]), timeout=PATIENCE) as host:
        rig.kill_supervisor()
        assert rig.ended(worker["pid"])
        assert host.call(SIGN) == b"message"
        rig.start()
        assert rig.available() == before
        assert host.call(SIGN) == b"message"
    assert sign_at(before) == b"message"


def test_spread_workers_and_hosts_run_on_different_processors(rig: Rig) -> None:
    available = sorted(os.sched_getaffinity(0))
    rig.configure(spread=True)
    rig.start()
    worker, host = rig.ask("who"), rig.available()
    assert worker["processors"] == available[:1]
    assert os.sched_getaffinity(host["pid"]) == set(available[1:] or available)


def test_a_host_that_ran_anywhere_is_replaced_when_the_service_is_started_again_to_be_spread(rig: Rig) -> None:
    rig.start()
    before = rig.available()
    rig.kill_supervisor()
    rig.configure(spread=True)
    rig.start()
    after = rig.available(not_pid=before["pid"])
    assert rig.ended(before["pid"])
    available = sorted(os.sched_getaffinity(0))
    assert os.sched_getaffinity(after["pid"]) == set(available[1:] or available)


def test_an_adopted_host_that_is_killed_is_replaced(rig: Rig) -> None:
    rig.start()
    before = rig.available()
    rig.kill_supervisor()
    rig.start()
    assert rig.available() == before
    rig.kill(before["pid"])
    assert rig.available(not_pid=before["pid"])["available"]


def test_a_host_with_another_specification_is_stopped_and_replaced(rig: Rig) -> None:
    rig.start()
    before = rig.available()
    rig.kill_supervisor()
    rig.configure(providers=(toy(threads=7),))
    rig.start()
    after = rig.available(not_pid=before["pid"])
    assert rig.ended(before["pid"])
    assert after["incarnation"] != before["incarnation"]
    assert "closed" in rig.log.read_text(), "the old host closed its provider"


def test_a_host_that_hangs_when_it_is_to_be_adopted_is_killed_and_replaced(rig: Rig) -> None:
    rig.configure(host_answer_timeout=0.5)
    rig.start()
    before = rig.available()
    rig.kill_supervisor()
    os.kill(before["pid"], signal.SIGSTOP)
    rig.start()
    assert rig.available(not_pid=before["pid"])["available"]
    assert rig.ended(before["pid"])


def test_a_host_whose_supervisor_does_not_come_back_ends_after_the_drain_timeout(rig: Rig) -> None:
    rig.configure(drain_timeout=0.3)
    rig.start()
    host = rig.available()
    rig.kill_supervisor()
    assert rig.ended(host["pid"])
    assert not Path(host["socket"]).exists()
    assert "no supervisor has come back" in rig.log.read_text()


# One at a time


def test_a_second_supervisor_is_refused_and_told_the_process_id_of_the_first(rig: Rig) -> None:
    rig.start()
    assert f"already running here (pid {rig.pid}" in rig.refused()
    assert rig.ask("who")["spec"] == "spec"


def test_a_socket_elsewhere_is_guarded_by_a_lock_of_its_own(rig: Rig) -> None:
    rig.configure(socket=rig.root / "s.sock")
    rig.start()
    rig.configure(runtime_dir=rig.root / "another")
    assert "already running here" in rig.refused()


def test_a_stale_socket_is_replaced(rig: Rig) -> None:
    rig.start()
    rig.kill_supervisor()
    assert rig.settings.socket_path.exists()
    rig.start()
    assert rig.available()["available"]


def test_a_file_that_is_no_socket_is_left_alone(rig: Rig) -> None:
    rig.settings.runtime_dir.mkdir(mode=0o755)
    rig.settings.socket_path.write_text("precious")
    assert "is no socket; move it away" in rig.refused()
    assert rig.settings.socket_path.read_text() == "precious"


def test_a_directory_that_others_may_write_to_is_refused(rig: Rig) -> None:
    rig.settings.runtime_dir.mkdir()
    rig.settings.runtime_dir.chmod(0o777)
    assert "chmod go-w" in rig.refused()


def test_a_runtime_dir_that_cannot_be_made_is_refused_with_its_reason(rig: Rig) -> None:
    rig.configure(runtime_dir=Path("/proc/hsmbridge"))
    assert "cannot be made" in rig.refused()


def test_a_socket_path_that_is_too_long_is_refused(rig: Rig) -> None:
    rig.configure(socket=rig.root / ("s" * 120))
    assert "107 bytes" in rig.refused()


# Reload


def test_a_reload_adds_and_removes_providers_and_leaves_the_others_alone(rig: Rig) -> None:
    rig.configure(providers=(toy(), toy("old")))
    rig.start()
    kept, old = rig.available(), rig.available("old")
    rig.configure(providers=(toy(), toy("new")))
    rig.reload()
    assert rig.available("new")["available"]
    assert rig.ended(old["pid"])
    states = rig.ask("who")["states"]
    assert set(states) == {"toy", "new"}
    assert states["toy"] == kept


def test_a_reload_replaces_a_host_whose_specification_has_changed(rig: Rig) -> None:
    rig.start()
    before = rig.available()
    rig.configure(providers=(toy(threads=9),))
    rig.reload()
    assert rig.available(not_pid=before["pid"])["available"]


def test_a_reload_with_another_worker_specification_restarts_the_workers(rig: Rig) -> None:
    rig.configure(workers=2)
    rig.start()
    first = {rig.ask("who")["pid"]}
    while len(first) < 2:
        first.add(rig.ask("who")["pid"])
    rig.configure(worker_spec=b"changed")
    rig.reload()
    for pid in first:
        assert rig.ended(pid)
    assert rig.ask("who")["spec"] == "changed"


def test_a_configuration_that_cannot_be_used_changes_nothing(rig: Rig) -> None:
    with service_manager(rig) as events:
        rig.start(NOTIFY_SOCKET=str(rig.root / "notify"))
        before = rig.available()
        (rig.root / "settings.json").write_text("{")
        rig.reload()
        # READY, RELOADING, READY again: the reload is over.
        for _ in range(3):
            events.recv(4096)
    assert rig.available() == before
    assert "the configuration was not reloaded" in rig.log.read_text()


# The end


def test_sigterm_ends_workers_then_hosts_and_leaves_no_socket(rig: Rig) -> None:
    rig.start()
    worker = rig.ask("await", provider="toy", available=True)
    assert rig.stop() == 0
    for pid in (worker["pid"], worker["states"]["toy"]["pid"]):
        assert rig.ended(pid, within=0)
    assert not rig.settings.socket_path.exists()
    log = rig.log.read_text()
    assert log.index("the worker has ended") < log.index("told to stop")


def test_a_worker_that_does_not_end_in_time_is_killed(rig: Rig) -> None:
    rig.configure(worker_spec=b"deaf", drain_timeout=0.5)
    rig.start()
    worker = rig.ask("who")
    assert rig.stop() == 0
    assert rig.ended(worker["pid"], within=0)
    assert "did not end in time and is killed" in rig.log.read_text()


def test_a_second_sigterm_does_not_wait(rig: Rig) -> None:
    rig.configure(worker_spec=b"deaf", drain_timeout=600.0)
    rig.start()
    rig.ask("who")
    assert rig.process is not None
    rig.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        rig.process.wait(0.2)
    rig.process.terminate()
    assert rig.process.wait(PATIENCE) == 0


def test_a_program_that_is_missing_is_told_in_the_log_and_stops_in_order(rig: Rig) -> None:
    rig.configure(host_command=("/nonexistent/host",))
    rig.start()
    rig.unavailable(because="cannot be started")
    assert rig.stop() == 0


def test_a_host_on_its_own_ends_on_sigterm_with_its_provider_closed(rig: Rig) -> None:
    rig.start()
    before = rig.available()
    os.kill(before["pid"], signal.SIGTERM)
    assert rig.ended(before["pid"])
    assert rig.available(not_pid=before["pid"])["available"]
    assert '"event": "closed"' in rig.log.read_text()


# With a real token


KEY = calls.KeyTarget(b"\x01" * 16, "EC-P256", KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY)


def sign_on_token(state: dict[str, object], reference: bytes) -> bytes:
    with HostClient(Path(str(state["socket"])), timeout=PATIENCE) as host:
        handle = host.call(calls.LoadCall(KEY.key_id, KEY.key_type, KEY.permissions, reference, KEY.binding))
        assert isinstance(handle, int)
        signature = host.call(calls.SignCall(handle, "ECDSA-P256-SHA256", b"message"))
        assert isinstance(signature, bytes)
        return signature


def test_a_softhsm_token_outlives_its_supervisor_and_a_killed_host(rig: Rig) -> None:
    token = rig.root / "token"
    subprocess.run((PROVISION, "--module", MODULE, str(token), "web"), check=True, capture_output=True, timeout=60)
    provider = SupervisedProvider(
        spec=ProviderSpec(
            name="softhsm",
            uri=f"pkcs11:token=web?module-path={MODULE}",
            environment={"SOFTHSM2_CONF": str(token / "softhsm2.conf")},
        ),
        pin=PinSource(file=str(token / "pin")),
    )
    rig.configure(providers=(provider,), host_command=(sys.executable, "-P", "-m", "hsmbridge.providers.host"))
    rig.start()
    first = rig.available("softhsm")
    with HostClient(Path(first["socket"]), timeout=PATIENCE) as host:
        made = host.call(calls.GenerateCall(KEY))
    assert isinstance(made, calls.MadeKey)
    public_key = load_der_public_key(made.public_key)
    assert isinstance(public_key, EllipticCurvePublicKey)

    rig.kill_supervisor()
    rig.start()
    assert rig.available("softhsm") == first
    public_key.verify(sign_on_token(first, made.reference), b"message", ECDSA(SHA256()))

    rig.kill(first["pid"])
    second = rig.available("softhsm", not_pid=first["pid"])
    public_key.verify(sign_on_token(second, made.reference), b"message", ECDSA(SHA256()))
    assert rig.stop() == 0
