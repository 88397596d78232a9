"""What an agent answers, by what the service tells it: the messages, without a socket or a loop."""

from collections.abc import Callable, Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status, error
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Role
from hsmbridge.frontends.ssh_agent.agent import Agent
from hsmbridge.frontends.ssh_agent.algorithms import public_key_blob
from hsmbridge.frontends.ssh_agent.identities import MAX_AGE, Identities
from hsmbridge.wire.ssh_agent import (
    EXTENSION_FAILURE,
    FAILURE,
    ExtensionRequest,
    Identity,
    OtherRequest,
    RequestIdentities,
    SignRequest,
    encode_identities,
    encode_signature,
    string,
)

ME, OTHER = "uid:7", "uid:8"
SLOT_ID = CryptoResourceId(1, ResourceKind.KEY_SLOT)
FORWARDED = string(b"host") + string(b"session") + string(b"signature") + b"\1"


def public_key() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def blob(spki: bytes) -> bytes:
    found = public_key_blob(spki)
    assert found is not None
    return found


def version(spki: bytes, number: int = 1, state: str = "active", **more: object) -> m.VersionInfo:
    made = m.VersionInfo(number, state, "software", "", int(P.SIGN | P.VERIFY), spki, 0.0)
    return msgspec.structs.replace(made, **more)


def slot(*versions: m.VersionInfo, name: str = "uid-7/login", may: P = P.SIGN, **more: object) -> m.SlotInfo:
    made = m.SlotInfo(
        name=name,
        key_type="Ed25519",
        providers=("software",),
        permissions=int(P.SIGN | P.VERIFY),
        algorithms=(),
        nonce_policy=NoncePolicy.SERVICE,
        fallback=False,
        sign_and_decrypt=False,
        derive_to_software=False,
        imported_wrapping_key=False,
        generation=1,
        created=0.0,
        versions=list(versions),
        access=[m.AccessInfo(OTHER, Role.ADMINISTER, int(P.SIGN)), m.AccessInfo(ME, Role.USE, int(may))],
    )
    return msgspec.structs.replace(made, **more)


class Service:
    """Slots that do not change unless told, and what was asked of them."""

    def __init__(
        self, *slots: m.SlotInfo, patterns: Sequence[str] = (), forwarding: bool = True, today: float = 0.0
    ) -> None:
        self.slots = list(slots)
        self.now = 100.0
        self.stamp = b"1"
        self.asked: list[msgspec.Struct] = []
        self.signs: Callable[[], m.SignReply] = lambda: m.SignReply(b"signature", 1)
        identities = Identities(patterns, lambda: self.stamp, lambda: self.now, lambda: today)
        self.agent = Agent(ME, identities, forwarding=forwarding)

    def answer(self, request: RequestIdentities | SignRequest | ExtensionRequest | OtherRequest) -> bytes:
        answer = self.agent.answer(request)
        try:
            asked = next(answer)
            while True:
                try:
                    reply = self._reply(asked)
                except HsmBridgeError as failure:
                    asked = answer.throw(failure)
                else:
                    asked = answer.send(reply)
        except StopIteration as stop:
            answered: bytes = stop.value
            return answered

    def _reply(self, request: msgspec.Struct) -> msgspec.Struct:
        self.asked.append(request)
        match request:
            case m.SlotListRequest():
                return m.SlotListReply(self.slots)
            case m.ResolveRequest():
                return m.ResolveReply(SLOT_ID)
            case m.SignRequest():
                return self.signs()
            case _:
                raise AssertionError(request)

    @property
    def signed(self) -> list[m.SignRequest]:
        return [one for one in self.asked if isinstance(one, m.SignRequest)]


KEY, NEWER = public_key(), public_key()
SIGNATURE = encode_signature(string(b"ssh-ed25519") + string(b"signature"))


def test_a_key_is_offered_and_signs() -> None:
    service = Service(slot(version(KEY)))
    assert service.answer(RequestIdentities()) == encode_identities([Identity(blob(KEY), b"login")])
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == SIGNATURE
    assert service.signed == [m.SignRequest(SLOT_ID, "Ed25519", b"data")]


def test_slots_in_other_namespaces_say_so() -> None:
    service = Service(slot(version(KEY), name="team/login"))
    assert service.answer(RequestIdentities()) == encode_identities([Identity(blob(KEY), b"team/login")])


@pytest.mark.parametrize(
    "hidden",
    [
        slot(version(KEY), may=P.VERIFY),
        slot(version(KEY), permissions=int(P.VERIFY)),
        slot(version(KEY, permissions=int(P.VERIFY))),
        slot(version(KEY, state="revoked")),
        slot(version(KEY, unavailable="the token is not there")),
        slot(version(KEY), access=[m.AccessInfo(OTHER, Role.USE, int(P.SIGN))]),
        slot(version(KEY), algorithms=("Ed25519ph",)),
    ],
)
def test_what_will_not_sign_is_not_offered_and_the_service_is_asked_so_that_its_audit_tells(hidden: m.SlotInfo) -> None:
    service = Service(hidden)
    service.signs = refuse
    assert service.answer(RequestIdentities()) == encode_identities([])
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == FAILURE
    assert len(service.signed) == 1


def refuse() -> m.SignReply:
    raise error(Status.KEY_OPERATION_NOT_PERMITTED)


def test_nothing_is_asked_for_keys_that_are_not_there() -> None:
    service = Service(slot(version(KEY)), slot(version(b""), name="uid-7/without"))
    assert service.answer(SignRequest(blob(NEWER), b"data", 0)) == FAILURE
    assert service.answer(SignRequest(b"no key", b"data", 0)) == FAILURE
    assert not service.signed


def test_an_older_version_is_never_asked_for_as_the_newer_would_sign() -> None:
    service = Service(slot(version(KEY, 1, "rotated"), version(NEWER, 2)))
    service.signs = lambda: m.SignReply(b"signature", 2)
    assert service.answer(RequestIdentities()) == encode_identities([Identity(blob(NEWER), b"login")])
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == FAILURE
    assert not service.signed
    assert service.answer(SignRequest(blob(NEWER), b"data", 0)) == SIGNATURE


def test_a_signature_of_a_key_that_took_its_place_meanwhile_is_not_handed_out() -> None:
    service = Service(slot(version(KEY)))
    service.signs = lambda: m.SignReply(b"signature", 2)
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == FAILURE


def test_one_key_in_two_slots_is_offered_once_and_the_one_that_may_sign_answers() -> None:
    service = Service(slot(version(KEY), name="uid-7/a", may=P.VERIFY), slot(version(KEY), name="uid-7/b"))
    assert service.answer(RequestIdentities()) == encode_identities([Identity(blob(KEY), b"b")])
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == SIGNATURE
    assert m.ResolveRequest("uid-7/b") in service.asked


def test_slots_that_the_patterns_leave_out_are_not_there_at_all() -> None:
    service = Service(slot(version(KEY)), slot(version(NEWER), name="uid-7/ssh-x"), patterns=("a/*", "*/ssh-*"))
    assert service.answer(RequestIdentities()) == encode_identities([Identity(blob(NEWER), b"ssh-x")])
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == FAILURE
    assert not service.signed


def test_slots_are_listed_again_only_when_something_changed_or_after_a_second() -> None:
    service = Service(slot(version(KEY)))
    for _ in range(3):
        service.answer(RequestIdentities())
    assert len(service.asked) == 1
    service.stamp = b"2"
    service.answer(RequestIdentities())
    assert len(service.asked) == 2
    service.now += MAX_AGE
    service.answer(RequestIdentities())
    assert len(service.asked) == 3


def test_a_forwarded_connection_sees_and_signs_nothing_where_that_is_refused() -> None:
    service = Service(slot(version(KEY)), forwarding=False)
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == SIGNATURE
    assert service.answer(ExtensionRequest(b"session-bind@openssh.com", FORWARDED)) == EXTENSION_FAILURE
    assert service.answer(RequestIdentities()) == encode_identities([])
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == FAILURE
    assert len(service.signed) == 1


def test_where_it_is_allowed_a_forwarded_connection_signs() -> None:
    service = Service(slot(version(KEY)))
    service.answer(ExtensionRequest(b"session-bind@openssh.com", FORWARDED))
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == SIGNATURE


@pytest.mark.parametrize("number", [1, 17, 18, 19, 20, 21, 22, 23, 25, 26, 255])
def test_keys_are_not_added_removed_or_locked(number: int) -> None:
    service = Service(slot(version(KEY)))
    assert service.answer(OtherRequest(number)) == FAILURE
    assert not service.asked


def test_other_extensions_fail() -> None:
    assert Service().answer(ExtensionRequest(b"restrict-destination-v00@openssh.com", b"")) == FAILURE


def test_a_fault_of_the_service_is_a_failure() -> None:
    service = Service(slot(version(KEY)))

    def broken() -> m.SignReply:
        raise RequestError(Status.INTERNAL)

    service.signs = broken
    assert service.answer(SignRequest(blob(KEY), b"data", 0)) == FAILURE
