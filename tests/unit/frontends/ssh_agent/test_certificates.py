"""Which certificates are read, and when one is offered beside its key."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_der_public_key,
)

from hsmbridge.core import messages as m
from hsmbridge.frontends.ssh_agent.certificates import ATTRIBUTE, read_certificate, read_line
from hsmbridge.wire.ssh_agent import FAILURE, Identity, RequestIdentities, SignRequest, encode_identities
from tests.unit.frontends.ssh_agent.test_agent import KEY, NEWER, SIGNATURE, Service, blob, slot, version

AUTHORITY = ed25519.Ed25519PrivateKey.generate()
FROM, UNTIL = 1_000, 2_000


def line(spki: bytes, kind: SSHCertificateType = SSHCertificateType.USER) -> bytes:
    key = load_der_public_key(spki)
    assert isinstance(key, ed25519.Ed25519PublicKey)
    builder = SSHCertificateBuilder().public_key(key).type(kind).key_id(b"somebody").serial(7)
    builder = builder.valid_principals([b"me"]).valid_after(FROM).valid_before(UNTIL)
    return builder.sign(AUTHORITY).public_bytes()


def certificate(spki: bytes, kind: SSHCertificateType = SSHCertificateType.USER) -> bytes:
    return base64.b64decode(line(spki, kind).split(b" ")[1])


CERTIFICATE = certificate(KEY)
OTHERWISE_SIGNED = CERTIFICATE[:-1] + bytes([CERTIFICATE[-1] ^ 1])


def at(seconds: float, *slots: m.SlotInfo) -> Service:
    """An agent on a day."""
    return Service(*slots, today=seconds)


def test_a_certificate_says_what_it_is() -> None:
    found = read_line(line(KEY) + b" a comment\n")
    assert found == read_certificate(found.blob)
    assert (found.key, found.key_id, found.serial, found.principals) == (blob(KEY), "somebody", 7, ("me",))
    assert [found.holds(now) for now in (FROM - 1, FROM, UNTIL - 1, UNTIL)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not one line"),
        (b"ssh-ed25519-cert-v01@openssh.com", "not one line"),
        (line(KEY) + b"\n" + line(KEY), "not one line"),
        (b"ssh-ed25519-cert-v01@openssh.com !!!!", "not base64"),
        (b"ssh-ed25519-cert-v01@openssh.com AAAA", "ends too early"),
        (b"ssh-ed25519 " + base64.b64encode(blob(KEY)), "a key and no certificate"),
        (line(KEY, SSHCertificateType.HOST), "a host's"),
        (b"ssh-rsa-cert-v01@openssh.com " + line(KEY).split(b" ")[1], "another type"),
        (line(KEY).split(b" ")[0] + b" " + base64.b64encode(CERTIFICATE[:-1]), "Invalid data"),
        (line(KEY).split(b" ")[0] + b" " + base64.b64encode(CERTIFICATE + b"\0"), "Corrupt data"),
        (line(KEY).split(b" ")[0] + b" " + base64.b64encode(OTHERWISE_SIGNED), "not that of its authority"),
    ],
    ids=lambda value: value if isinstance(value, str) else "text",  # the same in every process that collects it
)
def test_what_is_no_user_certificate_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_line(text)


def test_no_bit_of_a_certificate_can_be_another() -> None:
    for place in range(len(CERTIFICATE)):
        changed = bytearray(CERTIFICATE)
        changed[place] ^= 1
        with pytest.raises(ValueError, match=r"."):
            read_certificate(bytes(changed))


@pytest.mark.parametrize(
    "authority", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["EC", "RSA"]
)
def test_authorities_have_keys_of_any_kind(authority: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    user = ec.generate_private_key(ec.SECP256R1()).public_key()
    builder = SSHCertificateBuilder().public_key(user).type(SSHCertificateType.USER).key_id(b"").serial(0)
    everybody = builder.valid_for_all_principals()  # type: ignore[no-untyped-call]  # the library does not say
    made = everybody.valid_after(0).valid_before(2**64 - 1).sign(authority)
    found = read_line(made.public_bytes())
    assert found.key == base64.b64decode(user.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split(b" ")[1])
    assert found.principals == ()
    assert found.holds(1e12)


def test_a_certificate_is_offered_before_its_key_and_signs_as_it() -> None:
    service = at(FROM, slot(version(KEY), attributes={ATTRIBUTE: CERTIFICATE}))
    both = [Identity(CERTIFICATE, b"login"), Identity(blob(KEY), b"login")]
    assert service.answer(RequestIdentities()) == encode_identities(both)
    for key in (CERTIFICATE, blob(KEY)):
        assert service.answer(SignRequest(key, b"data", 0)) == SIGNATURE


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (UNTIL, CERTIFICATE),
        (FROM - 1, CERTIFICATE),
        (FROM, certificate(NEWER)),
        (FROM, certificate(KEY, SSHCertificateType.HOST)),
        (FROM, b"garbage"),
        (FROM, CERTIFICATE[:-1]),
    ],
    ids=["no longer", "not yet", "of another key", "of a host", "garbage", "cut off"],
)
def test_one_that_does_not_hold_or_is_of_another_key_is_not_there(now: float, kept: bytes) -> None:
    service = at(now, slot(version(KEY), attributes={ATTRIBUTE: kept}), slot(version(NEWER), name="uid-7/other"))
    keys = [Identity(blob(KEY), b"login"), Identity(blob(NEWER), b"other")]
    assert service.answer(RequestIdentities()) == encode_identities(keys)
    assert service.answer(SignRequest(kept, b"data", 0)) == FAILURE


def test_after_a_rotation_the_certificate_of_the_former_key_is_not_offered() -> None:
    service = at(FROM, slot(version(KEY, 1, "rotated"), version(NEWER, 2), attributes={ATTRIBUTE: CERTIFICATE}))
    assert service.answer(RequestIdentities()) == encode_identities([Identity(blob(NEWER), b"login")])
    assert service.answer(SignRequest(CERTIFICATE, b"data", 0)) == FAILURE


def test_who_may_not_sign_is_offered_no_certificate() -> None:
    service = at(FROM, slot(version(KEY, state="revoked"), attributes={ATTRIBUTE: CERTIFICATE}))
    assert service.answer(RequestIdentities()) == encode_identities([])
