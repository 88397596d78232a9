"""Which token, and the PIN: selection by what a token says of itself, and what a refused login means.

A PIN is tried once. What the token says after a refusal (CK_TOKEN_INFO, PKCS#11 v2.40 section 3.2) goes into the
message, for the operator must know whether the next wrong one locks the token.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pkcs11 import Session, Token, TokenFlag
from pkcs11 import exceptions as ck
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.pkcs11.errors import ckr_name
from hsmbridge.providers.pkcs11.initialise import Module
from hsmbridge.providers.pkcs11.newer_constants import TokenAttributes
from hsmbridge.providers.pkcs11.quirks import quirks_of
from hsmbridge.providers.pkcs11.settings import Pkcs11Settings

_REFUSALS: Mapping[type[PKCS11Error], tuple[Status, str]] = MappingProxyType(
    {
        ck.PinIncorrect: (Status.PIN_INCORRECT, "refused the PIN"),
        ck.PinInvalid: (Status.PIN_INCORRECT, "refused the PIN: it has characters that the token does not take"),
        ck.PinLenRange: (Status.PIN_INCORRECT, "refused the PIN: it is too short or too long for this token"),
        ck.PinExpired: (Status.PIN_INCORRECT, "refused the PIN: it has expired and must be changed"),
        ck.UserPinNotInitialized: (Status.PIN_INCORRECT, "has no user PIN yet; its security officer sets the first"),
        ck.PinLocked: (Status.PIN_LOCKED, "has locked its user PIN; its security officer must set a new one"),
    }
)


def serial_of(token: Token) -> str:
    """The serial number as text."""
    return token.serial.decode("utf-8", "backslashreplace")


def identity_of(token: Token) -> str:
    """What tells the token from all others: its serial, with its label where serials do not differ."""
    serial = serial_of(token)
    return f"{serial} {token.label}" if quirks_of(token).serial_of_all else serial


def described(token: Token) -> str:
    """The token as messages name it."""
    return f"token {token.label!r} (serial {serial_of(token)})"


def tokens_of(module: Module) -> list[Token]:
    """Every initialised token that the module shows."""
    tokens = []
    for slot in module.library.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except (ck.TokenNotPresent, ck.TokenNotRecognised):
            continue
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            tokens.append(token)
    return tokens


def select_token(module: Module, settings: Pkcs11Settings) -> Token:
    """The one token that the settings name.

    Raises:
        ProviderError: TOKEN_NOT_PRESENT, listing the labels that are there.
        RequestError: INVALID_CONFIGURATION where several match.
    """
    present = tokens_of(module)
    matching = [token for token in present if _matches(token, settings)]
    if not matching:
        raise ProviderError(
            Status.TOKEN_NOT_PRESENT,
            f"There is no {_wanted(settings)}; {_there(present)} Connect it, or correct the configuration.",
        )
    if len(matching) > 1:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            f"{len(matching)} tokens match {_wanted(settings)}: {_listed(matching)}."
            " Give the serial of the one that is meant.",
        )
    return matching[0]


def find_token(module: Module, identity: str) -> Token:
    """The token that this tells from all others. Raises TokenNotPresent, as the module does."""
    for token in tokens_of(module):
        if identity_of(token) == identity:
            return token
    raise ck.TokenNotPresent


def open_anchor(module: Module, token: Token, pin: Pin | None) -> Session:
    """A session that keeps the login alive; logs in unless some session of this process is logged in already.

    Raises:
        RequestError: INVALID_CONFIGURATION where the token wants a PIN and there is none.
        ProviderError: PIN_INCORRECT, PIN_LOCKED; nothing is tried twice.
        PKCS11Error: whatever else is wrong with the token.
    """
    anchor = open_session(token)
    if pin is None:
        if token.flags & TokenFlag.LOGIN_REQUIRED:
            anchor.close()
            raise RequestError(
                Status.INVALID_CONFIGURATION, f"The {described(token)} wants a PIN; give it by a file or credential."
            )
        return anchor
    if module.logged_in(anchor):
        return anchor
    try:
        logged_in = token.open(rw=_writable(token), user_pin=pin.reveal(), attribute_mapper=TokenAttributes())
    except ck.UserAlreadyLoggedIn:
        return anchor
    except PKCS11Error as failure:
        anchor.close()
        raise _refusal(token, failure) or failure from failure
    anchor.close()
    return logged_in


def open_session(token: Token) -> Session:
    """A session without a PIN: it has the rights of the login of this process."""
    return token.open(rw=_writable(token), attribute_mapper=TokenAttributes())


def _writable(token: Token) -> bool:
    return not token.flags & TokenFlag.WRITE_PROTECTED


def _refusal(token: Token, failure: PKCS11Error) -> ProviderError | None:
    row = _REFUSALS.get(type(failure))
    if row is None:
        return None
    status, what = row
    return ProviderError(status, f"The {described(token)} {what}.{_tries_left(token)}", origin=ckr_name(failure))


def _tries_left(token: Token) -> str:
    try:
        flags = token.slot.get_token().flags
    except PKCS11Error:
        return ""
    if flags & TokenFlag.USER_PIN_LOCKED:
        return " It is locked now; its security officer must set a new PIN."
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        return " Only one try is left: another wrong PIN locks the token. Correct it before you reload."
    if flags & TokenFlag.USER_PIN_COUNT_LOW:
        return " The token counts wrong PINs, and locks after too many. Correct it and reload."
    return " Correct it and reload. It is not tried again by itself."


def _matches(token: Token, settings: Pkcs11Settings) -> bool:
    told = {
        "token": token.label,
        "serial": serial_of(token),
        "manufacturer": token.manufacturer_id,
        "model": token.model,
    }
    return all(getattr(settings, name) in {"", value} for name, value in told.items())


def _wanted(settings: Pkcs11Settings) -> str:
    told = (
        (settings.token, "labelled"),
        (settings.serial, "with serial"),
        (settings.manufacturer, "by"),
        (settings.model, "of model"),
    )
    named = [f"{word} {value!r}" for value, word in told if value]
    return f"token {' and '.join(named)}" if named else "initialised token"


def _there(present: list[Token]) -> str:
    return f"there are: {_listed(present)}." if present else "the module shows no initialised token at all."


def _listed(tokens: Iterable[Token]) -> str:
    return ", ".join(f"{token.label!r} (serial {serial_of(token)})" for token in tokens)
