"""The oqs provider beyond what every provider must do: its stored form, imports, public halves, zeroising."""

import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.core import calls
from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError, KeyUseError, RequestError, SignatureInvalid, Status, StoreError
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.providers.oqs import OqsProvider, encodings, load_library
from hsmbridge.providers.oqs.library import Library
from hsmbridge.providers.oqs.material import from_stored
from hsmbridge.providers.oqs.mechanisms import expand, generate
from hsmbridge.providers.software import SoftwareProvider
from tests.conformance.backends import LIBOQS, AesGcmSeal
from tests.conformance.independent import postquantum

MESSAGE = b"a message"
BINDING = b"slot, version, key type"
ML_DSA = ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
ML_KEM = ("ML-KEM-512", "ML-KEM-768", "ML-KEM-1024")


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(str(LIBOQS))


@pytest.fixture
def seal() -> AesGcmSeal:
    return AesGcmSeal(AESGCM.generate_key(256))


@pytest.fixture
def provider(seal: AesGcmSeal, library: Library) -> Iterator[OqsProvider]:
    opened = OqsProvider(seal, library)
    yield opened
    opened.close()


def _target(name: str, *, ephemeral: bool = False) -> calls.KeyTarget:
    return calls.KeyTarget(new_key_id(), name, 0, BINDING, "", ephemeral)


def _load(provider: OqsProvider, target: calls.KeyTarget, made: calls.MadeKey) -> int:
    return provider.load(target.key_id, key_type(target.key_type), 0, made.reference, target.binding)


def _import(provider: OqsProvider, name: str, format_: str, material: bytes) -> tuple[int, bytes]:
    """A handle of an imported key, and its public key."""
    target = _target(name)
    made = provider.import_key(target, format_, material)
    return _load(provider, target, made), made.public_key


def _refusal(provider: OqsProvider, name: str, format_: str, material: bytes) -> RequestError:
    with pytest.raises(RequestError) as refusal:
        provider.import_key(_target(name), format_, material)
    return refusal.value


def _pkcs8(name: str, seed: bytes, expanded: bytes, public: bytes = b"") -> bytes:
    """OneAsymmetricKey in each form of RFC 9881 and RFC 9935; b"" leaves a part out."""

    def tlv(tag: int, *content: bytes) -> bytes:
        value = b"".join(content)
        size = len(value)
        length = bytes((size,)) if size < 128 else b"\x82" + size.to_bytes(2, "big")
        return bytes((tag,)) + length + value

    forms = {
        (True, True): tlv(0x30, tlv(0x04, seed), tlv(0x04, expanded)),
        (True, False): tlv(0x80, seed),
        (False, True): tlv(0x04, expanded),
    }
    key = forms[bool(seed), bool(expanded)]
    arcs = key_type(name).spki_oid.split(".")
    oid = tlv(0x06, bytes((2 * 40 + 16, 0x86, 0x48, 1, 101, 3, 4, int(arcs[7]), int(arcs[8]))))
    beside = tlv(0x81, b"\0", public) if public else b""
    return tlv(0x30, tlv(0x02, b"\1" if public else b"\0"), tlv(0x30, oid), tlv(0x04, key), beside)


# What is stored


@pytest.mark.parametrize("name", ML_DSA + ML_KEM)
def test_what_is_sealed_is_the_expanded_key_with_its_public_key_in_pkcs8(
    provider: OqsProvider, seal: AesGcmSeal, name: str
) -> None:
    target = _target(name)
    made = provider.generate(target)
    stored = seal.open(made.reference, BINDING)
    fields = encodings.decode_private_key(stored[1:])
    assert stored[0] == 0x04
    assert (fields.oid, fields.seed) == (key_type(name).spki_oid, b"")
    assert encodings.encode_public_key(key_type(name), fields.public) == made.public_key
    assert stored[1:] == _pkcs8(name, b"", fields.expanded, fields.public)


def test_the_software_provider_does_not_take_its_keys_nor_it_those_of_the_software_provider(
    provider: OqsProvider, seal: AesGcmSeal
) -> None:
    software = SoftwareProvider(seal)
    for maker, other in ((provider, software), (software, provider)):
        target = _target("ML-DSA-65")
        made = maker.generate(target)
        with pytest.raises(StoreError) as refusal:
            other.load(target.key_id, key_type("ML-DSA-65"), 0, made.reference, BINDING)
        assert refusal.value.status is Status.STORE_TAMPERED


def test_a_key_of_another_type_than_its_record_says_is_not_loaded(provider: OqsProvider) -> None:
    made = provider.generate(_target("ML-DSA-65"))
    with pytest.raises(StoreError):
        _load(provider, _target("ML-DSA-87"), made)


@given(st.binary(max_size=100))
def test_stored_bytes_of_any_kind_are_refused_in_order(stored: bytes) -> None:
    for name in ("ML-DSA-44", "ML-KEM-512"):
        with pytest.raises(StoreError):
            from_stored(key_type(name), stored)


@given(data=st.data())
def test_a_damaged_encoding_is_a_key_or_a_value_error(data: st.DataObject) -> None:
    der = bytearray(_pkcs8("ML-KEM-512", bytes(64), bytes(40), bytes(30)))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    for decode in (encodings.decode_private_key, encodings.decode_public_key):
        try:
            decode(bytes(der))
        except ValueError:
            continue


# Imports


@pytest.mark.parametrize("name", ML_DSA)
def test_an_expanded_ml_dsa_key_is_imported_with_its_public_key(
    provider: OqsProvider, library: Library, name: str
) -> None:
    key = generate(library, key_type(name))
    assert key.private is not None
    handle, public = _import(provider, name, "pkcs8", _pkcs8(name, b"", bytes(key.private), key.public))
    assert public == key.public_key
    row = algorithm(name)
    assert postquantum.verifies(
        row, public, MESSAGE, provider.sign(handle, row, MESSAGE, DEFAULT_SIGNATURE), DEFAULT_SIGNATURE
    )


def test_a_seed_that_is_not_that_of_the_expanded_key_is_refused(provider: OqsProvider) -> None:
    _, expanded = postquantum.signer(key_type("ML-DSA-65"))
    refusal = _refusal(provider, "ML-DSA-65", "pkcs8", _pkcs8("ML-DSA-65", bytes(32), expanded))
    assert refusal.status is Status.INVALID_ARGUMENT
    assert "no working key" in refusal.message


def test_an_expanded_ml_dsa_key_alone_is_refused_for_its_public_key_is_missing(provider: OqsProvider) -> None:
    _, expanded = postquantum.signer(key_type("ML-DSA-65"))
    assert "public key" in _refusal(provider, "ML-DSA-65", "pkcs8", _pkcs8("ML-DSA-65", b"", expanded)).message
    assert "public key" in _refusal(provider, "ML-DSA-65", "raw", expanded).message


def test_a_seed_of_ml_dsa_is_refused_with_the_way_out(provider: OqsProvider) -> None:
    pkcs8 = mldsa.MLDSA65PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    refusal = _refusal(provider, "ML-DSA-65", "pkcs8", pkcs8)
    assert refusal.status is Status.INVALID_ARGUMENT
    assert "software provider" in refusal.message


def test_halves_that_do_not_belong_together_are_refused(provider: OqsProvider, library: Library) -> None:
    for name in ("ML-DSA-44", "ML-KEM-512"):
        one, other = generate(library, key_type(name)), generate(library, key_type(name))
        assert one.private is not None
        refusal = _refusal(provider, name, "pkcs8", _pkcs8(name, b"", bytes(one.private), other.public))
        assert refusal.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["ML-KEM-768", "ML-KEM-1024"])
def test_a_key_of_the_software_kind_is_imported_by_its_seed(provider: OqsProvider, name: str) -> None:
    theirs = mlkem.MLKEM768PrivateKey.generate() if name == "ML-KEM-768" else mlkem.MLKEM1024PrivateKey.generate()
    pkcs8 = theirs.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    handle, public = _import(provider, name, "pkcs8", pkcs8)
    assert public == theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret, ciphertext = theirs.public_key().encapsulate()
    assert provider.decapsulate(handle, algorithm(name), ciphertext) == secret


@pytest.mark.parametrize("name", ML_KEM)
def test_an_ml_kem_key_is_imported_in_every_form(provider: OqsProvider, library: Library, name: str) -> None:
    seed = bytes(range(64))
    key = expand(library, key_type(name), seed)
    assert key.private is not None
    expanded = bytes(key.private)
    forms = [
        ("raw", expanded),
        ("pkcs8", _pkcs8(name, b"", expanded)),
        ("pkcs8", _pkcs8(name, seed, b"")),
        ("pkcs8", _pkcs8(name, seed, expanded)),
        ("pkcs8", _pkcs8(name, seed, expanded, key.public)),
    ]
    ciphertext, secret = postquantum.encapsulate(algorithm(name), key.public_key)
    for format_, material in forms:
        handle, public = _import(provider, name, format_, material)
        assert public == key.public_key
        assert provider.decapsulate(handle, algorithm(name), ciphertext) == secret
    wrong = _pkcs8(name, bytes(64), expanded)
    assert _refusal(provider, name, "pkcs8", wrong).message == "The seed and the expanded key are not one key."


def test_a_public_key_that_is_none_is_refused(provider: OqsProvider) -> None:
    # Coefficients above the modulus (FIPS 203 section 7.2).
    spki = encodings.encode_public_key(key_type("ML-KEM-768"), b"\xff" * 1184)
    assert _refusal(provider, "ML-KEM-768", "spki", spki).status is Status.INVALID_ARGUMENT


def test_a_key_of_another_type_is_a_mismatch(provider: OqsProvider, library: Library) -> None:
    spki = generate(library, key_type("ML-DSA-44")).public_key
    assert _refusal(provider, "ML-DSA-65", "spki", spki).status is Status.KEY_TYPE_MISMATCH


# Use


def test_a_public_half_verifies_and_encapsulates_and_does_no_more(provider: OqsProvider, library: Library) -> None:
    signer, row = generate(library, key_type("ML-DSA-44")), algorithm("ML-DSA-44")
    handle, _ = _import(provider, row.name, "spki", signer.public_key)
    with pytest.raises(KeyUseError):
        provider.sign(handle, row, MESSAGE, DEFAULT_SIGNATURE)
    with pytest.raises(SignatureInvalid):
        provider.verify(handle, row, MESSAGE, bytes(row.output_size), DEFAULT_SIGNATURE)
    kem, row = generate(library, key_type("ML-KEM-512")), algorithm("ML-KEM-512")
    handle, _ = _import(provider, row.name, "spki", kem.public_key)
    made = provider.encapsulate(handle, row)
    with pytest.raises(KeyUseError):
        provider.decapsulate(handle, row, made.ciphertext)


@pytest.mark.parametrize("size", [1, 255])
def test_a_context_of_any_length_is_obeyed(provider: OqsProvider, size: int) -> None:
    target, row = _target("ML-DSA-65"), algorithm("ML-DSA-65")
    made = provider.generate(target)
    context = bytes(range(size))
    signature = provider.sign(_load(provider, target, made), row, b"", SignatureParameters(context=context))
    # pqcrypto, which the conformance suite asks, refuses contexts of 254 and 255 bytes.
    public = load_der_public_key(made.public_key)
    assert isinstance(public, mldsa.MLDSA65PublicKey)
    public.verify(signature, b"", context)


def test_a_message_representative_is_refused(provider: OqsProvider) -> None:
    target, row = _target("ML-DSA-65"), algorithm("ML-DSA-65")
    handle = _load(provider, target, provider.generate(target))
    parameters = SignatureParameters(external_mu=True)
    for act in (
        partial(provider.sign, handle, row, bytes(64), parameters),
        partial(provider.verify, handle, row, bytes(64), bytes(row.output_size), parameters),
    ):
        with pytest.raises(RequestError) as refusal:
            act()
        assert refusal.value.status is Status.NOT_SUPPORTED


def test_a_copy_of_an_ephemeral_key_outlives_it(provider: OqsProvider) -> None:
    target, row = _target("ML-DSA-44", ephemeral=True), algorithm("ML-DSA-44")
    made = provider.generate(target)
    kept = _target("ML-DSA-44")
    copy = provider.copy(_load(provider, target, made), kept)
    provider.destroy(target.key_id, key_type("ML-DSA-44"), made.reference)
    assert copy.public_key == made.public_key
    signature = provider.sign(_load(provider, kept, copy), row, MESSAGE, DEFAULT_SIGNATURE)
    assert postquantum.verifies(row, made.public_key, MESSAGE, signature, DEFAULT_SIGNATURE)


# Published vectors (the files of cryptography-vectors)


def _answers(name: str, number: int) -> Iterator[Mapping[str, bytes]]:
    """The first cases of a response file, by name of the field."""
    folder, file = name.rsplit("-", 1)[0].replace("-", ""), name.replace("ML-", "ML").replace("-", "_")
    kind = "_det_pure" if "DSA" in name else ""
    text = (files("cryptography_vectors") / "asymmetric" / folder / f"kat_{file}{kind}.rsp").read_text()
    for case in text.split("count = ")[1 : number + 1]:
        lines = (line.split("=") for line in case.splitlines()[1:] if "=" in line)
        yield {field.strip(): bytes.fromhex(value.strip()) for field, value in lines if field.strip()[-3:] != "len"}


@pytest.mark.parametrize("name", ML_KEM)
def test_it_decapsulates_the_published_ciphertexts(provider: OqsProvider, name: str) -> None:
    for case in _answers(name, 10):
        for format_, material in (("raw", case["sk"]), ("pkcs8", _pkcs8(name, case["d"] + case["z"], case["sk"]))):
            handle, public = _import(provider, name, format_, material)
            assert public == encodings.encode_public_key(key_type(name), case["pk"])
            assert provider.decapsulate(handle, algorithm(name), case["ct"]) == case["ss"]
            assert provider.decapsulate(handle, algorithm(name), case["ct_n"]) == case["ss_n"]


@pytest.mark.parametrize("name", ML_DSA)
def test_it_verifies_the_published_signatures_and_takes_the_keys_that_made_them(
    provider: OqsProvider, name: str
) -> None:
    row = algorithm(name)
    for case in _answers(name, 10):
        # Seed and expanded key together name the public key, as files of OpenSSL have it.
        handle, public = _import(provider, name, "pkcs8", _pkcs8(name, case["xi"], case["sk"]))
        assert public == encodings.encode_public_key(key_type(name), case["pk"])
        parameters = SignatureParameters(context=case["ctx"])
        provider.verify(handle, row, case["msg"], case["sm"][: row.output_size], parameters)
        provider.verify(handle, row, MESSAGE, provider.sign(handle, row, MESSAGE, parameters), parameters)


# What a library has


def test_only_what_the_library_was_built_with_is_offered(seal: AesGcmSeal, library: Library) -> None:
    fewer = replace(
        library, kems=frozenset({"ML-KEM-768", "Kyber768"}), signatures=frozenset({"SPHINCS+-SHA2-128s-simple"})
    )
    provider = OqsProvider(seal, fewer)
    assert [claim.algorithm for claim in provider.describe().claims] == ["ML-KEM-768"]
    with pytest.raises(HsmBridgeError) as refusal:
        provider.generate(_target("ML-DSA-65"))
    assert refusal.value.status is Status.NOT_SUPPORTED


# Zeroising


def test_a_private_key_is_overwritten_when_its_last_user_is_gone(provider: OqsProvider) -> None:
    target, row = _target("ML-DSA-44"), algorithm("ML-DSA-44")
    handle = _load(provider, target, provider.generate(target))
    provider.sign(handle, row, MESSAGE, DEFAULT_SIGNATURE)
    value = provider._keys[handle].material.private
    assert value is not None
    assert any(value)
    provider.unload(handle)
    gc.collect()
    assert value == bytes(2560)


def test_a_key_does_not_show_itself(library: Library) -> None:
    key = generate(library, key_type("ML-KEM-512"))
    assert repr(key) == "OqsKey(ML-KEM-512)"
    assert repr(encodings.decode_private_key(key.stored()[1:])) == "PrivateKeyFields(2.16.840.1.101.3.4.4.1)"
