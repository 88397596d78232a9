"""Certificates that renew themselves against a real server, and what a crash at any instant leaves."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from est import keys
from est.ca.authority import bridge, new_root
from est.ca.profile import Profile
from est.http.authorization import Credentials
from est.key_places import KeyPlaces
from est.server.application import EstApplication
from est.server.authentication import Authenticator
from est.server.listener import Listener
from est.server.service import EstService, ServiceSettings
from est.service.generations import Generations
from est.service.next_key import KeyPlan
from est.service.renewer import Renewer, Watch
from est.service.schedule import JITTER, LAST_RETRY, Life, renew_at, retry_at
from est.trust.anchors import read_anchors, write_pem
from hsmbridge.lab.lab import Lab
from tests.integration.est.lab import USERS, Site, ec_key, make_site, named

PASSWORD = Credentials("device", USERS["device"])


@pytest.fixture
def places(hsmbridge_lab: Lab) -> Iterator[KeyPlaces]:
    with KeyPlaces(hsmbridge_lab.socket) as made:
        yield made


def watch(
    site: Site,
    listener: Listener,
    key: KeyPlan | None = None,
    *,
    reload: tuple[str, ...] = (),
    alert: tuple[str, ...] = (),
    anchors_file: Path | None = None,
) -> Watch:
    configuration = site.client(listener, credentials=PASSWORD)
    return Watch("web", configuration, named("web", "web.example"), key or KeyPlan(), reload, alert, anchors_file)


def serial(generations: Generations) -> int:
    identity = generations.identity()
    assert identity is not None
    assert keys.spki(identity.key.signer.public_key()) == keys.spki(identity.chain[0].public_key())
    return identity.chain[0].serial_number


def test_the_first_enrolment_and_renewals_follow_from_the_clock(tmp_path: Path) -> None:
    site = make_site(Profile(lifetime=3600))
    generations = Generations(tmp_path / "web")
    with site.serving() as listener:
        renewer = Renewer(watch(site, listener), generations)
        due = renewer.step(time.time())
        first = serial(generations)
        assert renewer.step(due - 1) == due
        assert serial(generations) == first
        renewer.step(due)
        assert serial(generations) != first
    # The password was for the first one; its certificate authenticated the second.
    assert [one.requester for one in site.authority.record.certificates()[-2:]] == ["user:device", "certificate:CN=web"]


def test_an_expired_certificate_is_replaced_by_a_first_enrolment(tmp_path: Path) -> None:
    site = make_site(Profile(lifetime=3600))
    generations = Generations(tmp_path / "web")
    with site.serving() as listener:
        renewer = Renewer(watch(site, listener), generations)
        renewer.step(time.time())
        renewer.step(time.time() + 2 * 3600)
    assert site.authority.record.certificates()[-1].requester == "user:device"


def test_a_failure_is_told_and_the_old_certificate_stays(tmp_path: Path) -> None:
    site = make_site(Profile(lifetime=3600))
    generations = Generations(tmp_path / "web")
    told = tmp_path / "told"
    script = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    with site.serving() as listener:
        given_ = watch(site, listener, alert=(sys.executable, "-c", script, str(told)))
        renewer = Renewer(given_, generations)
        due = renewer.step(time.time())
        first = serial(generations)
    again = renewer.step(due)
    assert due < again <= due + LAST_RETRY
    assert serial(generations) == first
    assert "No connection" in told.read_text()


def test_a_full_disk_is_a_failure_and_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    site = make_site()
    with site.serving() as listener:
        renewer = Renewer(watch(site, listener), Generations(tmp_path / "web"))
        with monkeypatch.context() as patch:
            patch.setattr("est.service.generations.write_whole", full)
            again = renewer.step(time.time())
        renewer.step(again)
    serial(Generations(tmp_path / "web"))


def test_the_consumer_is_told_after_the_certificate_is_in_place(tmp_path: Path) -> None:
    site = make_site()
    folder, seen = tmp_path / "web", tmp_path / "seen"
    script = "import pathlib, sys; pathlib.Path(sys.argv[2]).write_bytes(pathlib.Path(sys.argv[1]).read_bytes())"
    command = (sys.executable, "-c", script, str(folder / "current" / "chain.pem"), str(seen))
    with site.serving() as listener:
        Renewer(watch(site, listener, reload=command), Generations(folder)).step(time.time())
    assert x509.load_pem_x509_certificate(seen.read_bytes()).serial_number == serial(Generations(folder))


def test_waiting_for_approval_survives_a_restart_and_enrols_once(tmp_path: Path) -> None:
    site = make_site(Profile(approve=False, retry_after=0))
    generations = Generations(tmp_path / "web")
    with site.serving() as listener:
        Renewer(watch(site, listener), generations).step(time.time())
        assert generations.current is None
        (waiting,) = site.authority.record.waiting()
        site.authority.record.approve(waiting.id)
        Renewer(watch(site, listener), Generations(tmp_path / "web")).step(time.time() + 1)
    assert len([one for one in site.authority.record.certificates() if one.subject == "CN=web"]) == 1
    serial(generations)


@pytest.mark.parametrize("provider", ["software", "softhsm", "tpm"])
def test_each_renewal_has_a_slot_of_its_own_and_old_slots_go(places: KeyPlaces, tmp_path: Path, provider: str) -> None:
    site = make_site(Profile(lifetime=3600))
    prefix = f"renewed-{provider}-{os.getpid()}"
    plan = KeyPlan(slot=prefix, provider=provider)
    with site.serving() as listener:
        renewer = Renewer(watch(site, listener, plan), Generations(tmp_path / "web", places))
        due = time.time()
        for number in range(1, 5):
            due = renewer.step(due)
            assert (tmp_path / "web/current/key.slot").read_text() == f"{prefix}-{number:06d}\n"
            serial(Generations(tmp_path / "web", places))
    names = sorted(one.name.rpartition("/")[2] for one in places.stack.list_slots() if prefix in one.name)
    assert names == [f"{prefix}-000003", f"{prefix}-000004"]
    assert all(b"PRIVATE" not in one.read_bytes() for one in tmp_path.rglob("*") if one.is_file())


@pytest.mark.parametrize("slot", ["", "kept"])
def test_a_plan_without_rekey_keeps_one_key(places: KeyPlaces, tmp_path: Path, slot: str) -> None:
    site = make_site(Profile(lifetime=3600))
    plan = KeyPlan(slot=slot and f"kept-{os.getpid()}", provider="softhsm", rekey=False)
    keys_seen, serials = set(), set()
    with site.serving() as listener:
        renewer = Renewer(watch(site, listener, plan), Generations(tmp_path / "web", places))
        due = time.time()
        for _ in range(4):
            due = renewer.step(due)
            identity = Generations(tmp_path / "web", places).identity()
            assert identity is not None
            keys_seen.add(keys.spki(identity.key.signer.public_key()))
            serials.add(identity.chain[0].serial_number)
    assert (len(keys_seen), len(serials)) == (1, 4)


def test_without_its_daemon_a_renewal_fails_and_later_goes_on(places: KeyPlaces, tmp_path: Path) -> None:
    site = make_site(Profile(lifetime=3600))
    plan = KeyPlan(slot=f"away-{os.getpid()}", provider="softhsm")
    with site.serving() as listener:
        due = Renewer(watch(site, listener, plan), Generations(tmp_path / "web", places)).step(time.time())
        before = (tmp_path / "web/current").readlink()
        nowhere = KeyPlaces(tmp_path / "nowhere.sock")
        again = Renewer(watch(site, listener, plan), Generations(tmp_path / "web", nowhere)).step(due)
        assert due < again
        assert (tmp_path / "web/current").readlink() == before
        Renewer(watch(site, listener, plan), Generations(tmp_path / "web", places)).step(again)
        assert (tmp_path / "web/current").readlink() != before


def test_the_consumer_is_told_later_where_a_crash_or_a_failure_came_between(tmp_path: Path) -> None:
    site = make_site()
    folder, seen = tmp_path / "web", tmp_path / "seen"
    command = ("/bin/sh", "-c", 'test -e "$0.ready" && touch "$0"', str(seen))
    with site.serving() as listener:
        due = Renewer(watch(site, listener, reload=command), Generations(folder)).step(time.time())
        assert not seen.exists()
        (tmp_path / "seen.ready").touch()
        assert Renewer(watch(site, listener, reload=command), Generations(folder)).step(time.time()) == due
    assert seen.exists()


def test_a_roll_over_of_the_ca_is_followed_with_the_renewal(tmp_path: Path) -> None:
    site = make_site()
    successor = new_root(ec_key(), "Next Root")
    bridges = (
        bridge(site.root, successor.certificate),
        bridge(successor, site.root.certificate),
        successor.certificate,
    )
    site.service = EstService(
        site.authority, Authenticator(USERS, ()), ServiceSettings(Profile(lifetime=3600), ca_certificates=bridges)
    )
    site.handler = EstApplication({"": site.service}).handle
    anchors = tmp_path / "anchors.pem"
    write_pem(anchors, (site.root.certificate,))
    with site.serving() as listener:
        Renewer(watch(site, listener, anchors_file=anchors), Generations(tmp_path / "web")).step(time.time())
    assert set(read_anchors(anchors)[0]) == {site.root.certificate, successor.certificate}


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("operation", ["rename", "replace", "symlink_to", "unlink", "mkdir"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("provider", ["", "software"], ids=["files", "slots"])
def test_a_crash_at_any_change_of_the_folder_leaves_a_whole_pair(
    places: KeyPlaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, before: bool, provider: str
) -> None:
    site = make_site(Profile(lifetime=3600))
    plan = KeyPlan(slot=provider and f"crash-{operation}-{before}-{os.getpid()}", provider=provider)
    with site.serving() as listener:
        renewer = Renewer(watch(site, listener, plan), Generations(tmp_path / "web", places))
        due = renewer.step(time.time())
        held = {serial(Generations(tmp_path / "web", places))}
        for number in range(4):
            real: Callable[..., object] = getattr(Path, operation)
            with monkeypatch.context() as patch:
                patch.setattr(Path, operation, _crashing(real, number, before))
                with contextlib.suppress(Crash):
                    Renewer(watch(site, listener, plan), Generations(tmp_path / "web", places)).step(due)
            # Whatever was interrupted, there is a whole pair before and after the recovery, and it goes on.
            held.add(serial(Generations(tmp_path / "web", places)))
            due = Renewer(watch(site, listener, plan), Generations(tmp_path / "web", places)).step(due)
            held.add(serial(Generations(tmp_path / "web", places)))
            due = max(due, time.time())
    assert len(held) > 1


def _crashing(real: Callable[..., object], number: int, before: bool) -> Callable[..., object]:
    calls = 0

    def operation(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number + 1 and before:
            raise Crash
        result = real(*arguments, **more)
        if calls == number + 1:
            raise Crash
        return result

    return operation


@given(st.floats(0, 1e9), st.floats(1, 1e9), st.text(max_size=10))
def test_renewals_are_at_two_thirds_and_spread(begin: float, length: float, name: str) -> None:
    life = Life(begin, begin + length)
    when = renew_at(life, name)
    assert when == renew_at(life, name)
    assert begin + length * (2 / 3 - JITTER) - 1 <= when <= begin + length * 2 / 3 + 1


@given(st.integers(1, 10_000), st.floats(1, 1e6))
def test_attempts_come_later_but_never_too_late(failures: int, left: float) -> None:
    assert 0 < retry_at(0.0, failures, None) <= LAST_RETRY
    assert retry_at(0.0, failures, Life(-1.0, left)) <= max(left / 10, 1.0) + 1e-6


@pytest.mark.timeout(100)
def test_short_lived_certificates_survive_kill_9_of_the_service(tmp_path: Path) -> None:
    """Certificates of 6 seconds in 3 folders, while the service is killed again and again."""
    import random
    import signal
    import subprocess

    from cryptography.hazmat.primitives import serialization

    site = make_site(Profile(lifetime=6))
    (tmp_path / "password").write_text(USERS["device"])
    anchors = (site.root.certificate, site.authority.issuer.certificate)
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in anchors)
    (tmp_path / "anchors.pem").write_bytes(pem)
    names = ("a", "b", "c")
    with site.serving() as listener:
        tables = "".join(
            f'[certificate.{name}]\nfolder = "{tmp_path / name}"\nserver = "localhost:{listener.port}"\n'
            f'ca = "{tmp_path / "anchors.pem"}"\nsubject = "CN={name}"\nuser = "device"\n'
            f'password_file = "{tmp_path / "password"}"\n'
            for name in names
        )
        (tmp_path / "service.toml").write_text(tables)
        command = [sys.executable, "-m", "est.cli", "service", str(tmp_path / "service.toml")]
        chance = random.Random(7)
        seen: dict[str, set[int]] = {name: set() for name in names}
        end = time.monotonic() + 60
        while min(map(len, seen.values())) < 6 and time.monotonic() < end:
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(1 + chance.random() * 2)
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            for name in names:
                if Generations(tmp_path / name).current is not None:
                    seen[name].add(serial(Generations(tmp_path / name)))
        assert min(map(len, seen.values())) >= 6
