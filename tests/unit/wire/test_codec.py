"""What every operation and provider call looks like on the wire and what is refused there."""

import msgspec
import pytest

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS
from hsmbridge.core.errors import (
    AccessError,
    HsmBridgeError,
    ProviderError,
    RequestError,
    SignatureInvalid,
    Status,
    WireError,
)
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.operations import OPERATIONS
from hsmbridge.core.params import AgreeKeyParams, Hkdf, SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.core.policy import Protection
from hsmbridge.wire import codec
from hsmbridge.wire.frames import (
    BATCH,
    DEFAULT_MAX_FRAME,
    REPLY,
    Frame,
    FrameReader,
    body_limit,
    deadline_word,
    encode_frame,
)

KEY = CryptoResourceId(0xFEDC_BA98_7654_3210, ResourceKind.KEY_SLOT)
SIGN = m.SignRequest(KEY, "ECDSA-P256-SHA256", b"message", SignatureParameters(context=b"ctx"))
SIGN_OPCODE = 0x0040


def one_frame(data: bytes, *, replies: bool = False) -> Frame:
    (frame,) = FrameReader(body_limit(), replies=replies).feed(data)
    return frame


def refusal(body: bytes, opcode: int = SIGN_OPCODE, flags: int = 0) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as refused:
        codec.decode_request(Frame(opcode, 1, flags, 0, body))
    return refused.value


def test_the_header_is_sixteen_little_endian_bytes_before_the_body() -> None:
    assert encode_frame(0x0040, 7, BATCH, 5000, b"xyz") == bytes.fromhex(
        "03000000" "07000000" "4000" "0200" "88130000"
    ) + b"xyz"  # fmt: skip


def test_a_request_arrives_as_it_was_sent_with_its_id_and_deadline() -> None:
    frame = one_frame(codec.encode_request(42, SIGN, 1500))
    assert (frame.opcode, frame.request_id, frame.flags, frame.word) == (SIGN_OPCODE, 42, 0, 1500)
    operation, request = codec.decode_request(frame)
    assert operation is OPERATIONS[SIGN_OPCODE]
    assert request == SIGN


def test_structured_parameters_survive_the_wire() -> None:
    agree = m.AgreeRequest(
        KEY,
        AgreeKeyParams(
            key_type="AES-256",
            permissions=KeyOperationPermission.ENCRYPT,
            peer_public_key=b"spki",
            kdf=Hkdf(info=b"context"),
        ),
        slot="shared",
    )
    assert codec.decode_request(one_frame(codec.encode_request(1, agree)))[1] == agree


def test_a_reply_echoes_id_and_opcode() -> None:
    frame = one_frame(codec.encode_reply(9, SIGN_OPCODE, m.SignReply(b"signature", 3)), replies=True)
    assert (frame.opcode, frame.request_id, frame.flags, frame.word) == (SIGN_OPCODE, 9, REPLY, 0)
    assert codec.decode_reply(frame) == m.SignReply(b"signature", 3)


def test_an_error_reply_is_raised_as_what_it_was_without_its_origin() -> None:
    problem = SignatureInvalid(Status.SIGNATURE_INVALID, "does not fit", origin="softhsm: CKR_X", incident="1234")
    data = codec.encode_error(9, SIGN_OPCODE, problem)
    assert b"CKR_X" not in data
    with pytest.raises(SignatureInvalid, match="does not fit") as raised:
        codec.decode_reply(one_frame(data, replies=True))
    assert (raised.value.status, raised.value.incident) == (Status.SIGNATURE_INVALID, "1234")


def test_a_status_unknown_here_becomes_internal_and_keeps_its_number_and_message() -> None:
    frame = Frame(SIGN_OPCODE, 1, REPLY, 0x01FF0001, msgspec.msgpack.encode(["from the future", ""]))
    with pytest.raises(HsmBridgeError, match=r"from the future.*0x01ff0001") as raised:
        codec.decode_reply(frame)
    assert raised.value.status is Status.INTERNAL


def test_an_error_reply_with_an_unreadable_body_keeps_its_status() -> None:
    with pytest.raises(AccessError) as raised:
        codec.decode_reply(Frame(SIGN_OPCODE, 1, REPLY, Status.ACCESS_DENIED, b"\xc1"))
    assert raised.value.status is Status.ACCESS_DENIED


def test_fields_that_a_newer_client_appends_are_skipped() -> None:
    body = msgspec.msgpack.encode([b"payload", "from the future", {"a": [1, 2]}])
    assert codec.decode_request(Frame(0x0002, 1, 0, 0, body))[1] == m.PingRequest(b"payload")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", Status.MALFORMED_FRAME, "sign request cannot be read"),
        (b"\xc1", Status.MALFORMED_FRAME, "malformed"),
        (b"\x93\x92\x01\x02\xa1x\xc6\xff\xff\xff\xff", Status.MALFORMED_FRAME, "truncated"),
        (b"\xdd\xff\xff\xff\xff", Status.MALFORMED_FRAME, "truncated"),
        (b"\x95\x92\x01\x02\xa1x\xc4\x00\x90" + b"\x91" * 100_000, Status.MALFORMED_FRAME, "nested too deeply"),
        (msgspec.msgpack.encode([[1, 2], 7, b"", []]), Status.INVALID_ARGUMENT, "Expected `str`, got `int`"),
        (msgspec.msgpack.encode([[1, 99], "x", b"", []]), Status.INVALID_ARGUMENT, "enum"),
        (msgspec.msgpack.encode([[1, 2], "x"]), Status.INVALID_ARGUMENT, "length"),
        (msgspec.msgpack.encode([[1, 2], "x", b"", [b"c" * 256]]), Status.INVALID_ARGUMENT, "at most 255 bytes"),
        (b"\x94\x92\x01\x02\xa2\xff\xfe\xc4\x00\x90", Status.MALFORMED_FRAME, "utf-8"),
        (msgspec.msgpack.encode([[1, 2], "x", b"", []]) + b"\x00", Status.MALFORMED_FRAME, "trailing"),
    ],
)
def test_a_body_that_is_no_such_request_is_refused_with_a_reason(body: bytes, status: Status, words: str) -> None:
    refused = refusal(body)
    assert refused.status is status
    assert words in refused.message


def test_deep_nesting_in_a_field_that_would_be_skipped_is_refused_too() -> None:
    assert refusal(b"\x92\xc4\x00" + b"\x91" * 100_000, 0x0002).status is Status.MALFORMED_FRAME


def test_an_unknown_operation_is_named() -> None:
    refused = refusal(b"\x90", 0x7777)
    assert refused.status is Status.UNKNOWN_OPERATION
    assert "0x7777" in refused.message


def test_a_check_of_the_struct_itself_keeps_its_status() -> None:
    body = msgspec.msgpack.encode([["EC-P999", 4], "slot", ""])
    assert refusal(body, 0x0060).status is Status.UNKNOWN_KEY_TYPE


def test_text_that_is_no_unicode_is_refused_before_it_is_sent() -> None:
    with pytest.raises(RequestError, match="cannot be sent"):
        codec.encode_request(1, m.SlotShowRequest("\udcff"))


def test_a_batch_travels_in_one_frame_and_its_answers_keep_their_order() -> None:
    requests = [m.SignRequest(KEY, "ECDSA-P256-SHA256", bytes([n])) for n in range(3)]
    frame = one_frame(codec.encode_batch(5, requests, 100))
    assert frame.flags == BATCH
    operation, received = codec.decode_batch(frame)
    assert (operation.name, received) == ("sign", requests)

    denied = AccessError(Status.ACCESS_DENIED, "no", incident="77")
    reply = one_frame(
        codec.encode_batch_reply(5, SIGN_OPCODE, [m.SignReply(b"a", 1), denied, m.SignReply(b"c", 2)]), replies=True
    )
    first, second, third = codec.decode_batch_reply(reply)
    assert (first, third) == (m.SignReply(b"a", 1), m.SignReply(b"c", 2))
    assert isinstance(second, AccessError)
    assert (second.message, second.incident) == ("no", "77")


def test_a_batch_of_none_too_many_or_mixed_requests_is_not_sent() -> None:
    for requests in ([], [SIGN] * (codec.MAX_BATCH + 1), [SIGN, m.RandomRequest(1)]):
        with pytest.raises(RequestError):
            codec.encode_batch(1, requests)


def test_a_batch_with_too_many_requests_is_refused_before_they_are_read() -> None:
    body = msgspec.msgpack.encode([[1]] * (codec.MAX_BATCH + 1))
    with pytest.raises(RequestError, match="length <= 1024"):
        codec.decode_batch(Frame(0x0049, 1, BATCH, 0, body))


def test_an_operation_that_takes_no_batches_refuses_one() -> None:
    with pytest.raises(RequestError) as refused:
        codec.decode_batch(Frame(0x0020, 1, BATCH, 0, b"\x90"))
    assert refused.value.status is Status.NOT_SUPPORTED


def test_a_batch_is_not_taken_for_a_single_request() -> None:
    assert refusal(msgspec.msgpack.encode([SIGN]), flags=BATCH).status is Status.MALFORMED_FRAME


def test_a_batch_answer_with_neither_reply_nor_error_is_refused() -> None:
    with pytest.raises(WireError, match="neither"):
        codec.decode_batch_reply(Frame(SIGN_OPCODE, 1, REPLY | BATCH, 0, msgspec.msgpack.encode([[0]])))


TARGET = calls.KeyTarget(b"i" * 16, "EC-P256", 12, b"binding", "uid-0/web", ephemeral=True, owner=b"o" * 16)
ALGORITHM = next(iter(ALGORITHMS))
CALLS: tuple[calls.ProviderCall, ...] = (
    calls.DescribeCall(),
    calls.GenerateCall(TARGET),
    calls.ImportCall(TARGET, "raw", b"material"),
    calls.DeriveFromSecretCall(b"secret", Hkdf(), TARGET),
    calls.LoadCall(b"i" * 16, "EC-P256", 12, b"reference", b"binding"),
    calls.UnloadCall(2**63),
    calls.DestroyCall(b"i" * 16, "EC-P256", b""),
    calls.ReleaseOwnerCall(b"o" * 16),
    calls.ListCall(),
    calls.SignCall(1, ALGORITHM, b"message", SignatureParameters(digest_signing=True)),
    calls.SignManyCall(1, ALGORITHM, (b"first", b"second")),
    calls.VerifyCall(1, ALGORITHM, b"message", b"signature"),
    calls.EncryptCall(1, ALGORITHM, b"nonce", b"plaintext", b"aad"),
    calls.DecryptCall(1, ALGORITHM, b"nonce", b"ciphertext", b"aad", b"tag"),
    calls.EncapsulateCall(1, ALGORITHM),
    calls.DecapsulateCall(1, ALGORITHM, b"ciphertext"),
    calls.AgreeSecretCall(1, ALGORITHM, b"spki"),
    calls.AgreeKeyCall(1, ALGORITHM, b"spki", None, TARGET),
    calls.DeriveKeyCall(1, Hkdf(info=b"x"), TARGET),
    calls.WrapCall(1, ALGORITHM, 2, b"iv", b"aad"),
    calls.UnwrapCall(1, ALGORITHM, b"material", "raw", b"iv", b"aad", TARGET),
    calls.CopyCall(7, TARGET),
    calls.ExamineCall("pkcs11:object=web", b"material"),
    calls.AdoptCall(TARGET, "", b"material"),
    calls.ExportCall(7, "tss2", b"recipient"),
    calls.AttestCall(7, b"nonce"),
    calls.AttestCall(7, b"nonce", (0, 7)),
    calls.StreamOpenCall(2**63, 1, ALGORITHM, "encrypt", b"nonce", b"aad", SignatureParameters(salt_length=20)),
    calls.StreamUpdateCall(2**63, b"data"),
    calls.StreamFinishCall(2**63, b"data", b"signature"),
    calls.StreamCloseCall(2**63),
    calls.DigestCall(ALGORITHM, b"data"),
    calls.RandomCall(32),
)


def test_every_provider_call_is_in_this_list() -> None:
    assert {type(call) for call in CALLS} == set(calls.REPLIES)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: type(call).__name__)
def test_every_provider_call_arrives_as_it_was_sent(call: calls.ProviderCall) -> None:
    frame = one_frame(codec.encode_call(3, call, 20))
    assert (frame.opcode, frame.word) == (codec.CALL_OPCODE, 20)
    assert codec.decode_call(frame.body) == call


DESCRIPTION = calls.Description(
    "software",
    calls.TokenIdentity("label", "serial"),
    ("EC-P256",),
    (),
    (calls.Claim(ALGORITHM, ("sign",)),),
    True,
    False,
    Protection.FILE,
)


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (calls.DescribeCall, DESCRIPTION),
        (calls.GenerateCall, calls.MadeKey(b"reference", b"spki", Protection.TOKEN)),
        (calls.LoadCall, 2**63 + 5),
        (calls.UnloadCall, None),
        (calls.ListCall, [b"one", b"two"]),
        (calls.SignCall, b"signature"),
        (calls.SignManyCall, [b"first", b"second"]),
        (calls.EncryptCall, calls.Encrypted(b"n", b"c", b"t")),
        (calls.EncapsulateCall, calls.Encapsulated(b"c", b"s")),
    ],
)
def test_provider_replies_arrive_as_they_were_sent(call: type[calls.ProviderCall], reply: calls.ProviderReply) -> None:
    frame = one_frame(codec.encode_call_reply(3, reply), replies=True)
    assert codec.decode_call_reply(call, frame.body) == reply


def test_a_provider_reply_of_another_type_than_the_calls_is_refused() -> None:
    with pytest.raises(WireError):
        codec.decode_call_reply(calls.LoadCall, msgspec.msgpack.encode(b"bytes"))


def test_a_frame_holds_data_of_max_frame_bytes_and_its_parameters() -> None:
    data = codec.encode_request(1, m.SignRequest(KEY, "ML-DSA-65", bytes(DEFAULT_MAX_FRAME)))
    assert codec.decode_request(one_frame(data))[0].name == "sign"


def test_a_deadline_is_at_least_a_millisecond_and_none_is_zero() -> None:
    assert [deadline_word(seconds) for seconds in (None, 0.0, 0.0001, 1.5, 1e12)] == [0, 1, 1, 1500, 0xFFFF_FFFF]


def test_errors_are_encoded_with_the_number_of_their_status() -> None:
    problem = ProviderError(Status.PIN_LOCKED)
    assert one_frame(codec.encode_error(1, codec.CALL_OPCODE, problem), replies=True).word == 0x01060007
