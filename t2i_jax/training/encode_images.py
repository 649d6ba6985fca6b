"""Images to latents, a fixed number at once: the entries of `t2i data encode --autoencoder`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax import pretrained
from t2i_jax.data import latents as cache
from t2i_jax.data import pieces
from t2i_jax.data.images import decode, is_latent
from t2i_jax.data.latents import MODE, MOMENTS, Latents
from t2i_jax.data.record import Record
from t2i_jax.data.source import ShardSource, manifest_hash
from t2i_jax.data.transforms import fit_image
from t2i_jax.errors import ConfigError, DataError, NotFinite
from t2i_jax.models import abstract_of, with_params
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, compiler_options, make_mesh
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.pipelines import INDEX
from t2i_jax.systems import trained
from t2i_jax.systems.system import unit_range
from t2i_jax.training.checkpoint import is_workdir
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.restore import part_of_run

LOOKED_AT = 64  # images, for their size


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
    options = compiler_options(self.mesh)
    self.run = jax.jit(
      self._run, in_shardings=(alone, put), out_shardings=put, compiler_options=options
    )

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


class Images:
  """The entry of each image: assemble.Entries.   latents: what these are of"""

  kind, what = pieces.IMAGES, "images"

  def __init__(self, encoder: Encoder, latents: Latents):
    self.latents, self.encoder, self.rows = latents, encoder, encoder.rows

  @classmethod
  def of(
    cls,
    data: Path,
    sources: Iterable[ShardSource],
    encoder: Encoder,
    size: tuple[int, int] | None,
    dtype: str,
  ) -> "Images":
    """Of a built folder.   size: height, width in pixels; None: that of the images"""
    size = size or _one_size(data, sources)
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
      batch=encoder.batch,
    )
    return cls(encoder, latents)

  def size(self, sources: dict[str, ShardSource]) -> tuple[int, str]:
    """Bytes of all entries, and a line about them."""
    latents, total = self.latents, sum(map(len, sources.values()))
    what = "mean and deviation" if latents.stored == MOMENTS else "mean"
    shape = " x ".join(map(str, latents.shape))
    height, width = latents.image_size
    size = total * latents.record_bytes
    return size, (
      f"latents {shape} of images {height} x {width}, {what}, {latents.dtype}: {total:,} of "
      f"{latents.record_bytes:,} bytes, {size / 1e9:.3g} GB"
    )

  def wanted(self, record: Record) -> list[tuple[bytes, Any]]:
    return [(self.latents.key(image), image) for image in record.images]

  def row(self, name: str, of: Any) -> np.ndarray:
    """The image of a record of this name, at the size. Raises DataError."""
    try:
      if is_latent(of):
        raise DataError("it holds latents already. Encode a folder of images.")
      return fit_image(of, self.latents.image_size)
    except DataError as error:
      raise DataError(f"record {name!r}: {error}") from error

  def run(self, rows: Sequence[np.ndarray]) -> Any:
    return self.encoder(rows)

  def entries(self, result: Any, names: Sequence[str]) -> list[bytes]:
    found = zip(np.asarray(result), names, strict=False)  # the rest is padding
    return [cache.npy(_stored(x, self.latents.dtype, name)) for x, name in found]

  def applied(self, record: Record, entries: Sequence[bytes]) -> Record:
    return cache.with_latents(record, entries, self.latents.image_size)


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


def _stored(x: np.ndarray, dtype: str, name: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    stored = x.astype(dtype)
  if not np.isfinite(stored).all():
    hint = "--dtype=float32" if np.isfinite(x).all() else "another autoencoder"
    raise NotFinite(f"the latents of record {name!r} are not finite as {dtype}. Use {hint}.")
  return stored
