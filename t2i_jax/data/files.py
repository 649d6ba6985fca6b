"""Opening files of users: regular ones only, and only as large as is stated here."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t2i_jax.errors import DataError

# 256 MiB: the 8-bit RGB pixels of the largest image that PIL opens without a warning.
MAX_BYTES = 2**28  # of an image or an array
MAX_TEXT = 2**24  # of a file of captions, or a row of metadata


def free_bytes(path: Path) -> int:
  """Free on the disk of a file or folder that may not exist yet."""
  there = path.absolute()
  while not there.exists():
    there = there.parent
  return shutil.disk_usage(there).free


def open_regular(path: str | Path) -> BinaryIO:
  """Opens a regular file. Raises DataError for a pipe, a device or a folder, without waiting."""
  # Without O_NONBLOCK, opening a pipe waits for its other end.
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise DataError("not a regular file")
  return os.fdopen(descriptor, "rb")


def read_regular(path: str | Path, limit: int = MAX_BYTES) -> bytes:
  """The bytes of a regular file of at most `limit` bytes. Raises DataError, OSError."""
  with open_regular(path) as file:
    check_size(os.fstat(file.fileno()).st_size, limit)
    data = file.read(limit + 1)  # it may have grown
  check_size(len(data), limit)
  return data


def check_size(size: int, limit: int) -> None:
  """Raises DataError where size is above the limit, both in bytes."""
  if size > limit:
    raise DataError(f"too large: {size:,} bytes, at most {limit:,} are read")


def lines_of(file: BinaryIO, limit: int = MAX_TEXT) -> Iterator[bytes | None]:
  """The lines of a file, each with its line feed; None for a line of more than `limit` bytes."""
  while line := file.readline(limit + 1):
    if len(line) <= limit:
      yield line
      continue
    while line and not line.endswith(b"\n"):
      line = file.readline(limit)
    yield None
