"""The software provider beyond what every provider must do: its stored form, public halves, limits, zeroising."""

import gc
import threading
from functools import partial

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, algorithm
from hsmbridge.core.errors import HsmBridgeError, RequestError, SignatureInvalid, Status, StoreError
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import (
    DEFAULT_SIGNATURE,
    Argon2id,
    Hkdf,
    KdfParameters,
    Pbkdf2,
    Scrypt,
    SignatureParameters,
    Tls12Prf,
    Tls13ExpandLabel,
)
from hsmbridge.providers.base import claims
from hsmbridge.providers.software import SoftwareProvider, derivation, probe
from hsmbridge.providers.software.derivation import MAX_MEMORY, MAX_PBKDF2_ITERATIONS, derive
from hsmbridge.providers.software.material import SecretKey, from_stored
from tests.conformance.backends import AesGcmSeal
from tests.unit.providers.software_keys import BINDING, bring, generate, load, status_of, target_for

MESSAGE = b"a message"


@pytest.fixture
def seal() -> AesGcmSeal:
    return AesGcmSeal(AESGCM.generate_key(256))


@pytest.fixture
def provider(seal: AesGcmSeal) -> SoftwareProvider:
    return SoftwareProvider(seal)


def _pkcs8(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption | None = None
) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, encryption or NoEncryption())


# The stored form


@pytest.mark.parametrize(("name", "form"), [("AES-256", 1), ("EC-P256", 2), ("RSA-2048", 2), ("ML-DSA-65", 2)])
def test_the_sealed_material_says_its_form(provider: SoftwareProvider, seal: AesGcmSeal, name: str, form: int) -> None:
    made = provider.generate(target_for(name))
    assert seal.open(made.reference, BINDING)[0] == form


def test_post_quantum_keys_are_stored_as_their_seed(provider: SoftwareProvider, seal: AesGcmSeal) -> None:
    for name in ("ML-DSA-87", "ML-KEM-1024"):
        assert len(provider.generate(target_for(name)).reference) < 150


@pytest.mark.parametrize("stored", [b"", b"\x00", b"\x04abc", b"\x02", b"\x02\x30\x00", b"\x03garbage", b"\xff"])
def test_material_of_an_unknown_form_is_not_obeyed(stored: bytes) -> None:
    with pytest.raises(StoreError) as failure:
        from_stored(stored)
    assert failure.value.status is Status.STORE_TAMPERED


def test_sealed_material_of_another_key_type_is_not_obeyed(provider: SoftwareProvider) -> None:
    target = target_for("AES-128")
    made = provider.generate(target)
    load = partial(provider.load, target.key_id, key_type("AES-256"), 0, made.reference, BINDING)
    assert status_of(load) is Status.STORE_TAMPERED


def test_sealed_material_is_bound_to_its_slot(provider: SoftwareProvider) -> None:
    target = target_for("EC-P256")
    made = provider.generate(target)
    load = partial(provider.load, target.key_id, key_type("EC-P256"), 0, made.reference, b"another slot")
    assert status_of(load) is Status.STORE_TAMPERED


def test_an_ephemeral_key_is_bound_to_its_slot_too(provider: SoftwareProvider) -> None:
    target = target_for("EC-P256", ephemeral=True)
    made = provider.generate(target)
    for name, binding in (("EC-P384", BINDING), ("EC-P256", b"another slot")):
        load = partial(provider.load, target.key_id, key_type(name), 0, made.reference, binding)
        assert status_of(load) is Status.STORE_TAMPERED


def test_a_key_that_was_sealed_again_is_loaded_beside_the_old_one(provider: SoftwareProvider, seal: AesGcmSeal) -> None:
    target = target_for("HMAC-SHA256")
    made = provider.generate(target)
    again = calls.MadeKey(seal.seal(seal.open(made.reference, BINDING), BINDING), made.public_key, made.protection)
    first, second = load(provider, target, made), load(provider, target, again)
    row = algorithm("HMAC-SHA256")
    mac = provider.sign(first, row, MESSAGE, DEFAULT_SIGNATURE)
    assert provider.sign(second, row, MESSAGE, DEFAULT_SIGNATURE) == mac
    provider.destroy(target.key_id, key_type("HMAC-SHA256"), made.reference)
    for handle in (first, second):
        assert status_of(partial(provider.sign, handle, row, MESSAGE, DEFAULT_SIGNATURE)) is Status.HANDLE_UNKNOWN


# Handles


def test_handles_of_two_providers_have_nothing_in_common(seal: AesGcmSeal) -> None:
    handles = {generate(SoftwareProvider(seal), "AES-256") for _ in range(20)}
    assert len(handles) == 20
    assert min(handles) > 1000


def test_a_key_unloaded_while_it_is_used_gives_right_results_or_none(provider: SoftwareProvider) -> None:
    target = target_for("HMAC-SHA256")
    made = provider.generate(target)
    row = algorithm("HMAC-SHA256")
    expected = provider.sign(load(provider, target, made), row, MESSAGE, DEFAULT_SIGNATURE)
    stop = threading.Event()
    wrong: list[object] = []

    def use() -> None:
        while not stop.is_set():
            try:
                mac = provider.sign(load(provider, target, made), row, MESSAGE, DEFAULT_SIGNATURE)
            except HsmBridgeError as error:
                if error.status is not Status.HANDLE_UNKNOWN:
                    wrong.append(error)
            else:
                if mac != expected:
                    wrong.append(mac)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3000):
        provider.unload(load(provider, target, made))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# Public halves


def test_a_public_key_verifies_and_does_not_sign(provider: SoftwareProvider) -> None:
    row = algorithm("ECDSA-P256-SHA256")
    target = target_for("EC-P256")
    made = provider.generate(target)
    signature = provider.sign(load(provider, target, made), row, MESSAGE, DEFAULT_SIGNATURE)
    public = bring(provider, "EC-P256", "spki", made.public_key)
    provider.verify(public, row, MESSAGE, signature, DEFAULT_SIGNATURE)
    refusal = status_of(partial(provider.sign, public, row, MESSAGE, DEFAULT_SIGNATURE))
    assert refusal is Status.KEY_OPERATION_NOT_PERMITTED


@pytest.mark.parametrize(
    ("key_type_name", "name"),
    [
        ("RSA-2048", "RSA-PSS-SHA256"),
        ("EC-P384", "ECDSA-P384-SHA384"),
        ("Ed25519", "Ed25519"),
        ("ML-DSA-44", "ML-DSA-44"),
    ],
)
def test_no_public_key_signs(provider: SoftwareProvider, key_type_name: str, name: str) -> None:
    public = bring(provider, key_type_name, "spki", provider.generate(target_for(key_type_name)).public_key)
    refusal = status_of(partial(provider.sign, public, algorithm(name), MESSAGE, DEFAULT_SIGNATURE))
    assert refusal is Status.KEY_OPERATION_NOT_PERMITTED


def test_a_public_key_encrypts_and_encapsulates_and_nothing_more(provider: SoftwareProvider) -> None:
    oaep, kem, ecdh, xdh = (algorithm(name) for name in ("RSA-OAEP-SHA256", "ML-KEM-768", "ECDH-P256", "X25519"))
    rsa_key, kem_key, ec_key, x_key = (
        bring(provider, name, "spki", provider.generate(target_for(name)).public_key)
        for name in ("RSA-2048", "ML-KEM-768", "EC-P256", "X25519")
    )
    sealed = provider.encrypt(rsa_key, oaep, b"", MESSAGE, b"")
    made = provider.encapsulate(kem_key, kem)
    peer = provider.generate(target_for("EC-P256")).public_key
    for act in (
        partial(provider.decrypt, rsa_key, oaep, b"", sealed.ciphertext, b"", b""),
        partial(provider.decapsulate, kem_key, kem, made.ciphertext),
        partial(provider.agree_secret, ec_key, ecdh, peer),
        partial(provider.agree_secret, x_key, xdh, peer),
    ):
        assert status_of(act) is Status.KEY_OPERATION_NOT_PERMITTED


# Import


def test_an_rsa_key_that_does_not_hold_together_is_refused(provider: SoftwareProvider) -> None:
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    wrong = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d + 2, numbers.dmp1, numbers.dmq1, numbers.iqmp, numbers.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    act = partial(provider.import_key, target_for("RSA-2048"), "pkcs8", _pkcs8(wrong))
    assert status_of(act) is Status.INVALID_ARGUMENT


def test_a_key_of_another_type_is_not_imported(provider: SoftwareProvider) -> None:
    pkcs8 = _pkcs8(ec.generate_private_key(ec.SECP384R1()))
    for name in ("EC-P256", "RSA-2048", "AES-256"):
        act = partial(provider.import_key, target_for(name), "pkcs8", pkcs8)
        assert status_of(act) is Status.KEY_TYPE_MISMATCH
    assert status_of(partial(provider.import_key, target_for("EC-P384"), "raw", bytes(48))) is Status.KEY_TYPE_MISMATCH


def test_an_encrypted_key_is_not_imported(provider: SoftwareProvider) -> None:
    pkcs8 = _pkcs8(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"password"))
    act = partial(provider.import_key, target_for("EC-P256"), "pkcs8", pkcs8)
    assert status_of(act) is Status.INVALID_ARGUMENT


# Parameters that must be obeyed here, where other providers may refuse them


def test_a_pss_salt_length_is_obeyed(provider: SoftwareProvider) -> None:
    row = algorithm("RSA-PSS-SHA256")
    handle = generate(provider, "RSA-2048")
    signature = provider.sign(handle, row, MESSAGE, SignatureParameters(salt_length=0))
    provider.verify(handle, row, MESSAGE, signature, SignatureParameters(salt_length=0))
    with pytest.raises(SignatureInvalid):
        provider.verify(handle, row, MESSAGE, signature, DEFAULT_SIGNATURE)
    too_long = partial(provider.sign, handle, row, MESSAGE, SignatureParameters(salt_length=256))
    assert status_of(too_long) is Status.INVALID_ARGUMENT


def test_an_ml_dsa_context_is_obeyed(provider: SoftwareProvider) -> None:
    row = algorithm("ML-DSA-65")
    handle = generate(provider, "ML-DSA-65")
    longest = SignatureParameters(context=bytes(255))
    provider.verify(handle, row, MESSAGE, provider.sign(handle, row, MESSAGE, longest), longest)


# Limits


def test_ccm_refuses_what_its_counter_cannot_count(provider: SoftwareProvider) -> None:
    row = algorithm("AES-128-CCM")
    handle = generate(provider, "AES-128")
    most = bytes((1 << 24) - 1)
    sealed = provider.encrypt(handle, row, bytes(12), most, b"")
    assert provider.decrypt(handle, row, bytes(12), sealed.ciphertext, b"", sealed.tag) == most
    assert status_of(partial(provider.encrypt, handle, row, bytes(12), most + b"\0", b"")) is Status.DATA_TOO_LARGE
    act = partial(provider.decrypt, handle, row, bytes(12), most + b"\0", b"", sealed.tag)
    assert status_of(act) is Status.DECRYPTION_FAILED


@pytest.mark.parametrize("size", [128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1])
def test_gcm_is_the_same_on_both_sides_of_its_large_message_path(provider: SoftwareProvider, size: int) -> None:
    row = algorithm("AES-256-GCM")
    key = bytes(range(32))
    handle = bring(provider, "AES-256", "raw", key)
    plaintext = bytes(size)
    sealed = provider.encrypt(handle, row, bytes(12), plaintext, b"aad")
    assert sealed.ciphertext + sealed.tag == AESGCM(key).encrypt(bytes(12), plaintext, b"aad")
    assert provider.decrypt(handle, row, bytes(12), sealed.ciphertext, b"aad", sealed.tag) == plaintext


@pytest.mark.parametrize(
    ("name", "key_type_name"),
    [("AES-256-GCM", "AES-256"), ("AES-256-CCM", "AES-256"), ("ChaCha20-Poly1305", "ChaCha20")],
)
@pytest.mark.parametrize("size", [0, 1, 1000, 200_000])
def test_in_memory_of_the_caller_an_aead_is_the_same(
    provider: SoftwareProvider, name: str, key_type_name: str, size: int
) -> None:
    row, handle = algorithm(name), generate(provider, key_type_name)
    nonce, aad, plaintext = bytes(12), b"aad", bytes(range(250)) * (size // 250) + b"!" * (size % 250)
    sealed = provider.encrypt(handle, row, nonce, plaintext, aad)
    for room in (0, row.tag_size, 100):
        memory = memoryview(bytearray(plaintext + bytes(room)))
        made = provider.encrypt_into(handle, row, nonce, memory[:size], aad, memory)
        assert (made.nonce, made.ciphertext, made.tag) == (nonce, b"", sealed.tag)
        assert memory[:size] == sealed.ciphertext
        assert memory[size + row.tag_size :] == bytes(max(0, room - row.tag_size)), "what is behind the tag is left"
    memory = memoryview(bytearray(sealed.ciphertext + sealed.tag))
    assert provider.decrypt_into(handle, row, nonce, memory, aad, memory[:size]) == size
    assert memory[:size] == plaintext
    memory = memoryview(bytearray(sealed.ciphertext + bytes(row.tag_size)))
    for forged in (memory, memory[: row.tag_size - 1]):
        act = partial(provider.decrypt_into, handle, row, nonce, forged, aad, memory[:size])
        assert status_of(act) is Status.DECRYPTION_FAILED
    both = memoryview(bytearray(2 * (plaintext + bytes(row.tag_size))))
    half = len(both) // 2
    provider.encrypt_many_into(handle, row, (nonce, b"2" * 12), (both[:half], both[half:]), (aad, b""))
    assert both[:half] == sealed.ciphertext + sealed.tag
    second = provider.encrypt(handle, row, b"2" * 12, plaintext, b"")
    assert both[half:] == second.ciphertext + second.tag


@pytest.mark.parametrize(
    "kdf",
    [
        Hkdf(algorithm="PBKDF2-HMAC-SHA256"),
        Pbkdf2(salt=b"salt", iterations=0),
        Pbkdf2(salt=b"salt", iterations=-1),
        Pbkdf2(salt=b"salt", iterations=MAX_PBKDF2_ITERATIONS + 1),
        Scrypt(salt=b"salt", cost=3),
        Scrypt(salt=b"salt", cost=0),
        Scrypt(salt=b"salt", cost=1 << 30),
        Scrypt(salt=b"salt", cost=1 << 14, parallelization=1 << 14),
        Scrypt(salt=b"salt", cost=-2, block_size=-8),
        Tls13ExpandLabel(label=bytes(250)),
        Tls13ExpandLabel(label=b"label", context=bytes(256)),
        Argon2id(salt=b"a salt", memory=64),
        Argon2id(salt=b"a good salt", lanes=0),
        Argon2id(salt=b"a good salt", lanes=17, memory=1024),
        Argon2id(salt=b"a good salt", lanes=4, memory=31),
        Argon2id(salt=b"a good salt", memory=-1),
        Argon2id(salt=b"a good salt", iterations=0),
        Argon2id(salt=b"a good salt", memory=(MAX_MEMORY >> 10) + 1),
        Argon2id(salt=b"a good salt", memory=MAX_MEMORY >> 10, iterations=17),
        Scrypt(salt=b"salt", cost=1 << 19),
    ],
    ids=repr,
)
def test_a_kdf_with_parameters_that_cannot_be_is_refused(provider: SoftwareProvider, kdf: KdfParameters) -> None:
    act = partial(provider.derive_from_secret, bytes(32), kdf, target_for("AES-256"))
    assert status_of(act) is Status.INVALID_ARGUMENT


def test_the_prf_of_tls_12_gives_the_published_answer() -> None:
    # From the mailing list of the IETF's TLS working group, for P_SHA256.
    kdf = Tls12Prf(label=b"test label", seed=bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c"))
    expected = (
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa0"
        "22f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66"
    )
    assert derive(bytes.fromhex("9bbe436ba940f017b17652849a71db35"), kdf, 100).hex() == expected


@pytest.mark.parametrize("kdf", [Scrypt(salt=b"salt", cost=2), Argon2id(salt=b"a good salt", lanes=1, memory=8)])
def test_derivations_that_take_memory_are_done_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, kdf: KdfParameters
) -> None:
    monkeypatch.setattr(derivation, "PATIENCE", 0.01)
    with derivation.MEMORY:
        assert status_of(partial(derive, b"secret", kdf, 32)) is Status.RATE_LIMITED
    assert len(derive(b"secret", kdf, 32)) == 32


def test_argon2id_gives_the_published_answer() -> None:
    # The parameters of RFC 9106 section 5.3 without its secret and its associated data, by the reference program.
    kdf = Argon2id(salt=b"\x02" * 16, iterations=3, lanes=4, memory=32)
    expected = "03aab965c12001c9d7d0d2de33192c0494b684bb148196d73c1df1acaf6d0c2e"
    assert derive(b"\x01" * 32, kdf, 32).hex() == expected


# Zeroising


def test_a_secret_is_overwritten_when_nobody_uses_it_any_more() -> None:
    secret = SecretKey(b"a secret value")
    value = secret.value
    del secret
    gc.collect()
    assert value == bytes(14)


def test_an_unloaded_key_is_overwritten_and_one_in_use_is_not(provider: SoftwareProvider) -> None:
    handle = generate(provider, "AES-256")
    row = algorithm("AES-256-CTR")
    provider.encrypt(handle, row, bytes(16), MESSAGE, b"")
    material = provider._keys[handle].material
    assert isinstance(material, SecretKey)
    value, in_use = material.value, provider._keys[handle].bound[row.name]
    del material
    provider.unload(handle)
    gc.collect()
    assert any(value)
    assert in_use.encrypt(bytes(16), MESSAGE, b"").ciphertext
    del in_use
    gc.collect()
    assert value == bytes(32)


def test_closing_forgets_every_key(provider: SoftwareProvider) -> None:
    target = target_for("HMAC-SHA256", ephemeral=True)
    load(provider, target, provider.generate(target))
    provider.close()
    assert (provider._keys, provider._handles, provider._ephemeral) == ({}, {}, {})


def test_a_secret_does_not_show_itself() -> None:
    assert repr(SecretKey(b"sesame")) == "SecretKey(6 bytes)"


# Claims


def test_a_row_that_fails_its_trial_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(hash_: str, data: bytes) -> bytes:
        raise UnsupportedAlgorithm(hash_)

    monkeypatch.setattr(probe, "digest", missing)
    found = probe.abilities.__wrapped__()
    assert "SHA-256" not in found.claims
    assert "HMAC-SHA256" in found.claims


def test_what_failed_its_trial_is_refused(provider: SoftwareProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = probe.Abilities((), {})
    monkeypatch.setattr("hsmbridge.providers.software.provider.abilities", lambda: nothing)
    handle = generate(provider, "AES-256")
    assert provider.describe().claims == ()
    for act in (
        partial(provider.encrypt, handle, algorithm("AES-256-GCM"), bytes(12), MESSAGE, b""),
        partial(provider.digest, algorithm("SHA-256"), MESSAGE),
        partial(provider.derive_key, generate(provider, "SECRET-256"), Hkdf(), target_for("AES-256")),
    ):
        assert status_of(act) is Status.NOT_SUPPORTED


def test_rsa_with_pkcs1_v1_5_decrypts_alone(provider: SoftwareProvider) -> None:
    row = algorithm("RSA-PKCS1")
    offered = [operation for operation in row.operations if claims(provider.describe(), row.name, operation)]
    assert offered == [KeyOperation.DECRYPT]


def test_rsa_with_pkcs1_v1_5_is_not_offered_where_the_library_tells_a_wrong_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def telling(*_: object) -> bytes:
        raise ValueError

    monkeypatch.setattr("hsmbridge.providers.software.ciphers.RsaPkcs1.decrypt", telling)
    probe.abilities.cache_clear()
    try:
        assert "RSA-PKCS1" not in probe.abilities().claims
    finally:
        probe.abilities.cache_clear()


def test_a_digest_wants_a_hash(provider: SoftwareProvider) -> None:
    with pytest.raises(RequestError) as refusal:
        provider.digest(algorithm("AES-256-GCM"), MESSAGE)
    assert refusal.value.status is Status.NOT_SUPPORTED
