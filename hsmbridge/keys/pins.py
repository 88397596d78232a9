"""PINs of PKCS#11 applications: how they are hashed, when they are locked, and what an initialised token may destroy.

A digest is scrypt (RFC 7914) of the PIN under a key of the store's, with salt and cost beside it. A PIN is short, so
the key is what keeps who has a copy of the store from guessing it; the cost is for who has both.

A wrong PIN counts before anybody is told that it is wrong, so that whatever happens meanwhile is no further try. The
PINs guard against accidents of one's own programs, so a lock ends by itself.
"""

import hmac
import secrets
from collections.abc import Collection
from dataclasses import replace
from typing import Final

import msgspec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hsmbridge.core.errors import ProviderError, ResourceError, Status
from hsmbridge.core.identifiers import default_namespace
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.messages import PinInfo, PinTries
from hsmbridge.core.policy import PinOwner
from hsmbridge.core.secrets import Secret
from hsmbridge.storage.pins import PinRecord, TokenPins
from hsmbridge.storage.records import Origin, SlotRecord, SlotState

WRONG_PINS: Final = 3
"""So many wrong ones, one after another, and no further one is looked at for a while."""

LOCKED_TIME: Final = 300.0
"""Seconds from the last wrong PIN for which the next is not looked at."""

_COST: Final = (1 << 14, 8, 1)
"""n, r and p of scrypt: 16 MiB, and about 40 ms on a processor of 2020."""

_SALT_SIZE: Final = 16
_DIGEST_SIZE: Final = 32
_GONE: Final = frozenset({KeyVersionState.DESTROYED, KeyVersionState.ABANDONED})


class _Digest(msgspec.Struct, frozen=True, array_like=True):
    """What is stored of a PIN, as MessagePack."""

    n: int
    r: int
    p: int
    salt: bytes
    value: bytes


_DIGEST = msgspec.msgpack.Decoder(_Digest)


def pin_digest(pin: bytes, key: Secret) -> bytes:
    """What is stored of a PIN. Takes tens of milliseconds."""
    n, r, p = _COST
    salt = secrets.token_bytes(_SALT_SIZE)
    return msgspec.msgpack.encode(_Digest(n, r, p, salt, _scrypt(pin, key, n, r, p, salt)))


def pin_fits(pin: bytes, digest: bytes, key: Secret) -> bool:
    """Whether it is the PIN that a digest was made of. Takes tens of milliseconds."""
    known = _DIGEST.decode(digest)
    return hmac.compare_digest(_scrypt(pin, key, known.n, known.r, known.p, known.salt), known.value)


def _scrypt(pin: bytes, key: Secret, n: int, r: int, p: int, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_DIGEST_SIZE, n=n, r=r, p=p).derive(hmac.digest(key.reveal(), pin, "sha256"))


# Changes of a record


def counted(pins: TokenPins, owner: PinOwner, now: float) -> TokenPins:
    """One more wrong one."""
    pin = pins.pin(owner)
    return pins.with_pin(owner, replace(pin, wrong=_counting(pin) + 1, until=now + LOCKED_TIME))


def forgiven(pins: TokenPins, owner: PinOwner) -> TokenPins:
    """The right one was given."""
    return pins.with_pin(owner, replace(pins.pin(owner), wrong=0, until=0.0))


def initialized(pins: TokenPins, digest: bytes, label: str, now: float) -> TokenPins:
    """The token has this PIN of the security officer's, and none of the user's any more."""
    return replace(pins, label=label, initialized=pins.initialized or now, so=PinRecord(digest), user=PinRecord())


def with_digest(pins: TokenPins, owner: PinOwner, digest: bytes) -> TokenPins:
    """Another PIN, which nobody has tried yet."""
    return pins.with_pin(owner, PinRecord(digest))


def unchanged(before: TokenPins, owner: PinOwner, now: TokenPins) -> None:
    """That a PIN is still the one which was looked at. Raises ProviderError (PIN_INCORRECT)."""
    if before.pin(owner).digest != now.pin(owner).digest:
        raise wrong_pin()


def wrong_pin() -> ProviderError:
    """The refusal of a PIN."""
    return ProviderError(Status.PIN_INCORRECT, "The PIN is not right.")


# Looking at a record


def check_open(pins: TokenPins, owner: PinOwner, now: float, *, own: bool) -> None:
    """That a PIN may be tried.

    Args:
        own: whether it is held against the principal's own, which must be set.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where there is none.
        ProviderError: PIN_LOCKED.
    """
    pin = pins.pin(owner)
    if own and not pin.digest:
        raise ResourceError(Status.RESOURCE_NOT_FOUND, "This PIN is not set.")
    if is_locked(pin, now):
        raise ProviderError(Status.PIN_LOCKED, "Too many wrong PINs were given; wait some minutes.")


def is_locked(pin: PinRecord, now: float) -> bool:
    """Whether none is looked at now. A time further ahead than any lock lasts was set by a clock that went wrong."""
    return pin.wrong >= WRONG_PINS and now < pin.until <= now + LOCKED_TIME


def described(pins: TokenPins, now: float) -> PinInfo:
    """A record as messages carry it."""
    return PinInfo(
        pins.principal,
        pins.token,
        pins.label,
        pins.initialized,
        _tries(pins.so, now),
        _tries(pins.user, now),
    )


def _tries(pin: PinRecord, now: float) -> PinTries:
    locked = is_locked(pin, now)
    left = 0 if locked else WRONG_PINS - _counting(pin)
    return PinTries(bool(pin.digest), pin.wrong, left, pin.until if locked else 0.0)


def _counting(pin: PinRecord) -> int:
    """How many of the wrong ones still count: those before a lock that has ended do not."""
    return 0 if pin.wrong >= WRONG_PINS else pin.wrong


def may_be_wiped(slot: SlotRecord, principal: str, providers: Collection[str], since: float) -> bool:
    """Whether a token that is initialised again loses a slot: where it is nobody else's, and was made there.

    Args:
        providers: those whose keys are on the token.
        since: when it was first initialised; what is older, or was on the device before hsmbridge, stays.
    """
    there = [version for version in slot.versions if version.state not in _GONE]
    return (
        slot.state is SlotState.LIVE
        and slot.name.namespace == default_namespace(principal)
        and slot.creator == principal
        and slot.created >= since
        and all(entry.principal == principal for entry in slot.access)
        and {version.provider for version in there} <= set(providers)
        and (bool(there) or set(slot.providers) <= set(providers))
        and all(version.origin is not Origin.ADOPTED for version in there)
    )
