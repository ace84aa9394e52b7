"""HDF5 files whose writing may fail: on a full disk HDF5 itself can neither close a file nor forget it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class _Forgiving:
    """A file whose first error of writing is kept, and from then on all that is written is dropped.

    HDF5 keeps what it could not write and tries again when the file is closed and when Python ends; it fails
    each time, in the end with a segmentation fault. So it never sees the error.

    Attributes
    ----------
    error
        The first error, if there was one.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.file = io.FileIO(path, "w+" if mode == "w" else "r+")
        self.size = os.fstat(self.file.fileno()).st_size
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; the end is where it would be if everything had been written."""
        return self.file.seek(self.size + offset) if whence == os.SEEK_END else self.file.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read; needed by h5py to know a file."""
        return self.file.read(size)

    def readinto(self, buffer: Any) -> int:
        """Read; zeros where nothing was written."""
        view = memoryview(buffer).cast("B")
        n_read = 0
        while n_read < len(view) and (n := self.file.readinto(view[n_read:])):
            n_read += n
        view[n_read:] = bytes(len(view) - n_read)
        return len(view)

    def write(self, buffer: Any) -> int:
        """Write, or keep the error."""
        view = memoryview(buffer).cast("B")
        self.size = max(self.size, self.file.tell() + len(view))
        n_written = 0
        try:
            while self.error is None and n_written < len(view):
                n_written += self.file.write(view[n_written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int) -> int:
        """Change the size, or keep the error."""
        self.size = size
        try:
            if self.error is None:
                self.file.truncate(size)
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Nothing is held back."""


@contextmanager
def written(path: Path, mode: str = "w") -> Iterator[h5py.File]:
    """Open an HDF5 file to write.

    Parameters
    ----------
    path
        The file.
    mode
        ``"w"`` for a new one, ``"r+"`` to change it.

    Raises
    ------
    OSError
        After the block, if the system refused to write some of it, as when the disk is full.
    """
    target = _Forgiving(path, mode)
    with target.file:
        try:
            with h5py.File(target, mode) as file:
                yield file
        except Exception as error:
            if target.error is None:
                raise
            raise target.error from error
        if target.error is not None:
            raise target.error
