"""Read a file over the network as if the network never failed for a moment."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

from datatrove.utils.logging import logger

RETRY_SECONDS = (1.0, 4.0, 16.0, 60.0)
"""Waits between attempts; an error after the last one counts."""
_BUFFER_BYTES = 1024 * 1024

Result = TypeVar("Result")


def open_remote(url: str) -> io.BufferedReader:
    """Open a URL that fsspec knows. Reading that fails is tried again at the same place, after a wait.

    A damaged file fails in its reader, not here, and is not tried again.
    """
    return io.BufferedReader(_PatientFile(url), _BUFFER_BYTES)


class _PatientFile(io.RawIOBase):
    def __init__(self, url: str) -> None:
        self._url = url
        self._file: IO[bytes] | None = None
        self._position = 0
        self._num_bytes = self._patiently(lambda file: file.seek(0, io.SEEK_END))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._patiently(lambda file: (file.seek(self._position), file.read(len(buffer)))[1])
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _patiently(self, operation: Callable[[IO[bytes]], Result]) -> Result:
        """Return what ``operation`` gives on the opened file, opening it again when it fails."""
        for wait in RETRY_SECONDS:
            try:
                return operation(self._opened())
            except (FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # every file system has its own; the hub's are those of its HTTP library
                logger.warning(f"{self._url}: {type(error).__name__}: {error}; trying again in {wait:g} s")
                self._file = None
                time.sleep(wait)
        return operation(self._opened())

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            from fsspec.core import url_to_fs

            fs, path = url_to_fs(self._url)
            self._file = fs.open(path, "rb")
        return self._file
