"""Images and captions of a built folder to what is stored in their place or beside them: sharded,
resumable, the same bits in any case.

Every process encodes pieces of PIECE records on its own devices: a fixed number of images, or of
captions, at once on each, the last ones padded. An entry depends on the bytes of its image or the
ids of its caption, the weights and that number, not on its place, the padding, the processes or on
what was encoded before. Pieces lie in TO.encoding until the folder is complete; a process that is
killed loses the one it works on.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from t2i_jax.data import latents as cache
from t2i_jax.data import pieces as stored
from t2i_jax.data.batch import Features
from t2i_jax.data.claim import NULLS, check_target, claimed
from t2i_jax.data.features import write_nulls
from t2i_jax.data.files import free_bytes
from t2i_jax.data.pieces import IMAGES, KINDS, TEXT, Before, read_piece
from t2i_jax.data.progress import Meter
from t2i_jax.data.source import MANIFEST, ShardSource, read_manifest
from t2i_jax.errors import ConfigError, DataError, T2IError
from t2i_jax.training.assemble import Entries, finish, write_shards
from t2i_jax.training.encode_images import Encoder, Images
from t2i_jax.training.encode_text import text_entries
from t2i_jax.training.processes import any_process, of_first

THREADS = 4  # that decode images
KNOWN = 2**28  # bytes of entries of captions that are kept in memory, for those that repeat
WHAT = {IMAGES: "latents", TEXT: "features of text encoders"}
FLAGS = {IMAGES: "--autoencoder", TEXT: "--config"}


class Count(NamedTuple):
  """How many of a kind of entries were encoded, and how many were there before."""

  what: str
  encoded: int
  kept: int


class Encoded(NamedTuple):
  """A finished folder: its manifest, and a count of each kind of entries."""

  manifest: dict[str, Any]
  counts: list[Count]


class Piece(NamedTuple):
  """Records start to stop of a split."""

  split: str
  source: ShardSource
  start: int
  stop: int

  def path(self, folder: Path) -> Path:
    return folder / f"{self.split}-{self.start:09d}.piece"


class _Open:
  """A piece that waits for some of its entries."""

  def __init__(self, path: Path, found: dict[bytes, bytes], waiting: int):
    self.path, self.found, self.waiting = path, found, waiting

  def give(self, key: bytes, value: bytes) -> None:
    self.found[key] = value
    self.waiting -= 1
    if not self.waiting:
      stored.write_piece(self.path, self.found)


class Waiting(NamedTuple):
  """What is to be encoded.   record: its key, for messages"""

  piece: _Open
  key: bytes
  record: str
  row: Any


class _Queue:
  """What waits for one kind of entries, and the batch of it that runs.

  known  entries of captions that were encoded lately
  """

  def __init__(self, maker: Entries):
    self.maker, self.encoded, self.kept = maker, 0, 0
    self.known: dict[bytes, bytes] = {}
    self._bytes = 0  # of known
    self.waiting: deque[Waiting] = deque()
    self._running: list[tuple[list[Waiting], Any]] = []

  def start(self) -> None:
    batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.maker.rows))]
    result = self.maker.run([one.row for one in batch])
    self.collect()  # of the batch before, while this one is encoded
    self._running.append((batch, result))

  def collect(self) -> None:
    for batch, result in self._running:
      entries = self.maker.entries(result, [one.record for one in batch])
      for one, entry in zip(batch, entries, strict=True):
        one.piece.give(one.key, entry)
        self._remember(one.key, entry)
    self._running.clear()

  def _remember(self, key: bytes, entry: bytes) -> None:
    if self.maker.kind != TEXT:  # images hardly repeat
      return
    self.known[key] = entry
    self._bytes += len(entry)
    while self._bytes > KNOWN:
      self._bytes -= len(self.known.pop(next(iter(self.known))))  # the oldest

  def end(self) -> None:
    while self.waiting:
      self.start()
    self.collect()


def encode(
  data: str | Path,
  autoencoder: str | Path | None,
  out: str | Path,
  *,
  text: ConfigDict | None = None,
  size: tuple[int, int] | None = None,
  splits: Sequence[str] = (),
  mode: bool = False,
  dtype: str = "float32",
  text_dtype: str = "float32",
  batch: int = 8,
  progress: bool = True,
  say: Callable[[str], None] = lambda line: None,
) -> Encoded:
  """Encodes the images or the captions of a built folder, or both, into the folder `out`,
  completely or not at all.

  A folder that is there is brought up to date: what is unchanged is not encoded again.

  autoencoder  of the images; None: they stay as they are
  text    a config whose frozen text encoders encode the captions; None: none does
  size    height, width in pixels; None: that of the images, which must be one
  splits  () = all
  mode    stores the mean of the posterior alone
  dtype, text_dtype  of the stored numbers, "float32" or "float16"
  batch   images, or captions, at once on a device
  Every process of a run calls it. Raises DataError, ConfigError, RestoreError, NotFinite.
  """
  data, out = Path(data), Path(out).resolve()
  for flag, value in (("--dtype", dtype), ("--text-dtype", text_dtype)):
    if value not in cache.DTYPES:
      raise ConfigError(f"{flag}={value} is not one of {', '.join(cache.DTYPES)}.")
  manifest = read_manifest(data)
  kinds = [kind for kind, of in ((IMAGES, autoencoder), (TEXT, text)) if of is not None]
  chosen = _chosen(data, manifest, splits, kinds)
  _check_out(out, kinds, manifest)
  sources = {split: ShardSource(data, split) for split in chosen}
  makers: list[Entries] = []
  made: dict[str, Any] = {}
  nulls: dict[str, Features] = {}
  if autoencoder is not None:
    encoder = Encoder(autoencoder, batch, mode)
    makers.append(images := Images.of(data, sources.values(), encoder, size, dtype))
    made[IMAGES] = images.latents.__dict__
  if text is not None:
    captions, texts = text_entries(text, data, sources, text_dtype, batch)
    makers += captions
    made[TEXT] = texts.to_json()
    nulls = {one.name: one.null() for one in captions}
  sizes = [maker.size(sources) for maker in makers]
  _check_space(out, 2 * sum(size for size, _ in sizes))
  for _, line in sizes:
    say(f"{out}: {line}")
  with ExitStack() as stack:
    partial, pieces = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.encoding")
    _as_first(lambda: _begin(stack, out, pieces))
    before = Before(out)
    label = f"encoding {out.name}"
    own = list(_own_pieces(sources))
    count = sum(piece.stop - piece.start for piece in own)
    with Meter(label, count, progress and jax.process_index() == 0) as meter:
      counts = _together(lambda: _encode_pieces(own, pieces, makers, before, meter))
    _together(lambda: write_shards(sources, partial, pieces, makers, before))
    counts = _summed(counts)

    def end() -> None:
      if nulls:
        write_nulls(partial / NULLS, texts, nulls)
      finish(data, manifest, sources, partial, pieces, made, out)

    _as_first(end)
  found = [Count(maker.what, *pair) for maker, pair in zip(makers, counts.tolist(), strict=True)]
  return Encoded(read_manifest(out), found)


def _chosen(
  data: Path, manifest: dict[str, Any], splits: Sequence[str], kinds: Sequence[str]
) -> list[str]:
  """The splits that are encoded. Raises ConfigError, DataError."""
  if not kinds:
    raise ConfigError(
      "nothing to encode: give --autoencoder=FOLDER for latents of the images, --config=FILE for "
      "features of its text encoders, or both."
    )
  for kind in (kind for kind in kinds if kind in manifest):
    what = WHAT[kind]
    raise DataError(f"--data={data} holds {what} already. Give the folder without them.")
  for split in splits:
    if split not in manifest["splits"]:
      raise DataError(
        f"--splits: {data} has no split {split!r}; it has {', '.join(manifest['splits'])}."
      )
  return [split for split in manifest["splits"] if not splits or split in splits]


def _check_out(out: Path, kinds: Sequence[str], data: dict[str, Any]) -> None:
  """Raises DataError where `out` is neither free nor a folder of what is encoded.

  data  the manifest of the built folder
  """
  if (out / MANIFEST).is_file():
    there = [kind for kind in KINDS if kind in read_manifest(out)]
    if not there:
      raise DataError(f"--to={out} holds images, not latents. Choose another folder.")
    for kind in (kind for kind in there if kind not in kinds and kind not in data):
      raise DataError(
        f"--to={out} holds {WHAT[kind]}, too, which this command would leave out. Add "
        f"{FLAGS[kind]}, or choose another folder."
      )
  check_target(out, overwrite=True)


def _check_space(out: Path, size: int) -> None:
  free = free_bytes(out)
  if free < size:
    raise DataError(
      f"--to={out} has {free / 1e9:.2f} GB free, and {size / 1e9:.2f} GB are needed, twice "
      "what is stored. Use another disk, --dtype=float16, --mode or --text-dtype=float16."
    )


def _as_first(act: Callable[[], None]) -> None:
  """Process 0 does it; its error is that of all."""
  problem = None
  if jax.process_index() == 0:
    try:
      act()
    except T2IError as error:
      problem = str(error)
    except OSError as error:
      problem = f"{error.filename} cannot be written: {error.strerror}. Choose another --to."
  problem = of_first(problem)
  if problem:
    raise DataError(problem)


def _together(act: Callable[[], Any]) -> Any:
  """Each process does it; one that fails ends all."""
  found, problem = None, None
  try:
    found = act()
  except (T2IError, OSError) as error:
    problem = error
  failed = any_process(problem is not None)
  if problem is not None:
    raise problem
  if failed:
    raise DataError("another process could not encode its images; its message says why.")
  return found


def _summed(counts: np.ndarray) -> np.ndarray:
  if jax.process_count() == 1:
    return counts
  return np.sum(multihost_utils.process_allgather(counts), axis=0)


def _begin(stack: ExitStack, out: Path, pieces: Path) -> None:
  stack.enter_context(claimed(out))
  pieces.mkdir(exist_ok=True)
  foreign = [
    p.name for p in pieces.iterdir() if p.suffix not in (".piece", ".part", ".json", ".keys")
  ]
  if foreign:
    raise DataError(f"{pieces / foreign[0]} was not left by `t2i data encode`. Move it first.")


def _own_pieces(sources: dict[str, ShardSource]) -> Iterator[Piece]:
  """The pieces that this process encodes."""
  pieces = (
    Piece(split, source, start, min(start + stored.PIECE, len(source)))
    for split, source in sources.items()
    for start in range(0, len(source), stored.PIECE)
  )
  for number, piece in enumerate(pieces):
    if number % jax.process_count() == jax.process_index():
      yield piece


def _encode_pieces(
  own: Sequence[Piece],
  folder: Path,
  makers: Sequence[Entries],
  before: Before,
  meter: Meter,
) -> np.ndarray:
  """Writes the pieces. Returns how many of each kind were encoded, and how many were there before.

  [len(makers), 2] int
  """
  queues = [_Queue(maker) for maker in makers]
  with ThreadPoolExecutor(THREADS) as threads:
    for piece in own:
      there = read_piece(piece.path(folder))
      found: dict[bytes, bytes] = {}
      missing: list[dict[bytes, tuple[str, Any]]] = [{} for _ in queues]
      for record in (piece.source[i] for i in range(piece.start, piece.stop)):
        for queue, lacks in zip(queues, missing, strict=True):
          for key, of in queue.maker.wanted(record):
            if key in there:
              found[key] = there[key]
            elif key in queue.known:
              found[key] = queue.known[key]
            elif before.find(key) is None and key not in lacks:
              lacks[key] = (record.key, of)
              queue.encoded += 1
              continue
            queue.kept += 1
      opened = _Open(piece.path(folder), found, sum(map(len, missing)))
      if not opened.waiting and not found.keys() <= there.keys():
        stored.write_piece(opened.path, found)
      for queue, lacks in zip(queues, missing, strict=True):
        rows = threads.map(lambda named, maker=queue.maker: maker.row(*named), lacks.values())
        for (key, (name, _)), row in zip(lacks.items(), rows, strict=True):
          queue.waiting.append(Waiting(opened, key, name, row))
        while len(queue.waiting) >= queue.maker.rows:
          queue.start()
      meter.advance(piece.stop - piece.start)
    for queue in queues:
      queue.end()
  return np.array([(queue.encoded, queue.kept) for queue in queues])
