"""Library, slots, tokens and sessions: what PKCS#11 asks before it uses keys."""

from collections.abc import Sequence
from typing import Final

from hsmbridge.core import messages as m
from hsmbridge.frontends.asking import Answer, Asking, ask, nothing
from hsmbridge.frontends.p11kit.numbers import DONT_BLOCK, Ckr, SlotFlag, TokenFlag
from hsmbridge.frontends.p11kit.pins import require_initialized, standing
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Application
from hsmbridge.frontends.p11kit.tokens import Token
from hsmbridge.wire.p11kit import HANDSHAKE, Needed, VersionNumber
from hsmbridge.wire.p11kit_bodies import UNAVAILABLE

_CRYPTOKI: Final = VersionNumber(2, 40)
_MANUFACTURER: Final = "hsmbridge"
_RANDOM_CHUNK: Final = 64 * 1024
_RANDOM_MAX: Final = 1024 * 1024


class General:
    """One method a function of PKCS#11."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application

    def initialize(self, handshake: bytes | None, _: int, __: bytes | None) -> Answer:
        """The first call; says that the other side means this protocol."""
        yield from nothing()
        if handshake != HANDSHAKE:
            raise Refused(Ckr.GENERAL_ERROR)
        if self._application.initialized:
            raise Refused(Ckr.CRYPTOKI_ALREADY_INITIALIZED)
        self._application.initialized = True
        return ()

    def finalize(self) -> Answer:
        """Everything of the application ends; it closes the connection next."""
        for session in self._application.all_sessions():
            yield from self._application.close(session)
        self._application.initialized = False
        return ()

    def get_info(self) -> Answer:
        """CK_INFO."""
        yield from nothing()
        return (_CRYPTOKI, padded(_MANUFACTURER, 32), 0, padded("hsmbridge", 32), self._version())

    def get_slot_list(self, present: int, most: int | None) -> Answer:
        """The numbers of the slots."""
        tokens = yield from self._application.tokens()
        return (fitting([token.number for token in tokens if token.present or not present], most),)

    def get_slot_info(self, slot: int) -> Answer:
        """CK_SLOT_INFO."""
        token = yield from self._application.slot(slot)
        flags = SlotFlag.TOKEN_PRESENT if token.present else SlotFlag(0)
        if token.hardware:
            flags |= SlotFlag.HW_SLOT
        return (
            padded(f"hsmbridge {token.label}", 64),
            padded(_MANUFACTURER, 32),
            int(flags),
            self._version(),
            self._version(),
        )

    def get_token_info(self, slot: int) -> Answer:
        """CK_TOKEN_INFO."""
        application = self._application
        token = yield from application.token(slot)
        stands = yield from standing(application, token)
        sessions = application.sessions_of(slot)
        return (
            padded(stands.label, 32),
            padded(token.manufacturer, 32),
            padded(token.model, 16),
            padded(token.serial, 16),
            int(stands.flags | TokenFlag.RNG),
            application.settings.max_sessions,
            len(sessions),
            application.settings.max_sessions,
            sum(session.writes for session in sessions),
            stands.pin_max,
            stands.pin_min,
            *(UNAVAILABLE,) * 4,
            VersionNumber(0, 0),
            _firmware(token),
            b" " * 16,
        )

    def get_mechanism_list(self, slot: int, most: int | None) -> Answer:
        """What the token offers and this client can use."""
        application = self._application
        token = yield from application.token(slot)
        return (fitting([type_ for type_ in token.mechanisms if type_ in application.usable], most),)

    def get_mechanism_info(self, slot: int, mechanism: int) -> Answer:
        """CK_MECHANISM_INFO."""
        token = yield from self._application.token(slot)
        info = token.mechanisms.get(mechanism)
        if info is None:
            raise Refused(Ckr.MECHANISM_INVALID)
        return (info.least, info.most, info.flags)

    def open_session(self, slot: int, flags: int) -> Answer:
        """A session with a token."""
        token = yield from self._application.token(slot)
        yield from require_initialized(self._application, token)
        return (self._application.open(token, flags).handle,)

    def close_session(self, handle: int) -> Answer:
        """One session ends, with its objects and operations."""
        yield from self._application.close(self._application.session(handle))
        return ()

    def close_all_sessions(self, slot: int) -> Answer:
        """Those with one token."""
        yield from self._application.slot(slot)
        for session in self._application.sessions_of(slot):
            yield from self._application.close(session)
        return ()

    def get_session_info(self, handle: int) -> Answer:
        """CK_SESSION_INFO."""
        yield from nothing()
        session = self._application.session(handle)
        return (session.token.number, int(self._application.state(session)), session.flags, 0)

    def get_operation_state(self, handle: int, _: int | None) -> Answer:
        """Operations are not carried from here to there."""
        yield from nothing()
        self._application.session(handle)
        raise Refused(Ckr.STATE_UNSAVEABLE)

    def seed_random(self, handle: int, _: bytes | None) -> Answer:
        """Nobody seeds the generators of tokens."""
        yield from nothing()
        self._application.session(handle)
        raise Refused(Ckr.RANDOM_SEED_NOT_SUPPORTED)

    def generate_random(self, handle: int, size: int | None) -> Answer:
        """From the generator of the token."""
        session = self._application.session(handle)
        if (size or 0) > _RANDOM_MAX:
            raise Refused(Ckr.ARGUMENTS_BAD)
        provider = next((one.name for one in session.token.providers if one.state == "available"), "")
        return ((yield from self._random(provider, size or 0)),)

    def _random(self, provider: str, size: int) -> Asking[bytes]:
        parts = []
        while size > 0:
            reply = yield from ask(m.RandomRequest(min(size, _RANDOM_CHUNK), provider), m.RandomReply)
            parts.append(reply.data)
            size -= len(reply.data)
        return b"".join(parts)

    def wait_for_slot_event(self, flags: int) -> Answer:
        """Slots do not come and go."""
        yield from nothing()
        raise Refused(Ckr.NO_EVENT if flags & DONT_BLOCK else Ckr.FUNCTION_NOT_SUPPORTED)

    def _version(self) -> VersionNumber:
        return version_number(self._application.settings.version)


def padded(text: str, size: int) -> bytes:
    """A string of PKCS#11: exactly so many bytes, cut between characters, filled with spaces."""
    return text.encode()[:size].decode(errors="ignore").encode().ljust(size)


def fitting(numbers: Sequence[int], most: int | None) -> Sequence[int] | Needed:
    """A list, or how long it is where there is no room for it."""
    return Needed(len(numbers)) if most is None or most < len(numbers) else numbers


def version_number(text: str) -> VersionNumber:
    """The first two numbers of a version, each at most 255."""
    parts = [int(digits) if digits.isdecimal() else 0 for digits in (*text.split("."), "0", "0")[:2]]
    return VersionNumber(min(parts[0], 255), min(parts[1], 255))


def _firmware(token: Token) -> VersionNumber:
    return version_number(token.firmware or "0.0")
