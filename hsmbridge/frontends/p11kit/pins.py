"""Who is logged in, and PINs: C_InitToken, C_InitPIN, C_SetPIN, C_Login, C_Logout.

With `login = "own"` each user has a token of their own wherever others see one: PINs, and what C_InitToken destroys.
What is kept of PINs, and how wrong ones count, is the service's business.
"""

from typing import Final

from hsmbridge.core import messages as m
from hsmbridge.core import token_messages as t
from hsmbridge.core.policy import PinOwner
from hsmbridge.frontends.asking import Answer, Asking, ask, nothing
from hsmbridge.frontends.p11kit.numbers import CONTEXT_SPECIFIC, SECURITY_OFFICER, USER, Ckr, TokenFlag
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.settings import LoginPolicy
from hsmbridge.frontends.p11kit.state import Application, PkcsSession
from hsmbridge.frontends.p11kit.tokens import ALL_PROVIDERS, Token

PIN_MIN: Final = 4
PIN_MAX: Final = 255
"""Bytes of a PIN."""

LABEL_SIZE: Final = 32

_OWNERS: Final = {SECURITY_OFFICER: PinOwner.SO, USER: PinOwner.USER}
_FLAGS: Final = {
    PinOwner.SO: (TokenFlag.SO_PIN_COUNT_LOW, TokenFlag.SO_PIN_FINAL_TRY, TokenFlag.SO_PIN_LOCKED),
    PinOwner.USER: (TokenFlag.USER_PIN_COUNT_LOW, TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED),
}


class Pins:
    """One method a function of PKCS#11."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application

    def init_token(self, slot: int, pin: bytes | None, label: bytes | None) -> Answer:
        """C_InitToken: the caller's own token is as new."""
        self._require_own()
        token = yield from self._application.token(slot)
        if pin is None or label is None:
            raise Refused(Ckr.ARGUMENTS_BAD)
        if self._application.in_use(slot):
            raise Refused(Ckr.SESSION_EXISTS)
        stands = yield from ask(t.TokenShowRequest(token.name), m.PinInfo)
        if not stands.initialized:
            _require_length(pin)
        providers = tuple(one.name for one in token.providers)
        yield from ask(t.TokenInitializeRequest(token.name, providers, _text(label), pin), m.Empty)
        return ()

    def init_token_2(self, slot: int, pin: bytes | None, label: bytes) -> Answer:
        """As newer clients send it."""
        return (yield from self.init_token(slot, pin, label))

    def init_pin(self, handle: int, pin: bytes | None) -> Answer:
        """C_InitPIN: the security officer sets the user's PIN."""
        self._require_own()
        session = self._application.session(handle)
        if self._application.logged_in(session) is not PinOwner.SO:
            raise Refused(Ckr.USER_NOT_LOGGED_IN)
        if pin is None:
            raise Refused(Ckr.ARGUMENTS_BAD)
        _require_length(pin)
        yield from ask(t.TokenPinRequest(session.token.name, PinOwner.USER, pin), m.Empty)
        return ()

    def set_pin(self, handle: int, old: bytes | None, new: bytes | None) -> Answer:
        """C_SetPIN: another PIN for who is logged in, or for the user where nobody is."""
        self._require_own()
        session = self._application.session(handle)
        if not session.writes:
            raise Refused(Ckr.SESSION_READ_ONLY)
        if old is None or new is None:
            raise Refused(Ckr.ARGUMENTS_BAD)
        _require_length(new)
        owner = self._application.logged_in(session) or PinOwner.USER
        yield from ask(t.TokenPinRequest(session.token.name, owner, new, old), m.Empty)
        return ()

    def login(self, handle: int, user: int, pin: bytes | None) -> Answer:
        """The kernel knows who the caller is; a PIN counts only where the configuration asks for one."""
        application = self._application
        session = application.session(handle)
        policy = application.settings.login
        if user == CONTEXT_SPECIFIC:
            raise Refused(Ckr.OPERATION_NOT_INITIALIZED)
        owner = _OWNERS.get(user)
        if owner is None or (owner is PinOwner.SO and policy is not LoginPolicy.OWN):
            raise Refused(Ckr.USER_TYPE_INVALID)
        application.require_may_log_in(session, owner)
        yield from self._check(session, owner, pin or b"")
        # Another call may have come meanwhile.
        application.log_in(application.session(handle), owner)
        return ()

    def _check(self, session: PkcsSession, owner: PinOwner, pin: bytes) -> Asking[None]:
        settings = self._application.settings
        if settings.login is LoginPolicy.PIN:
            yield from ask(t.TokenLoginRequest(ALL_PROVIDERS, owner, pin, settings.pin), m.Empty)
        elif settings.login is LoginPolicy.OWN:
            yield from ask(t.TokenLoginRequest(session.token.name, owner, pin), m.Empty)

    def login_user(self, handle: int, user: int, pin: bytes | None, _: bytes | None) -> Answer:
        """As `login`; the user's name is the kernel's."""
        return (yield from self.login(handle, user, pin))

    def logout(self, handle: int) -> Answer:
        """Private objects are out of reach again."""
        yield from nothing()
        self._application.log_out(self._application.session(handle))
        return ()

    def _require_own(self) -> None:
        if self._application.settings.login is not LoginPolicy.OWN:
            raise Refused(Ckr.FUNCTION_NOT_SUPPORTED)


class Standing:
    """What CK_TOKEN_INFO says of a token's PINs, and its label.

    Attributes:
        flags: CKF_*.
        label: that the caller gave it, or its own.
        pin_min, pin_max: bytes that a PIN may have.
    """

    def __init__(self, flags: TokenFlag, label: str, pin_min: int = 0) -> None:
        self.flags = flags
        self.label = label
        self.pin_min = pin_min
        self.pin_max = PIN_MAX


def standing(application: Application, token: Token) -> Asking[Standing]:
    """How the caller's PINs for a token stand."""
    policy = application.settings.login
    ready = TokenFlag.TOKEN_INITIALIZED | TokenFlag.USER_PIN_INITIALIZED
    if policy is LoginPolicy.NONE:
        return Standing(ready | TokenFlag.PROTECTED_AUTHENTICATION_PATH, token.label)
    name = ALL_PROVIDERS if policy is LoginPolicy.PIN else token.name
    found = yield from ask(t.TokenShowRequest(name), m.PinInfo)
    flags = TokenFlag.LOGIN_REQUIRED | _tried(PinOwner.USER, found.user)
    if policy is LoginPolicy.PIN:
        return Standing(flags | ready, token.label, PIN_MIN)
    flags |= _tried(PinOwner.SO, found.so)
    if found.initialized:
        flags |= TokenFlag.TOKEN_INITIALIZED
    if found.user.is_set:
        flags |= TokenFlag.USER_PIN_INITIALIZED
    return Standing(flags, found.label or token.label, PIN_MIN)


def require_initialized(application: Application, token: Token) -> Asking[None]:
    """Raises Refused (CKR_TOKEN_NOT_RECOGNIZED) where the caller would have to initialise the token first."""
    if application.settings.login is LoginPolicy.OWN:
        found = yield from ask(t.TokenShowRequest(token.name), m.PinInfo)
        if not found.initialized:
            raise Refused(Ckr.TOKEN_NOT_RECOGNIZED)


def _tried(owner: PinOwner, tries: m.PinTries) -> TokenFlag:
    low, final, locked = _FLAGS[owner]
    flags = TokenFlag(0)
    if tries.wrong:
        flags |= low
    if tries.left == 1:
        flags |= final
    if tries.locked_until:
        flags |= locked
    return flags


def _require_length(pin: bytes) -> None:
    if not PIN_MIN <= len(pin) <= PIN_MAX:
        raise Refused(Ckr.PIN_LEN_RANGE)


def _text(label: bytes) -> str:
    # Clients of version 0 send whatever lies in memory up to the next NUL.
    return "".join(one for one in label[:LABEL_SIZE].decode(errors="ignore") if one.isprintable()).rstrip()
