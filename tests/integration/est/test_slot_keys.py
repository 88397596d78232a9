"""Keys that stay in slots, over EST: device, CA and renewals, with TLS 1.2 and 1.3; no file has anything of them."""

import base64
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from est.ca.profile import Profile
from est.client import Enrolled, EstClient, ServerMadeKey
from est.cms.receiver import Receiver
from est.csr.linking import Link
from est.http.authorization import Credentials
from est.key_places import KeyPlaces
from est.keys import Key, SoftwareKey
from est.service.control import ask
from est.tls.connection import ClientIdentity, TlsLimits
from hsmbridge.client import KeyOperationPermission
from hsmbridge.core.errors import AccessError, CertificateError, KeyUseError, RequestError, ResourceError
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.places import temporary_directory
from tests.integration.est.command import PASSWORD, Server, est_here, root_fingerprint
from tests.integration.est.lab import TLS12, TLS13, USERS, issue, make_site, named
from tests.integration.est.test_service import configure, service

P = KeyOperationPermission
LOGIN = Credentials("device", USERS["device"])
_numbers = count()

each_provider = pytest.mark.parametrize("provider", ["software", "softhsm", "tpm"])
each_key_type = pytest.mark.parametrize("key_type", ["EC-P256", "RSA-2048"])
each_version = pytest.mark.parametrize("tls", [TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])


@pytest.fixture
def places(hsmbridge_lab: Lab) -> Iterator[KeyPlaces]:
    with KeyPlaces(hsmbridge_lab.socket) as made:
        yield made


def new_name() -> str:
    return f"est-{os.getpid()}-{next(_numbers)}"


def enrolled(result: object) -> Enrolled:
    assert isinstance(result, Enrolled)
    return result


def identity(key: Key, got: Enrolled) -> ClientIdentity:
    return ClientIdentity(key, (got.certificate, *got.chain[:-1]))


@each_version
@each_key_type
@each_provider
def test_a_key_in_a_slot_enrols_renews_and_is_succeeded_by_another(
    places: KeyPlaces, provider: str, key_type: str, tls: TlsLimits
) -> None:
    site = make_site()
    key = places.make(f"slot:{new_name()}", key_type, provider)
    with site.serving() as listener:
        with EstClient(site.client(listener, credentials=LOGIN, tls=tls)) as client:
            first = enrolled(client.enroll(key, named("device", "device.example")))
        with EstClient(site.client(listener, identity=identity(key, first), tls=tls)) as client:
            renewed = enrolled(client.reenroll(key, first.certificate))
        successor = places.make(f"slot:{new_name()}", key_type, provider)
        # The old key authenticates the connection, and the new one signs the request.
        with EstClient(site.client(listener, identity=identity(key, renewed), tls=tls)) as client:
            rekeyed = enrolled(client.reenroll(successor, renewed.certificate))
        with EstClient(site.client(listener, identity=identity(successor, rekeyed), tls=tls)) as client:
            enrolled(client.reenroll(successor, rekeyed.certificate))
    assert rekeyed.certificate.subject == first.certificate.subject
    assert rekeyed.certificate.public_key() == successor.signer.public_key() != key.signer.public_key()
    requesters = [one.requester for one in site.authority.record.certificates()]
    assert requesters[-4:] == ["user:device", *["certificate:CN=device"] * 3]


@each_provider
def test_a_request_by_a_slot_is_linked_to_its_connection(places: KeyPlaces, provider: str) -> None:
    site = make_site(Profile(link=True))
    key = places.make(f"slot:{new_name()}", "EC-P256", provider)
    with site.serving() as listener:
        for link, tls in ((Link.REQUIRE, TLS12), (Link.EXPORTER, TLS13)):
            with EstClient(site.client(listener, credentials=LOGIN, link=link, tls=tls)) as client:
                enrolled(client.enroll(key, named("device")))


@each_provider
def test_full_cmc_is_signed_in_the_slot(places: KeyPlaces, provider: str) -> None:
    site = make_site()
    key = places.make(f"slot:{new_name()}", "EC-P256", provider)
    with site.serving() as listener:
        with EstClient(site.client(listener, credentials=LOGIN)) as client:
            got = enrolled(client.full_cmc(key, named("device")))
        with EstClient(site.client(listener, identity=identity(key, got))) as client:
            enrolled(client.full_cmc(key, named("device")))


@each_key_type
@each_provider
def test_a_ca_whose_keys_are_in_slots_issues_and_revokes(places: KeyPlaces, provider: str, key_type: str) -> None:
    made: list[Key] = []

    def make() -> Key:
        made.append(places.make(f"slot:{new_name()}", key_type, provider))
        return made[-1]

    site = make_site(key=make)
    key = places.make(f"slot:{new_name()}", "EC-P256", "software")
    with site.serving() as listener, EstClient(site.client(listener, credentials=LOGIN)) as client:
        got = enrolled(client.enroll(key, named("device")))
    got.certificate.verify_directly_issued_by(site.authority.issuer.certificate)
    site.authority.revoke(f"{got.certificate.serial_number:x}")
    crl = site.authority.crl()
    assert crl.is_signature_valid(made[1].signer.public_key())
    assert crl.get_revoked_certificate_by_serial_number(got.certificate.serial_number)


RECEIVING = {"RSA-2048": P.DECRYPT, "EC-P256": P.DERIVE, "X25519": P.DERIVE, "ML-KEM-768": P.DECAPSULATE}


def make_slot(places: KeyPlaces, key_type: str, provider: str, more: KeyOperationPermission = P.NONE) -> str:
    """A slot whose key receives; what it agrees may go into the daemon, as tokens keep no such key."""
    name = new_name()
    places.stack.create_slot(
        name,
        key_type,
        RECEIVING[key_type] | P.GENERATE | more,
        providers=[provider],
        sign_and_decrypt=key_type == "RSA-2048" and P.SIGN in more,
        derive_to_software=P.DERIVE in RECEIVING[key_type],
    )
    return f"slot:{name}"


@pytest.mark.parametrize(
    ("provider", "key_type"),
    [
        ("software", "X25519"),
        ("software", "ML-KEM-768"),
        ("software", "RSA-2048"),
        ("softhsm", "EC-P256"),
        ("softhsm", "RSA-2048"),
        ("tpm", "EC-P256"),
        ("tpm", "RSA-2048"),
    ],
)
def test_a_key_that_does_not_sign_is_proved_in_its_slot(places: KeyPlaces, provider: str, key_type: str) -> None:
    site = make_site(users={})
    key = places.open_either(make_slot(places, key_type, provider))
    assert isinstance(key, Receiver)
    with site.serving() as listener, EstClient(site.client(listener, identity=site.identity())) as client:
        got = enrolled(client.full_cmc(key, named("receiver")))
    assert got.certificate.public_key() == key.public_key


_DIES_WHILE_IT_OPENS = """
import os, signal, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from est.cms.agreement import Agreed
from est.cms.content import EncryptedContent
from est.key_places import KeyPlaces
places = KeyPlaces(Path(sys.argv[1]))
agreement = places.open_receiver(sys.argv[2]).opener.agreement
places.stack.unwrap_key = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
agreed = Agreed(ec.generate_private_key(ec.SECP256R1()).public_key(), b"", 16, bytes(24))
agreement.open(agreed, EncryptedContent(16, bytes(16), bytes(16)))
"""


@pytest.mark.parametrize("provider", ["softhsm", "tpm"])
def test_who_is_killed_while_it_opens_leaves_nothing(hsmbridge_lab: Lab, places: KeyPlaces, provider: str) -> None:
    reference = make_slot(places, "EC-P256", provider)
    before, keys = {one.name for one in places.stack.list_slots()}, places.stack.status().keys
    command = [sys.executable, "-c", _DIES_WHILE_IT_OPENS, str(hsmbridge_lab.socket), reference]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    assert {one.name for one in places.stack.list_slots()} == before
    until = time.monotonic() + 20
    while places.stack.status().keys > keys:
        assert time.monotonic() < until


def test_a_slot_that_does_not_let_what_it_agrees_go_receives_nothing(places: KeyPlaces) -> None:
    site = make_site(users={})
    name = new_name()
    places.stack.create_slot(name, "EC-P256", P.DERIVE | P.GENERATE, providers=["softhsm"])
    key = places.open_either(f"slot:{name}")
    with (
        site.serving() as listener,
        EstClient(site.client(listener, identity=site.identity())) as client,
        pytest.raises(AccessError, match="not for this key"),
    ):
        client.full_cmc(key, named("receiver"))


@pytest.mark.parametrize(
    ("receiving", "at", "provider", "made_type"),
    [
        ("RSA-2048", "softhsm", "softhsm", "EC-P256"),
        ("RSA-2048", "tpm", "tpm", "RSA-2048"),
        ("EC-P256", "softhsm", "software", "RSA-2048"),
        ("EC-P256", "tpm", "tpm", "EC-P256"),
        ("RSA-2048", "software", "softhsm", "RSA-2048"),
    ],
    ids=lambda value: value,
)
def test_a_key_that_the_server_made_goes_from_slot_to_slot_and_is_in_no_file(
    hsmbridge_lab: Lab, places: KeyPlaces, tmp_path: Path, receiving: str, at: str, provider: str, made_type: str
) -> None:
    site = make_site(Profile(key=made_type))
    reference = make_slot(places, receiving, at, P.SIGN | P.VERIFY)
    key = places.open(reference)
    opener = places.open_receiver(reference).opener
    own = issue(site.authority, key, named("device"))
    signing = ClientIdentity(key, (own, site.authority.issuer.certificate))
    target = f"slot:{new_name()}"
    with site.serving() as listener:
        with EstClient(site.client(listener, identity=signing)) as client:
            made = client.server_keygen(key, named("made"), opener, recipient=own)
        assert isinstance(made, ServerMadeKey)
        assert made.was_encrypted
        taken = places.take_in(target, made.pkcs8, provider)
        with EstClient(site.client(listener, identity=identity(taken, made.enrolled))) as client:
            enrolled(client.reenroll(taken, made.enrolled.certificate))
    assert taken.signer.public_key() == made.enrolled.certificate.public_key()
    with pytest.raises(ResourceError):
        places.take_in(target, made.pkcs8, provider)
    private = serialization.load_der_private_key(made.pkcs8, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    assert files_with(secrets_of(private), hsmbridge_lab.directory, tmp_path) == []


def secrets_of(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[bytes, ...]:
    """What of a private key must not be in any file: its numbers, as octets."""
    numbers = private.private_numbers()
    if isinstance(numbers, rsa.RSAPrivateNumbers):
        secret: tuple[int, ...] = (numbers.d, numbers.p, numbers.q)
    else:
        secret = (numbers.private_value,)
    return tuple(one.to_bytes((one.bit_length() + 7) // 8, "big") for one in secret)


def spellings(secret: bytes) -> Iterable[bytes]:
    """Ways that octets may be written: as they are, turned round, in hex, in base64 wherever they begin."""
    yield from (secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode())
    for before in range(3):
        # What the first and last characters are depends on the octets around them.
        yield base64.b64encode(bytes(before) + secret)[4 : 4 + (len(secret) - 6) // 3 * 4]


def files_with(secrets: Iterable[bytes], *folders: Path) -> list[Path]:
    wanted = [one for secret in secrets for one in spellings(secret)]
    found = []
    for path in (one for folder in folders for one in folder.rglob("*") if one.is_file() and not one.is_symlink()):
        raw = path.read_bytes()
        # Lines of a PEM file are put together, or its base64 would not be found.
        if any(one in raw or one in raw.replace(b"\n", b"") for one in wanted):
            found.append(path)
    return found


@pytest.mark.parametrize("provider", ["software", "softhsm", "tpm"])
@pytest.mark.parametrize("key_type", ["EC-P256", "RSA-2048"])
def test_no_file_has_the_private_key_after_enrolling_renewing_and_rekeying(
    hsmbridge_lab: Lab, places: KeyPlaces, tmp_path: Path, provider: str, key_type: str
) -> None:
    known = ec.generate_private_key(ec.SECP256R1()) if key_type == "EC-P256" else rsa.generate_private_key(65537, 2048)
    pem = tmp_path / "found.pem"
    pem.write_bytes(SoftwareKey(known).to_pem())
    assert files_with(secrets_of(known), tmp_path) == [pem], "the search finds what there is"
    pem.unlink()
    old, new, ca = (f"slot:{new_name()}" for _ in range(3))
    pkcs8 = known.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    places.take_in(old, pkcs8, provider)
    at = ("--socket", hsmbridge_lab.socket)
    est_here("ca", "init", tmp_path / "ca", *at, "--slots", ca.removeprefix("slot:"), "--provider", provider)
    (tmp_path / "ca" / "users").write_text(f"device:{PASSWORD}\n")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    server = Server(tmp_path / "ca", *at)
    try:
        est_here(
            "bootstrap", server.address, "--fingerprint", root_fingerprint(tmp_path), "--out", tmp_path / "anchors.pem"
        )
        common = (server.address, "--ca", tmp_path / "anchors.pem", *at)
        login = ("--user", "device", "--password-file", tmp_path / "password")
        cert, after = tmp_path / "cert.pem", tmp_path / "after.pem"
        est_here("enroll", *common, *login, "--key", old, "--cert", cert, "--subject", "CN=device")
        est_here("renew", *common, "--key", old, "--cert", cert)
        # Linked by tls-unique: that one is over TLS 1.2.
        est_here("renew", *common, "--key", old, "--cert", cert, "--link", "require")
        assert (
            "another place"
            in est_here(
                "rekey", *common, "--key", old, "--cert", cert, "--new-key", old, "--new-cert", after, expect=11
            ).stderr
        )
        rekeyed = ("rekey", *common, "--key", old, "--cert", cert, "--new-key", new, "--new-cert", after)
        assert "--provider" in est_here(*rekeyed, expect=11).stderr
        est_here(*rekeyed, "--provider", provider, "--key-type", key_type)
        est_here("renew", *common, "--key", new, "--cert", after)
    finally:
        assert server.stop() == 0
    est_here("ca", "crl", tmp_path / "ca", *at, "--out", tmp_path / "crl.pem")
    assert files_with(secrets_of(known), tmp_path, hsmbridge_lab.directory) == []
    assert not list(tmp_path.rglob("*.key"))
    assert all(b"PRIVATE KEY" not in one.read_bytes() for one in tmp_path.rglob("*") if one.is_file())


def pages(memory: BinaryIO, first: int, last: int) -> Iterator[bytes]:
    """What can be read of a mapping: of one whose file is shorter, or which was not touched, parts cannot."""
    while first < last:
        memory.seek(first)
        try:
            part = memory.read(last - first)
        except OSError:
            part = b""
        yield part
        first += len(part) or mmap.PAGESIZE


def memory_with(pid: int, wanted: Iterable[bytes]) -> set[bytes]:
    """Which of them are in the memory of a process."""
    left, found = set(wanted), set[bytes]()
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            place, access, *_, name = [*line.split(), ""][:7]
            if "r" not in access or name.startswith("[v"):
                continue
            first, last = (int(one, 16) for one in place.split("-"))
            octets = b"".join(pages(memory, first, last))
            found |= {one for one in left if one in octets}
    return found


def test_a_process_that_renews_does_not_have_the_private_keys_in_its_memory(
    hsmbridge_lab: Lab, places: KeyPlaces
) -> None:
    made: dict[str, tuple[ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, str]] = {}
    for provider in ("softhsm", "tpm"):
        made[f"{provider}-ec"] = ec.generate_private_key(ec.SECP256R1()), provider
        made[f"{provider}-rsa"] = rsa.generate_private_key(65537, 2048), provider
    site = make_site(Profile(lifetime=3600))
    prefix = new_name()
    more = f'slot = "{prefix}-NAME"\nprovider = "softhsm"\nrekey = false\n'
    for name, (private, provider) in made.items():
        pkcs8 = private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        places.take_in(f"slot:{prefix}-{name}", pkcs8, provider)
    with temporary_directory() as folder, site.serving() as listener:
        file = configure(folder, site, listener, tuple(made), more)
        with service(file, hsmbridge_lab) as running:
            for name in made:
                for _ in range(2):
                    told = ask(folder / "control", "renew", name)
                    assert isinstance(told, dict)
                    assert told["reason"] == ""
            publics = {point_or_modulus(private) for private, _ in made.values()}
            assert memory_with(running.pid, publics) == publics, "the search finds what there is"
            parts = [part for private, _ in made.values() for part in secrets_of(private)]
            # As they are, and turned round, as programs keep large numbers.
            secrets = {*parts, *(part[::-1] for part in parts)}
            assert memory_with(running.pid, secrets) == set()


def point_or_modulus(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """What certificates for this key have in them."""
    spki = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return spki[-64:]


def test_a_key_that_the_server_made_is_imported_and_never_written(
    hsmbridge_lab: Lab, places: KeyPlaces, tmp_path: Path
) -> None:
    at = ("--socket", hsmbridge_lab.socket)
    est_here("ca", "init", tmp_path / "ca")
    (tmp_path / "ca" / "users").write_text(f"device:{PASSWORD}\n")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    own, made = new_name(), new_name()
    places.stack.create_slot(
        own, "RSA-2048", P.SIGN | P.VERIFY | P.DECRYPT | P.GENERATE, providers=["tpm"], sign_and_decrypt=True
    )
    server = Server(tmp_path / "ca")
    try:
        est_here(
            "bootstrap", server.address, "--fingerprint", root_fingerprint(tmp_path), "--out", tmp_path / "anchors.pem"
        )
        common = (server.address, "--ca", tmp_path / "anchors.pem", *at)
        login = ("--user", "device", "--password-file", tmp_path / "password")
        mine = ("--client-key", f"slot:{own}", "--client-cert", tmp_path / "cert.pem")
        est_here(
            "enroll", *common, *login, "--key", f"slot:{own}", "--cert", tmp_path / "cert.pem", "--subject", "CN=device"
        )
        before = {one for one in tmp_path.rglob("*") if one.is_file()}
        out = ("--out-key", f"slot:{made}", "--out-cert", tmp_path / "made.pem", "--subject", "CN=made")
        assert "--provider" in est_here("serverkeygen", *common, *mine, *out, expect=11).stderr
        told = est_here("serverkeygen", *common, *mine, *out, "--provider", "softhsm", "--json")
        assert json.loads(told.stdout)["subject"] == "CN=made"
        written = {one for one in tmp_path.rglob("*") if one.is_file()} - before
        assert {one.name for one in written} <= {"made.pem", "record.sqlite-wal", "record.sqlite-shm"}
        est_here("renew", *common, "--key", f"slot:{made}", "--cert", tmp_path / "made.pem")
        assert "already" in est_here("serverkeygen", *common, *mine, *out, "--provider", "softhsm", expect=11).stderr
    finally:
        assert server.stop() == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "made.pem").read_bytes())
    assert places.open(f"slot:{made}").signer.public_key() == certificate.public_key()


def test_a_slot_that_was_rotated_signs_no_longer_for_its_old_certificate(places: KeyPlaces) -> None:
    site = make_site()
    name = new_name()
    key = places.make(f"slot:{name}", "EC-P256", "softhsm")
    with site.serving() as listener:
        with EstClient(site.client(listener, credentials=LOGIN)) as client:
            got = enrolled(client.enroll(key, named("device")))
        places.stack.rotate(name)
        with (
            EstClient(site.client(listener, identity=identity(key, got))) as client,
            pytest.raises(KeyUseError, match="version"),
        ):
            client.reenroll(key, got.certificate)
        with (
            EstClient(site.client(listener, identity=identity(places.open(f"slot:{name}"), got))) as client,
            pytest.raises(CertificateError, match="private key"),
        ):
            client.reenroll(key, got.certificate)


def test_what_cannot_sign_is_refused_by_name(places: KeyPlaces, tmp_path: Path) -> None:
    name = new_name()
    places.stack.create_slot(name, "X25519", P.DERIVE | P.GENERATE, providers=["software"])
    with pytest.raises(RequestError, match="cannot sign"):
        places.open(f"slot:{name}")
    with pytest.raises(ResourceError):
        places.open(f"slot:{new_name()}")
    with pytest.raises(RequestError, match="cannot be read"):
        places.open(str(tmp_path / "nothing.pem"))
    refused = est_here("renew", "localhost", "--key", "slot:", "--cert", tmp_path / "c.pem", expect=11)
    assert "slot:NAME" in refused.stderr
