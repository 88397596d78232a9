"""Refused connections in the log: the first of a kind at once, those that follow as a count now and then.

Who is refused may come again as fast as it can, and a log with a line for each try would be another way to fill a disk.
"""

import asyncio
from collections.abc import Callable
from typing import Final

SUMMARY_INTERVAL: Final = 30.0
"""Seconds from the first to the count of those that followed, and from one count to the next."""

Write = Callable[..., object]
"""A method of a structlog logger: info, error."""


class _Followers:
    """How often the same was refused since it was told last."""

    __slots__ = ("fields", "times", "write")

    def __init__(self, write: Write, fields: dict[str, str | None]) -> None:
        self.write = write
        self.fields = fields
        self.times = 0


class RefusalLog:
    """Of one front end, on the loop's own thread."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str | None], _Followers] = {}
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, write: Write, event: str, kind: str, **fields: str | None) -> None:
        """Tell of one, now or with those that follow.

        Args:
            write: into the log.
            event: what happened.
            kind: why, in words that are not the client's, for each is remembered for a while.
            fields: what is told; those of another `principal` are counted by themselves.
        """
        key = event, kind, fields.get("principal")
        known = self._kinds.get(key)
        if known is not None:
            known.times += 1
            return
        self._kinds[key] = _Followers(write, fields)
        write(event, **fields)
        if self._timer is None:
            self._wait()

    def flush(self) -> None:
        """Tell how many followed, and forget those of which there were none."""
        for key, followers in tuple(self._kinds.items()):
            if followers.times:
                followers.write(key[0], **followers.fields, times=followers.times)
                followers.times = 0
            else:
                del self._kinds[key]

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SUMMARY_INTERVAL, self._due)

    def _due(self) -> None:
        self._timer = None
        self.flush()
        if self._kinds:
            self._wait()
