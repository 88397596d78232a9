"""What an operator says of a PKCS#11 provider, without the PIN."""

import msgspec

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.pkcs11_uri import Pkcs11Uri, parse_uri

SESSIONS_MAX = 100
_SELECTS = frozenset({"token", "serial", "manufacturer", "model", "module_path", "pin_source"})


class Pkcs11Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which token, and how many sessions.

    Attributes:
        module: absolute path of the PKCS#11 module.
        token, serial, manufacturer, model: what the token says of itself; empty ones are not compared.
        sessions: calls that may be at the token at once. Closing a session costs more the more are open.
        module_arguments: what the module wants to be told at C_Initialize (pReserved), such as NSS's configdir. No
            place for secrets.
    """

    module: str
    token: str = ""
    serial: str = ""
    manufacturer: str = ""
    model: str = ""
    sessions: int = 8
    module_arguments: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.sessions <= SESSIONS_MAX:
            raise RequestError(
                Status.INVALID_CONFIGURATION, f"`sessions` is 1 to {SESSIONS_MAX}; this is {self.sessions}."
            )
        if "\0" in self.module_arguments:
            raise RequestError(Status.INVALID_CONFIGURATION, "`module_arguments` cannot have a NUL character.")


def settings_from_uri(uri: str, *, module: str = "", sessions: int = 8, module_arguments: str = "") -> Pkcs11Settings:
    """Settings from a PKCS#11 URI; `module` is used where the URI has no module-path.

    A pin-source is no business of the provider: whoever reads the configuration reads the PIN.

    Raises:
        RequestError: INVALID_CONFIGURATION where it is no URI, names more than a token, or no module.
    """
    parsed = parse_uri(uri)
    surplus = [name for name in Pkcs11Uri.__struct_fields__ if getattr(parsed, name) is not None]
    for name in surplus:
        if name not in _SELECTS:
            raise RequestError(
                Status.INVALID_CONFIGURATION,
                f"The URI of a provider names a token; {name.replace('_', '-')} cannot stand in it.",
            )
    path = parsed.module_path or module
    if not path:
        raise RequestError(Status.INVALID_CONFIGURATION, "The URI of a provider needs a module-path.")
    return Pkcs11Settings(
        module=path,
        token=parsed.token or "",
        serial=parsed.serial or "",
        manufacturer=parsed.manufacturer or "",
        model=parsed.model or "",
        sessions=sessions,
        module_arguments=module_arguments,
    )
