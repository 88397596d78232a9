"""The renewal service: a thread for each certificate, so that one whose server hangs holds up no other.

Each does what is due and sleeps until the next thing is; what came of it is told to the control socket and to the
metrics.
"""

import threading
import time
import uuid
from collections.abc import Sequence

import structlog

from est.key_places import KeyPlaces
from est.service.configuration import Kept
from est.service.generations import Generations
from est.service.metrics import write_metrics
from est.service.renewer import Renewer
from est.service.schedule import FIRST_RETRY
from est.service.standing import Standing

_log = structlog.get_logger(__name__)

LONGEST_SLEEP = 3600.0
"""Seconds; a clock that was set anew is noticed after that long."""


class Keeper:
    """One certificate and the thread that keeps it alive."""

    def __init__(self, kept: Kept, places: KeyPlaces) -> None:
        self.name = kept.watch.name
        self._generations = Generations(kept.folder, places)
        self._renewer = Renewer(kept.watch, self._generations)
        self._changed = threading.Condition()
        self._wishes = 0
        """How often a renewal was wished for."""
        self._served = 0
        """How many of those wishes have had an attempt that began after them."""
        self._due = 0.0

    def keep(self, stop: threading.Event, after_step: threading.Event) -> None:
        """Renew until `stop` is set and `wake` was called; set `after_step` after each attempt."""
        while not stop.is_set():
            with self._changed:
                wished = self._wishes
                forced = wished > self._served
            try:
                due = self._renewer.step(time.time(), forced=forced)
            except Exception:  # noqa: BLE001 - the top of a thread: a mistake must not end the care for a certificate
                _log.exception("renewal_broke", name=self.name, incident=uuid.uuid4().hex[:12])
                due = time.time() + FIRST_RETRY
            with self._changed:
                self._due = due
                self._served = wished
                self._changed.notify_all()
            after_step.set()
            with self._changed:
                while not stop.is_set() and self._wishes == self._served:
                    left = self._due - time.time()
                    if left <= 0:
                        break
                    self._changed.wait(min(max(left, 0.05), LONGEST_SLEEP))

    def wake(self) -> None:
        """Have the thread look up."""
        with self._changed:
            self._changed.notify_all()

    def renew_now(self, timeout: float) -> bool:
        """Renew before it is due; whether the attempt ended within `timeout` seconds. `standing` tells how."""
        with self._changed:
            self._wishes += 1
            mine = self._wishes
            self._changed.notify_all()
            # A step that is under way began before this wish; the one after it counts.
            return self._changed.wait_for(lambda: self._served >= mine, timeout)

    def standing(self) -> Standing:
        """How it is."""
        with self._changed:
            due = self._due
        return self._renewer.standing(due)

    def chain(self) -> bytes:
        """The certificate chain in use, PEM; b"" before the first one."""
        return self._generations.chain_pem()


class RenewalService:
    """All certificates of one configuration."""

    def __init__(self, kept: Sequence[Kept], places: KeyPlaces) -> None:
        self.keepers = {one.watch.name: Keeper(one, places) for one in kept}

    def standings(self) -> tuple[Standing, ...]:
        """How each certificate is."""
        return tuple(one.standing() for one in self.keepers.values())

    def run(self, stop: threading.Event, metrics_file: str = "") -> None:
        """Keep them alive until `stop` is set; what is under way then is brought to its end."""
        stepped = threading.Event()
        threads = [
            threading.Thread(target=one.keep, args=(stop, stepped), name=f"est-{one.name}")
            for one in self.keepers.values()
        ]
        for thread in threads:
            thread.start()
        try:
            while not stop.is_set():
                stepped.wait(0.5)
                if stepped.is_set():
                    stepped.clear()
                    write_metrics(metrics_file, self.standings())
        finally:
            stop.set()
            for one in self.keepers.values():
                one.wake()
            for thread in threads:
                thread.join()
