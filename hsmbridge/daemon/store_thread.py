"""The one thread of a worker that talks to the store; in the order of asking, and the next action at once."""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class StoreThread:
    """An executor with a thread of its own."""

    def __init__(self) -> None:
        """Start the thread."""
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    def submit(self, action: Callable[[], None]) -> None:
        """Run `action` after those before it; it must not raise."""
        self._queue.put(action)

    def close(self) -> None:
        """Do what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (action := self._queue.get()) is not None:
            action()
