"""Wrappers around the real ESAPI that make one command go wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tpm2_pytss import ESAPI, TSS2_Exception

from hsmbridge.providers.tpm import TpmProvider
from hsmbridge.providers.tpm.device import Opened


def opened(tpm: TpmProvider) -> Opened:
    """The provider's connection."""
    return tpm._tpm.run(lambda connection: connection)


def esapi(tpm: TpmProvider) -> ESAPI:
    return opened(tpm).esapi


@contextmanager
def before(tpm: TpmProvider, command: str, act: Callable[[int], None]) -> Iterator[list[int]]:
    """Call `act` with the number of the call before each `command` of the present connection; lists the calls."""
    target = esapi(tpm)
    original = getattr(target, command)
    seen: list[int] = []

    def wrapper(*arguments: object, **named: object) -> object:
        seen.append(len(seen))
        act(seen[-1])
        return original(*arguments, **named)

    setattr(target, command, wrapper)
    try:
        yield seen
    finally:
        delattr(target, command)


def refusing(code: int, *, times: int) -> Callable[[int], None]:
    """Answer with a response code the first times."""

    def act(call: int) -> None:
        if call < times:
            raise TSS2_Exception(code)

    return act


def watching(call: int) -> None:
    """Change nothing."""
