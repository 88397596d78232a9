"""What the messages of the SSH agent protocol mean: each is answered by asking the service. No socket, no loop.

Keys come from slots, so nothing adds or removes any here, and nothing locks what belongs to several programs: those
messages are answered with a failure, as is everything that is not known.
"""

import base64
import hashlib

import structlog

from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.frontends.asking import Asking, ask, nothing
from hsmbridge.frontends.ssh_agent.algorithms import requested_way
from hsmbridge.frontends.ssh_agent.identities import AgentKey, Identities
from hsmbridge.frontends.ssh_agent.sessions import Sessions
from hsmbridge.wire.ssh_agent import (
    EXTENSION_FAILURE,
    FAILURE,
    SUCCESS,
    ExtensionRequest,
    OtherRequest,
    Request,
    RequestIdentities,
    SignRequest,
    decode_session_binding,
    encode_extensions,
    encode_identities,
    encode_signature,
)

QUERY = b"query"
SESSION_BIND = b"session-bind@openssh.com"

_log = structlog.get_logger(__name__)


class Agent:
    """One connection of one principal."""

    def __init__(self, principal: str, identities: Identities, *, forwarding: bool) -> None:
        """Args: who is at the other end, the keys of all principals, whether a forwarded connection may sign."""
        self._principal = principal
        self._identities = identities
        self._forwarding = forwarding
        self._sessions = Sessions()

    def answer(self, request: Request) -> Asking[bytes]:
        """The reply to one message. Raises HsmBridgeError, which is a failure in this protocol."""
        match request:
            case RequestIdentities():
                return (yield from self._list())
            case SignRequest():
                return (yield from self._sign(request))
            case ExtensionRequest():
                yield from nothing()
                return self._extend(request)
            case OtherRequest():
                yield from nothing()
                return FAILURE

    def _list(self) -> Asking[bytes]:
        if self._cut_off:
            return encode_identities(())
        listing = yield from self._identities.listing(self._principal)
        return encode_identities(listing.identities)

    def _sign(self, request: SignRequest) -> Asking[bytes]:
        if self._cut_off:
            return self._refuse(request, "the connection is forwarded to another machine")
        listing = yield from self._identities.listing(self._principal)
        key = listing.keys.get(request.key)
        if key is None:
            return self._refuse(request, "there is no such key")
        if not key.newest:
            return self._refuse(request, "the key was replaced in its slot", key)
        way = requested_way(key.row, request.flags)
        if way is None:
            return self._refuse(request, "no such signature algorithm", key)
        try:
            resolved = yield from ask(m.ResolveRequest(key.slot), m.ResolveReply)
            reply = yield from ask(m.SignRequest(resolved.resource, way.algorithm, request.data), m.SignReply)
        except HsmBridgeError as refused:
            return self._refuse(request, refused.status.name, key)
        if reply.version != key.version:
            return self._refuse(request, "the key was replaced in its slot meanwhile", key)
        try:
            return encode_signature(way.outward(reply.signature))
        except ValueError as problem:
            raise RequestError(Status.INTERNAL, origin=repr(problem)) from problem

    def _extend(self, request: ExtensionRequest) -> bytes:
        if request.name == QUERY:
            return encode_extensions((QUERY, SESSION_BIND))
        if request.name == SESSION_BIND:
            bound = self._sessions.bind(decode_session_binding(request.contents))
            return SUCCESS if bound else EXTENSION_FAILURE
        return FAILURE

    @property
    def _cut_off(self) -> bool:
        return self._sessions.forwarded and not self._forwarding

    def _refuse(self, request: SignRequest, reason: str, key: AgentKey | None = None) -> bytes:
        """A failure says nothing to the client, so the log does, with the fingerprint that `ssh-add -l` shows."""
        # Which is the key's for a certificate too.
        blob, slot = (request.key, "") if key is None else (key.blob, key.slot)
        digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
        _log.info(
            "a signature was refused", principal=self._principal, reason=reason, slot=slot, key=f"SHA256:{digest}"
        )
        return FAILURE
