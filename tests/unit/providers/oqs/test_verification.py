"""A library that verifies ML-DSA otherwise than FIPS 204 says is found out, and does not verify."""

from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmbridge.core import calls
from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import SignatureInvalid
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.providers.oqs import OqsProvider, encodings, load_library
from hsmbridge.providers.oqs.library import Library, Signer
from hsmbridge.providers.oqs.mechanisms import MlDsa
from hsmbridge.providers.oqs.verification import (
    CASES,
    CHALLENGES,
    MESSAGE,
    SHAPES,
    Case,
    MlDsaVerifiedByCryptography,
    known_signature,
    public_key,
)
from tests.conformance.backends import LIBOQS, AesGcmSeal
from tests.conformance.independent import postquantum
from tests.unit.providers.oqs.challenges import challenge

Judge = Callable[[bytes, bytes, bytes], bool]
each_set = pytest.mark.parametrize("name", SHAPES)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class _JudgedLibrary(Library):
    """The liboqs here, except that somebody else says which signatures are valid."""

    judge: Judge

    def signer(self, name: str) -> Signer:
        signer = super().signer(name)
        # An attribute of the object comes before the method of its class.
        vars(signer)["verify"] = self.judge
        return signer


def _judged(judge: Judge) -> OqsProvider:
    real = load_library(str(LIBOQS))

    class Judged(_JudgedLibrary):
        pass

    Judged.judge = staticmethod(judge)
    library = Judged(real.version, real.package_version, real.kems, real.signatures, real._package, real._random)
    return OqsProvider(AesGcmSeal(AESGCM.generate_key(256)), library)


def _right(message: bytes, signature: bytes, public: bytes) -> bool:
    """By pqcrypto."""
    row = next(key_type(name) for name in SHAPES if len(public_key(name)) == len(public))
    spki = encodings.encode_public_key(row, public)
    return postquantum.verifies(algorithm(row.name), spki, message, signature, DEFAULT_SIGNATURE)


def _bound(provider: OqsProvider, name: str) -> object:
    """What uses a new key of a provider."""
    handle, _ = _key(provider, name)
    provider.sign(handle, algorithm(name), MESSAGE, DEFAULT_SIGNATURE)
    return provider._keys[handle].bound[name]


def _key(provider: OqsProvider, name: str) -> tuple[int, calls.MadeKey]:
    target = calls.KeyTarget(new_key_id(), name, 0, b"binding", "", False)
    made = provider.generate(target)
    return provider.load(target.key_id, key_type(name), 0, made.reference, target.binding), made


def _public_half(provider: OqsProvider, name: str, public: bytes) -> int:
    target = calls.KeyTarget(new_key_id(), name, 0, b"binding", "", False)
    made = provider.import_key(target, "spki", encodings.encode_public_key(key_type(name), public))
    return provider.load(target.key_id, key_type(name), 0, made.reference, target.binding)


@pytest.fixture(scope="module")
def provider() -> Iterator[OqsProvider]:
    """With the liboqs here as it is."""
    opened = OqsProvider(AesGcmSeal(AESGCM.generate_key(256)), load_library(str(LIBOQS)))
    yield opened
    opened.close()


# The known answers


@each_set
@each_case
def test_the_challenge_of_a_known_answer_is_what_fips_204_computes(name: str, case: Case) -> None:
    place, value = case.coefficient(SHAPES[name])
    hints = frozenset({0}) if case.hint else frozenset[int]()
    expected = challenge(name, public_key(name), MESSAGE, place=place, value=value, hints=hints)
    assert bytes.fromhex(CHALLENGES[name, case.name]) == expected
    assert known_signature(name, case).startswith(expected)


@each_set
@each_case
def test_another_implementation_answers_as_known(name: str, case: Case) -> None:
    assert _right(MESSAGE, known_signature(name, case), public_key(name)) is case.valid


# What the provider does


@each_set
@each_case
def test_the_provider_accepts_and_refuses_as_known_whatever_the_library_does(
    provider: OqsProvider, name: str, case: Case
) -> None:
    handle = _public_half(provider, name, public_key(name))
    signature = known_signature(name, case)
    if case.valid:
        provider.verify(handle, algorithm(name), MESSAGE, signature, DEFAULT_SIGNATURE)
    else:
        with pytest.raises(SignatureInvalid):
            provider.verify(handle, algorithm(name), MESSAGE, signature, DEFAULT_SIGNATURE)


@each_set
def test_a_library_that_is_right_verifies_itself(name: str) -> None:
    provider = _judged(_right)
    assert type(_bound(provider, name)) is MlDsa
    assert not [note for note in provider.describe().notes if "FIPS 204" in note]


@pytest.mark.parametrize("wrong", [case for case in CASES if case.name != "short"], ids=lambda case: case.name)
@each_set
def test_a_library_that_is_wrong_about_one_case_does_not_verify_and_the_provider_says_so(
    name: str, wrong: Case
) -> None:
    mistaken = known_signature(name, wrong)
    provider = _judged(
        lambda message, signature, public: _right(message, signature, public) is not (signature == mistaken)
    )
    others = [other for other in SHAPES if other != name]
    assert type(_bound(provider, name)) is MlDsaVerifiedByCryptography
    assert all(type(_bound(provider, other)) is MlDsa for other in others)
    (note,) = (note for note in provider.describe().notes if "FIPS 204" in note)
    assert name in note
    assert not any(other in note for other in others)


@each_set
def test_what_the_library_signs_is_verified_elsewhere_with_its_context(name: str) -> None:
    provider = _judged(lambda message, signature, public: len(signature) > 0)
    assert type(_bound(provider, name)) is MlDsaVerifiedByCryptography
    row = algorithm(name)
    handle, _ = _key(provider, name)
    for parameters in (DEFAULT_SIGNATURE, SignatureParameters(context=b"a context")):
        signature = provider.sign(handle, row, MESSAGE, parameters)
        provider.verify(handle, row, MESSAGE, signature, parameters)
        for message, other, wrong in (
            (MESSAGE + b"!", signature, parameters),
            (MESSAGE, signature, SignatureParameters(context=b"another")),
            (MESSAGE, signature[:-1] + bytes((signature[-1] ^ 1,)), parameters),
            (MESSAGE, signature[:-1], parameters),
        ):
            with pytest.raises(SignatureInvalid):
                provider.verify(handle, row, message, other, wrong)
