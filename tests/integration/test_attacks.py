"""What is known to take keys apart through such interfaces, tried through the native API on every provider.

After Clulow 2003 and Bortolozzo, Centenaro, Focardi, Steel 2010, and what tokens are seen to allow. What the rules
forbid is refused before a provider is asked; what only a provider can judge fails, whatever is wrong, in one way. The
same through PKCS#11, and spread over both: `tests/interop/test_p11kit_attacks.py`.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from asn1crypto import keys as asn1_keys
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmbridge.client import (
    AgreeKeyParams,
    CryptoResourceGuard,
    CryptoResourceId,
    CryptoStack,
    DeriveKeyParams,
    GenerateKeyParams,
    Hkdf,
    ImportKeyParams,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.client import KeyOperationPermission as P
from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.lab.lab import Lab
from hsmbridge.wire.hello import hello
from tests.raw_connection import RawConnection

PROVIDERS = ("software", "softhsm", "tpm")
WRAPPING = ("software", "softhsm")
KW = "AES-256-KW"
OAEP = {"software": "RSA-OAEP-SHA256", "softhsm": "RSA-OAEP-SHA1", "tpm": "RSA-OAEP-SHA256"}
TAKEN_APART = (P.WRAP | P.DECRYPT, P.UNWRAP | P.ENCRYPT, P.WRAP | P.UNWRAP | P.ENCRYPT | P.DECRYPT)
MODULUS = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
_numbers = count()

each_provider = pytest.mark.parametrize("provider", PROVIDERS)
each_wrapping_provider = pytest.mark.parametrize("provider", WRAPPING)


@pytest.fixture(scope="module")
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with hsmbridge_lab.stack(timeout=60) as made:
        yield made


def calls(stack: CryptoStack) -> dict[str, int]:
    return {provider.name: provider.calls for provider in stack.providers()}


@contextmanager
def refused(stack: CryptoStack, status: Status, said: set[str] | None = None) -> Iterator[None]:
    """The rules forbid it: no provider is asked."""
    before = calls(stack)
    with fails(status, said):
        yield
    assert calls(stack) == before, "a provider was asked for what the rules forbid"


@contextmanager
def fails(status: Status, said: set[str] | None = None) -> Iterator[None]:
    """It ends with this status; what it says is added to `said`."""
    with pytest.raises(HsmBridgeError) as refusal:
        yield
    assert refusal.value.status is status, refusal.value
    if said is not None:
        said.add(refusal.value.message)


def slot(stack: CryptoStack, provider: str, key_type: str, permissions: P, *, empty: bool = False) -> str:
    name = f"attack-{next(_numbers)}"
    stack.create_slot(name, key_type, permissions, providers=[provider], empty=empty)
    return name


def key(stack: CryptoStack, provider: str, key_type: str, permissions: P) -> CryptoResourceGuard:
    return stack.generate_key(GenerateKeyParams(key_type=key_type, permissions=permissions), provider=provider)


def unwrapping(key_type: str = "AES-256", permissions: P = P.ENCRYPT, algorithm: str = KW) -> UnwrapKeyParams:
    return UnwrapKeyParams(key_type=key_type, permissions=permissions, algorithm=algorithm, format="raw")


# One key that both wraps and reads


@pytest.mark.parametrize("permissions", TAKEN_APART)
@pytest.mark.parametrize("key_type", ["AES-256", "RSA-2048"])
@each_provider
def test_no_key_is_made_that_takes_wrapped_keys_apart(
    stack: CryptoStack, provider: str, key_type: str, permissions: P
) -> None:
    generate = GenerateKeyParams(key_type=key_type, permissions=permissions)
    bring = ImportKeyParams(key_type=key_type, permissions=permissions, format="raw")
    with refused(stack, Status.INVALID_PERMISSIONS):
        slot(stack, provider, key_type, permissions)
    with refused(stack, Status.INVALID_PERMISSIONS):
        slot(stack, provider, key_type, permissions, empty=True)
    with refused(stack, Status.INVALID_PERMISSIONS):
        stack.generate_key(generate, provider=provider)
    with refused(stack, Status.INVALID_PERMISSIONS):
        stack.import_key(bring, bytes(32), provider=provider)


@each_provider
def test_one_rsa_key_does_not_sign_and_decrypt(stack: CryptoStack, provider: str) -> None:
    with refused(stack, Status.INVALID_PERMISSIONS):
        slot(stack, provider, "RSA-2048", P.SIGN | P.DECRYPT)
    with refused(stack, Status.INVALID_PERMISSIONS):
        key(stack, provider, "RSA-2048", P.SIGN | P.DECRYPT)


@each_wrapping_provider
def test_a_wrapping_key_reads_nothing(stack: CryptoStack, provider: str) -> None:
    kek = slot(stack, provider, "AES-256", P.WRAP | P.UNWRAP)
    pair = slot(stack, provider, "RSA-2048", P.WRAP | P.UNWRAP)
    for name, algorithm in ((kek, KW), (kek, "AES-256-GCM"), (pair, OAEP[provider])):
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.decrypt(name, algorithm, bytes(256))
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.encrypt(name, algorithm, bytes(32))
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.cipher_context(name, "AES-256-CTR", "decrypt")


def test_a_tpm_makes_no_key_that_wraps(stack: CryptoStack) -> None:
    for key_type in ("AES-128", "RSA-2048"):
        with fails(Status.NOT_SUPPORTED):
            slot(stack, "tpm", key_type, P.WRAP | P.UNWRAP)
    with key(stack, "tpm", "AES-128", P.ENCRYPT | P.EXPORT) as one, key(stack, "tpm", "AES-128", P.ENCRYPT) as other:
        how = WrapKeyParams(algorithm="AES-128-KW")
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.wrap_key(other, one, how)


# Permissions that come back


@each_provider
def test_a_permission_is_never_added(stack: CryptoStack, provider: str) -> None:
    name = slot(stack, provider, "EC-P256", P.SIGN)
    me = f"uid:{os.geteuid()}"
    for more in (P.EXPORT, P.SIGN | P.VERIFY, P.GENERATE):
        with refused(stack, Status.INVALID_PERMISSIONS):
            stack.grant(name, me, more)
    with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
        stack.rotate(name)
    assert stack.show_slot(name).permissions == P.SIGN
    with refused(stack, Status.INVALID_PERMISSIONS):
        key_with_bits(stack, provider, 1 << 31)


def key_with_bits(stack: CryptoStack, provider: str, bits: int) -> CryptoResourceGuard:
    return stack.generate_key(GenerateKeyParams(key_type="EC-P256", permissions=bits), provider=provider)


@each_provider
def test_what_is_kept_with_a_slot_decides_nothing(stack: CryptoStack, provider: str) -> None:
    """CKA_EXTRACTABLE, CKA_SENSITIVE, CKA_TRUSTED, CKA_DECRYPT as attributes of a slot are bytes."""
    name = slot(stack, provider, "RSA-2048", P.SIGN)
    stack.set_slot_attributes(name, {0x162: b"\1", 0x103: b"\0", 0x86: b"\1", 0x105: b"\1"})
    assert stack.show_slot(name).permissions == P.SIGN
    with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
        stack.decrypt(name, OAEP[provider], bytes(256))
    with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
        stack.export_key(name, "tss2")


@pytest.mark.parametrize("provider", ["software", "tpm"])  # SoftHSM keeps no copy of a key of a session
def test_a_copy_does_no_more_than_its_original(stack: CryptoStack, provider: str) -> None:
    name = slot(stack, provider, "HMAC-SHA256", P.SIGN | P.VERIFY | P.EXPORT, empty=True)
    with key(stack, provider, "HMAC-SHA256", P.SIGN) as original:
        stack.persist_key(name, original)
        mac = stack.mac(name, "HMAC-SHA256", b"data")
        assert mac == original.mac("HMAC-SHA256", b"data")
    with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
        stack.verify_mac(name, "HMAC-SHA256", b"data", mac)
    with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
        stack.export_key(name, "tss2")


@each_provider
def test_a_key_that_may_not_leave_stays(stack: CryptoStack, provider: str) -> None:
    elsewhere = "softhsm" if provider != "softhsm" else "software"
    target = slot(stack, elsewhere, "HMAC-SHA256", P.SIGN, empty=True)
    with key(stack, provider, "HMAC-SHA256", P.SIGN) as staying:
        for form in ("raw", "pkcs8", "tss2", "tpm2-duplicate"):
            with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
                stack.export_key(staying, form)
        with refused(stack, Status.NOT_TRANSFERABLE):
            stack.persist_key(target, staying)


@each_provider
def test_no_key_leaves_in_the_clear(stack: CryptoStack, provider: str) -> None:
    with key(stack, provider, "EC-P256", P.SIGN | P.EXPORT) as leaving:
        for form in ("raw", "pkcs8", "der", "pem", ""):
            with refused(stack, Status.NOT_SUPPORTED):
                stack.export_key(leaving, form)


# Wrapping, and coming back


@each_wrapping_provider
def test_a_key_is_wrapped_only_where_both_say_so(stack: CryptoStack, provider: str) -> None:
    kek = slot(stack, provider, "AES-256", P.WRAP | P.UNWRAP)
    with key(stack, provider, "AES-256", P.ENCRYPT) as fixed, key(stack, provider, "AES-256", P.EXPORT) as leaving:
        how = WrapKeyParams(algorithm=KW)
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.wrap_key(kek, fixed, how)
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.wrap_key(fixed, leaving, how)
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.wrap_key(kek, kek, how)


@each_wrapping_provider
def test_a_key_is_not_wrapped_under_a_shorter_one(stack: CryptoStack, provider: str) -> None:
    kek = slot(stack, provider, "AES-128", P.WRAP | P.UNWRAP)
    with key(stack, provider, "AES-256", P.EXPORT) as long, key(stack, provider, "AES-128", P.EXPORT) as short:
        how = WrapKeyParams(algorithm="AES-128-KW")
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.wrap_key(kek, long, how)
        assert stack.wrap_key(kek, short, how)


@each_wrapping_provider
def test_a_key_that_comes_back_is_not_weaker(stack: CryptoStack, provider: str) -> None:
    kek = slot(stack, provider, "AES-256", P.WRAP | P.UNWRAP)
    target = slot(stack, provider, "AES-256", P.ENCRYPT | P.EXPORT | P.GENERATE, empty=True)
    with key(stack, provider, "AES-256", P.ENCRYPT | P.EXPORT) as leaving:
        wrapped = stack.wrap_key(kek, leaving, WrapKeyParams(algorithm=KW))
    for weaker in (P.ENCRYPT | P.EXPORT, P.WRAP, P.UNWRAP, P.WRAP | P.DECRYPT):
        params = unwrapping(permissions=weaker)
        with refused(stack, Status.INVALID_PERMISSIONS):
            stack.unwrap_key(kek, params, wrapped)
    params = unwrapping(permissions=P.ENCRYPT | P.EXPORT)
    with refused(stack, Status.INVALID_PERMISSIONS):
        stack.unwrap_key(kek, params, wrapped, slot=target)
    with stack.unwrap_key(kek, unwrapping(), wrapped) as back:
        how = WrapKeyParams(algorithm=KW)
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.wrap_key(kek, back, how)
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.decrypt(back, "AES-256-GCM", wrapped)


@each_wrapping_provider
def test_a_key_does_not_change_its_length_or_its_kind_on_the_way(stack: CryptoStack, provider: str) -> None:
    kek = slot(stack, provider, "AES-256", P.WRAP | P.UNWRAP)
    with key(stack, provider, "AES-256", P.ENCRYPT | P.EXPORT) as leaving:
        wrapped = stack.wrap_key(kek, leaving, WrapKeyParams(algorithm=KW))
    for other in ("AES-128", "HMAC-SHA512"):
        permissions = P.ENCRYPT if other == "AES-128" else P.SIGN
        with fails(Status.DECRYPTION_FAILED):
            stack.unwrap_key(kek, unwrapping(other, permissions), wrapped)
    with refused(stack, Status.INVALID_ARGUMENT):
        stack.unwrap_key(kek, unwrapping("EC-P256", P.SIGN), wrapped)


@each_wrapping_provider
def test_there_is_no_wrapping_without_authentication(stack: CryptoStack, provider: str) -> None:
    kek = slot(stack, provider, "AES-256", P.WRAP | P.UNWRAP)
    pair = slot(stack, provider, "RSA-2048", P.WRAP | P.UNWRAP)
    with key(stack, provider, "AES-256", P.EXPORT) as leaving:
        for mode in ("AES-256-CBC", "AES-256-CTR", "AES-256-CFB"):
            with refused(stack, Status.INVALID_ARGUMENT):
                stack.wrap_key(kek, leaving, WrapKeyParams(algorithm=mode))
            with refused(stack, Status.INVALID_ARGUMENT):
                stack.unwrap_key(kek, unwrapping(algorithm=mode), bytes(48))
        with refused(stack, Status.ALGORITHM_NOT_ALLOWED):
            stack.wrap_key(pair, leaving, WrapKeyParams(algorithm="RSA-PKCS1"))
        with refused(stack, Status.ALGORITHM_NOT_ALLOWED):
            stack.unwrap_key(pair, unwrapping(algorithm="RSA-PKCS1"), bytes(256))
    with refused(stack, Status.UNKNOWN_ALGORITHM):
        WrapKeyParams(algorithm="AES-256-ECB")


@each_wrapping_provider
def test_wrapped_keys_that_are_wrong_in_any_way_are_wrong_in_one_way(stack: CryptoStack, provider: str) -> None:
    kek = slot(stack, provider, "AES-256", P.WRAP | P.UNWRAP)
    pair = slot(stack, provider, "RSA-2048", P.WRAP | P.UNWRAP)
    with key(stack, provider, "AES-256", P.EXPORT) as leaving:
        right = stack.wrap_key(kek, leaving, WrapKeyParams(algorithm=KW))
    changed = [right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :] for at in (0, 8, len(right) - 1)]
    said: set[str] = set()
    for wrong in (*changed, right[:-8], right + bytes(8), right[:-1], b"", bytes(40)):
        with fails(Status.DECRYPTION_FAILED, said):
            stack.unwrap_key(kek, unwrapping(), wrong)
    for wrong in (b"", bytes(255), bytes(256), b"\xff" * 256, bytes(255) + b"\1", bytes(257)):
        with fails(Status.DECRYPTION_FAILED, said):
            stack.unwrap_key(pair, unwrapping(algorithm=OAEP[provider]), wrong)
    assert len(said) == 1


# Keys that somebody knows


@each_provider
def test_a_key_that_somebody_knows_wraps_nothing(stack: CryptoStack, provider: str) -> None:
    empty = slot(stack, "software", "AES-256", P.WRAP | P.UNWRAP | P.GENERATE, empty=True)
    for permissions in (P.WRAP, P.UNWRAP):
        known = ImportKeyParams(key_type="AES-256", permissions=permissions, format="raw")
        with refused(stack, Status.INVALID_PERMISSIONS):
            stack.import_key(known, bytes(32), provider=provider)
        with refused(stack, Status.INVALID_PERMISSIONS):
            stack.import_key(known, bytes(32), slot=empty)
    public = ImportKeyParams(key_type="RSA-2048", permissions=P.WRAP, format="spki")
    theirs = rsa_public_key(MODULUS, 65537)
    with refused(stack, Status.INVALID_PERMISSIONS):
        stack.import_key(public, theirs, provider=provider)


def rsa_public_key(modulus: int, exponent: int) -> bytes:
    """SubjectPublicKeyInfo of numbers that need not make sense."""
    numbers = asn1_keys.RSAPublicKey({"modulus": modulus, "public_exponent": exponent})
    der: bytes = asn1_keys.PublicKeyInfo.wrap(numbers, "rsa").dump()
    return der


@pytest.mark.parametrize(
    ("modulus", "exponent"),
    [
        *((MODULUS, exponent) for exponent in (1, 2, 65536, MODULUS)),
        *((modulus, 65537) for modulus in (MODULUS - 1, MODULUS - MODULUS % 1502 + 751, MODULUS >> 1024 | 1)),
        (MODULUS >> 1536 | 1, 3),
    ],
    ids=[
        *("exponent 1", "exponent 2", "even exponent", "exponent of the size of the modulus"),
        *("even modulus", "751 divides the modulus", "1024 bits", "512 bits"),
    ],
)
@each_provider
def test_a_weak_public_key_encrypts_nothing(stack: CryptoStack, provider: str, modulus: int, exponent: int) -> None:
    params = ImportKeyParams(key_type="RSA-2048", permissions=P.ENCRYPT, format="spki")
    with pytest.raises(HsmBridgeError) as refusal:
        stack.import_key(params, rsa_public_key(modulus, exponent), provider=provider)
    assert refusal.value.status in {Status.INVALID_ARGUMENT, Status.KEY_TYPE_MISMATCH, Status.NOT_SUPPORTED}


# Agreement and derivation


def on_no_curve() -> bytes:
    """A public key of P-256 whose point is (1, 1)."""
    right = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    return right[:-64] + bytes(31) + b"\1" + bytes(31) + b"\1"


def spki(public: ec.EllipticCurvePublicKey | x25519.X25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@each_provider
def test_nothing_is_agreed_with_a_point_that_is_on_no_curve(stack: CryptoStack, provider: str) -> None:
    own = f"attack-{next(_numbers)}"
    stack.create_slot(own, "EC-P256", P.DERIVE, providers=[provider], derive_to_software=True)
    target = slot(stack, "software", "SECRET-256", P.DERIVE | P.GENERATE, empty=True)
    wrong = (on_no_curve(), on_no_curve()[:-64] + bytes(64), spki(ec.generate_private_key(ec.SECP384R1()).public_key()))
    for peer in wrong:
        params = AgreeKeyParams(key_type="SECRET-256", permissions=P.DERIVE, peer_public_key=peer)
        with fails(Status.INVALID_ARGUMENT):
            stack.agree_key(own, params, slot=target)
    assert stack.show_slot(target).versions == []


def test_nothing_is_agreed_in_a_small_subgroup(stack: CryptoStack) -> None:
    own = slot(stack, "software", "X25519", P.DERIVE)
    right = spki(x25519.X25519PrivateKey.generate().public_key())
    for peer in (bytes(32), b"\1" + bytes(31), bytes.fromhex("ec" + 30 * "ff" + "7f")):
        params = AgreeKeyParams(key_type="SECRET-256", permissions=P.DERIVE, peer_public_key=right[:-32] + peer)
        with fails(Status.INVALID_ARGUMENT):
            stack.agree_key(own, params)


@each_provider
def test_secrets_are_not_cut_into_pieces(stack: CryptoStack, provider: str) -> None:
    own = f"attack-{next(_numbers)}"
    stack.create_slot(own, "EC-P256", P.DERIVE, providers=[provider], derive_to_software=True)
    peer = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    for key_type, permissions in (("AES-128", P.ENCRYPT), ("SECRET-128", P.DERIVE), ("SECRET-512", P.DERIVE)):
        target = slot(stack, "software", key_type, permissions | P.GENERATE, empty=True)
        params = AgreeKeyParams(key_type=key_type, permissions=permissions, peer_public_key=peer)
        with fails(Status.INVALID_ARGUMENT):
            stack.agree_key(own, params, slot=target)
    for piece in ("EXTRACT-KEY-FROM-KEY", "XOR-BASE-AND-DATA", "CONCATENATE-BASE-AND-KEY"):
        with refused(stack, Status.UNKNOWN_ALGORITHM):
            DeriveKeyParams(key_type="AES-128", permissions=P.ENCRYPT, kdf=Hkdf(algorithm=piece))
    assert min(row.bits for row in KEY_TYPES.values() if row.symmetric) == 128
    with key(stack, provider, "HMAC-SHA256", P.SIGN) as signing:
        params_ = DeriveKeyParams(key_type="AES-128", permissions=P.ENCRYPT, kdf=Hkdf())
        with refused(stack, Status.KEY_OPERATION_NOT_PERMITTED):
            stack.derive_key(signing, params_)


# Decryption as an oracle


@each_provider
def test_ciphertexts_that_are_wrong_in_any_way_are_wrong_in_one_way(stack: CryptoStack, provider: str) -> None:
    name = slot(stack, provider, "RSA-2048", P.ENCRYPT | P.DECRYPT)
    for algorithm in ("RSA-PKCS1", "RSA-PKCS1-SHA256"):
        wanted = Status.ALGORITHM_NOT_ALLOWED if algorithm == "RSA-PKCS1" else Status.INVALID_ARGUMENT
        with refused(stack, wanted):
            stack.decrypt(name, algorithm, b"\0\2" + secrets.token_bytes(254))
    right = stack.encrypt(name, OAEP[provider], b"secret").ciphertext
    changed = right[:-1] + bytes([right[-1] ^ 1])
    said: set[str] = set()
    for wrong in (b"", bytes(255), bytes(256), b"\xff" * 256, secrets.token_bytes(256), bytes(257), changed):
        with fails(Status.DECRYPTION_FAILED, said):
            stack.decrypt(name, OAEP[provider], wrong)
    assert len(said) == 1


@each_wrapping_provider
def test_cbc_says_of_a_wrong_end_no_more_than_that_it_is_wrong(stack: CryptoStack, provider: str) -> None:
    name = f"attack-{next(_numbers)}"
    stack.create_slot(name, "AES-256", P.ENCRYPT | P.DECRYPT, providers=[provider], algorithms=["AES-256-CBC"])
    right = stack.encrypt(name, "AES-256-CBC", bytes(20))
    seen = set()
    for last in range(256):
        given = right.ciphertext[:15] + bytes([last]) + right.ciphertext[16:]
        try:
            stack.decrypt(name, "AES-256-CBC", given, nonce=right.nonce)
        except HsmBridgeError as refusal:
            seen.add((refusal.status, refusal.message))
    for cut in (right.ciphertext[:-1], right.ciphertext[:16], b""):
        with pytest.raises(HsmBridgeError) as failure:
            stack.decrypt(name, "AES-256-CBC", cut, nonce=right.nonce)
        seen.add((failure.value.status, failure.value.message))
    assert [status for status, _ in seen] == [Status.DECRYPTION_FAILED]


@each_provider
def test_a_mode_that_the_slot_does_not_name_is_no_way_around_the_tag(stack: CryptoStack, provider: str) -> None:
    name = slot(stack, provider, "AES-256" if provider != "tpm" else "AES-128", P.ENCRYPT | P.DECRYPT)
    mode = "AES-256" if provider != "tpm" else "AES-128"
    for other in (f"{mode}-CTR", f"{mode}-CBC"):
        with refused(stack, Status.ALGORITHM_NOT_ALLOWED):
            stack.decrypt(name, other, bytes(16), nonce=bytes(16))
        with refused(stack, Status.ALGORITHM_NOT_ALLOWED):
            stack.cipher_context(name, other, "decrypt")


# Handles of others


@each_provider
def test_what_one_connection_holds_is_nothing_to_another(hsmbridge_lab: Lab, stack: CryptoStack, provider: str) -> None:
    name = slot(stack, provider, "EC-P256", P.SIGN)
    with (
        key(stack, provider, "EC-P256", P.SIGN) as theirs,
        stack.slot(name).sign_context("ECDSA-P256-SHA256") as context,
        RawConnection(hsmbridge_lab.socket) as stranger,
    ):
        stranger.ask(hello("stranger"))
        of_slot = stranger.ask(m.ResolveRequest(name))
        assert isinstance(of_slot, m.ResolveReply)
        mine = stack.sign(name, "ECDSA-P256-SHA256", b"data")
        assert mine.version == 1
        unknown = CryptoResourceId(secrets.randbits(64), theirs.resource.kind)
        said: set[str] = set()
        for id_ in (theirs.resource, unknown):
            for request in (
                m.SignRequest(id_, "ECDSA-P256-SHA256", b"data"),
                m.ContextSignRequest(id_, "ECDSA-P256-SHA256", m.ContextKind.SIGN),
                m.SlotExportRequest(id_, "tss2"),
                m.PersistRequest(id_, name),
                m.WrapRequest(id_, of_slot.resource, WrapKeyParams(algorithm=KW)),
                m.ReleaseRequest(id_),
            ):
                with refused(stack, Status.RESOURCE_NOT_FOUND, said):
                    stranger.ask(request)
            assert len(said) == 1, "an id of somebody else tells more than one that is nobody's"
        number = context._number
        for call in (m.ContextUpdateRequest(number, b"more"), m.ContextFinalizeRequest(number)):
            with refused(stack, Status.RESOURCE_NOT_FOUND):
                stranger.ask(call)
        assert theirs.sign("ECDSA-P256-SHA256", b"data")
        context.update(b"data")
        assert context.finalize()


@each_provider
def test_a_private_key_given_as_a_public_one_is_not_taken(stack: CryptoStack, provider: str) -> None:
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    signing = ImportKeyParams(key_type="EC-P256", permissions=P.SIGN, format="spki")
    with refused(stack, Status.INVALID_PERMISSIONS):
        stack.import_key(signing, private, provider=provider)
