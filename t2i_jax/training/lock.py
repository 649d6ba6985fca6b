"""One trainer a work directory: a lock that ends with its owner, however that ends.

The owner holds an flock on WORKDIR/trainer.lock, which the system drops when the process ends, and
has its host and process in the file, with a count that rises every BEAT seconds. Among processes of
one machine flock decides. File systems that hosts share may have it for each host alone or not at
all; there the count decides: an owner of another host whose count stands still for WATCH seconds
has ended, or is cut off. If it comes back, it finds another owner in the file before it saves.
"""

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax

from t2i_jax.errors import WorkdirError
from t2i_jax.training.processes import of_first

NAME = "trainer.lock"
BEAT = 5.0  # seconds; network file systems may show a write only after some of them
WATCH = 30.0
SIZE = 512  # bytes of the file: one write, always as long


class Owner(NamedTuple):
  """machine: see `machine`;   token: of one trainer;   beats: its signs of life"""

  host: str
  process: int
  machine: str
  token: str
  beats: int

  def __str__(self) -> str:
    return f"process {self.process} on {self.host}"


def machine() -> str:
  """One kernel since its boot, and one space of process numbers in it (a container's own)."""
  try:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return socket.gethostname()


class Lock:
  """The right to write a work directory, from its making until `close`; process 0 holds it.

  Raises WorkdirError where another trainer has it, on every process of the run.
  """

  def __init__(self, workdir: Path):
    self.workdir, self.path = workdir, workdir / NAME
    self.me = Owner(socket.gethostname(), os.getpid(), machine(), secrets.token_hex(8), 0)
    self.file, self.ended = -1, threading.Event()
    self.beats = threading.Thread(target=self._beat, daemon=True, name=NAME)
    problem = of_first(self._take() if jax.process_index() == 0 else None)
    if problem:
      self.close()
      raise WorkdirError(problem)

  def check(self) -> None:
    """Raises WorkdirError, on every process, where another trainer has taken the directory."""
    now = read(self.path) if self.file >= 0 else None
    if of_first(now is not None and now.token != self.me.token):
      raise WorkdirError(
        f"--workdir={self.workdir} was taken over by {now or 'another trainer'} while this one did "
        "not answer. What it has saved stays; this one saves nothing more."
      )

  def close(self) -> None:
    """Ends the right; at once, for any trainer that waits for it."""
    if self.file < 0:
      return
    self.ended.set()
    self.beats.join()
    now = read(self.path)
    if now is not None and now.token == self.me.token:
      os.ftruncate(self.file, 0)
    os.close(self.file)
    self.file = -1

  def _take(self) -> str:
    """Takes the lock. Returns why not, or nothing."""
    try:
      self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
      return f"{self.path} cannot be written: {error.strerror}."
    free = self._flock()
    owner = read(self.path)
    if free is False:
      time.sleep(0 if owner else 1)  # it may be about to write its name
      return self._let_go(owner or read(self.path))
    if owner is not None:
      if not (free and owner.machine == self.me.machine) and self._lives(owner):
        return self._let_go(owner)
      print(f"{self.path}: {owner} has ended without closing it; taking over", flush=True)
    self._write()
    self.beats.start()
    return ""

  def _flock(self) -> bool | None:
    """Whether flock was free; None where the file system has none."""
    try:
      fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return False
    except OSError:
      return None
    return True

  def _let_go(self, owner: Owner | None) -> str:
    os.close(self.file)
    self.file = -1
    return (
      f"--workdir={self.workdir} is being written by {owner or 'another process'}. Two trainers "
      "would ruin it: wait for that one to end, stop it, or use another --workdir."
    )

  def _lives(self, owner: Owner) -> bool:
    """Watches for a sign of life of an owner that flock says nothing of."""
    print(
      f"{self.path} is held by {owner}; looking for {WATCH:g} s whether it is alive", flush=True
    )
    until = time.monotonic() + WATCH
    while time.monotonic() < until:
      time.sleep(BEAT / 5)
      now = read(self.path)
      if now is None:  # closed
        return False
      if now != owner:
        return True
    return False

  def _write(self) -> None:
    text = json.dumps(self.me._asdict()).encode().ljust(SIZE)
    os.pwrite(self.file, text, 0)
    os.fsync(self.file)

  def _beat(self) -> None:
    while not self.ended.wait(BEAT):
      now = read(self.path)
      if now is not None and now.token != self.me.token:
        return
      self.me = self.me._replace(beats=self.me.beats + 1)
      try:
        self._write()
      except OSError:  # the file system may come back
        continue


def read(path: Path) -> Owner | None:
  """Who is in the file; opened anew each time, or a network file system shows what it has kept."""
  try:
    return Owner(**json.loads(path.read_text()))
  except (OSError, ValueError, TypeError):
    return None
