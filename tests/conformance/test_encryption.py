"""Encryption: another implementation computes the same, and what was changed on the way is not decrypted."""

import pytest

from hsmbridge.core.algorithms import KeyOperation, Kind, Scheme
from hsmbridge.core.calls import Encrypted
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, RequestError, Status
from hsmbridge.core.permissions import KeyOperationPermission as P
from tests.conformance.independent import ciphers, hpke, keys
from tests.conformance.pinned import Case, cases, each
from tests.conformance.rig import Rig
from tests.conformance.samples import each_message, flipped, nonce

BOTH = (KeyOperation.ENCRYPT, KeyOperation.DECRYPT)
PLAINTEXT = b"a plaintext of the suite, longer than one block"
AAD = b"associated data"

symmetric = each(cases(Kind.AEAD, Kind.CIPHER, needs=BOTH))
authenticated = each(cases(Kind.AEAD, needs=BOTH))
unauthenticated = each(cases(Kind.CIPHER, needs=BOTH))
padded = each([case for case in cases(Kind.CIPHER, needs=BOTH) if case.algorithm.scheme is Scheme.CBC])
public_key = each(cases(Kind.PUBLIC_KEY_ENCRYPTION, needs=BOTH))
public_key_first = each(cases(Kind.PUBLIC_KEY_ENCRYPTION, needs=BOTH, first=True))

pkcs1 = each(
    [
        case
        for case in cases(Kind.PUBLIC_KEY_ENCRYPTION, needs=(KeyOperation.DECRYPT,))
        if case.algorithm.scheme is Scheme.RSAES_PKCS1
    ]
)


def _of(scheme: Scheme, *, imports: bool = False, first: bool = False) -> pytest.MarkDecorator:
    found = cases(Kind.PUBLIC_KEY_ENCRYPTION, needs=BOTH, imports=imports, first=first)
    return each([case for case in found if case.algorithm.scheme is scheme])


def _aad(case: Case) -> bytes:
    return AAD if case.algorithm.kind is Kind.AEAD else b""


@symmetric
@each_message
def test_it_decrypts_what_it_encrypted(rig: Rig, case: Case, message: bytes) -> None:
    key = rig.key(case)
    sealed = rig.encrypt(case, key, nonce(case.algorithm.nonce_size), message, _aad(case))
    assert len(sealed.tag) == case.algorithm.tag_size
    assert rig.decrypt(case, key, sealed, _aad(case)) == message


@each(cases(Kind.AEAD, Kind.CIPHER, needs=BOTH, imports=True))
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
@pytest.mark.parametrize("aad", [b"", AAD], ids=["no aad", "aad"])
def test_another_implementation_encrypts_to_the_same(rig: Rig, case: Case, size: int, aad: bytes) -> None:
    used_aad = aad if case.algorithm.kind is Kind.AEAD else b""
    key, value = rig.known(case)
    plaintext = bytes(range(256)) * 4
    plaintext = plaintext[:size]
    iv = nonce(case.algorithm.nonce_size)
    expected = ciphers.encrypt(case.algorithm, value, iv, plaintext, used_aad)
    sealed = rig.encrypt(case, key, iv, plaintext, used_aad)
    assert (sealed.nonce, sealed.ciphertext, sealed.tag) == (iv, *expected)
    assert rig.decrypt(case, key, Encrypted(iv, *expected), used_aad) == plaintext


@authenticated
@pytest.mark.parametrize("size", [0, len(PLAINTEXT), 300_000])
def test_nothing_that_was_changed_is_decrypted(rig: Rig, case: Case, size: int) -> None:
    key = rig.key(case)
    sealed = rig.encrypt(case, key, nonce(case.algorithm.nonce_size), bytes(size), AAD)
    changes = [
        (Encrypted(flipped(sealed.nonce), sealed.ciphertext, sealed.tag), AAD),
        (Encrypted(sealed.nonce, sealed.ciphertext, flipped(sealed.tag)), AAD),
        (Encrypted(sealed.nonce, sealed.ciphertext, flipped(sealed.tag, 0)), AAD),
        (Encrypted(sealed.nonce, sealed.ciphertext + b"\0", sealed.tag), AAD),
        (sealed, flipped(AAD)),
        (sealed, AAD[:-1]),
        (sealed, b""),
    ]
    if size:
        changes += [
            (Encrypted(sealed.nonce, flipped(sealed.ciphertext), sealed.tag), AAD),
            (Encrypted(sealed.nonce, flipped(sealed.ciphertext, 0), sealed.tag), AAD),
            (Encrypted(sealed.nonce, sealed.ciphertext[:-1], sealed.tag), AAD),
        ]
    for changed, aad in changes:
        with pytest.raises(DecryptionFailed):
            rig.decrypt(case, key, changed, aad)


@authenticated
def test_a_shortened_or_lengthened_tag_is_not_accepted(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    sealed = rig.encrypt(case, key, nonce(case.algorithm.nonce_size), PLAINTEXT)
    whole = sealed.ciphertext + sealed.tag
    for cut in (len(whole), len(whole) - 1, len(whole) - 4, len(whole) - 12, len(sealed.ciphertext) - 1, 0):
        with pytest.raises(DecryptionFailed):
            rig.decrypt(case, key, Encrypted(sealed.nonce, whole[:cut], whole[cut:]))


@symmetric
def test_a_nonce_of_another_length_is_refused(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    sealed = rig.encrypt(case, key, nonce(case.algorithm.nonce_size), PLAINTEXT)
    for size in (case.algorithm.nonce_size - 1, case.algorithm.nonce_size + 1):
        with pytest.raises(RequestError) as refusal:
            rig.encrypt(case, key, bytes(size), PLAINTEXT)
        assert refusal.value.status is Status.INVALID_ARGUMENT
        with pytest.raises(HsmBridgeError) as failure:
            rig.decrypt(case, key, Encrypted(bytes(size), sealed.ciphertext, sealed.tag))
        assert failure.value.status in {Status.INVALID_ARGUMENT, Status.DECRYPTION_FAILED}


@symmetric
def test_another_key_does_not_decrypt(rig: Rig, case: Case) -> None:
    sealed = rig.encrypt(case, rig.key(case), nonce(case.algorithm.nonce_size), PLAINTEXT)
    try:
        plaintext = rig.decrypt(case, rig.key(case, 1), sealed)
    except DecryptionFailed:
        return
    assert case.algorithm.kind is Kind.CIPHER, "an AEAD notices"
    assert plaintext != PLAINTEXT


@unauthenticated
def test_a_cipher_refuses_associated_data(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    iv = nonce(case.algorithm.nonce_size)
    sealed = rig.encrypt(case, key, iv, PLAINTEXT)
    with pytest.raises(RequestError) as refusal:
        rig.encrypt(case, key, iv, PLAINTEXT, AAD)
    assert refusal.value.status is Status.INVALID_ARGUMENT
    with pytest.raises(HsmBridgeError) as failure:
        rig.decrypt(case, key, sealed, AAD)
    assert failure.value.status in {Status.INVALID_ARGUMENT, Status.DECRYPTION_FAILED}


@padded
def test_wrong_padding_is_a_failed_decryption_like_any_other(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    sealed = rig.encrypt(case, key, nonce(16), PLAINTEXT[:20])
    first, last = sealed.ciphertext[:16], sealed.ciphertext[16:]
    failures = []
    for ciphertext in (flipped(first) + last, first, b"", sealed.ciphertext[:-1], sealed.ciphertext + b"\0"):
        with pytest.raises(DecryptionFailed) as failure:
            rig.decrypt(case, key, Encrypted(sealed.nonce, ciphertext))
        failures.append((failure.value.status, failure.value.message))
    assert len(set(failures)) == 1


# RSAES-OAEP


@_of(Scheme.RSAES_OAEP)
def test_it_decrypts_what_openssl_encrypted(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    for plaintext in (b"x", PLAINTEXT[:32]):
        ciphertext = ciphers.oaep_encrypt(case.algorithm, key.made.public_key, plaintext)
        assert rig.decrypt(case, key, Encrypted(b"", ciphertext)) == plaintext


@pkcs1
def test_it_decrypts_what_openssl_encrypted_with_pkcs1_v1_5(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    for plaintext in (b"", PLAINTEXT[: case.key_type.bits // 8 - 11]):
        ciphertext = ciphers.pkcs1_encrypt(key.made.public_key, plaintext)
        assert rig.decrypt(case, key, Encrypted(b"", ciphertext)) == plaintext


@pkcs1
def test_it_does_not_tell_a_wrong_padding_from_a_right_one(rig: Rig, case: Case) -> None:
    """Bleichenbacher's attack asks which ciphertexts are padded as they should be."""
    key, size = rig.key(case), case.key_type.bits // 8
    for number in range(4):
        wrong = Encrypted(b"", bytes((0, number)) + PLAINTEXT[: size - 2].rjust(size - 2, b"\1"))
        assert rig.decrypt(case, key, wrong) == rig.decrypt(case, key, wrong)
    for length in (0, size - 1, size + 1):
        with pytest.raises(DecryptionFailed):
            rig.decrypt(case, key, Encrypted(b"", bytes(length)))


@pkcs1
def test_nothing_new_is_encrypted_with_pkcs1_v1_5(rig: Rig, case: Case) -> None:
    with pytest.raises(HsmBridgeError) as refusal:
        rig.encrypt(case, rig.key(case), b"", b"x")
    assert refusal.value.status is Status.NOT_SUPPORTED


@_of(Scheme.RSAES_OAEP, imports=True)
def test_openssl_decrypts_what_it_encrypted(rig: Rig, case: Case) -> None:
    pkcs8 = keys.private_key(case.key_type)
    key = rig.bring(case.key_type, case.permissions, "pkcs8", pkcs8, ephemeral=True)
    sealed = rig.encrypt(case, key, b"", PLAINTEXT[:32])
    assert ciphers.oaep_decrypt(case.algorithm, pkcs8, sealed.ciphertext) == PLAINTEXT[:32]
    rig.destroy(key)


@_of(Scheme.RSAES_OAEP, first=True)
def test_more_than_the_key_holds_is_refused(rig: Rig, case: Case) -> None:
    with pytest.raises(HsmBridgeError) as refusal:
        rig.encrypt(case, rig.key(case), b"", bytes(_most(case) + 1))
    assert refusal.value.status is Status.DATA_TOO_LARGE


# HPKE; the associated data is its info


@_of(Scheme.HPKE)
@pytest.mark.parametrize("aad", [b"", AAD], ids=["no aad", "aad"])
def test_it_decrypts_what_another_implementation_of_hpke_sealed(rig: Rig, case: Case, aad: bytes) -> None:
    key = rig.key(case)
    for plaintext in (b"", PLAINTEXT):
        sealed = hpke.seal(case.algorithm, key.made.public_key, aad, plaintext)
        assert rig.decrypt(case, key, Encrypted(b"", sealed), aad) == plaintext


@_of(Scheme.HPKE, imports=True)
@pytest.mark.parametrize("aad", [b"", AAD], ids=["no aad", "aad"])
def test_another_implementation_of_hpke_opens_what_it_encrypted(rig: Rig, case: Case, aad: bytes) -> None:
    public, private = hpke.recipient(case.algorithm)
    key = rig.bring(case.key_type, P.ENCRYPT, "spki", public, ephemeral=True)
    for plaintext in (b"", PLAINTEXT):
        sealed = rig.encrypt(case, key, b"", plaintext, aad)
        assert hpke.open_sealed(case.algorithm, public, private, aad, sealed.ciphertext) == plaintext
    rig.destroy(key)


@_of(Scheme.HPKE)
def test_hpke_is_not_opened_with_other_associated_data(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    sealed = rig.encrypt(case, key, b"", PLAINTEXT, AAD)
    for other in (b"", flipped(AAD), AAD[:-1]):
        with pytest.raises(DecryptionFailed):
            rig.decrypt(case, key, sealed, other)


# Both


@public_key
def test_it_decrypts_its_own_public_key_encryption(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    for plaintext in (b"", b"x", bytes(_most(case))):
        sealed = rig.encrypt(case, key, b"", plaintext)
        assert (sealed.nonce, sealed.tag) == (b"", b"")
        assert rig.decrypt(case, key, sealed) == plaintext


@public_key_first
def test_whatever_is_wrong_with_a_ciphertext_fails_alike(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    good = rig.encrypt(case, key, b"", PLAINTEXT[:32]).ciphertext
    wrongs = [
        flipped(good),
        flipped(good, 0),
        b"",
        b"\0",
        good[:-1],
        good + b"\0",
        bytes(len(good)),
        b"\xff" * len(good),
    ]
    failures = []
    for wrong in wrongs:
        with pytest.raises(DecryptionFailed) as failure:
            rig.decrypt(case, key, Encrypted(b"", wrong))
        failures.append((failure.value.status, failure.value.message))
    assert len(set(failures)) == 1


@public_key_first
def test_another_key_does_not_decrypt_public_key_encryption(rig: Rig, case: Case) -> None:
    sealed = rig.encrypt(case, rig.key(case), b"", PLAINTEXT[:32])
    with pytest.raises(DecryptionFailed):
        rig.decrypt(case, rig.key(case, 1), sealed)


def _most(case: Case) -> int:
    """The longest plaintext, by RFC 8017 section 7.1.1; HPKE takes any."""
    if case.algorithm.scheme is Scheme.HPKE:
        return 100_000
    digest = {"SHA-1": 20, "SHA-256": 32, "SHA-384": 48, "SHA-512": 64}[case.algorithm.hash]
    return case.key_type.bits // 8 - 2 * digest - 2
