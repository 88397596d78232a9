"""Keys and contexts against a model in the plainest words: several clients make, use, release, keep, reset, close,
rotate, revoke and disconnect.

The service is the whole of it over providers in this process. The model knows states, who may do what, and what has
been put in; what comes out is computed by `hashlib` and `hmac`, or must open again in one piece.
"""

import hashlib
import hmac
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.contexts import NEXT, ContextCall, ContextState
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.params import ImportKeyParams
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Role
from hsmbridge.service.session import SessionLimits
from tests.unit.service.served import Served
from tests.unit.storage.opened import ALICE, BOB

START = m.ContextStart()
K = m.ContextKind
SIGNING = ("sign", "encrypt")
SLOTS = {
    "pair": ("EC-P256", P.SIGN | P.VERIFY | P.GENERATE),
    "aes": ("AES-256", P.ENCRYPT | P.DECRYPT | P.GENERATE),
    "kept": ("HMAC-SHA256", P.SIGN | P.VERIFY | P.GENERATE),
}
STRANGER = "uid:2000"
"""Sees no slot, and has keys of its own."""
ROOM = 12
"""Keys, and contexts, that a connection may have."""
clients = st.sampled_from([ALICE, BOB, STRANGER])
data = st.binary(max_size=40)
picks = st.integers(0, 50)


@dataclass(eq=False)
class Open:
    """What the model knows of one context."""

    client: str
    kind: str
    number: int
    slot: str = ""
    version: int = 0
    guard: "Guard | None" = None
    nonce: bytes = b""
    state: ContextState = ContextState.CREATED
    put_in: bytes = b""
    came_out: bytes = b""


@dataclass(eq=False)
class Guard:
    client: str
    resource: CryptoResourceId
    value: bytes
    released: bool = False


@dataclass
class Slot:
    active: int = 1
    states: dict[int, str] = field(default_factory=lambda: {1: "active"})


class Contexts(RuleBasedStateMachine):
    taken: ClassVar[int] = 0
    """Steps of all runs after which everything was as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = False
        self.directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.service = Served(self.directory, SessionLimits(ROOM, ROOM))
        self.open: list[Open] = []
        self.guards: list[Guard] = []
        self.slots = {name: Slot() for name in SLOTS}
        self.kept: dict[int, bytes] = {}

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
        return self.service.id(name if client == ALICE else f"uid-1000/{name}", client)

    def room(self, client: str) -> bool:
        """Whether a client may open another context."""
        return sum(context.client == client for context in self.open) < ROOM

    def alive(self) -> list[Guard]:
        """The keys that somebody holds: their guard, or a context that has not failed."""
        held = [context.guard for context in self.open if context.state is not ContextState.ERROR]
        return [guard for guard in self.guards if not guard.released or guard in held]

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
        if not self.room(client):
            assert reply is Status.TOO_MANY_RESOURCES
            return
        assert isinstance(reply, m.ContextReply)
        self.add(Open(client, "digest", reply.context), start)

    @rule(name=st.sampled_from(sorted(SLOTS)))
    def a_stranger_finds_nothing(self, name: str) -> None:
        for asked in (name, f"uid-1000/{name}"):
            assert self.ask(STRANGER, m.ResolveRequest(asked)) is Status.RESOURCE_NOT_FOUND

    @rule(client=st.sampled_from([ALICE, BOB]), start=st.booleans(), kind=st.sampled_from(["sign", "encrypt"]))
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
        if not self.room(client):
            assert reply is Status.TOO_MANY_RESOURCES
            return
        assert isinstance(reply, m.ContextReply)
        assert reply.version == slot.active
        self.add(Open(client, kind, reply.context, name, slot.active, nonce=reply.nonce), start)

    @rule(client=clients)
    def make_key(self, client: str) -> None:
        self.take_in(client, secrets.token_bytes(32))

    def take_in(self, client: str, value: bytes) -> None:
        params = ImportKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN | P.VERIFY), format="raw")
        full = sum(guard.client == client for guard in self.alive()) >= ROOM
        reply = self.ask(client, m.ImportRequest(params, value, provider="here"))
        if full:
            assert reply is Status.TOO_MANY_RESOURCES
            return
        assert isinstance(reply, m.KeyReply)
        assert reply.resource is not None
        self.guards.append(Guard(client, reply.resource, value))

    @precondition(lambda self: self.guards)
    @rule(pick=picks, client=clients, message=data)
    def use_guard(self, pick: int, client: str, message: bytes) -> None:
        guard = self.guards[pick % len(self.guards)]
        reply = self.ask(client, m.MacRequest(guard.resource, "HMAC-SHA256", message))
        if guard.released or guard.client != client:
            assert reply is Status.RESOURCE_NOT_FOUND
            return
        assert isinstance(reply, m.MacReply)
        assert reply.mac == hmac.digest(guard.value, message, "sha256")

    @precondition(lambda self: self.guards)
    @rule(pick=picks, client=st.sampled_from([ALICE, BOB]))
    def keep(self, pick: int, client: str) -> None:
        guard = self.guards[pick % len(self.guards)]
        reply = self.ask(client, m.PersistRequest(guard.resource, "uid-1000/kept"))
        if guard.released or guard.client != client:
            assert reply is Status.RESOURCE_NOT_FOUND
            return
        assert isinstance(reply, m.KeyReply)
        self.new_version("kept")
        assert reply.version == self.slots["kept"].active
        self.kept[reply.version] = guard.value

    @precondition(lambda self: self.kept)
    @rule(client=st.sampled_from([ALICE, BOB]), pick=picks, message=data)
    def use_kept(self, client: str, pick: int, message: bytes) -> None:
        number = sorted(self.kept)[pick % len(self.kept)]
        slot = self.slots["kept"]
        state = slot.states[number]
        key, mac = self.slot_id(client, "kept"), hmac.digest(self.kept[number], message, "sha256")
        reply = self.ask(client, m.MacRequest(key, "HMAC-SHA256", message))
        if slot.states[slot.active] != "active":
            assert reply is Status.KEY_STATE_FORBIDS
        else:
            assert isinstance(reply, m.MacReply)
            assert reply.version == slot.active
            # The same key may have been kept twice.
            assert (reply.mac == mac) == (self.kept.get(slot.active) == self.kept[number])
        reply = self.ask(client, m.MacVerifyRequest(key, "HMAC-SHA256", message, mac, number))
        assert reply == (Status.KEY_STATE_FORBIDS if state == "revoked" else m.VerifyReply(number))

    @precondition(lambda self: self.guards)
    @rule(pick=picks, client=clients, start=st.booleans())
    def create_on_guard(self, pick: int, client: str, start: bool) -> None:
        guard = self.guards[pick % len(self.guards)]
        request = m.ContextSignRequest(guard.resource, "HMAC-SHA256", K.MAC, start=START if start else None)
        reply = self.ask(client, request)
        if guard.released or guard.client != client:
            assert reply is Status.RESOURCE_NOT_FOUND
            return
        if not self.room(client):
            assert reply is Status.TOO_MANY_RESOURCES
            return
        assert isinstance(reply, m.ContextReply)
        self.add(Open(client, "mac", reply.context, guard=guard), start)

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
        elif context.kind == "mac":
            assert context.guard is not None
            assert reply.data == hmac.digest(context.guard.value, context.put_in, "sha256")
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
        reply = self.ask(ALICE, m.SlotRotateRequest(name))
        assert isinstance(reply, m.SlotInfo)
        self.new_version(name)

    def new_version(self, name: str) -> None:
        slot = self.slots[name]
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

    @invariant()
    def a_provider_holds_what_is_under_way_and_no_more(self) -> None:
        under_way = (ContextState.INITIALIZED, ContextState.UPDATING)
        expected = sum(context.state in under_way for context in self.open)
        assert sum(len(provider.streams) for provider in self.service.providers.values()) == expected

    @invariant()
    def a_key_lives_exactly_as_long_as_somebody_holds_it(self) -> None:
        alive = len(self.alive())
        assert self.service.making.count == alive
        assert sum(len(session.resources.ephemeral) for session in self.service.sessions.values()) == alive
        assert self.service.ephemeral_keys() == alive
        assert self.service.contexts.count == len(self.open)
        Contexts.taken += self.begun
        self.begun = True


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("steps", [600, pytest.param(100_000, marks=pytest.mark.all)])
def test_whatever_clients_do_in_whatever_order_the_model_knows_it(steps: int) -> None:
    before = Contexts.taken
    while (left := steps - (Contexts.taken - before)) > 0:
        # Hypothesis ends many examples early.
        tried = settings(stateful_step_count=50, max_examples=max(10, left // 40))
        run_state_machine_as_test(Contexts, settings=tried)
    print(f"{Contexts.taken - before} steps")
