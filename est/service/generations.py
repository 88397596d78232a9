"""A folder that always has one whole pair of key and certificate chain, whatever happens while it changes.

current -> 000002        a link that is replaced in one step
000002/key.pem, chain.pem
000001/                  the pair before, kept until the next change
next/key.pem, pending    a key without certificate: found again after a crash, so no key is lost or made twice
000002/told              the consumer was told of this pair

Where the key is in a slot, key.slot has its name in place of key.pem. It is written before the slot is made, and the
slot of a pair is destroyed before the folder that names it goes.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from est import refusals
from est.key_places import SLOT, KeyPlaces
from est.keys import Key
from est.service.next_key import KeyPlan
from est.tls.connection import ClientIdentity
from est.trust.anchors import write_whole
from hsmbridge.core.errors import HsmBridgeError

_KEY, _SLOT, _CHAIN, _PENDING, _TOLD = "key.pem", "key.slot", "chain.pem", "pending", "told"

_log = structlog.get_logger(__name__)


class Generations:
    """The folder of one certificate. One process at a time changes it; anybody reads `current`."""

    def __init__(self, folder: Path, places: KeyPlaces | None = None) -> None:
        self._folder = folder
        self._places = places or KeyPlaces()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def current(self) -> Path | None:
        """The folder of the pair in use, or None before the first one."""
        link = self._folder / "current"
        return link.resolve() if link.is_symlink() and link.exists() else None

    def identity(self) -> ClientIdentity | None:
        """The pair in use.

        Raises:
            RequestError: a file of it was changed and cannot be read.
        """
        found = self.current
        if found is None:
            return None
        try:
            chain = tuple(x509.load_pem_x509_certificates((found / _CHAIN).read_bytes()))
            return ClientIdentity(self._places.open(_reference(found)), chain)
        except (OSError, ValueError):
            raise refusals.unwanted(
                f"The certificate in {found} cannot be read; restore it or remove `current`."
            ) from None

    def chain_pem(self) -> bytes:
        """The chain in use, PEM; b"" before the first one."""
        found = self.current
        return (found / _CHAIN).read_bytes() if found else b""

    @property
    def told(self) -> bool:
        """Whether the consumer was told of the pair in use."""
        found = self.current
        return found is None or (found / _TOLD).exists()

    def set_told(self) -> None:
        """Keep that the consumer was told."""
        found = self.current
        if found is not None:
            write_whole(found / _TOLD, b"", 0o644)

    def next_key(self, plan: KeyPlan) -> Key:
        """The key that waits for its certificate: the one from before a crash, or a new one."""
        waiting = self._folder / "next"
        waiting.mkdir(exist_ok=True, mode=0o700)
        if not (waiting / _KEY).exists() and not (waiting / _SLOT).exists():
            self._name_key(waiting, plan)
        reference = _reference(waiting)
        if self._places.exists(reference):
            return self._places.open(reference)
        return self._places.make(reference, plan.key_type, plan.provider)

    def _name_key(self, waiting: Path, plan: KeyPlan) -> None:
        current = self.current
        if plan.slot:
            write_whole(waiting / _SLOT, f"{plan.slot_for(self._next_number())}\n".encode(), 0o644)
        elif current is not None and not plan.rekey and (current / _KEY).exists():
            write_whole(waiting / _KEY, (current / _KEY).read_bytes(), 0o600)

    @property
    def pending(self) -> str:
        """The record of the pending request, or ""."""
        path = self._folder / "next" / _PENDING
        return path.read_text() if path.exists() else ""

    def set_pending(self, record: str) -> None:
        """Keep the record of a pending request."""
        write_whole(self._folder / "next" / _PENDING, record.encode(), 0o600)

    def commit(self, chain: Sequence[x509.Certificate]) -> Path:
        """Make the waiting key and its chain the pair in use; the one before stays, older ones go."""
        waiting = self._folder / "next"
        pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
        write_whole(waiting / _CHAIN, pem, 0o644)
        (waiting / _PENDING).unlink(missing_ok=True)
        return self._take(waiting)

    def recover(self) -> None:
        """Finish what a crash interrupted: a waiting key that has its chain already becomes the pair in use."""
        waiting = self._folder / "next"
        if (waiting / _CHAIN).exists():
            self._take(waiting)
            return
        last = self._numbers()[-1:]
        if last and self.current != self._folder / last[0]:
            self._point_to(last[0])

    def _take(self, waiting: Path) -> Path:
        numbers, name = self._numbers(), self._next_number()
        waiting.rename(self._folder / name)
        self._point_to(name)
        for old in numbers[:-1]:
            self._drop(self._folder / old)
        return self._folder / name

    def _drop(self, old: Path) -> None:
        slot = old / _SLOT
        # The number at its end says that the slot was made for this pair alone.
        if slot.exists() and _reference(old).endswith(f"-{old.name}"):
            try:
                self._places.remove(_reference(old))
            except HsmBridgeError as problem:
                # The pair in use does not depend on it; the next change tries again.
                _log.warning("old_key_remains", slot=_reference(old), reason=problem.message)
                return
        shutil.rmtree(old)

    def _next_number(self) -> str:
        numbers = self._numbers()
        return f"{int(numbers[-1]) + 1 if numbers else 1:06d}"

    def _numbers(self) -> list[str]:
        return sorted(one.name for one in self._folder.iterdir() if one.name.isdigit())

    def _point_to(self, name: str) -> None:
        fresh = self._folder / "current.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(name)
        fresh.replace(self._folder / "current")


def _reference(folder: Path) -> str:
    slot = folder / _SLOT
    return SLOT + slot.read_text().strip() if slot.exists() else str(folder / _KEY)
