"""Images of a built folder to a folder of latents: sharded, resumable, the same bits in any case.

Every process encodes pieces of PIECE records on its own devices: a fixed number of images at once
on each, the last ones padded. An image's latents depend on its bytes, the size, the weights and
that number, not on its place, the padding, the processes or on what was encoded before. Pieces lie
in TO.encoding until the folder is complete; a process that is killed loses the one it works on.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from t2i_jax import pretrained
from t2i_jax.data import latents as cache
from t2i_jax.data.claim import check_target, claimed
from t2i_jax.data.files import free_bytes
from t2i_jax.data.images import decode, is_latent
from t2i_jax.data.latents import MODE, MOMENTS, Before, Latents
from t2i_jax.data.progress import Meter
from t2i_jax.data.source import MANIFEST, ShardSource, manifest_hash, read_manifest
from t2i_jax.data.transforms import fit_image
from t2i_jax.errors import ConfigError, DataError, NotFinite, T2IError
from t2i_jax.models import abstract_of, with_params
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, make_mesh
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.pipelines import INDEX
from t2i_jax.systems import trained
from t2i_jax.systems.system import unit_range
from t2i_jax.training.assemble import finish, write_shards
from t2i_jax.training.checkpoint import is_workdir
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.processes import any_process, of_first
from t2i_jax.training.restore import part_of_run

THREADS = 4  # that decode images
LOOKED_AT = 64  # images, for their size


class Encoded(NamedTuple):
  """A finished folder: its manifest, images that were encoded, and those that were there before."""

  manifest: dict[str, Any]
  encoded: int
  kept: int


class Encoder:
  """The network on this process's devices, `batch` images at once on each.

  path  a published autoencoder, the pipeline that it is the vae of, or the work directory of a run
  mode  whether to give the mean alone; one without a posterior gives what it encodes to
  """

  def __init__(self, path: str | Path, batch: int, mode: bool):
    of_run = is_workdir(path)
    if of_run and jax.process_count() > 1:
      raise ConfigError(
        f"--autoencoder={path} is a run, which one process alone encodes with. Write its "
        "autoencoder first: t2i export --part=vae."
      )
    self.path = Path(path) / "vae" if (Path(path) / INDEX).is_file() else Path(path)
    self.config: Any = trained.autoencoder(0, str(path)) if of_run else open_folder(self.path)[1]
    if not hasattr(self.config, "latent_shape"):
      raise ConfigError(
        f"--autoencoder={path} holds a {type(self.config).__name__}, which is no autoencoder."
      )
    self.mesh = make_mesh(devices=jax.local_devices())
    self.rows, self.batch = batch * self.mesh.size, batch
    alone = jax.NamedSharding(self.mesh, jax.P())
    if of_run:
      put_alone = lambda leaf: leaf.update(sharding=alone)
      abstract = jax.tree.map(put_alone, abstract_of(self.config.make))
      self.params = part_of_run(str(path), "vae", abstract, f"--autoencoder={path}")
    else:
      shardings = jax.tree.map(lambda _: alone, abstract_of(self.config.make))
      self.params = pretrained.read(self.path, self.config, shardings)
    self.weights = fingerprint({"vae": self.params})["vae"]
    self.stored = MODE if mode or not self._has_posterior() else MOMENTS
    put = batch_sharding(self.mesh)
    self.run = jax.jit(self._run, in_shardings=(alone, put), out_shardings=put)

  def _has_posterior(self) -> bool:
    return hasattr(with_params(self.config.make)(self.params), "posterior")

  def _run(self, params: Params, images: jax.Array) -> jax.Array:
    """uint8 [M, H, W, 3] -> [M, *row_shape]"""
    module, images = with_params(self.config.make)(params), unit_range(images)
    if self.stored == MOMENTS:
      return jnp.concatenate(module.posterior(images), axis=-1)
    return module.encode(images, None)

  def __call__(self, images: Sequence[np.ndarray]) -> jax.Array:
    """At most `rows` images, padded by zeros; the result is on its way."""
    padded = np.zeros((self.rows, *images[0].shape), np.uint8)
    padded[: len(images)] = images
    return self.run(self.params, jax.device_put(padded, batch_sharding(self.mesh)))


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
      cache.write_piece(self.path, self.found)


class Waiting(NamedTuple):
  """An image that is to be encoded.   record: its key, for messages"""

  piece: _Open
  key: bytes
  record: str
  image: np.ndarray


def encode(
  data: str | Path,
  autoencoder: str | Path,
  out: str | Path,
  *,
  size: tuple[int, int] | None = None,
  splits: Sequence[str] = (),
  mode: bool = False,
  dtype: str = "float32",
  batch: int = 8,
  progress: bool = True,
  say: Callable[[str], None] = lambda line: None,
) -> Encoded:
  """Encodes the images of a built folder into the folder `out`, completely or not at all.

  A folder of latents that is there is brought up to date: what is unchanged is not encoded again.

  size    height, width in pixels; None: that of the images, which must be one
  splits  () = all
  mode    stores the mean of the posterior alone
  dtype   of the stored numbers, "float32" or "float16"
  batch   images at once on a device
  Every process of a run calls it. Raises DataError, ConfigError, RestoreError, NotFinite.
  """
  data, out = Path(data), Path(out).resolve()
  if dtype not in cache.DTYPES:
    raise ConfigError(f"--dtype={dtype} is not one of {', '.join(cache.DTYPES)}.")
  manifest = read_manifest(data)
  chosen = _chosen(data, manifest, splits)
  sources = {split: ShardSource(data, split) for split in chosen}
  size = size or _one_size(data, sources.values())
  encoder = Encoder(autoencoder, batch, mode)
  latents = Latents(
    images=str(data.resolve()),
    images_hash=manifest_hash(data),
    image_size=size,
    shape=encoder.config.latent_shape((*size, 3)),
    stored=encoder.stored,
    dtype=dtype,
    autoencoder=str(encoder.path.resolve()),
    weights=encoder.weights,
    config=cache.network_text(encoder.config),
    batch=batch,
  )
  _check_out(out)
  total = sum(map(len, sources.values()))
  _check_space(out, 2 * total * latents.record_bytes)
  say(_size_line(out, latents, total))
  with ExitStack() as stack:
    partial, pieces = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.encoding")
    _as_first(lambda: _begin(stack, out, pieces))
    before = Before(out)
    label = f"encoding {out.name}"
    own = list(_own_pieces(sources))
    count = sum(piece.stop - piece.start for piece in own)
    with Meter(label, count, progress and jax.process_index() == 0) as meter:
      counts = _together(lambda: _encode_pieces(own, pieces, encoder, latents, before, meter))
    _together(lambda: write_shards(sources, partial, pieces, latents, before))
    encoded, kept = _summed(counts)
    _as_first(lambda: finish(data, manifest, sources, partial, pieces, latents, out))
  return Encoded(read_manifest(out), encoded, kept)


def _chosen(data: Path, manifest: dict[str, Any], splits: Sequence[str]) -> list[str]:
  """The splits that are encoded. Raises DataError."""
  if "latents" in manifest:
    raise DataError(f"--data={data} holds latents already. Give the folder of the images.")
  for split in splits:
    if split not in manifest["splits"]:
      raise DataError(
        f"--splits: {data} has no split {split!r}; it has {', '.join(manifest['splits'])}."
      )
  return [split for split in manifest["splits"] if not splits or split in splits]


def _one_size(data: Path, sources: Iterable[ShardSource]) -> tuple[int, int]:
  """Height and width of the images, where these are one. Raises DataError."""
  looked_at = (record for source in sources for record in source.spread(LOOKED_AT))
  found = {decode(record.image).size[::-1] for record in looked_at}
  if len(found) == 1:
    return found.pop()
  shown = ", ".join(f"{h}x{w}" for h, w in sorted(found)[:4])
  raise DataError(
    f"{data} has images of several sizes ({shown}, ...). Say to which they are scaled and cropped: "
    "--size=512x512, height first."
  )


def _check_out(out: Path) -> None:
  """Raises DataError where `out` is neither free nor a folder of latents."""
  if (out / MANIFEST).is_file() and cache.latents_of(out) is None:
    raise DataError(f"--to={out} holds images, not latents. Choose another folder.")
  check_target(out, overwrite=True)


def _check_space(out: Path, size: int) -> None:
  free = free_bytes(out)
  if free < size:
    raise DataError(
      f"--to={out} has {free / 1e9:.2f} GB free, and {size / 1e9:.2f} GB are needed, twice the "
      "latents. Use another disk, --dtype=float16 or --mode."
    )


def _size_line(out: Path, latents: Latents, total: int) -> str:
  what = "mean and deviation" if latents.stored == MOMENTS else "mean"
  shape = " x ".join(map(str, latents.shape))
  height, width = latents.image_size
  return (
    f"{out}: latents {shape} of images {height} x {width}, {what}, {latents.dtype}: {total:,} of "
    f"{latents.record_bytes:,} bytes, {total * latents.record_bytes / 1e9:.3g} GB"
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


def _summed(counts: tuple[int, int]) -> tuple[int, int]:
  if jax.process_count() == 1:
    return counts
  encoded, kept = np.sum(multihost_utils.process_allgather(np.array(counts)), axis=0)
  return int(encoded), int(kept)


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
    Piece(split, source, start, min(start + cache.PIECE, len(source)))
    for split, source in sources.items()
    for start in range(0, len(source), cache.PIECE)
  )
  for number, piece in enumerate(pieces):
    if number % jax.process_count() == jax.process_index():
      yield piece


def _encode_pieces(
  own: Sequence[Piece],
  folder: Path,
  encoder: Encoder,
  latents: Latents,
  before: Before,
  meter: Meter,
) -> tuple[int, int]:
  """Writes the pieces. Returns how many images were encoded, and how many were there before."""
  encoded = kept = 0
  waiting: deque[Waiting] = deque()
  running: list[tuple[list[Waiting], jax.Array]] = []

  def collect() -> None:
    for batch, result in running:
      for one, x in zip(batch, np.asarray(result), strict=False):  # the rest is padding
        one.piece.give(one.key, cache.npy(_stored(x, latents.dtype, one.record)))
    running.clear()

  def start() -> None:
    batch = [waiting.popleft() for _ in range(min(len(waiting), encoder.rows))]
    result = encoder([one.image for one in batch])
    collect()  # of the batch before, while this one is encoded
    running.append((batch, result))

  with ThreadPoolExecutor(THREADS) as threads:
    for piece in own:
      there = cache.read_piece(piece.path(folder))
      found: dict[bytes, bytes] = {}
      missing: dict[bytes, tuple[str, bytes]] = {}
      for record in (piece.source[i] for i in range(piece.start, piece.stop)):
        for image in record.images:
          key = latents.key(image)
          if key in there:
            found[key] = there[key]
          elif before.find(key) is None and key not in missing:
            missing[key] = (record.key, image)
            encoded += 1
            continue
          kept += 1
      opened = _Open(piece.path(folder), found, len(missing))
      fitted = threads.map(lambda named: _fitted(named, latents.image_size), missing.values())
      for (key, (name, _)), pixels in zip(missing.items(), fitted, strict=True):
        waiting.append(Waiting(opened, key, name, pixels))
      while len(waiting) >= encoder.rows:
        start()
      meter.advance(piece.stop - piece.start)
    while waiting:
      start()
    collect()
  return encoded, kept


def _fitted(named: tuple[str, bytes], size: tuple[int, int]) -> np.ndarray:
  """The image of a record of this name, at the size. Raises DataError."""
  name, image = named
  try:
    if is_latent(image):
      raise DataError("it holds latents already. Encode a folder of images.")
    return fit_image(image, size)
  except DataError as error:
    raise DataError(f"record {name!r}: {error}") from error


def _stored(x: np.ndarray, dtype: str, name: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    stored = x.astype(dtype)
  if not np.isfinite(stored).all():
    hint = "--dtype=float32" if np.isfinite(x).all() else "another autoencoder"
    raise NotFinite(f"the latents of record {name!r} are not finite as {dtype}. Use {hint}.")
  return stored
