"""Counters that several processes share: one memfd of 64-bit cells, made by the supervisor.

Each process writes its own row and reads everybody's, so there is no lock and no lost update; an 8-byte aligned
store is atomic on the machines that this runs on. Column 0 counts committed store changes and is how a worker
learns without a system call that a cached slot may be out of date. Not a place for anything that must survive.
"""

import fcntl
import mmap
import os
import struct

STORE_CHANGES = 0
"""The column of `ChangeCounter`; the other columns belong to whoever made the counters."""

_HEADER = struct.Struct("<8sQQ8x")
_MAGIC = b"hsmbcnt1"
_CELL = 8


class SharedCounters:
    """A table of unsigned 64-bit counters: a row a process, a column a thing counted.

    Columns lie one after another, so that one column of all rows is one slice.
    """

    def __init__(self, fd: int, rows: int, columns: int) -> None:
        self.fd = fd
        self.rows = rows
        self.columns = columns
        self._map = mmap.mmap(fd, _size(rows, columns))
        self._cells = memoryview(self._map)[_HEADER.size :].cast("Q")
        self._bytes = memoryview(self._map)[_HEADER.size :]

    @classmethod
    def create(cls, rows: int, columns: int) -> "SharedCounters":
        """A fresh table, all zero, in a memfd that cannot change its size."""
        if rows < 1 or columns < 1:
            raise ValueError("a table of counters has at least one row and one column")
        fd = os.memfd_create("hsmbridge-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _size(rows, columns))
        os.pwrite(fd, _HEADER.pack(_MAGIC, rows, columns), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(fd, rows, columns)

    @classmethod
    def attach(cls, fd: int) -> "SharedCounters":
        """The table behind an inherited file descriptor, which now belongs to it. Raises ValueError."""
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) != _HEADER.size:
            raise ValueError("the counters' file is too short")
        magic, rows, columns = _HEADER.unpack(header)
        if magic != _MAGIC or rows < 1 or columns < 1 or os.fstat(fd).st_size != _size(rows, columns):
            raise ValueError("the file descriptor does not hold counters")
        return cls(fd, rows, columns)

    def add(self, row: int, column: int, amount: int = 1) -> None:
        """Raise a cell of the row that this process writes."""
        self._cells[column * self.rows + row] += amount

    def set(self, row: int, column: int, value: int) -> None:
        """Give a cell of the row that this process writes a value."""
        self._cells[column * self.rows + row] = value

    def get(self, row: int, column: int) -> int:
        """One cell."""
        return self._cells[column * self.rows + row]

    def total(self, column: int) -> int:
        """The sum of a column over all rows."""
        return sum(self._cells[column * self.rows : (column + 1) * self.rows])

    def column_bytes(self, column: int) -> memoryview:
        """A live view of one column, to be copied and compared."""
        start = column * self.rows * _CELL
        return self._bytes[start : start + self.rows * _CELL]

    def close(self) -> None:
        """Give up map and file descriptor. Views of columns must be gone."""
        self._cells.release()
        self._bytes.release()
        self._map.close()
        os.close(self.fd)


class ChangeCounter:
    """Says that the store was changed, by this process or another."""

    def __init__(self, counters: SharedCounters, row: int) -> None:
        if not 0 <= row < counters.rows:
            raise ValueError(f"row {row} of {counters.rows}")
        self._counters = counters
        self._row = row
        self._view = counters.column_bytes(STORE_CHANGES)

    @classmethod
    def private(cls) -> "ChangeCounter":
        """A counter that no other process sees: for a tool or a test that has the store to itself."""
        return cls(SharedCounters.create(1, 1), 0)

    def bump(self) -> None:
        """Tell everybody of a change; to be called after its commit."""
        self._counters.add(self._row, STORE_CHANGES)

    def stamp(self) -> bytes:
        """A value that differs after any change. Take it before reading, compare it before trusting."""
        return self._view.tobytes()


def _size(rows: int, columns: int) -> int:
    return _HEADER.size + rows * columns * _CELL
