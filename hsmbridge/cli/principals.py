"""Who is meant by a word on the command line."""

import pwd

from hsmbridge.core.errors import RequestError, Status


def principal_of(text: str) -> str:
    """uid:N of what may be a user's name. Raises RequestError (INVALID_ARGUMENT)."""
    if ":" in text:
        return text
    try:
        return f"uid:{pwd.getpwnam(text).pw_uid}"
    except KeyError:
        raise RequestError(Status.INVALID_ARGUMENT, f"There is no user {text!r} here; write uid:N.") from None
