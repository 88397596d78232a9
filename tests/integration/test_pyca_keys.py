"""Keys of the service under cryptography's private-key interface: every signature checked by cryptography itself."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from hypothesis import given, settings
from hypothesis import strategies as st

from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission
from hsmbridge.client.pyca import ServicePrivateKey, private_key
from hsmbridge.errors import KeyUseError, RequestError, ResourceError, Status
from hsmbridge.lab.lab import Lab

P = KeyOperationPermission
SIGNING = P.SIGN | P.VERIFY | P.GENERATE
PROVIDERS = ("software", "softhsm", "tpm")
MESSAGE = b"a message"
LONG_MESSAGE = b"a long message " * 100_000
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
_numbers = count()


@pytest.fixture(scope="module")
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with hsmbridge_lab.stack(timeout=60) as made:
        yield made


def new_slot(stack: CryptoStack, key_type: str, permissions: P = SIGNING, provider: str = "software") -> str:
    name = f"pyca-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider])
    return name


def rsa_key(stack: CryptoStack, key: str) -> rsa.RSAPrivateKey:
    made = private_key(stack, key)
    assert isinstance(made, rsa.RSAPrivateKey)
    return made


def ec_key(stack: CryptoStack, key: str) -> ec.EllipticCurvePrivateKey:
    made = private_key(stack, key)
    assert isinstance(made, ec.EllipticCurvePrivateKey)
    return made


# --- RSA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_rsa_key_signs_with_both_paddings_whole_messages_and_digests(stack: CryptoStack, provider: str) -> None:
    key = rsa_key(stack, new_slot(stack, "RSA-2048", provider=provider))
    assert key.key_size == 2048
    for scheme in (padding.PKCS1v15(), PSS):
        for data, algorithm in (
            (MESSAGE, hashes.SHA256()),
            (LONG_MESSAGE, hashes.SHA256()),
            (hashlib.sha256(MESSAGE).digest(), Prehashed(hashes.SHA256())),
        ):
            key.public_key().verify(key.sign(data, scheme, algorithm), data, scheme, algorithm)


@pytest.mark.parametrize("hash_", [hashes.SHA384(), hashes.SHA512()], ids=["SHA-384", "SHA-512"])
@pytest.mark.parametrize(
    "salt", [padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH, 20, 0], ids=["digest", "longest", "20", "0"]
)
def test_pss_takes_the_salt_lengths_of_the_interface(
    stack: CryptoStack, hash_: hashes.HashAlgorithm, salt: int
) -> None:
    key = rsa_key(stack, new_slot(stack, "RSA-2048"))
    scheme = padding.PSS(padding.MGF1(hash_), salt)
    key.public_key().verify(key.sign(MESSAGE, scheme, hash_), MESSAGE, scheme, hash_)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("hash_", [hashes.SHA1(), hashes.SHA256()], ids=["SHA-1", "SHA-256"])
def test_an_rsa_key_decrypts_oaep(stack: CryptoStack, provider: str, hash_: hashes.HashAlgorithm) -> None:
    key = rsa_key(stack, new_slot(stack, "RSA-2048", P.ENCRYPT | P.DECRYPT, provider))
    oaep = padding.OAEP(padding.MGF1(hash_), hash_, None)
    if provider == "softhsm" and hash_.name != "sha1":
        # SoftHSM 2 takes OAEP with SHA-1 only, and says so.
        with pytest.raises(RequestError):
            key.decrypt(bytes(256), oaep)
        return
    assert key.decrypt(key.public_key().encrypt(MESSAGE, oaep), oaep) == MESSAGE
    with pytest.raises(ValueError, match="Decryption failed"):
        key.decrypt(bytes(255) + b"\1", oaep)
    with pytest.raises(ValueError, match="length"):
        key.decrypt(bytes(16), oaep)


def test_an_rsa_key_decrypts_pkcs1_v1_5_where_its_slot_names_it(stack: CryptoStack) -> None:
    stack.create_slot("pyca-named", "RSA-2048", P.DECRYPT, providers=["software"], algorithms=["RSA-PKCS1"])
    key = rsa_key(stack, "pyca-named")
    assert key.decrypt(key.public_key().encrypt(MESSAGE, padding.PKCS1v15()), padding.PKCS1v15()) == MESSAGE
    wrong = bytes(255) + b"\1"
    assert key.decrypt(wrong, padding.PKCS1v15()) == key.decrypt(wrong, padding.PKCS1v15())
    with pytest.raises(KeyUseError) as refusal:
        rsa_key(stack, new_slot(stack, "RSA-2048", P.DECRYPT)).decrypt(wrong, padding.PKCS1v15())
    assert refusal.value.status is Status.ALGORITHM_NOT_ALLOWED


def test_a_rotated_slot_decrypts_what_was_encrypted_to_its_former_key(stack: CryptoStack) -> None:
    name = new_slot(stack, "RSA-2048", P.ENCRYPT | P.DECRYPT | P.GENERATE)
    key = rsa_key(stack, name)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    sealed = key.public_key().encrypt(MESSAGE, oaep)
    stack.rotate(name)
    assert key.decrypt(sealed, oaep) == MESSAGE


def test_rsa_refuses_what_the_service_has_no_algorithm_for(stack: CryptoStack) -> None:
    key = rsa_key(stack, new_slot(stack, "RSA-2048"))
    sha256, sha384 = hashes.SHA256(), hashes.SHA384()
    for scheme, algorithm in (
        (padding.PKCS1v15(), hashes.SHA1()),
        (padding.PKCS1v15(), hashes.SHA224()),
        (padding.PKCS1v15(), NoDigestInfo()),
        (padding.PKCS1v15(), Prehashed(hashes.MD5())),
        (padding.PSS(padding.MGF1(sha384), 32), sha256),
        (padding.OAEP(padding.MGF1(sha256), sha256, None), sha256),
    ):
        with pytest.raises(UnsupportedAlgorithm):
            key.sign(MESSAGE, scheme, algorithm)
    with pytest.raises(ValueError, match="Auto"):
        key.sign(MESSAGE, padding.PSS(padding.MGF1(sha256), padding.PSS.AUTO), sha256)
    with pytest.raises(ValueError, match="length"):
        key.sign(MESSAGE, padding.PKCS1v15(), Prehashed(sha256))
    for oaep in (
        padding.OAEP(padding.MGF1(sha256), sha256, b"label"),
        padding.OAEP(padding.MGF1(sha256), sha384, None),
    ):
        with pytest.raises(UnsupportedAlgorithm):
            key.decrypt(bytes(256), oaep)


# --- elliptic curves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "hash_",
    [hashes.SHA256(), hashes.SHA384(), hashes.SHA512(), hashes.SHA3_256()],
    ids=["SHA-256", "SHA-384", "SHA-512", "SHA3-256"],
)
def test_an_ec_key_signs_over_the_digests_of_every_strength(
    stack: CryptoStack, provider: str, hash_: hashes.HashAlgorithm
) -> None:
    key = ec_key(stack, new_slot(stack, "EC-P256", provider=provider))
    assert (key.curve.name, key.key_size) == ("secp256r1", 256)
    for data in (MESSAGE, LONG_MESSAGE):
        key.public_key().verify(key.sign(data, ec.ECDSA(hash_)), data, ec.ECDSA(hash_))


@pytest.mark.parametrize("key_type", ["EC-P256", "EC-P384", "EC-P521"])
def test_any_digest_is_signed_as_the_integer_that_it_is(stack: CryptoStack, key_type: str) -> None:
    key = ec_key(stack, new_slot(stack, key_type))

    @settings(max_examples=20)
    @given(
        hash_=st.sampled_from([hashes.SHA256(), hashes.SHA384(), hashes.SHA512(), hashes.SHA3_512()]), data=st.data()
    )
    def check(hash_: hashes.HashAlgorithm, data: st.DataObject) -> None:
        digest = data.draw(st.binary(min_size=hash_.digest_size, max_size=hash_.digest_size))
        algorithm = ec.ECDSA(Prehashed(hash_))
        key.public_key().verify(key.sign(digest, algorithm), digest, algorithm)

    check()


def test_ec_refuses_what_the_service_has_no_algorithm_for(stack: CryptoStack) -> None:
    key = ec_key(stack, new_slot(stack, "EC-P256"))
    for algorithm in (
        ec.ECDSA(hashes.SHA1()),
        ec.ECDSA(Prehashed(hashes.SHA1())),
        ec.ECDSA(hashes.BLAKE2s(32)),
        ec.ECDSA(hashes.SHA256(), deterministic_signing=True),
    ):
        with pytest.raises(UnsupportedAlgorithm):
            key.sign(MESSAGE, algorithm)


def test_the_secret_of_an_agreement_does_not_leave_the_service(stack: CryptoStack) -> None:
    ours = private_key(stack, new_slot(stack, "EC-P256", P.DERIVE))
    montgomery = private_key(stack, new_slot(stack, "X25519", P.DERIVE))
    other = private_key(stack, new_slot(stack, "X448", P.DERIVE))
    assert isinstance(ours, ec.EllipticCurvePrivateKey)
    assert isinstance(montgomery, x25519.X25519PrivateKey)
    assert isinstance(other, x448.X448PrivateKey)
    exchanges: tuple[Callable[[], object], ...] = (
        lambda: ours.exchange(ec.ECDH(), ec.generate_private_key(ec.SECP256R1()).public_key()),
        lambda: montgomery.exchange(x25519.X25519PrivateKey.generate().public_key()),
        lambda: other.exchange(x448.X448PrivateKey.generate().public_key()),
    )
    for exchange in exchanges:
        with pytest.raises(ResourceError, match="agree_key") as caught:
            exchange()
        assert caught.value.status is Status.NOT_TRANSFERABLE


@pytest.mark.parametrize("provider", ["software", "softhsm"])
def test_an_ed25519_key_signs(stack: CryptoStack, provider: str) -> None:
    key = private_key(stack, new_slot(stack, "Ed25519", provider=provider))
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    for data in (MESSAGE, LONG_MESSAGE):
        key.public_key().verify(key.sign(data), data)


def test_an_ed448_key_signs(stack: CryptoStack) -> None:
    key = private_key(stack, new_slot(stack, "Ed448"))
    assert isinstance(key, ed448.Ed448PrivateKey)
    key.public_key().verify(key.sign(MESSAGE), MESSAGE)


# --- module lattices -----------------------------------------------------------------------------------------------


def test_ml_dsa_keys_sign_with_and_without_a_context(stack: CryptoStack) -> None:
    for key_type in ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87"):
        key = private_key(stack, new_slot(stack, key_type))
        assert isinstance(key, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey)
        key.public_key().verify(key.sign(MESSAGE), MESSAGE)
        key.public_key().verify(key.sign(MESSAGE, b"a context"), MESSAGE, b"a context")
        mu = hashlib.shake_256(MESSAGE).digest(64)
        key.public_key().verify_mu(key.sign_mu(mu), mu)


def test_ml_kem_keys_decapsulate(stack: CryptoStack) -> None:
    for key_type in ("ML-KEM-768", "ML-KEM-1024"):
        key = private_key(stack, new_slot(stack, key_type, P.ENCAPSULATE | P.DECAPSULATE))
        assert isinstance(key, mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey)
        secret, ciphertext = key.public_key().encapsulate()
        assert key.decapsulate(ciphertext) == secret
        with pytest.raises(ValueError, match="length"):
            key.decapsulate(ciphertext[:-1])


# --- what all have in common ---------------------------------------------------------------------------------------

ASYMMETRIC = {
    "RSA-2048": SIGNING,
    "EC-P256": SIGNING,
    "Ed25519": SIGNING,
    "Ed448": SIGNING,
    "X25519": P.DERIVE,
    "X448": P.DERIVE,
    "ML-DSA-65": SIGNING,
    "ML-KEM-768": P.DECAPSULATE,
}


@pytest.mark.parametrize("key_type", ASYMMETRIC)
def test_the_private_key_itself_is_never_given(stack: CryptoStack, key_type: str) -> None:
    key: ServicePrivateKey = private_key(stack, new_slot(stack, key_type, ASYMMETRIC[key_type]))
    questions: list[Callable[[], object]] = [
        lambda: key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    ]
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        questions.append(key.private_numbers)
    else:
        questions.append(key.private_bytes_raw)
    for question in questions:
        with pytest.raises(ResourceError, match="stays in the service") as caught:
            question()
        assert caught.value.status is Status.NOT_TRANSFERABLE
    assert key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    ) == (stack.show_slot(slot_of(key)).versions[0].public_key)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def slot_of(key: ServicePrivateKey) -> str:
    name = key._key
    assert isinstance(name, str)
    assert name in repr(key)
    return name


def test_a_key_without_a_slot_signs_as_long_as_its_guard_lives(stack: CryptoStack) -> None:
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(SIGNING))
    with stack.generate_key(params, provider="softhsm") as guard:
        key = private_key(stack, guard)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.version == 0
        key.public_key().verify(key.sign(MESSAGE, ec.ECDSA(hashes.SHA256())), MESSAGE, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(ResourceError):
        key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_a_slot_handle_is_as_good_as_its_name(stack: CryptoStack) -> None:
    key = private_key(stack, stack.slot(new_slot(stack, "EC-P256")))
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_no_signature_of_a_later_key_version_is_passed_off_as_one_of_this_key(stack: CryptoStack) -> None:
    name = new_slot(stack, "EC-P256")
    before = ec_key(stack, name)
    stack.rotate(name)
    with pytest.raises(KeyUseError, match="version 2") as caught:
        before.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
    assert caught.value.status is Status.KEY_STATE_FORBIDS
    after = ec_key(stack, name)
    after.public_key().verify(after.sign(MESSAGE, ec.ECDSA(hashes.SHA256())), MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_a_revoked_key_signs_no_more_and_becomes_no_object(stack: CryptoStack) -> None:
    name = new_slot(stack, "EC-P256")
    key = ec_key(stack, name)
    stack.revoke(name)
    with pytest.raises(KeyUseError):
        key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(KeyUseError, match="no active") as caught:
        private_key(stack, name)
    assert caught.value.status is Status.KEY_STATE_FORBIDS


def test_a_key_that_may_not_sign_says_so(stack: CryptoStack) -> None:
    key = rsa_key(stack, new_slot(stack, "RSA-2048", P.ENCRYPT | P.DECRYPT))
    with pytest.raises(KeyUseError) as caught:
        key.sign(MESSAGE, PSS, hashes.SHA256())
    assert caught.value.status is Status.KEY_OPERATION_NOT_PERMITTED


def test_a_secret_key_and_a_bare_id_become_no_object(stack: CryptoStack) -> None:
    with pytest.raises(RequestError, match="secret key"):
        private_key(stack, new_slot(stack, "AES-256", P.ENCRYPT))
    with pytest.raises(ResourceError):
        private_key(stack, "no-such-slot")
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(SIGNING))
    with stack.generate_key(params) as guard, pytest.raises(RequestError, match="slot or of a guard"):
        private_key(stack, guard.resource)


def test_a_key_type_that_cryptography_has_no_class_for_is_named(stack: CryptoStack) -> None:
    with pytest.raises(RequestError, match="X-Wing") as caught:
        private_key(stack, new_slot(stack, "X-Wing", P.DECAPSULATE))
    assert caught.value.status is Status.NOT_SUPPORTED
