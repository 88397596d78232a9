"""What the TPM states of a key, checked by cryptography alone."""

import hashlib
import struct
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tpm2_pytss import ESYS_TR, TPM2B_PUBLIC

from hsmbridge.core.calls import Attestation
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, open_tpm
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import before, opened
from tests.unit.providers.tpm.keys import SIGNING, Key, KnownKey

NONCE = bytes(range(32))
GENERATED, CERTIFY, QUOTE = b"\xffTCG", 0x8017, 0x8018
EXTENDED = hashlib.sha256(bytes(32) + hashlib.sha256(b"booted").digest()).digest()
"""A PCR after TPM2_PCR_Event of "booted"."""


def check(attestation: Attestation, nonce: bytes) -> bytes:
    """The name of the key that a statement is about (part 2 sections 10.12.12 and 10.12.3). No TPM software."""
    name, rest = sized(attested(attestation, attestation.statement, attestation.signature, CERTIFY, nonce))
    _, rest = sized(rest)
    assert rest == b""
    return name


def check_quote(attestation: Attestation, nonce: bytes) -> tuple[list[int], bytes]:
    """The PCRs that a quote is of, and the digest of their values (part 2 section 10.12.4). No TPM software."""
    assert attestation.quote is not None
    info = attested(attestation, attestation.quote.statement, attestation.quote.signature, QUOTE, nonce)
    banks, bank, size = struct.unpack(">IHB", info[:7])
    assert (banks, bank) == (1, 0x000B)  # SHA-256
    digest, rest = sized(info[7 + size :])
    assert rest == b""
    chosen = int.from_bytes(info[7 : 7 + size], "little")
    return [number for number in range(8 * size) if chosen >> number & 1], digest


def attested(attestation: Attestation, statement: bytes, signature: bytes, kind: int, nonce: bytes) -> bytes:
    """What is particular in a statement that the attestation key signed over the nonce."""
    signer = load_der_public_key(attestation.attestation_key)
    assert isinstance(signer, ec.EllipticCurvePublicKey)
    signer.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
    assert statement[:4] == GENERATED
    assert struct.unpack(">H", statement[4:6]) == (kind,)
    _, rest = sized(statement[6:])  # the signer's qualified name
    extra, rest = sized(rest)
    assert extra == nonce
    return rest[17 + 8 :]  # after clock and firmware version


def sized(wire: bytes) -> tuple[bytes, bytes]:
    end = 2 + int.from_bytes(wire[:2])
    return wire[2:end], wire[end:]


def name_of(subject: bytes) -> bytes:
    """The digest that names a public area, with its algorithm in front."""
    area, rest = sized(subject)
    assert rest == b""
    assert area[2:4] == b"\x00\x0b"
    return b"\x00\x0b" + hashlib.sha256(area).digest()


@pytest.mark.parametrize(
    ("type_", "permissions"), [("EC-P256", P.SIGN), ("RSA-2048", P.DECRYPT), ("AES-128", P.ENCRYPT)]
)
def test_the_statement_is_about_the_key_and_the_nonce(shared_tpm: TpmProvider, type_: str, permissions: P) -> None:
    key = Key(shared_tpm, type_, permissions)
    attestation = shared_tpm.attest(key.handle, NONCE)
    assert attestation.format == "tpm2-certify"
    assert check(attestation, NONCE) == name_of(attestation.subject)
    if key.made.public_key:
        assert TPM2B_PUBLIC.unmarshal(attestation.subject)[0].to_der() == key.made.public_key


def test_the_subject_shows_that_a_key_never_left_its_tpm_and_that_an_imported_one_may_have(
    shared_tpm: TpmProvider,
) -> None:
    """TPMA_OBJECT (part 2 section 8.3): fixedTPM is bit 1, sensitiveDataOrigin bit 5."""
    made, brought = Key(shared_tpm, "HMAC-SHA256", SIGNING), KnownKey(shared_tpm, "HMAC-SHA256", SIGNING, bytes(32))
    for key, expected in ((made, 0b100010), (brought, 0)):
        subject = shared_tpm.attest(key.handle, NONCE).subject
        assert int.from_bytes(subject[6:10]) & 0b100010 == expected


def test_pcrs_are_quoted_by_the_same_key_over_the_same_nonce(tpm: TpmProvider) -> None:
    opened(tpm).esapi.pcr_event(ESYS_TR.PCR16, b"booted")
    attestation = tpm.attest(Key(tpm, "EC-P256", P.SIGN).handle, NONCE, (23, 16, 0, 16))
    assert check(attestation, NONCE) == name_of(attestation.subject)
    assert attestation.quote is not None
    assert attestation.quote.pcrs == ((0, bytes(32)), (16, EXTENDED), (23, bytes(32)))
    digest = hashlib.sha256(bytes(32) + EXTENDED + bytes(32)).digest()
    assert check_quote(attestation, NONCE) == ([0, 16, 23], digest)


def test_all_pcrs_can_be_quoted_at_once(shared_tpm: TpmProvider) -> None:
    attestation = shared_tpm.attest(Key(shared_tpm, "EC-P256", P.SIGN).handle, NONCE, tuple(range(24)))
    assert check_quote(attestation, NONCE)[0] == list(range(24))


def test_the_values_that_are_told_are_those_that_were_quoted(tpm: TpmProvider) -> None:
    esapi = opened(tpm).esapi

    def extend_once(call: int) -> None:
        if call == 0:
            esapi.pcr_event(ESYS_TR.PCR16, b"booted")

    key = Key(tpm, "EC-P256", P.SIGN)
    with before(tpm, "quote", extend_once) as quotes:
        attestation = tpm.attest(key.handle, NONCE, (16,))
    assert len(quotes) == 2
    assert attestation.quote is not None
    assert attestation.quote.pcrs == ((16, EXTENDED),)


def test_pcrs_that_never_rest_are_not_quoted(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", P.SIGN)
    esapi = opened(tpm).esapi
    with (
        before(tpm, "quote", lambda _: esapi.pcr_event(ESYS_TR.PCR16, b"booted")),
        pytest.raises(HsmBridgeError) as refused,
    ):
        tpm.attest(key.handle, NONCE, (16,))
    assert refused.value.status is Status.PROVIDER_FAILED


@pytest.mark.parametrize("number", [-1, 24, 1000])
def test_a_pcr_that_no_tpm_has_is_refused(shared_tpm: TpmProvider, number: int) -> None:
    with pytest.raises(HsmBridgeError) as refused:
        shared_tpm.attest(Key(shared_tpm, "EC-P256", P.SIGN).handle, NONCE, (0, number))
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_a_changed_statement_does_not_verify(shared_tpm: TpmProvider) -> None:
    attestation = shared_tpm.attest(Key(shared_tpm, "EC-P256", P.SIGN).handle, NONCE)
    signer = load_der_public_key(attestation.attestation_key)
    assert isinstance(signer, ec.EllipticCurvePublicKey)
    changed = attestation.statement.replace(NONCE, NONCE[::-1])
    with pytest.raises(InvalidSignature):
        signer.verify(attestation.signature, changed, ec.ECDSA(hashes.SHA256()))


def test_the_attestation_key_is_the_same_after_a_restart_and_another_in_another_tpm(
    rig: Rig, shared_tpm: TpmProvider
) -> None:
    keys = set()
    for _ in range(2):
        provider = open_tpm(rig.settings)
        keys.add(provider.attest(Key(provider, "EC-P256", P.SIGN).handle, NONCE).attestation_key)
        provider.close()
        rig.restart()
    assert len(keys) == 1
    assert shared_tpm.attest(Key(shared_tpm, "EC-P256", P.SIGN).handle, NONCE).attestation_key not in keys


@pytest.mark.parametrize("length", [0, 65, 1000])
def test_a_nonce_that_no_tpm_takes_is_refused(shared_tpm: TpmProvider, length: int) -> None:
    with pytest.raises(HsmBridgeError) as refused:
        shared_tpm.attest(Key(shared_tpm, "EC-P256", P.SIGN).handle, bytes(length))
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_an_endorsement_password_is_named(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", P.SIGN)
    opened(tpm).esapi.hierarchy_change_auth(ESYS_TR.RH_ENDORSEMENT, b"password")
    # ESAPI remembers the new password in this context only.
    opened(tpm).esapi.tr_set_auth(ESYS_TR.RH_ENDORSEMENT, b"")
    with pytest.raises(HsmBridgeError) as refused:
        tpm.attest(key.handle, NONCE)
    assert refused.value.status is Status.PIN_INCORRECT
    assert "endorsement" in str(refused.value)


def test_a_tpm_without_certificates_answers_none(shared_tpm: TpmProvider) -> None:
    assert shared_tpm.attest(Key(shared_tpm, "EC-P256", P.SIGN).handle, NONCE).certificates == ()


def test_the_makers_certificates_come_with_it(manufactured: Callable[[], Rig]) -> None:
    rig = manufactured()
    provider = open_tpm(rig.settings)
    attestation = provider.attest(Key(provider, "EC-P256", P.SIGN).handle, NONCE)
    provider.close()
    known = {x509.load_pem_x509_certificate(file.read_bytes()) for file in (rig.directory / "ek").glob("*.pem")}
    assert known
    assert {x509.load_der_x509_certificate(certificate) for certificate in attestation.certificates} == known


def test_nothing_is_left_in_the_slots(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", P.SIGN)
    for _ in range(5):
        tpm.attest(key.handle, NONCE)
    place = opened(tpm)
    place.keys.release_all()
    assert place.connection.handles(0x80000000) == []
