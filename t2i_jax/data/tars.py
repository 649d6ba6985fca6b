"""Tars read to their own end: `tarfile` takes a damaged header for the end of the archive."""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from t2i_jax.data.files import MAX_BYTES

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
PIECE = 2**20


class Header(tarfile.TarInfo):
  """A header that is sound, or an error: only zeros are an end mark."""

  @classmethod
  def fromtarfile(cls, tar: Any) -> "Header":
    before = tar.fileobj.tell()
    try:
      header = super().fromtarfile(tar)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(f"{error} at byte {before}, before an end mark") from error
    if header.size < 0 or tar.offset <= before:  # would be read for ever
      raise tarfile.ReadError(f"negative size at byte {before}")
    return header


class Bounded:
  """A stream that reads at most `limit` bytes at once, whatever a header says."""

  def __init__(self, stream: Any, limit: int):
    self._stream, self._limit = stream, limit
    self.tell, self.seek = stream.tell, stream.seek

  def read(self, size: int) -> bytes:
    if not 0 <= size <= self._limit:
      raise tarfile.ReadError(f"a header asks for {size:,} bytes at byte {self.tell()}")
    return self._stream.read(size)


class Member(NamedTuple):
  """A member of a tar; its content can be read until the next one is taken."""

  header: tarfile.TarInfo
  tar: tarfile.TarFile

  def read(self) -> bytes:
    """The content of a regular file. Raises tarfile.TarError."""
    stream = self.tar.extractfile(self.header)
    assert stream is not None  # a regular file
    return stream.read()


def members_of(file: BinaryIO) -> Iterator[Member]:
  """The members of a tar, plain or compressed with gzip, bzip2 or xz, in their order.

  Raises, after the members before, where it does not end with an end mark and zeros: TarError, or
  whatever the decompressor raises.
  """
  start = file.read(6)
  file.seek(0)
  opener = next((o for magic, o in OPENERS.items() if start.startswith(magic)), None)
  stream = Bounded(opener(file) if opener else file, MAX_BYTES)
  with tarfile.open(fileobj=stream, mode="r:", tarinfo=Header) as tar:  # type: ignore[call-overload]
    for header in tar:
      yield Member(header, tar)
      tar.members.clear()  # it would keep the headers of all
    while rest := stream.read(PIECE):
      if rest.strip(b"\0"):
        raise tarfile.ReadError(f"data after an end mark at byte {tar.offset}")
