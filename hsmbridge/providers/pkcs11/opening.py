"""From settings to a provider: the module, the token, the login, what the token can do."""

import logging
from functools import partial

from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.pkcs11.errors import translated
from hsmbridge.providers.pkcs11.initialise import Module, open_module
from hsmbridge.providers.pkcs11.login import described, identity_of, select_token
from hsmbridge.providers.pkcs11.probe import probed
from hsmbridge.providers.pkcs11.provider import Pkcs11Provider
from hsmbridge.providers.pkcs11.quirks import quirks_of
from hsmbridge.providers.pkcs11.sessions import TokenSessions
from hsmbridge.providers.pkcs11.settings import Pkcs11Settings

_log = logging.getLogger(__name__)

CLOSE_WAIT = 5.0
"""Seconds that closing waits for calls in flight."""


def open_pkcs11(settings: Pkcs11Settings, pin: Pin | None) -> Pkcs11Provider:
    """Load the module, find the token, log in once, and try out what the token can do.

    Raises:
        RequestError: INVALID_CONFIGURATION where several tokens match, or a PIN is missing.
        ProviderError: PROVIDER_UNAVAILABLE (the module), TOKEN_NOT_PRESENT, PIN_INCORRECT, PIN_LOCKED.
    """
    module = open_module(settings.module, settings.module_arguments)
    try:
        sessions = _open_sessions(module, settings, pin)
    except PKCS11Error as failure:
        module.drop()
        raise translated(failure, settings.token) from failure
    except BaseException:
        module.drop()
        raise
    try:
        return Pkcs11Provider(sessions, probed(sessions), partial(_close_sessions, sessions))
    except BaseException:
        _close_sessions(sessions)
        raise


def _open_sessions(module: Module, settings: Pkcs11Settings, pin: Pin | None) -> TokenSessions:
    """The sessions on the token that the settings name, logged in; give them back with `_close_sessions`.

    Raises:
        RequestError: INVALID_CONFIGURATION where several tokens match or a PIN is missing.
        ProviderError: TOKEN_NOT_PRESENT, PIN_INCORRECT, PIN_LOCKED, PROVIDER_FAILED.
    """
    with module.lock:
        token = select_token(module, settings)
        known = module.users.get(identity_of(token))
        if isinstance(known, TokenSessions):
            if not known.accepts(pin):
                raise ProviderError(
                    Status.PIN_INCORRECT,
                    f"The {described(token)} is in use in this process with another PIN; correct it and reload.",
                )
            known.hold()
            return known
        sessions = TokenSessions(module, token, pin, settings.sessions)
        if quirks_of(token).short_lengths:
            module.add_headroom()
        sessions.log_in()
        sessions.hold()
        module.users[sessions.identity] = sessions
        return sessions


def _close_sessions(sessions: TokenSessions) -> None:
    """The opposite of `_open_sessions`; the module is finalised with its last token, unless a call hangs in it."""
    module = sessions.module
    with module.lock:
        idle = sessions.drop(CLOSE_WAIT)
        if not sessions.held:
            module.users.pop(sessions.identity, None)
        if idle:
            module.drop()
        else:
            _log.error("token %r: a call does not end; the module stays initialised", sessions.label)
