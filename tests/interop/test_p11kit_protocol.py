"""The PKCS#11 front end by the protocol itself, with clients of every version; results checked by pyca/cryptography.

Among it what no stock client of this machine can send: GCM, ECDH and what only newer clients know; and what must be
refused, with the CKR_* that PKCS#11 has for it.
"""

import hmac
import os
import struct
import threading
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmbridge.client import KeyOperationPermission as P
from hsmbridge.frontends.p11kit.numbers import Cka, Ckr
from tests.interop.p11kit_client import CkrError, Client, Needed, Service, ay, fy, octets, service, template, u

__all__ = ["service"]

SHA256_RSA_PKCS, ECDSA, ECDSA_SHA256, AES_KEY_GEN, GCM, SHA256_HMAC, ECDH1 = (
    *(0x40, 0x1041, 0x1044, 0x1080, 0x1087, 0x251, 0x1050),
)
RSA_PKCS, RSA_GEN, GENERIC_GEN, SHA256_DIGEST = 0x1, 0x0, 0x350, 0x250
DIGEST = bytes(range(32))


def refused(ckr: Ckr) -> "pytest.RaisesExc[CkrError]":
    return pytest.raises(CkrError, match=f"^{ckr.value:#x}$")


@pytest.fixture(params=[0, 1, 2], ids=["version 0", "version 1", "version 2"])
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[Client]:
    with service.client(request.param) as connected:
        yield connected


@pytest.fixture
def newest(service: Service) -> Iterator[Client]:
    with service.client(2) as connected:
        yield connected


@pytest.fixture(params=["software", "softhsm", "tpm"])
def token(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def public_key(client: Client, session: int, handle: int) -> ec.EllipticCurvePublicKey:
    values, ckr = client.attributes(session, handle, Cka.PUBLIC_KEY_INFO)
    assert ckr == Ckr.OK
    key = load_der_public_key(values[Cka.PUBLIC_KEY_INFO])
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def der(signature: bytes) -> bytes:
    half = len(signature) // 2
    return encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))


# All versions


def test_a_key_is_made_found_used_and_destroyed(client: Client, token: str) -> None:
    session = client.open(client.slot(token))
    label = f"key {client.offered} of {token}".encode()
    public, private = client.key_pair(session, TOKEN=1, LABEL=label, ID=b"\x01\x02", SIGN=1)
    assert client.find(session, LABEL=label) == [private, public]
    assert client.find(session, ID=b"\x01\x02", CLASS=2) == [public]
    client.call("C_SignInit", u(session), client.mechanism(ECDSA, plain=True), u(private))
    signature = client.call("C_Sign", u(session), ay(DIGEST), fy(64))
    public_key(client, session, public).verify(der(signature), DIGEST, ec.ECDSA(Prehashed(SHA256())))
    client.call("C_VerifyInit", u(session), client.mechanism(ECDSA, plain=True), u(public))
    client.call("C_Verify", u(session), ay(DIGEST), ay(signature))
    client.call("C_VerifyInit", u(session), client.mechanism(ECDSA, plain=True), u(public))
    with refused(Ckr.SIGNATURE_INVALID):
        client.call("C_Verify", u(session), ay(DIGEST[::-1]), ay(signature))
    client.call("C_VerifyInit", u(session), client.mechanism(ECDSA, plain=True), u(public))
    with refused(Ckr.SIGNATURE_LEN_RANGE):
        client.call("C_Verify", u(session), ay(DIGEST), ay(signature[:-1]))
    client.call("C_DestroyObject", u(session), u(private))
    assert client.find(session, LABEL=label) == []
    with refused(Ckr.OBJECT_HANDLE_INVALID):
        client.attributes(session, public, Cka.ID)


def test_room_is_asked_for_and_too_little_ends_nothing(client: Client) -> None:
    session = client.open(client.slot("software"))
    _, private = client.key_pair(session, TOKEN=0, SIGN=1)
    client.call("C_SignInit", u(session), client.mechanism(ECDSA, plain=True), u(private))
    for room in (0, 63):
        needed = client.call("C_Sign", u(session), ay(DIGEST), fy(room))
        assert isinstance(needed, Needed)
        assert needed == 64
    assert len(client.call("C_Sign", u(session), ay(DIGEST), fy(64))) == 64
    with refused(Ckr.OPERATION_NOT_INITIALIZED):
        client.call("C_Sign", u(session), ay(DIGEST), fy(64))


def test_what_is_told_of_a_private_key_and_what_never(client: Client) -> None:
    session = client.open(client.slot("softhsm"))
    _, private = client.key_pair(session, TOKEN=0, SIGN=1, LABEL=b"told")
    values, ckr = client.attributes(session, private, Cka.LABEL, Cka.SIGN, Cka.SENSITIVE, Cka.EXTRACTABLE, Cka.TOKEN)
    assert ckr == Ckr.OK
    assert values == {Cka.LABEL: b"told", Cka.SIGN: 1, Cka.SENSITIVE: 1, Cka.EXTRACTABLE: 0, Cka.TOKEN: 0}
    assert client.attributes(session, private, Cka.VALUE) == ({Cka.VALUE: None}, Ckr.ATTRIBUTE_SENSITIVE)
    assert client.attributes(session, private, 0x4711) == ({0x4711: None}, Ckr.ATTRIBUTE_TYPE_INVALID)
    assert client.attributes(session, private, Cka.LABEL, room=3) == ({Cka.LABEL: None}, Ckr.BUFFER_TOO_SMALL)
    values, ckr = client.attributes(session, private, Cka.LABEL, room=0)
    assert ckr == Ckr.OK


def test_mechanisms_are_those_that_the_version_can_use(service: Service) -> None:
    lists = []
    for offered in (0, 1, 2):
        with service.client(offered) as client:
            lists.append(set(client.call("C_GetMechanismList", u(client.slot("software")), struct.pack(">I", 500))))
    assert {ECDSA, SHA256_RSA_PKCS} <= lists[0] < lists[1] == lists[2]
    assert GCM in lists[1] - lists[0]


def test_parts_are_signed_as_the_whole(newest: Client, token: str) -> None:
    session = newest.open(newest.slot(token))
    public, private = newest.key_pair(session, TOKEN=0, SIGN=1)
    newest.call("C_SignInit", u(session), newest.mechanism(ECDSA_SHA256, plain=True), u(private))
    for part in (b"a ", b"", b"message"):
        newest.call("C_SignUpdate", u(session), ay(part))
    assert newest.call("C_SignFinal", u(session), fy(0)) == 64
    signature = newest.call("C_SignFinal", u(session), fy(64))
    public_key(newest, session, public).verify(der(signature), b"a message", ec.ECDSA(SHA256()))
    newest.call("C_VerifyInit", u(session), newest.mechanism(ECDSA_SHA256, plain=True), u(public))
    newest.call("C_VerifyUpdate", u(session), ay(b"a mess"))
    newest.call("C_VerifyUpdate", u(session), ay(b"age"))
    newest.call("C_VerifyFinal", u(session), ay(signature))


def test_digests_in_parts_and_at_once(client: Client) -> None:
    session = client.open(client.slot("software"))
    expected = Hash(SHA256())
    expected.update(b"a message")
    digest = expected.finalize()
    client.call("C_DigestInit", u(session), client.mechanism(SHA256_DIGEST, plain=True))
    assert client.call("C_Digest", u(session), ay(b"a message"), fy(0)) == 32
    assert client.call("C_Digest", u(session), ay(b"a message"), fy(32)) == digest
    client.call("C_DigestInit", u(session), client.mechanism(SHA256_DIGEST, plain=True))
    client.call("C_DigestUpdate", u(session), ay(b"a mess"))
    client.call("C_DigestUpdate", u(session), ay(b"age"))
    assert client.call("C_DigestFinal", u(session), fy(64)) == digest


def test_a_secret_key_authenticates(client: Client) -> None:
    session = client.open(client.slot("software"))
    wanted = template(VALUE_LEN=32, SIGN=1, VERIFY=1)
    key = client.call("C_GenerateKey", u(session), client.mechanism(GENERIC_GEN, plain=True), wanted)
    client.call("C_SignInit", u(session), client.mechanism(SHA256_HMAC, plain=True), u(key))
    mac = client.call("C_Sign", u(session), ay(b"data"), fy(64))
    client.call("C_VerifyInit", u(session), client.mechanism(SHA256_HMAC, plain=True), u(key))
    client.call("C_Verify", u(session), ay(b"data"), ay(mac))
    client.call("C_VerifyInit", u(session), client.mechanism(SHA256_HMAC, plain=True), u(key))
    with refused(Ckr.SIGNATURE_INVALID):
        client.call("C_Verify", u(session), ay(b"date"), ay(mac))


# What newer clients can


def gcm(nonce: bytes, aad: bytes = b"") -> bytes:
    return octets(nonce) + u(96) + octets(aad) + u(128)


def aes_key(client: Client, session: int, **wanted: int | bytes) -> int:
    made: int = client.call(
        "C_GenerateKey",
        u(session),
        client.mechanism(AES_KEY_GEN, plain=True),
        template(VALUE_LEN=32, TOKEN=1, ENCRYPT=1, DECRYPT=1, **wanted),
    )
    return made


@pytest.mark.parametrize("offered", [1, 2])
def test_gcm_with_the_callers_nonces_which_are_used_once(service: Service, offered: int) -> None:
    with service.client(offered) as client:
        session = client.open(client.slot("software"))
        key = aes_key(client, session, LABEL=b"gcm")
        mechanism = client.mechanism(GCM, gcm(b"n" * 12, b"aad"))
        client.call("C_EncryptInit", u(session), mechanism, u(key))
        assert client.call("C_Encrypt", u(session), ay(b"plain"), fy(0)) == 21
        encrypted = client.call("C_Encrypt", u(session), ay(b"plain"), fy(21))
        assert len(encrypted) == 21
        client.call("C_EncryptInit", u(session), mechanism, u(key))
        with refused(Ckr.ARGUMENTS_BAD):
            client.call("C_Encrypt", u(session), ay(b"plain"), fy(21))
        client.call("C_DecryptInit", u(session), mechanism, u(key))
        assert client.call("C_Decrypt", u(session), ay(encrypted), fy(4)) == 5
        assert client.call("C_Decrypt", u(session), ay(encrypted), fy(5)) == b"plain"
        client.call("C_DecryptInit", u(session), mechanism, u(key))
        with refused(Ckr.ENCRYPTED_DATA_INVALID):
            client.call("C_Decrypt", u(session), ay(encrypted[:-1] + b"x"), fy(100))
        client.call("C_DestroyObject", u(session), u(key))


def test_an_imported_key_decrypts_what_others_encrypted_in_parts(newest: Client) -> None:
    value = os.urandom(32)
    session = newest.open(newest.slot("software"))
    key = newest.call(
        "C_CreateObject",
        u(session),
        template(CLASS=4, KEY_TYPE=0x1F, TOKEN=1, LABEL=b"imported", VALUE=value, ENCRYPT=1, DECRYPT=1),
    )
    nonce = os.urandom(12)
    encrypted = AESGCM(value).encrypt(nonce, b"a message in parts", b"aad")
    newest.call("C_DecryptInit", u(session), newest.mechanism(GCM, gcm(nonce, b"aad")), u(key))
    assert newest.call("C_DecryptUpdate", u(session), ay(encrypted[:7]), fy(100)) == b""
    assert newest.call("C_DecryptUpdate", u(session), ay(encrypted[7:]), fy(100)) == b""
    assert newest.call("C_DecryptFinal", u(session), fy(0)) == 18
    assert newest.call("C_DecryptFinal", u(session), fy(18)) == b"a message in parts"
    assert newest.attributes(session, key, Cka.LOCAL)[0] == {Cka.LOCAL: 0}
    assert newest.attributes(session, key, Cka.VALUE)[1] == Ckr.ATTRIBUTE_SENSITIVE
    newest.call("C_DestroyObject", u(session), u(key))


def test_both_sides_of_an_agreement_have_the_same_key(newest: Client) -> None:
    session = newest.open(newest.slot("software"))
    public, private = newest.key_pair(session, TOKEN=0, DERIVE=1)
    other = ec.generate_private_key(ec.SECP256R1())
    point = other.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    parameter = u(1) + octets(b"") + octets(point)
    status, update, key = newest.call(
        "C_DeriveKey2",
        u(session),
        newest.mechanism(ECDH1, parameter),
        u(private),
        template(CLASS=4, KEY_TYPE=0x10, VALUE_LEN=32, SIGN=1),
    )
    assert (status, update) == (0, 0)
    newest.call("C_SignInit", u(session), newest.mechanism(SHA256_HMAC, plain=True), u(key))
    mac = newest.call("C_Sign", u(session), ay(b"data"), fy(32))
    secret = other.exchange(ec.ECDH(), public_key(newest, session, public))
    assert hmac.digest(secret, b"data", "sha256") == mac


# What is refused


def test_nothing_is_done_before_c_initialize(service: Service) -> None:
    client = service.client(0)
    with refused(Ckr.CRYPTOKI_NOT_INITIALIZED):
        client.call("C_GetSlotList", b"\1", struct.pack(">I", 16))
    with refused(Ckr.GENERAL_ERROR):
        client.call("C_Initialize", ay(b"something else"), b"\0", ay(b"\0"))
    client.socket.close()


def test_handles_mean_nothing_on_another_connection(service: Service) -> None:
    with service.client(2) as one, service.client(2) as other:
        session = one.open(one.slot("software"))
        _, private = one.key_pair(session, TOKEN=0, SIGN=1)
        with refused(Ckr.SESSION_HANDLE_INVALID):
            other.call("C_SignInit", u(session), other.mechanism(ECDSA, plain=True), u(private))
        own = other.open(other.slot("software"))
        with refused(Ckr.KEY_HANDLE_INVALID):
            other.call("C_SignInit", u(own), other.mechanism(ECDSA, plain=True), u(private))
        assert other.find(own, CLASS=3, TOKEN=0) == []


def test_a_key_does_only_what_it_is_for(newest: Client) -> None:
    session = newest.open(newest.slot("software"))
    public, private = newest.key_pair(session, TOKEN=0, DERIVE=1)
    with refused(Ckr.KEY_FUNCTION_NOT_PERMITTED):
        newest.call("C_SignInit", u(session), newest.mechanism(ECDSA, plain=True), u(private))
    with refused(Ckr.KEY_FUNCTION_NOT_PERMITTED):
        newest.call("C_SignInit", u(session), newest.mechanism(ECDSA, plain=True), u(public))
    with refused(Ckr.KEY_TYPE_INCONSISTENT):
        newest.call("C_SignInit", u(session), newest.mechanism(SHA256_RSA_PKCS, plain=True), u(private))
    with refused(Ckr.MECHANISM_INVALID):
        newest.call("C_SignInit", u(session), newest.mechanism(0x1042, plain=True), u(private))


@pytest.mark.parametrize(
    ("wanted", "ckr"),
    [
        ({"TRUSTED": 1}, Ckr.ATTRIBUTE_READ_ONLY),
        ({"ALWAYS_AUTHENTICATE": 1}, Ckr.TEMPLATE_INCONSISTENT),
        ({"CLASS": 4}, Ckr.TEMPLATE_INCONSISTENT),
        ({"KEY_TYPE": 0}, Ckr.TEMPLATE_INCONSISTENT),
        ({"TOKEN": 1, "LABEL": b"x" * 5000}, Ckr.ATTRIBUTE_VALUE_INVALID),
    ],
)
def test_templates_that_cannot_be_had_are_refused(newest: Client, wanted: dict[str, int | bytes], ckr: Ckr) -> None:
    session = newest.open(newest.slot("software"))
    with refused(ckr):
        newest.key_pair(session, **wanted)


def test_what_is_asked_for_by_habit_is_granted_without_what_does_not_go_with_it(newest: Client) -> None:
    session = newest.open(newest.slot("software"))
    key = aes_key(newest, session, LABEL=b"habit", WRAP=1, UNWRAP=1, SENSITIVE=0)
    asked = (Cka.ENCRYPT, Cka.DECRYPT, Cka.WRAP, Cka.UNWRAP, Cka.SENSITIVE)
    values, _ = newest.attributes(session, key, *asked)
    assert values == dict(zip(asked, (1, 1, 0, 0, 1), strict=True))
    newest.call("C_DestroyObject", u(session), u(key))


def test_a_read_only_session_changes_nothing_that_lasts(newest: Client) -> None:
    session = newest.open(newest.slot("software"), write=False)
    with refused(Ckr.SESSION_READ_ONLY):
        newest.key_pair(session, TOKEN=1, SIGN=1)


def test_session_objects_end_with_their_session(newest: Client) -> None:
    slot = newest.slot("software")
    session, other = newest.open(slot), newest.open(slot)
    _, private = newest.key_pair(session, TOKEN=0, SIGN=1)
    assert private in newest.find(other, CLASS=3, TOKEN=0)
    newest.call("C_CloseSession", u(session))
    assert newest.find(other, CLASS=3, TOKEN=0) == []
    with refused(Ckr.KEY_HANDLE_INVALID):
        newest.call("C_SignInit", u(other), newest.mechanism(ECDSA, plain=True), u(private))


def test_a_key_destroyed_by_somebody_else_is_gone_here_at_once(service: Service, newest: Client) -> None:
    session = newest.open(newest.slot("software"))
    _, private = newest.key_pair(session, TOKEN=1, LABEL=b"elsewhere", SIGN=1)
    newest.call("C_SignInit", u(session), newest.mechanism(ECDSA, plain=True), u(private))
    newest.call("C_Sign", u(session), ay(DIGEST), fy(64))
    with service.lab.stack() as stack:
        stack.destroy("elsewhere")
        stack.create_slot("elsewhere", "EC-P256", P.SIGN | P.VERIFY, providers=["software"])
    with refused(Ckr.KEY_HANDLE_INVALID):
        newest.call("C_SignInit", u(session), newest.mechanism(ECDSA, plain=True), u(private))
    with service.lab.stack() as stack:
        stack.destroy("elsewhere")


def test_a_rotated_slot_does_not_sign_for_the_handle_of_its_former_key(service: Service, newest: Client) -> None:
    with service.lab.stack() as stack:
        stack.create_slot("rotated", "EC-P256", P.SIGN | P.VERIFY | P.GENERATE, providers=["software"])
        session = newest.open(newest.slot("software"))
        (private,) = newest.find(session, LABEL=b"rotated", CLASS=3)
        newest.call("C_SignInit", u(session), newest.mechanism(ECDSA, plain=True), u(private))
        stack.rotate("rotated")
        with refused(Ckr.KEY_HANDLE_INVALID):
            newest.call("C_Sign", u(session), ay(DIGEST), fy(64))
        assert len(newest.find(session, LABEL=b"rotated", CLASS=2)) == 2
        stack.destroy("rotated")


def test_message_functions_are_not_there(newest: Client) -> None:
    session = newest.open(newest.slot("software"))
    with refused(Ckr.FUNCTION_NOT_SUPPORTED):
        newest.call("C_EncryptMessage", u(session), ay(b"\xff" * 48), ay(b""), ay(b"data"), fy(100))


def test_raw_rsa_signatures_are_of_known_digests_only(newest: Client) -> None:
    session = newest.open(newest.slot("software"))
    _, private = newest.call(
        "C_GenerateKeyPair",
        u(session),
        newest.mechanism(RSA_GEN, plain=True),
        template(MODULUS_BITS=2048),
        template(SIGN=1),
    )
    for data in (b"raw", bytes.fromhex("3021300906052b0e03021a05000414") + b"d" * 20):
        newest.call("C_SignInit", u(session), newest.mechanism(RSA_PKCS, plain=True), u(private))
        with refused(Ckr.DATA_INVALID):
            newest.call("C_Sign", u(session), ay(data), fy(256))


# Many at once


def test_calls_of_threads_on_one_connection_are_answered_as_they_end(newest: Client) -> None:
    slot = newest.slot("softhsm")
    sessions = [newest.open(slot) for _ in range(8)]
    public, private = newest.key_pair(sessions[0], TOKEN=0, SIGN=1)
    for session in sessions:
        newest.call("C_SignInit", u(session), newest.mechanism(ECDSA, plain=True), u(private))
    checked = public_key(newest, sessions[0], public)
    sent = {newest.send("C_Sign", u(session), ay(DIGEST), fy(64)) for session in sessions}
    for _ in sessions:
        code, results = newest.receive()
        sent.remove(code)
        assert not isinstance(results, CkrError)
        checked.verify(der(results[0]), DIGEST, ec.ECDSA(Prehashed(SHA256())))
    assert not sent


def test_a_broken_stream_ends_its_connection_and_no_other(service: Service, newest: Client) -> None:
    session = newest.open(newest.slot("software"))
    for sent in (
        b"\x00" + struct.pack(">III", 0, 0, 0),
        b"\x02" + struct.pack(">III", 16, 0, 0xFFFFFFFF),
        b"\x01" + struct.pack(">III", 16, 0, 8) + b"\xff" * 8,
        b"\x02" + os.urandom(500),
    ):
        broken = service.client(0)
        broken.socket.sendall(sent[1:])
        with pytest.raises(ConnectionError):
            broken.receive()
        broken.socket.close()
    _, private = newest.key_pair(session, TOKEN=0, SIGN=1)
    newest.call("C_SignInit", u(session), newest.mechanism(ECDSA, plain=True), u(private))
    assert len(newest.call("C_Sign", u(session), ay(DIGEST), fy(64))) == 64


def test_many_clients_get_their_own_results(service: Service) -> None:
    problems: list[Exception] = []

    def work(number: int) -> None:
        try:
            with service.client(2) as client:
                session = client.open(client.slot("software"))
                label = f"many {number}".encode()
                for _ in range(5):
                    public, private = client.key_pair(session, TOKEN=1, LABEL=label, SIGN=1)
                    assert client.find(session, LABEL=label) == [private, public]
                    message = os.urandom(32)
                    client.call("C_SignInit", u(session), client.mechanism(ECDSA, plain=True), u(private))
                    signature = client.call("C_Sign", u(session), ay(message), fy(64))
                    key = public_key(client, session, public)
                    key.verify(der(signature), message, ec.ECDSA(Prehashed(SHA256())))
                    client.call("C_DestroyObject", u(session), u(private))
                    assert client.find(session, LABEL=label) == []
        except (AssertionError, CkrError, OSError, InvalidSignature) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
