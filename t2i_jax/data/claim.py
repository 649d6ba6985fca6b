"""The claim of a build on its target: one process at a time, for the whole time of the build.

The folder NAME.partial beside the target is where the build writes. Its file .claim is locked by
the process (flock), which the system undoes however the process ends, and names it.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t2i_jax.data.pieces import KINDS
from t2i_jax.data.provenance import END
from t2i_jax.data.source import MANIFEST, read_manifest
from t2i_jax.errors import DataError

SKIPPED, TOKENIZER, ATTRIBUTION = "skipped.jsonl", "tokenizer.json", "ATTRIBUTION.txt"
NULLS = "nulls.msgpack"  # of text encoders, beside their features
CLAIM = ".claim"
# Names of files in a folder that is being built.
UNFINISHED = (
  *(MANIFEST, TOKENIZER, SKIPPED, ATTRIBUTION, NULLS, CLAIM),
  *("*.arrayrecord", "*.keys", "*.part", f"*{END}"),
)


@contextmanager
def claimed(out: Path) -> Iterator[Path]:
  """An empty folder beside `out`, which is this process's until the context ends.

  What a build that was killed left there is removed. `put_in_place` renames the folder; if it still
  has its name at the end, it is removed.
  Raises DataError where another process builds `out`, or where the folder is not of a build.
  """
  partial = out.with_name(f"{out.name}.partial")
  claim = _locked(partial, out)
  try:
    left = _own(partial)
    foreign = sorted({path.name for path in partial.iterdir()} - {path.name for path in left})
    if foreign:
      raise DataError(
        f"{partial / foreign[0]} was not written by a build. Move it, or choose another --to."
      )
    for path in left:
      if path.name != CLAIM:
        path.unlink()
    os.ftruncate(claim, 0)
    os.write(claim, f"process {os.getpid()} on {socket.gethostname()}".encode())
    yield partial
  finally:
    if _is_at(claim, partial / CLAIM):
      with suppress(OSError):  # not empty: what is not of a build stays
        for path in _own(partial):
          path.unlink()
        partial.rmdir()
    os.close(claim)


def _own(partial: Path) -> list[Path]:
  """Files of a build that is not finished."""
  return [path for path in partial.iterdir() if any(path.match(own) for own in UNFINISHED)]


def _locked(partial: Path, out: Path) -> int:
  """The descriptor of the claim's file, locked."""
  while True:
    partial.mkdir(parents=True, exist_ok=True)
    if not (partial / CLAIM).exists() and any(partial.iterdir()):
      raise DataError(f"{partial} was not left by a build. Move it, or choose another --to.")
    try:
      claim = os.open(partial / CLAIM, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:  # its owner has just ended
      continue
    try:
      fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      owner = os.pread(claim, 200, 0).decode("utf-8", "replace") or "another process"
      os.close(claim)
      raise DataError(
        f"{out} is being built by {owner}. Wait for its end, or choose another --to."
      ) from error
    if _is_at(claim, partial / CLAIM):
      return claim
    os.close(claim)


def _is_at(descriptor: int, path: Path) -> bool:
  try:
    return os.path.samestat(os.fstat(descriptor), path.stat())
  except OSError:
    return False


def own_files(folder: Path) -> set[str]:
  """Names of the files that a build, and `t2i data show`, write into a folder. Raises DataError."""
  splits = read_manifest(folder)["splits"]
  shards = {shard["file"] for split in splits.values() for shard in split["shards"]}
  sheets = {f"sheet-{split}.png" for split in splits}
  keys = {f"{split}{end}" for split in splits for end, _ in KINDS.values()}  # of what is encoded
  lines = {f"{split}{END}" for split in splits}
  return shards | sheets | keys | lines | {MANIFEST, TOKENIZER, SKIPPED, ATTRIBUTION, NULLS, CLAIM}


def check_target(out: Path, overwrite: bool) -> None:
  """Raises DataError unless `out` is free, empty, or may be replaced."""
  if not os.path.lexists(out):
    return
  if not out.is_dir():
    raise DataError(f"--to={out} is a file. Use a folder that does not exist yet.")
  if not any(out.iterdir()):
    return
  if not overwrite:
    raise DataError(f"{out} is not empty. Choose another --to, or replace it with --overwrite.")
  try:
    own = own_files(out)
  except DataError as error:
    raise DataError(f"--overwrite replaces built folders only: {error}") from error
  foreign = sorted({path.name for path in out.iterdir()} - own)
  if foreign:
    raise DataError(
      f"--overwrite would delete {foreign[0]} in {out}, which `t2i data build` did not write. "
      "Move it elsewhere first."
    )


def put_in_place(partial: Path, out: Path, overwrite: bool) -> None:
  """Renames the finished folder to `out`; an old one is renamed first and then deleted.

  Raises DataError where `out` is no longer free: it stays as it is, and so does the finished folder
  under the name in the message.
  """
  old = out.with_name(f"{out.name}.old-{os.getpid()}")
  try:
    check_target(out, overwrite)
    if out.exists() and any(out.iterdir()):
      out.rename(old)
      check_target(old, overwrite)  # of what came since
    partial.rename(out)  # fails where there are files again
  except (DataError, OSError) as error:
    if old.exists() and not out.exists():
      old.rename(out)
    finished = out.with_name(f"{out.name}.finished-{os.getpid()}")
    partial.rename(finished)
    (finished / CLAIM).unlink(missing_ok=True)
    why = str(error).replace(str(old), str(out))
    raise DataError(f"{why} This came during the build; what it built is in {finished}.") from error
  (out / CLAIM).unlink(missing_ok=True)
  if old.exists():
    with suppress(OSError):  # not empty: what came since stays
      for name in own_files(old):
        (old / name).unlink(missing_ok=True)
      old.rmdir()
