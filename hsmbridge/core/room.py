"""A bound on what several have together, such as the connections of one principal."""

import threading

from hsmbridge.core.errors import HsmBridgeError, LimitError, Status


class Room:
    """Room for so much of something. May be used from any thread.

    Attributes:
        most: how much there is in all.
    """

    __slots__ = ("_left", "_lock", "_refusal", "most")

    def __init__(self, most: int, refusal: str = "") -> None:
        """Args: refusal: what somebody is told for whom there is none left."""
        self.most = most
        self._left = most
        self._refusal = refusal
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take room for so much more; False where there is not so much."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give_back(self, count: int) -> None:
        with self._lock:
            self._left += count

    def exchange(self, given: int, taken: int) -> None:
        """Give back and take at one stroke. What is taken may be more, by little, and is never refused."""
        with self._lock:
            self._left += given - taken

    @property
    def empty(self) -> bool:
        """Whether nobody has any of it."""
        return self._left == self.most

    def refusal(self) -> HsmBridgeError:
        """LimitError (TOO_MANY_RESOURCES)."""
        return LimitError(Status.TOO_MANY_RESOURCES, self._refusal)
