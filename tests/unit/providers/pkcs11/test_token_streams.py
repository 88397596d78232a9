"""Data in pieces on a token that fails, is initialised again, or has no session left; what is tried before."""

from collections.abc import Iterator
from itertools import count

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, algorithm
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, SignatureInvalid, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.providers.base import perform
from hsmbridge.providers.pkcs11 import Pkcs11Provider
from hsmbridge.providers.pkcs11.streams import SESSIONS
from tests.faulty_module import CKR_DEVICE_ERROR, CKR_SESSION_HANDLE_INVALID, FaultyModule
from tests.unit.providers.pkcs11.tokens import Made, generate

HMAC = algorithm("HMAC-SHA256")
CKR_FUNCTION_NOT_SUPPORTED = 0x54
_numbers = count(1)


@pytest.fixture
def key(faulty: Pkcs11Provider) -> Iterator[Made]:
    made = generate(faulty, "HMAC-SHA256")
    yield made
    made.destroy(faulty)


def opened(provider: Pkcs11Provider, handle: int, operation: KeyOperation = KeyOperation.SIGN) -> int:
    stream = next(_numbers)
    perform(provider, calls.StreamOpenCall(stream, handle, HMAC.name, operation))
    return stream


def finished(provider: Pkcs11Provider, stream: int, data: bytes, proof: bytes = b"") -> bytes:
    end = perform(provider, calls.StreamFinishCall(stream, data, proof))
    assert isinstance(end, calls.StreamEnd)
    return end.output


def sessions(module: FaultyModule) -> int:
    return module.calls("C_OpenSession") - module.calls("C_CloseSession")


def refused(status: Status, provider: Pkcs11Provider, call: calls.ProviderCall) -> None:
    with pytest.raises(HsmBridgeError) as refusal:
        perform(provider, call)
    assert refusal.value.status is status


@pytest.mark.parametrize("code", [CKR_DEVICE_ERROR, CKR_SESSION_HANDLE_INVALID])
@pytest.mark.parametrize("function", ["C_SignUpdate", "C_SignFinal"])
def test_a_failure_in_the_middle_ends_that_stream_and_no_other(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, key: Made, function: str, code: int
) -> None:
    handle = key.load(faulty)
    expected = faulty.sign(handle, HMAC, b"message", DEFAULT_SIGNATURE)
    assert finished(faulty, opened(faulty, handle), b"message") == expected
    before = sessions(faulty_module)
    other, stream = opened(faulty, handle), opened(faulty, handle)
    perform(faulty, calls.StreamUpdateCall(other, b"mess"))
    faulty_module.fail(function, code)
    refused(Status.PROVIDER_FAILED, faulty, calls.StreamFinishCall(stream, b"message"))
    assert faulty_module.pending(function) == 0, "half an operation is not tried again"
    refused(Status.HANDLE_UNKNOWN, faulty, calls.StreamUpdateCall(stream, b"message"))
    assert finished(faulty, other, b"age") == expected
    assert finished(faulty, opened(faulty, handle), b"message") == expected
    assert sessions(faulty_module) == before
    assert faulty_module.calls("C_Initialize") == 1


def test_a_module_that_is_initialised_again_has_lost_its_streams(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, key: Made
) -> None:
    handle = key.load(faulty)
    expected = faulty.sign(handle, HMAC, b"message", DEFAULT_SIGNATURE)
    streams = [opened(faulty, handle) for _ in range(3)]
    perform(faulty, calls.StreamUpdateCall(streams[0], b"mess"))
    module = faulty._sessions.module
    assert module.start_again(module.generation)
    refused(Status.HANDLE_UNKNOWN, faulty, calls.StreamUpdateCall(streams[0], b"age"))
    refused(Status.HANDLE_UNKNOWN, faulty, calls.StreamFinishCall(streams[1]))
    perform(faulty, calls.StreamCloseCall(streams[2]))
    assert len(faulty.streams) == 0
    assert finished(faulty, opened(faulty, handle), b"message") == expected


def test_streams_take_so_many_sessions_and_no_more(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, key: Made
) -> None:
    handle = key.load(faulty)
    finished(faulty, opened(faulty, handle), b"")
    before = sessions(faulty_module)
    streams = [opened(faulty, handle) for _ in range(SESSIONS)]
    with pytest.raises(RequestError) as refusal:
        opened(faulty, handle)
    assert refusal.value.status is Status.NOT_SUPPORTED
    for stream in streams[:10]:
        perform(faulty, calls.StreamCloseCall(stream))
    streams += [opened(faulty, handle) for _ in range(10)]
    faulty.streams.close_all()
    assert sessions(faulty_module) == before


def test_what_a_token_does_not_do_in_pieces_is_found_out_before(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, key: Made
) -> None:
    handle = key.load(faulty)
    faulty_module.fail("C_SignUpdate", CKR_FUNCTION_NOT_SUPPORTED)
    before = sessions(faulty_module)
    for _ in range(2):
        with pytest.raises(RequestError) as refusal:
            opened(faulty, handle)
        assert refusal.value.status is Status.NOT_SUPPORTED
    assert len(faulty.streams) == 0
    assert sessions(faulty_module) <= before + 1, "a session of the pool at most"


def test_a_mac_that_is_wrong_is_told_and_its_session_closed(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, key: Made
) -> None:
    handle = key.load(faulty)
    mac = faulty.sign(handle, HMAC, b"message", DEFAULT_SIGNATURE)
    assert finished(faulty, opened(faulty, handle, KeyOperation.VERIFY), b"message", mac) == b""
    before = sessions(faulty_module)
    for wrong in (mac[:-1], mac + b"\0", b"", bytes(32)):
        stream = opened(faulty, handle, KeyOperation.VERIFY)
        with pytest.raises(SignatureInvalid):
            finished(faulty, stream, b"message", wrong)
    assert sessions(faulty_module) == before


def test_a_key_that_is_gone_has_no_stream(faulty: Pkcs11Provider) -> None:
    made = generate(faulty, "HMAC-SHA256")
    handle = made.load(faulty)
    made.destroy(faulty)
    with pytest.raises(ProviderError) as refusal:
        opened(faulty, handle)
    assert refusal.value.status is Status.HANDLE_UNKNOWN
