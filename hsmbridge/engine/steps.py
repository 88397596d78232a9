"""What an operation asks of the outside while it runs, as values that it yields: provider calls, store actions, work.

An operation is a generator. It yields one step at a time and is sent the answer, or has the error thrown into
it, so it reads like blocking code and runs inline, on a worker thread or over a host process alike. It never
calls a provider or the store by itself.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProviderStep:
    """One call to a provider, by instance name. May be given up at the deadline."""

    provider: str
    call: calls.ProviderCall


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """Many calls to one provider, at once where it can. Answered by a list: for each call its reply or its error."""

    provider: str
    calls: Sequence[calls.ProviderCall]


@dataclass(frozen=True, slots=True)
class StoreStep:
    """One action on the store; blocking, so it runs on the store's thread. Never given up half-way."""

    action: Callable[[], object]


@dataclass(frozen=True, slots=True)
class WorkStep:
    """Work that takes the processor for longer than others may be held up; so it runs on a thread of its own."""

    action: Callable[[], object]


Step = ProviderStep | ProviderBatch | StoreStep | WorkStep
Steps = Generator[Step, object, T]
"""An operation that ends with a T."""


def store(action: Callable[[], T]) -> Steps[T]:
    """Do a store action and take its result."""
    return (yield from _kept(action, StoreStep))


def work(action: Callable[[], T]) -> Steps[T]:
    """Do some work and take its result."""
    return (yield from _kept(action, WorkStep))


def _kept(action: Callable[[], T], step: type[StoreStep] | type[WorkStep]) -> Steps[T]:
    result: list[T] = []

    def keep() -> None:
        result.append(action())

    yield step(keep)
    return result[0]


def ended(value: T) -> Steps[T]:
    """An operation that has nothing to ask."""
    yield from ()
    return value


def outcome(steps: Steps[T]) -> Steps[T | HsmBridgeError]:
    """An operation whose error is a value."""
    try:
        return (yield from steps)
    except HsmBridgeError as failure:
        return failure


def for_bytes(provider: str, call: calls.ProviderCall) -> Steps[bytes]:
    """A provider call that answers bytes."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not bytes:
        raise _wrong_reply(provider, call)
    return reply


def for_each(provider: str, many: Sequence[calls.ProviderCall]) -> Steps[list[calls.ProviderReply | HsmBridgeError]]:
    """Many provider calls: for each its reply, or its error as a value."""
    replies = yield ProviderBatch(provider, many)
    if not isinstance(replies, list):
        raise ProviderError(Status.PROVIDER_FAILED, origin=f"{provider}: a batch was answered by no list")
    return replies


def for_nothing(provider: str, call: calls.ProviderCall) -> Steps[None]:
    """A provider call that answers nothing but its success."""
    yield ProviderStep(provider, call)


def for_handle(provider: str, call: calls.LoadCall) -> Steps[int]:
    """A provider call that answers a handle."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not int:
        raise _wrong_reply(provider, call)
    return reply


def for_key(provider: str, call: calls.ProviderCall) -> Steps[calls.MadeKey]:
    """A provider call that makes a key."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not calls.MadeKey:
        raise _wrong_reply(provider, call)
    return reply


def for_encrypted(provider: str, call: calls.EncryptCall) -> Steps[calls.Encrypted]:
    """A provider call that encrypts."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not calls.Encrypted:
        raise _wrong_reply(provider, call)
    return reply


def for_encapsulated(provider: str, call: calls.EncapsulateCall) -> Steps[calls.Encapsulated]:
    """A provider call that encapsulates."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not calls.Encapsulated:
        raise _wrong_reply(provider, call)
    return reply


def for_stream_end(provider: str, call: calls.StreamFinishCall) -> Steps[calls.StreamEnd]:
    """A provider call that ends a stream."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not calls.StreamEnd:
        raise _wrong_reply(provider, call)
    return reply


def for_foreign_key(provider: str, call: calls.ExamineCall) -> Steps[calls.ForeignKey]:
    """A provider call that looks at a key that hsmbridge did not make."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not calls.ForeignKey:
        raise _wrong_reply(provider, call)
    return reply


def for_attestation(provider: str, call: calls.AttestCall) -> Steps[calls.Attestation]:
    """A provider call that attests a key."""
    reply = yield ProviderStep(provider, call)
    if type(reply) is not calls.Attestation:
        raise _wrong_reply(provider, call)
    return reply


def for_key_ids(provider: str) -> Steps[list[bytes]]:
    """The key ids that a provider lists."""
    call = calls.ListCall()
    reply = yield ProviderStep(provider, call)
    if type(reply) is not list:
        raise _wrong_reply(provider, call)
    return reply


def for_description(provider: str) -> Steps[calls.Description]:
    """What a provider can do."""
    call = calls.DescribeCall()
    reply = yield ProviderStep(provider, call)
    if type(reply) is not calls.Description:
        raise _wrong_reply(provider, call)
    return reply


def _wrong_reply(provider: str, call: calls.ProviderCall) -> ProviderError:
    return ProviderError(Status.PROVIDER_FAILED, origin=f"{provider}: {type(call).__name__} answered what it must not")
