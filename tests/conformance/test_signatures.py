"""Signatures: another implementation accepts what a provider signs, and the provider accepts nothing else."""

from collections.abc import Callable
from functools import partial

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, Kind, Scheme
from hsmbridge.core.errors import LimitError, RequestError, SignatureInvalid, Status
from hsmbridge.core.params import SignatureParameters
from tests.conformance.independent import keys, macs, postquantum, signatures
from tests.conformance.pinned import Case, cases, each
from tests.conformance.rig import Rig
from tests.conformance.samples import each_message, flipped

SIGN, VERIFY = KeyOperation.SIGN, KeyOperation.VERIFY
MESSAGE = b"a message of the suite"

signing = each(cases(Kind.SIGNATURE, needs=(SIGN,)))
verifying = each(cases(Kind.SIGNATURE, needs=(SIGN, VERIFY), first=True))
hashing = each([case for case in cases(Kind.SIGNATURE, needs=(SIGN, VERIFY), first=True) if case.algorithm.hash])
of_imported_keys = each(
    [
        case
        for case in cases(Kind.SIGNATURE, needs=(SIGN, VERIFY), imports=True)
        if case.algorithm.scheme not in {Scheme.ML_DSA, Scheme.SLH_DSA}
    ]
)


def _of(*schemes: Scheme) -> pytest.MarkDecorator:
    found = cases(Kind.SIGNATURE, needs=(SIGN, VERIFY), first=True)
    return each([case for case in found if case.algorithm.scheme in schemes])


def refused(act: Callable[[], object]) -> bool:
    """Whether parameters were refused as such; what a provider does not obey it may not ignore."""
    try:
        act()
    except RequestError as refusal:
        return refusal.status in {Status.NOT_SUPPORTED, Status.INVALID_ARGUMENT}
    return False


def _accepted(rig: Rig, case: Case, message: bytes) -> bytes:
    """The message, or as much of it as the provider is pinned to take, after it refused more."""
    longest = rig.pinned.longest.get(case.algorithm.name, len(message))
    if len(message) <= longest:
        return message
    for call in (
        calls.SignCall(rig.load(rig.key(case)), case.algorithm.name, message),
        calls.VerifyCall(rig.load(rig.key(case)), case.algorithm.name, message, b"signature"),
    ):
        with pytest.raises(LimitError) as refusal:
            rig.perform(call)
        assert refusal.value.status is Status.DATA_TOO_LARGE
    return message[:longest]


@signing
@each_message
def test_another_implementation_accepts_its_signature(rig: Rig, case: Case, message: bytes) -> None:
    key = rig.key(case)
    message = _accepted(rig, case, message)
    signature = rig.sign(case, key, message)
    assert signatures.verifies(case.algorithm, key.made.public_key, message, signature)


@verifying
@each_message
def test_it_accepts_its_own_signature(rig: Rig, case: Case, message: bytes) -> None:
    key = rig.key(case)
    message = _accepted(rig, case, message)
    rig.verify(case, key, message, rig.sign(case, key, message))


@of_imported_keys
def test_it_signs_and_verifies_with_a_key_made_elsewhere(rig: Rig, case: Case) -> None:
    pkcs8 = keys.private_key(case.key_type)
    key = rig.bring(case.key_type, case.permissions, "pkcs8", pkcs8, ephemeral=True)
    rig.verify(case, key, MESSAGE, signatures.sign(case.algorithm, pkcs8, MESSAGE))
    signature = rig.sign(case, key, MESSAGE)
    assert signatures.verifies(case.algorithm, keys.public_key(case.key_type), MESSAGE, signature)
    rig.destroy(key)


@each([case for case in cases(Kind.SIGNATURE, needs=(VERIFY,), imports=True) if case.algorithm.scheme is Scheme.ML_DSA])
@pytest.mark.parametrize("context", [b"", b"a context"], ids=["no context", "context"])
def test_it_verifies_ml_dsa_of_a_key_made_elsewhere(rig: Rig, case: Case, context: bytes) -> None:
    spki, private = postquantum.signer(case.key_type)
    key = rig.bring(case.key_type, case.permissions, "spki", spki, ephemeral=True)
    signature = postquantum.sign(case.algorithm, private, MESSAGE, context)
    rig.verify(case, key, MESSAGE, signature, SignatureParameters(context=context))
    with pytest.raises(SignatureInvalid):
        rig.verify(case, key, MESSAGE, signature, SignatureParameters(context=context + b"!"))
    rig.destroy(key)


@verifying
def test_another_message_does_not_verify(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    signature = rig.sign(case, key, MESSAGE)
    for other in (b"", flipped(MESSAGE), MESSAGE + b"\0", MESSAGE[:-1]):
        with pytest.raises(SignatureInvalid):
            rig.verify(case, key, other, signature)


@verifying
def test_a_changed_signature_does_not_verify(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    signature = rig.sign(case, key, MESSAGE)
    for position in (0, len(signature) // 2, -1):
        with pytest.raises(SignatureInvalid):
            rig.verify(case, key, MESSAGE, flipped(signature, position))


@verifying
def test_a_signature_of_another_length_does_not_verify(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    signature = rig.sign(case, key, MESSAGE)
    for wrong in (b"", b"\0", signature[:-1], signature + b"\0", bytes(len(signature)), signature * 3):
        with pytest.raises(SignatureInvalid):
            rig.verify(case, key, MESSAGE, wrong)


@verifying
def test_another_key_does_not_verify(rig: Rig, case: Case) -> None:
    signature = rig.sign(case, rig.key(case), MESSAGE)
    with pytest.raises(SignatureInvalid):
        rig.verify(case, rig.key(case, 1), MESSAGE, signature)


@hashing
def test_a_digest_is_signed_as_its_message_would_be(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    digest = macs.digest(case.algorithm, MESSAGE)
    by_digest = SignatureParameters(digest_signing=True)
    signature = rig.sign(case, key, digest, by_digest)
    assert signatures.verifies(case.algorithm, key.made.public_key, MESSAGE, signature)
    rig.verify(case, key, digest, signature, by_digest)
    rig.verify(case, key, MESSAGE, signature)
    with pytest.raises(SignatureInvalid):
        rig.verify(case, key, flipped(digest), signature, by_digest)


@hashing
def test_a_digest_of_another_length_is_refused(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    digest = macs.digest(case.algorithm, MESSAGE)
    for wrong in (b"", digest[:-1], digest + b"\0"):
        with pytest.raises(RequestError) as refusal:
            rig.sign(case, key, wrong, SignatureParameters(digest_signing=True))
        assert refusal.value.status is Status.INVALID_ARGUMENT


@_of(Scheme.RSASSA_PSS)
@pytest.mark.parametrize("salt_length", [0, 20, 32, 64])
def test_a_salt_length_is_obeyed_or_refused(rig: Rig, case: Case, salt_length: int) -> None:
    key = rig.key(case)
    parameters = SignatureParameters(salt_length=salt_length)
    made: list[bytes] = []
    if not refused(lambda: made.append(rig.sign(case, key, MESSAGE, parameters))):
        spki = key.made.public_key
        assert signatures.verifies(case.algorithm, spki, MESSAGE, made[0], parameters)
        assert not signatures.verifies(
            case.algorithm, spki, MESSAGE, made[0], SignatureParameters(salt_length=salt_length + 1)
        )


@_of(Scheme.RSASSA_PSS)
def test_a_salt_longer_than_the_key_allows_is_refused(rig: Rig, case: Case) -> None:
    assert refused(lambda: rig.sign(case, rig.key(case), MESSAGE, SignatureParameters(salt_length=512)))


@_of(Scheme.ML_DSA, Scheme.SLH_DSA)
def test_a_context_is_obeyed_or_refused(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    parameters = SignatureParameters(context=b"a context")
    made: list[bytes] = []
    if not refused(lambda: made.append(rig.sign(case, key, MESSAGE, parameters))):
        rig.verify(case, key, MESSAGE, made[0], parameters)
        assert signatures.verifies(case.algorithm, key.made.public_key, MESSAGE, made[0], parameters)
        with pytest.raises(SignatureInvalid):
            rig.verify(case, key, MESSAGE, made[0])


@_of(Scheme.ML_DSA)
@pytest.mark.parametrize("context", [b"", b"a context"], ids=["no context", "context"])
def test_a_message_representative_is_signed_as_its_message_would_be_or_refused(
    rig: Rig, case: Case, context: bytes
) -> None:
    key = rig.key(case)
    mu = postquantum.representative(key.made.public_key, MESSAGE, context)
    by_mu, by_context = SignatureParameters(external_mu=True), SignatureParameters(context=context)
    made: list[bytes] = []
    if not refused(lambda: made.append(rig.sign(case, key, mu, by_mu))):
        assert signatures.verifies(case.algorithm, key.made.public_key, MESSAGE, made[0], by_context)
        rig.verify(case, key, mu, made[0], by_mu)
        rig.verify(case, key, MESSAGE, made[0], by_context)
        rig.verify(case, key, mu, rig.sign(case, key, MESSAGE, by_context), by_mu)
        with pytest.raises(SignatureInvalid):
            rig.verify(case, key, flipped(mu), made[0], by_mu)
    for wrong in (b"", mu[:-1], mu + b"\0"):
        assert refused(partial(rig.sign, case, key, wrong, by_mu))
        assert refused(partial(rig.verify, case, key, wrong, b"signature", by_mu))


def _foreign(case: Case) -> list[SignatureParameters]:
    """Parameters that mean nothing for an algorithm."""
    found = []
    if case.algorithm.scheme not in {Scheme.ML_DSA, Scheme.SLH_DSA}:
        found.append(SignatureParameters(context=b"a context"))
    if case.algorithm.scheme is not Scheme.ML_DSA:
        found.append(SignatureParameters(external_mu=True))
    if case.algorithm.scheme is not Scheme.RSASSA_PSS:
        found.append(SignatureParameters(salt_length=32))
    if case.algorithm.kind is Kind.MAC or not case.algorithm.hash:
        found.append(SignatureParameters(digest_signing=True))
    return found


@each(cases(Kind.SIGNATURE, Kind.MAC, needs=(SIGN, VERIFY), first=True))
def test_parameters_of_another_algorithm_are_refused(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    message = bytes(32)
    signature = rig.sign(case, key, message)
    for parameters in _foreign(case):
        assert refused(partial(rig.sign, case, key, message, parameters))
        assert refused(partial(rig.verify, case, key, message, signature, parameters))


# MACs

macs_computed = each(cases(Kind.MAC, needs=(SIGN, VERIFY), first=True))


@each(cases(Kind.MAC, needs=(SIGN,), imports=True))
@each_message
def test_another_implementation_computes_the_same_mac(rig: Rig, case: Case, message: bytes) -> None:
    key, value = rig.known(case)
    mac = macs.mac(case.algorithm, value, message)
    assert rig.sign(case, key, message) == mac
    if rig.pinned.offers(case.algorithm, VERIFY):
        rig.verify(case, key, message, mac)


@each(cases(Kind.MAC, needs=(SIGN, VERIFY)))
def test_it_accepts_its_own_mac_and_no_other(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    mac = rig.sign(case, key, MESSAGE)
    assert len(mac) == case.algorithm.output_size
    rig.verify(case, key, MESSAGE, mac)
    for wrong in (flipped(mac), flipped(mac, 0), b"", mac[:-1], mac[: len(mac) // 2], mac + b"\0"):
        with pytest.raises(SignatureInvalid):
            rig.verify(case, key, MESSAGE, wrong)
    with pytest.raises(SignatureInvalid):
        rig.verify(case, key, flipped(MESSAGE), mac)


@macs_computed
def test_another_key_does_not_verify_a_mac(rig: Rig, case: Case) -> None:
    mac = rig.sign(case, rig.key(case), MESSAGE)
    with pytest.raises(SignatureInvalid):
        rig.verify(case, rig.key(case, 1), MESSAGE, mac)
