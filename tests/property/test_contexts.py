"""Contexts against a model in the plainest words: several clients make, use, release, reset, close, rotate, revoke.

The service is the whole of it over providers in this process. The model knows states, who may do what, and what has
been put in; what comes out is computed by `hashlib` and `hmac`, or must open again in one piece.
"""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.contexts import NEXT, ContextCall, ContextState
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.params import GenerateKeyParams
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from tests.unit.service.served import Served
from tests.unit.storage.opened import ALICE, BOB

START = m.ContextStart()
K = m.ContextKind
SIGNING = ("sign", "encrypt")
SLOTS = {
    "pair": ("EC-P256", P.SIGN | P.VERIFY | P.GENERATE),
    "aes": ("AES-256", P.ENCRYPT | P.DECRYPT | P.GENERATE),
}
clients = st.sampled_from([ALICE, BOB])
data = st.binary(max_size=40)
picks = st.integers(0, 50)


@dataclass
class Open:
    """What the model knows of one context."""

    client: str
    kind: str
    number: int
    slot: str = ""
    version: int = 0
    guard: int = -1
    nonce: bytes = b""
    state: ContextState = ContextState.CREATED
    put_in: bytes = b""
    came_out: bytes = b""


@dataclass
class Guard:
    client: str
    resource: CryptoResourceId
    released: bool = False


@dataclass
class Slot:
    active: int = 1
    states: dict[int, str] = field(default_factory=lambda: {1: "active"})


class Contexts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.service = Served(self.directory)
        self.open: list[Open] = []
        self.guards: list[Guard] = []
        self.slots = {name: Slot() for name in SLOTS}

    @initialize()
    def make_slots(self) -> None:
        for name, (type_name, permissions) in SLOTS.items():
            self.service.slot(name, type_name, permissions)
            self.service.ask(m.SlotGrantRequest(name, BOB, Role.USE, int(permissions)), m.SlotInfo)

    def teardown(self) -> None:
        self.service.store.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Asking

    def ask(self, client: str, request: msgspec.Struct) -> msgspec.Struct | Status:
        try:
            return self.service.ask(request, msgspec.Struct, client)
        except HsmBridgeError as failure:
            return failure.status

    def slot_id(self, client: str, name: str) -> CryptoResourceId:
        return self.service.id(f"uid-1000/{name}" if client == BOB else name, client)

    def pick(self, number: int) -> Open:
        return self.open[number % len(self.open)]

    def may(self, context: Open) -> bool:
        """Whether the key of a context still allows what it does."""
        if not context.slot:
            return True
        state = self.slots[context.slot].states[context.version]
        return state == "active" or (state == "rotated" and context.kind not in SIGNING)

    # Rules

    @rule(client=clients, start=st.booleans())
    def create_digest(self, client: str, start: bool) -> None:
        reply = self.ask(client, m.ContextDigestRequest("SHA-256", "", START if start else None))
        assert isinstance(reply, m.ContextReply)
        self.add(Open(client, "digest", reply.context), start)

    @rule(client=clients, start=st.booleans(), kind=st.sampled_from(["sign", "encrypt"]))
    def create_on_slot(self, client: str, start: bool, kind: str) -> None:
        name = "pair" if kind == "sign" else "aes"
        slot = self.slots[name]
        key = self.slot_id(client, name)
        begun = START if start else None
        if kind == "sign":
            reply = self.ask(client, m.ContextSignRequest(key, "ECDSA-P256-SHA256", K.SIGN, start=begun))
        else:
            reply = self.ask(client, m.ContextEncryptRequest(key, "AES-256-GCM", K.AEAD, begun))
        if slot.states[slot.active] != "active":
            assert reply is Status.KEY_STATE_FORBIDS or reply is Status.RESOURCE_NOT_FOUND
            return
        assert isinstance(reply, m.ContextReply)
        assert reply.version == slot.active
        self.add(Open(client, kind, reply.context, name, slot.active, nonce=reply.nonce), start)

    @rule(client=clients)
    def make_key(self, client: str) -> None:
        params = GenerateKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN | P.VERIFY))
        reply = self.ask(client, m.GenerateRequest(params, provider="here"))
        assert isinstance(reply, m.KeyReply)
        assert reply.resource is not None
        self.guards.append(Guard(client, reply.resource))

    @precondition(lambda self: self.guards)
    @rule(pick=picks, client=clients, start=st.booleans())
    def create_on_guard(self, pick: int, client: str, start: bool) -> None:
        index = pick % len(self.guards)
        guard = self.guards[index]
        request = m.ContextSignRequest(guard.resource, "HMAC-SHA256", K.MAC, start=START if start else None)
        reply = self.ask(client, request)
        if guard.released or guard.client != client:
            assert reply is Status.RESOURCE_NOT_FOUND
            return
        assert isinstance(reply, m.ContextReply)
        self.add(Open(client, "mac", reply.context, guard=index), start)

    def add(self, context: Open, start: bool) -> None:
        context.state = ContextState.INITIALIZED if start else ContextState.CREATED
        self.open.append(context)

    @precondition(lambda self: self.guards)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        guard = self.guards[pick % len(self.guards)]
        reply = self.ask(guard.client, m.ReleaseRequest(guard.resource))
        assert (reply is Status.RESOURCE_NOT_FOUND) == guard.released
        guard.released = True

    @precondition(lambda self: self.open)
    @rule(pick=picks, call=st.sampled_from(ContextCall), piece=data, broken=st.sampled_from([False] * 9 + [True]))
    def call(self, pick: int, call: ContextCall, piece: bytes, broken: bool) -> None:
        context = self.pick(pick)
        requests: dict[ContextCall, msgspec.Struct] = {
            ContextCall.INIT: m.ContextInitRequest(context.number, START),
            ContextCall.UPDATE: m.ContextUpdateRequest(context.number, piece),
            ContextCall.FINALIZE: m.ContextFinalizeRequest(context.number, piece),
            ContextCall.READ: m.ContextReadRequest(context.number),
            ContextCall.RESET: m.ContextResetRequest(context.number),
        }
        possible = context.state in NEXT[call]
        breaks = broken and possible and self.may(context) and call is ContextCall.UPDATE and bool(piece)
        if breaks:
            self.service.failures[calls.StreamUpdateCall] = ProviderError(Status.PROVIDER_FAILED)
        reply = self.ask(context.client, requests[call])
        if context.state is ContextState.ERROR:
            assert reply is Status.CONTEXT_FAILED
        elif not possible:
            assert reply is Status.INVALID_OPERATION
        elif not self.may(context) or breaks:
            assert isinstance(reply, Status)
            context.state = ContextState.ERROR
        else:
            assert not isinstance(reply, Status)
            context.state = NEXT[call][context.state]
            self.check(context, call, piece, reply)

    def check(self, context: Open, call: ContextCall, piece: bytes, reply: msgspec.Struct) -> None:
        if isinstance(reply, m.ContextReply):
            context.put_in = context.came_out = b""
            context.nonce = reply.nonce
        elif isinstance(reply, m.ContextDataReply) and call is ContextCall.UPDATE:
            context.put_in += piece
            context.came_out += reply.data
        elif isinstance(reply, m.ContextFinalReply):
            context.put_in += piece
            context.came_out += reply.data
            self.check_result(context, reply)

    def check_result(self, context: Open, reply: m.ContextFinalReply) -> None:
        if context.kind == "digest":
            assert reply.data == hashlib.sha256(context.put_in).digest()
        elif context.kind == "sign":
            key = self.slot_id(context.client, "pair")
            verify = m.VerifyRequest(key, "ECDSA-P256-SHA256", context.put_in, reply.data, version=context.version)
            assert self.ask(context.client, verify) == m.VerifyReply(context.version)
        elif context.kind == "encrypt":
            key = self.slot_id(context.client, "aes")
            decrypt = m.DecryptRequest(
                key, "AES-256-GCM", context.came_out, b"", context.nonce, reply.tag, context.version
            )
            assert self.ask(context.client, decrypt) == m.DecryptReply(context.put_in, context.version)

    @precondition(lambda self: self.open)
    @rule(pick=picks, client=clients)
    def close(self, pick: int, client: str) -> None:
        context = self.pick(pick)
        reply = self.ask(client, m.ContextCloseRequest(context.number))
        if client != context.client:
            assert reply is Status.RESOURCE_NOT_FOUND
        else:
            assert reply == m.Empty()
            self.open.remove(context)

    @rule(name=st.sampled_from(sorted(SLOTS)))
    def rotate(self, name: str) -> None:
        slot = self.slots[name]
        reply = self.ask(ALICE, m.SlotRotateRequest(name))
        assert isinstance(reply, m.SlotInfo)
        if slot.states[slot.active] == "active":
            slot.states[slot.active] = "rotated"
        slot.active = max(slot.states) + 1
        slot.states[slot.active] = "active"

    @rule(name=st.sampled_from(sorted(SLOTS)), pick=picks)
    def revoke(self, name: str, pick: int) -> None:
        slot = self.slots[name]
        number = 1 + pick % len(slot.states)
        reply = self.ask(ALICE, m.SlotRevokeRequest(name, number))
        if not isinstance(reply, Status):
            slot.states[number] = "revoked"

    @rule(client=clients)
    def disconnect(self, client: str) -> None:
        session = self.service.sessions.pop(client, None)
        if session is not None:
            self.service.end(session)
        self.open = [context for context in self.open if context.client != client]
        self.guards = [guard for guard in self.guards if guard.client != client]
        for context in self.open:
            if context.guard >= 0:
                # Only their numbers were known, and those have moved.
                context.guard = -1

    @invariant()
    def a_provider_holds_what_is_under_way_and_no_more(self) -> None:
        under_way = (ContextState.INITIALIZED, ContextState.UPDATING)
        expected = sum(context.state in under_way for context in self.open)
        assert sum(len(provider.streams) for provider in self.service.providers.values()) == expected

    @invariant()
    def no_key_outlives_what_holds_it(self) -> None:
        alive = sum(len(session.resources.ephemeral._alive) for session in self.service.sessions.values())
        guarded = sum(not guard.released for guard in self.guards)
        assert alive >= guarded


TestContexts = Contexts.TestCase
# With --all that is 100,000 steps.
TestContexts.settings = settings(
    stateful_step_count=50, max_examples=30 if settings().max_examples <= 100 else settings().max_examples
)
