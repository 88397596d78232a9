"""Contexts in the service: what is checked, what is streamed and what is held back, and what is freed when."""

import hashlib
from collections.abc import Iterator

import msgspec
import pytest

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.errors import (
    ContextError,
    DecryptionFailed,
    HsmBridgeError,
    LimitError,
    ProviderError,
    RequestError,
    ResourceError,
    SignatureInvalid,
    Status,
)
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.params import GenerateKeyParams, SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Role
from hsmbridge.engine.steps import ProviderStep
from tests.unit.service.served import Served
from tests.unit.storage.opened import ALICE, BOB

START = m.ContextStart()
GCM, CBC, ECDSA, HMAC = "AES-256-GCM", "AES-256-CBC", "ECDSA-P256-SHA256", "HMAC-SHA256"
K = m.ContextKind
AES = P.ENCRYPT | P.DECRYPT
PAIR = P.SIGN | P.VERIFY
NO_KEY = CryptoResourceId(0, ResourceKind.KEY_SLOT)


def create(service: Served, request: msgspec.Struct, principal: str = ALICE) -> m.ContextReply:
    return service.ask(request, m.ContextReply, principal)


def update(service: Served, context: int, data: bytes, principal: str = ALICE) -> bytes:
    return service.ask(m.ContextUpdateRequest(context, data), m.ContextDataReply, principal).data


def finalize(service: Served, context: int, data: bytes = b"", proof: bytes = b"") -> m.ContextFinalReply:
    return service.ask(m.ContextFinalizeRequest(context, data, proof), m.ContextFinalReply)


def close(service: Served, context: int) -> None:
    service.ask(m.ContextCloseRequest(context), m.Empty)


def open_streams(service: Served) -> int:
    return sum(len(provider.streams) for provider in service.providers.values())


def refused(status: Status, service: Served, request: msgspec.Struct, principal: str = ALICE) -> HsmBridgeError:
    with pytest.raises(HsmBridgeError) as caught:
        service.ask(request, msgspec.Struct, principal)
    assert caught.value.status is status
    return caught.value


def key(service: Served, name: str, type_name: str, permissions: P, **more: object) -> CryptoResourceId:
    return service.id(service.slot(name, type_name, permissions, "here", **more))


@pytest.fixture
def aes(service: Served) -> CryptoResourceId:
    return key(service, "aes", "AES-256", AES, algorithms=(GCM, CBC))


@pytest.fixture
def pair(service: Served) -> CryptoResourceId:
    return key(service, "pair", "EC-P256", PAIR | P.GENERATE)


@pytest.fixture(autouse=True)
def nothing_is_left_open(service: Served) -> Iterator[None]:
    """Whatever a test did: when the connection ends, no provider holds a stream."""
    yield
    for session in service.sessions.values():
        service.end(session)
    assert open_streams(service) == 0


# States


def test_a_context_goes_its_way_and_again(service: Served) -> None:
    made = create(service, m.ContextDigestRequest("SHA-256"))
    number = made.context
    for data in (b"first", b"second"):
        create(service, m.ContextInitRequest(number, START))
        update(service, number, data[:2])
        assert finalize(service, number, data[2:]).data == hashlib.sha256(data).digest()
        create(service, m.ContextResetRequest(number))
    close(service, number)
    refused(Status.RESOURCE_NOT_FOUND, service, m.ContextUpdateRequest(number, b""))


def test_reset_and_init_go_in_one_round_trip(service: Served, aes: CryptoResourceId) -> None:
    made = create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START))
    finalize(service, made.context)
    again = create(service, m.ContextResetRequest(made.context, START))
    assert again.context == made.context
    assert again.nonce != made.nonce
    assert len(finalize(service, made.context, b"data").tag) == 16


@pytest.mark.parametrize(
    "request_",
    [
        m.ContextUpdateRequest(0, b""),
        m.ContextFinalizeRequest(0),
        m.ContextResetRequest(0),
        m.ContextReadRequest(0),
    ],
)
@pytest.mark.parametrize("algorithm", ["SHA-256", "SHA3-512"])
def test_what_comes_before_init_is_refused_and_changes_nothing(
    service: Served, request_: msgspec.Struct, algorithm: str
) -> None:
    number = create(service, m.ContextDigestRequest(algorithm)).context
    refused(Status.INVALID_OPERATION, service, msgspec.structs.replace(request_, context=number))
    create(service, m.ContextInitRequest(number, START))
    finalize(service, number)


def test_a_context_that_is_fed_cannot_be_reset_or_initialised(service: Served, aes: CryptoResourceId) -> None:
    number = create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START)).context
    update(service, number, b"data")
    refused(Status.INVALID_OPERATION, service, m.ContextResetRequest(number))
    refused(Status.INVALID_OPERATION, service, m.ContextInitRequest(number, START))
    finalize(service, number)
    refused(Status.INVALID_OPERATION, service, m.ContextUpdateRequest(number, b""))
    refused(Status.INVALID_OPERATION, service, m.ContextFinalizeRequest(number))


def test_a_failure_at_the_provider_leaves_only_closing(service: Served, aes: CryptoResourceId) -> None:
    number = create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START)).context
    service.failures[calls.StreamUpdateCall] = ProviderError(Status.PROVIDER_FAILED)
    refused(Status.PROVIDER_FAILED, service, m.ContextUpdateRequest(number, b"data"))
    assert open_streams(service) == 0, "what it held is freed at once"
    for request in (
        m.ContextUpdateRequest(number, b""),
        m.ContextFinalizeRequest(number),
        m.ContextResetRequest(number),
    ):
        refused(Status.CONTEXT_FAILED, service, request)
    close(service, number)


def test_a_context_whose_provider_was_restarted_is_lost(service: Served, aes: CryptoResourceId) -> None:
    number = create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START)).context
    service.providers["here"].streams.close_all()
    failure = refused(Status.PROVIDER_UNAVAILABLE, service, m.ContextUpdateRequest(number, b"data"))
    assert "begin anew" in failure.message
    refused(Status.CONTEXT_FAILED, service, m.ContextFinalizeRequest(number))


def test_a_provider_that_is_away_cannot_reset(service: Served) -> None:
    number = create(service, m.ContextDigestRequest("SHA-256", "here", START)).context
    finalize(service, number)
    service.catalogue.unavailable("here", ProviderError(Status.PROVIDER_UNAVAILABLE))
    refused(Status.CONTEXT_RESET_FAILED, service, m.ContextResetRequest(number))
    refused(Status.CONTEXT_FAILED, service, m.ContextInitRequest(number, START))


def test_a_deadline_puts_the_context_into_error(service: Served, aes: CryptoResourceId) -> None:
    number = create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START)).context
    service.failures[calls.StreamUpdateCall] = ProviderError(Status.OPERATION_TIMED_OUT)
    refused(Status.OPERATION_TIMED_OUT, service, m.ContextUpdateRequest(number, b"data"))
    refused(Status.CONTEXT_FAILED, service, m.ContextUpdateRequest(number, b"data"))
    assert open_streams(service) == 0


def test_a_call_that_was_given_up_while_it_goes_on_frees_what_it_had(service: Served, aes: CryptoResourceId) -> None:
    session = service.session()
    number = create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START)).context
    request = m.ContextUpdateRequest(number, b"data")
    told: list[HsmBridgeError | None] = []
    watched = service.contexts.watched(session, request, lambda reply, failure: told.append(failure))
    running = service.contexts.update(session, request)
    next(running)
    watched(None, ProviderError(Status.OPERATION_TIMED_OUT))
    assert told[0] is not None, "the caller knows at once"
    assert isinstance(running.send(b"output that came too late"), ProviderStep)
    with pytest.raises(ContextError):
        running.send(None)
    refused(Status.CONTEXT_FAILED, service, m.ContextUpdateRequest(number, b"data"))
    service.providers["here"].streams.close_all()


def test_a_creation_that_was_given_up_leaves_no_context(service: Served) -> None:
    session = service.session()
    request = m.ContextDigestRequest("SHA-256", "here", START)
    running = service.contexts.digest(session, request)
    next(running)
    watched = service.contexts.watched(session, request, lambda reply, failure: None)
    watched(None, ProviderError(Status.OPERATION_TIMED_OUT))
    assert isinstance(running.send(None), ProviderStep)
    with pytest.raises(HsmBridgeError):
        running.send(None)
    assert len(session.contexts) == len(session.contexts.making) == service.contexts.count == 0


# Permissions


def test_a_context_needs_the_permission_of_what_it_does(service: Served) -> None:
    only = key(service, "only", "AES-256", P.ENCRYPT)
    refused(Status.KEY_OPERATION_NOT_PERMITTED, service, m.ContextDecryptRequest(only, GCM, K.AEAD, 0, None))
    assert not any(isinstance(call, calls.StreamOpenCall) for _, call in service.calls)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (m.ContextEncryptRequest(NO_KEY, CBC, K.AEAD), Status.INVALID_ARGUMENT),
        (m.ContextEncryptRequest(NO_KEY, GCM, K.CIPHER), Status.INVALID_ARGUMENT),
        (m.ContextEncryptRequest(NO_KEY, GCM, K.SIGN), Status.INVALID_ARGUMENT),
        (m.ContextEncryptRequest(NO_KEY, "no-such", K.AEAD), Status.UNKNOWN_ALGORITHM),
        (m.ContextEncryptRequest(NO_KEY, CBC, K.CIPHER, m.ContextStart(aad=b"a")), Status.INVALID_ARGUMENT),
        (m.ContextEncryptRequest(NO_KEY, GCM, K.AEAD, m.ContextStart(bytes(12))), Status.INVALID_ARGUMENT),
        (m.ContextDecryptRequest(NO_KEY, GCM, K.AEAD, 0, m.ContextStart(b"1")), Status.INVALID_ARGUMENT),
    ],
)
def test_what_does_not_belong_together_is_refused(
    service: Served, aes: CryptoResourceId, request_: msgspec.Struct, status: Status
) -> None:
    refused(status, service, msgspec.structs.replace(request_, key=aes))
    assert open_streams(service) == 0


def test_a_slot_of_others_is_not_there(service: Served, aes: CryptoResourceId) -> None:
    with pytest.raises(ResourceError):
        create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START), BOB)


def test_a_context_is_its_connections_own(service: Served) -> None:
    number = create(service, m.ContextDigestRequest("SHA-256", "", START)).context
    refused(Status.RESOURCE_NOT_FOUND, service, m.ContextUpdateRequest(number, b""), BOB)
    refused(Status.RESOURCE_NOT_FOUND, service, m.ContextCloseRequest(number), BOB)


def test_a_rotation_ends_what_signs_and_leaves_what_verifies(service: Served, pair: CryptoResourceId) -> None:
    signing = create(service, m.ContextSignRequest(pair, ECDSA, K.SIGN, start=START)).context
    verifying = create(service, m.ContextVerifyRequest(pair, ECDSA, K.VERIFY, start=START)).context
    signature = service.ask(m.SignRequest(pair, ECDSA, b"message"), m.SignReply).signature
    update(service, verifying, b"mess")
    service.ask(m.SlotRotateRequest("pair"), m.SlotInfo)
    refused(Status.KEY_STATE_FORBIDS, service, m.ContextUpdateRequest(signing, b"mess"))
    assert finalize(service, verifying, b"age", signature).version == 1
    refused(Status.CONTEXT_FAILED, service, m.ContextFinalizeRequest(signing))


@pytest.mark.parametrize(
    "change", [m.SlotRevokeRequest("pair", 1), m.SlotDestroyRequest("pair", 1), m.SlotDestroyRequest("pair")]
)
def test_a_revoked_or_destroyed_key_ends_its_contexts(
    service: Served, pair: CryptoResourceId, change: msgspec.Struct
) -> None:
    verifying = create(service, m.ContextVerifyRequest(pair, ECDSA, K.VERIFY, start=START)).context
    update(service, verifying, b"mess")
    service.ask(change, msgspec.Struct)
    with pytest.raises(HsmBridgeError):
        update(service, verifying, b"age")
    refused(Status.CONTEXT_FAILED, service, m.ContextFinalizeRequest(verifying))


def test_a_slot_made_anew_under_its_name_is_not_taken_for_the_old_one(service: Served, pair: CryptoResourceId) -> None:
    signing = create(service, m.ContextSignRequest(pair, ECDSA, K.SIGN, start=START)).context
    service.ask(m.SlotDestroyRequest("pair"), m.Empty)
    service.slot("pair", "EC-P256", PAIR)
    refused(Status.RESOURCE_NOT_FOUND, service, m.ContextFinalizeRequest(signing))


def test_access_that_is_taken_away_ends_the_contexts_of_that_caller(service: Served, pair: CryptoResourceId) -> None:
    name = service.ask(m.SlotGrantRequest("pair", BOB, Role.USE, int(P.VERIFY)), m.SlotInfo).name
    theirs = service.id(name, BOB)
    verifying = create(service, m.ContextVerifyRequest(theirs, ECDSA, K.VERIFY, start=START), BOB).context
    update(service, verifying, b"data", BOB)
    service.ask(m.SlotUngrantRequest("pair", BOB), m.SlotInfo)
    refused(Status.RESOURCE_NOT_FOUND, service, m.ContextUpdateRequest(verifying, b"data"), BOB)
    refused(Status.CONTEXT_FAILED, service, m.ContextUpdateRequest(verifying, b"data"), BOB)


# Ephemeral keys


def test_a_context_keeps_the_key_of_a_guard_that_was_released(service: Served) -> None:
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(PAIR))
    made = service.ask(m.GenerateRequest(params, provider="here"), m.KeyReply)
    assert made.resource is not None
    number = create(service, m.ContextSignRequest(made.resource, ECDSA, K.SIGN, start=START)).context
    service.ask(m.ReleaseRequest(made.resource), m.Empty)
    assert not any(isinstance(call, calls.DestroyCall) for _, call in service.calls)
    finalize(service, number, b"message")
    create(service, m.ContextResetRequest(number, START))
    close(service, number)
    assert isinstance(service.calls[-1][1], calls.DestroyCall), "the last one that held it is gone"
    refused(Status.RESOURCE_NOT_FOUND, service, m.ContextSignRequest(made.resource, ECDSA, K.SIGN))


def test_a_context_in_error_holds_no_key_any_more(service: Served) -> None:
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(PAIR))
    made = service.ask(m.GenerateRequest(params, provider="here"), m.KeyReply)
    assert made.resource is not None
    number = create(service, m.ContextSignRequest(made.resource, ECDSA, K.SIGN, start=START)).context
    service.ask(m.ReleaseRequest(made.resource), m.Empty)
    service.failures[calls.StreamUpdateCall] = ProviderError(Status.PROVIDER_FAILED)
    refused(Status.PROVIDER_FAILED, service, m.ContextUpdateRequest(number, b"data"))
    assert isinstance(service.calls[-1][1], calls.DestroyCall)


# What is streamed and what is held back


def test_what_streams_is_not_buffered(service: Served, aes: CryptoResourceId, pair: CryptoResourceId) -> None:
    assert not create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START)).buffered
    assert not create(service, m.ContextSignRequest(pair, ECDSA, K.SIGN, start=START)).buffered
    assert not create(service, m.ContextDigestRequest("SHA-256", "", START)).buffered


def test_what_a_provider_takes_only_at_once_is_held_back(service: Served) -> None:
    edwards = key(service, "edwards", "Ed25519", PAIR)
    made = create(service, m.ContextSignRequest(edwards, "Ed25519", K.SIGN, start=START))
    assert made.buffered
    update(service, made.context, b"mess")
    signature = finalize(service, made.context, b"age").data
    assert service.ask(m.VerifyRequest(edwards, "Ed25519", b"message", signature), m.VerifyReply).version == 1


def test_the_decryption_of_an_aead_gives_nothing_before_the_tag_was_verified(
    service: Served, aes: CryptoResourceId
) -> None:
    sealed = service.ask(m.EncryptRequest(aes, GCM, b"plaintext" * 1000, b"aad"), m.EncryptReply)
    start = m.ContextStart(sealed.nonce, b"aad")
    good = create(service, m.ContextDecryptRequest(aes, GCM, K.AEAD, 0, start))
    assert good.buffered
    for position in range(0, len(sealed.ciphertext), 1000):
        assert update(service, good.context, sealed.ciphertext[position : position + 1000]) == b""
    assert finalize(service, good.context, b"", sealed.tag).data == b"plaintext" * 1000
    wrong = create(service, m.ContextDecryptRequest(aes, GCM, K.AEAD, 0, start))
    assert update(service, wrong.context, sealed.ciphertext) == b""
    with pytest.raises(DecryptionFailed):
        finalize(service, wrong.context, b"", bytes(16))
    refused(Status.CONTEXT_FAILED, service, m.ContextReadRequest(wrong.context))


def test_a_context_that_holds_back_refuses_more_than_its_bound(service: Served, aes: CryptoResourceId) -> None:
    start = m.ContextStart(bytes(12))
    made = create(service, m.ContextDecryptRequest(aes, GCM, K.AEAD, 0, start))
    assert made.held_max == service.held_max
    update(service, made.context, bytes(service.held_max))
    with pytest.raises(LimitError) as refusal:
        update(service, made.context, b"!")
    assert refusal.value.status is Status.DATA_TOO_LARGE
    refused(Status.CONTEXT_FAILED, service, m.ContextUpdateRequest(made.context, b""))


def test_long_output_is_read_in_pieces(service: Served, aes: CryptoResourceId) -> None:
    plaintext = bytes(range(256)) * 200
    sealed = service.ask(m.EncryptRequest(aes, GCM, plaintext), m.EncryptReply)
    number = create(service, m.ContextDecryptRequest(aes, GCM, K.AEAD, 0, m.ContextStart(sealed.nonce))).context
    last = finalize(service, number, sealed.ciphertext, sealed.tag)
    output, remaining = last.data, last.remaining
    while remaining:
        more = service.ask(m.ContextReadRequest(number), m.ContextDataReply)
        output, remaining = output + more.data, more.remaining
    assert output == plaintext
    assert service.ask(m.ContextReadRequest(number), m.ContextDataReply).data == b""


@pytest.mark.parametrize("decrypts", [True, False], ids=["held back", "streamed"])
def test_output_that_nobody_reads_counts_as_held_back(service: Served, aes: CryptoResourceId, decrypts: bool) -> None:
    plaintext = bytes(9 * service.held_max // 10)
    sealed = service.ask(m.EncryptRequest(aes, GCM, plaintext), m.EncryptReply)
    opening = m.ContextDecryptRequest(aes, GCM, K.AEAD, 0, m.ContextStart(sealed.nonce))
    creation = opening if decrypts else m.ContextEncryptRequest(aes, GCM, K.AEAD, START)
    data, proof = (sealed.ciphertext, sealed.tag) if decrypts else (plaintext, b"")
    unread = [create(service, creation).context for _ in range(4)]
    assert all(finalize(service, number, data, proof).remaining for number in unread)
    refused(Status.DATA_TOO_LARGE, service, m.ContextFinalizeRequest(create(service, creation).context, data, proof))
    while service.ask(m.ContextReadRequest(unread[0]), m.ContextDataReply).remaining:
        continue
    assert finalize(service, create(service, creation).context, data, proof).remaining
    close(service, unread[1])
    assert finalize(service, create(service, creation).context, data, proof).remaining
    refused(Status.DATA_TOO_LARGE, service, m.ContextFinalizeRequest(create(service, creation).context, data, proof))


def test_a_signature_of_a_rotated_version_is_found_without_naming_it(service: Served, pair: CryptoResourceId) -> None:
    signature = service.ask(m.SignRequest(pair, ECDSA, b"message"), m.SignReply).signature
    service.ask(m.SlotRotateRequest("pair"), m.SlotInfo)
    made = create(service, m.ContextVerifyRequest(pair, ECDSA, K.VERIFY, start=START))
    assert made.buffered, "only the end tells which version is meant"
    assert finalize(service, made.context, b"message", signature).version == 1
    named = create(service, m.ContextVerifyRequest(pair, ECDSA, K.VERIFY, version=1, start=START))
    assert not named.buffered
    assert finalize(service, named.context, b"message", signature).version == 1


def test_a_wrong_signature_is_an_answer_and_the_context_goes_on(service: Served, pair: CryptoResourceId) -> None:
    signature = service.ask(m.SignRequest(pair, ECDSA, b"message"), m.SignReply).signature
    number = create(service, m.ContextVerifyRequest(pair, ECDSA, K.VERIFY, start=START)).context
    with pytest.raises(SignatureInvalid):
        finalize(service, number, b"another", signature)
    create(service, m.ContextResetRequest(number, START))
    assert finalize(service, number, b"message", signature).version == 1


def test_a_digest_that_is_given_is_signed_as_it_is(service: Served, pair: CryptoResourceId) -> None:
    parameters = SignatureParameters(digest_signing=True)
    made = create(service, m.ContextSignRequest(pair, ECDSA, K.SIGN, parameters, START))
    assert made.buffered
    signature = finalize(service, made.context, hashlib.sha256(b"message").digest()).data
    service.ask(m.VerifyRequest(pair, ECDSA, b"message", signature), m.VerifyReply)


def test_a_mac_context_computes_and_verifies(service: Served) -> None:
    secret = key(service, "mac", "HMAC-SHA256", PAIR)
    computing = create(service, m.ContextSignRequest(secret, HMAC, K.MAC, start=START)).context
    update(service, computing, b"mess")
    mac = finalize(service, computing, b"age").data
    verifying = create(service, m.ContextVerifyRequest(secret, HMAC, K.MAC, start=START)).context
    assert finalize(service, verifying, b"message", mac).version == 1
    wrong = create(service, m.ContextVerifyRequest(secret, HMAC, K.MAC, start=START)).context
    with pytest.raises(SignatureInvalid):
        finalize(service, wrong, b"message", mac[:-1])


def test_what_verifies_nothing_takes_no_proof(service: Served) -> None:
    number = create(service, m.ContextDigestRequest("SHA-256", "", START)).context
    refused(Status.INVALID_ARGUMENT, service, m.ContextFinalizeRequest(number, b"", b"proof"))


# Nonces


def test_every_init_takes_a_nonce_of_its_own(service: Served, aes: CryptoResourceId) -> None:
    nonces = [create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START)).nonce for _ in range(5)]
    number = create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD)).context
    nonces.append(create(service, m.ContextInitRequest(number, START)).nonce)
    assert len({*nonces}) == 6


def test_a_callers_nonce_is_taken_once(service: Served) -> None:
    theirs = key(service, "theirs", "AES-256", AES, nonce_policy=NoncePolicy.CALLER)
    start = m.ContextStart(b"twelve bytes")
    assert create(service, m.ContextEncryptRequest(theirs, GCM, K.AEAD, start)).nonce == b"twelve bytes"
    refused(Status.NONCE_REUSED, service, m.ContextEncryptRequest(theirs, GCM, K.AEAD, start))
    refused(Status.NONCE_REUSED, service, m.EncryptRequest(theirs, GCM, b"", b"", b"twelve bytes"))


# The end of a connection


def test_what_a_connection_left_open_is_closed_at_the_provider(service: Served, aes: CryptoResourceId) -> None:
    for _ in range(20):
        create(service, m.ContextEncryptRequest(aes, GCM, K.AEAD, START))
        create(service, m.ContextDigestRequest("SHA-256", "here", START))
    assert open_streams(service) == 40
    session = service.sessions.pop(ALICE)
    service.end(session)
    assert open_streams(service) == 0
    assert len(session.contexts) == 0


def test_a_connection_has_a_bound_of_contexts(service: Served) -> None:
    session = service.session()
    session.contexts._limit = 3
    numbers = [create(service, m.ContextDigestRequest("SHA-256")).context for _ in range(3)]
    refused(Status.TOO_MANY_RESOURCES, service, m.ContextDigestRequest("SHA-256"))
    close(service, numbers[0])
    create(service, m.ContextDigestRequest("SHA-256"))


def test_ids_are_not_guessed(service: Served) -> None:
    numbers = {create(service, m.ContextDigestRequest("SHA-256")).context for _ in range(50)}
    assert len(numbers) == 50
    assert max(numbers) > 1 << 56


def test_an_unknown_parameter_is_refused(service: Served) -> None:
    secret = key(service, "mac", "HMAC-SHA256", PAIR)
    with pytest.raises(RequestError):
        create(service, m.ContextSignRequest(secret, HMAC, K.MAC, SignatureParameters(salt_length=4), START))
