"""Whether a trained model draws its training images: measures of evaluation.memorisation, taken."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.data.latents import latents_of
from t2i_jax.data.provenance import read_provenance
from t2i_jax.data.roles import BETWEEN
from t2i_jax.data.source import ShardSource, images_folder
from t2i_jax.data.transforms import fit_image
from t2i_jax.errors import ConfigError
from t2i_jax.evaluation import memorisation as m
from t2i_jax.inference.open import Model
from t2i_jax.process import Prediction, Time
from t2i_jax.sampling import row_noise, sample
from t2i_jax.systems.sampler import Batches, checked_plan, make_sampler

CHUNK = 512  # images of which features are taken at once
CALIBRATED = 2000  # training images whose nearest other one gives the threshold


def text_differences(
  model: Model, prompts: Sequence[str], seeds: Sequence[int], steps: int = 1, kind: str = "x0"
) -> np.ndarray:
  """evaluation.memorisation.text_difference at the first steps.   # [prompts, seeds, steps]

  steps  of config.sampling, whose solver and plain guidance of config.sampling.cfg make x_t
  At the first step x_t is the noise of the seed. Raises ConfigError, PromptError.
  """
  model.need("denoise")
  system: Any = model.system
  if getattr(system, "two_times", False):
    raise ConfigError(
      f"{model.where}: its network gives average velocities, which are not compared."
    )
  c = model.config.sampling
  sampler = make_sampler(c, system.process)
  plan = checked_plan(c, sampler, system)
  if not 1 <= steps <= len(plan.index):
    raise ConfigError(f"--steps={steps}: of the {len(plan.index)} steps of config.sampling.")
  first = jax.tree.map(lambda field: field[:steps], plan)

  def run(params: Any, text: Any, numbers: jax.Array) -> jax.Array:
    cond, null = system.encode_text(params, text), system.null(params)
    null = jax.tree.map(lambda row: jnp.repeat(row, len(numbers), 0), null)

    def denoise(x_t: jax.Array, time: Time, both: Any) -> Prediction:
      found, without = (system.denoise(params, x_t, time, one) for one in both)
      difference = m.text_difference(found, without, x_t, time, kind)
      value = without.value + c.cfg * (found.value - without.value)
      return Prediction(value, found.kind, difference)

    keep = lambda i, x, prediction, state: (x, state.at[i].set(prediction.aux))
    keys = jax.vmap(jax.random.key)(numbers)
    x, noise = system.process.prior(keys, system.x_shape), row_noise(keys, system.x_shape)
    state = jnp.zeros((steps, len(numbers)))
    return sample(denoise, sampler.solver, first, x, (cond, null), noise, keep, state)[1].T

  rows = jax.jit(run, out_shardings=jax.NamedSharding(model.mesh, jax.P()))
  texts = [prompt for prompt in prompts for _ in seeds]
  text = {name: encoder.encode(texts) for name, encoder in system.text.items()}
  numbers = np.tile(np.asarray(seeds, np.uint32), len(prompts))
  with jax.set_mesh(model.mesh):
    parts = [rows(model.params, *part) for part in Batches(model.mesh, c.batch)((text, numbers))]
  found = np.concatenate(parts)[: len(texts)]
  return found.reshape(len(prompts), len(seeds), steps)


class TrainImages:
  """The images that a run is trained on, as it draws them: uint8 [H, W, 3].

  hashes  content hash of each;   record(i), image(i): of image i
  Raises DataError, and ConfigError for latents of no images.
  """

  def __init__(self, model: Model):
    data = model.config.data
    latents = latents_of(data.dir)
    folder = images_folder(data.dir)
    self.size = tuple(latents.image_size if latents else data.image_size)
    splits = dict.fromkeys(data.train_split.split(BETWEEN))
    self._sources = [ShardSource(folder, split) for split in splits]
    self._ends = np.cumsum([len(source) for source in self._sources])
    self.hashes = [one.hashes[0] for split in splits for one in read_provenance(data.dir, split)]
    if self.image(0).shape[-1] != 3:
      raise ConfigError(f"data.dir = {data.dir!r}: its records are no images, which are compared.")

  def __len__(self) -> int:
    return int(self._ends[-1])

  def record(self, i: int) -> Any:
    number = int(np.searchsorted(self._ends, i, "right"))
    return self._sources[number][i - self._start(number)]

  def number(self, split: str, index: int) -> int:
    """Of a record of a split. Raises StopIteration for a split that is not trained on."""
    at = next(i for i, source in enumerate(self._sources) if source.split == split)
    return self._start(at) + index

  def _start(self, number: int) -> int:
    return int(self._ends[number - 1]) if number else 0

  def image(self, i: int) -> np.ndarray:
    return fit_image(self.record(i).image, self.size)

  def features(self, embed: m.Embed) -> Iterator[np.ndarray]:
    """Of all images in parts, in order.   [CHUNK, D]"""
    for start in range(0, len(self), CHUNK):
      stop = min(start + CHUNK, len(self))
      yield embed(np.stack([self.image(i) for i in range(start, stop)]))


class Compared(NamedTuple):
  """Drawn images beside training images.

  nearest    of each drawn one;   threshold: similarity from which on it counts as a copy
  duplicates  training images of which there are several, by hash
  """

  nearest: m.Nearest
  threshold: float
  duplicates: dict[str, list[int]]

  @property
  def copied(self) -> np.ndarray:
    """bool [n]"""
    return self.nearest.copied(self.threshold)


def compare(drawn: np.ndarray, train: TrainImages, embed: m.Embed = m.pixel_features) -> Compared:
  """The nearest training image of drawn ones, uint8 [n, H, W, 3].

  The threshold is that of the training images themselves, at most CALIBRATED of them, evenly
  spaced: `evaluation.memorisation.calibrated` of each one's nearest other image of all.
  """
  chosen = np.unique(np.linspace(0, len(train) - 1, min(CALIBRATED, len(train))).astype(int))
  names = {one: i for i, one in enumerate(dict.fromkeys(train.hashes))}
  number = np.array([names[one] for one in train.hashes])
  own = [chosen[i : i + CHUNK] for i in range(0, len(chosen), CHUNK)]
  among = np.concatenate([embed(np.stack([train.image(i) for i in part])) for part in own])
  queries = np.concatenate([embed(drawn), among])
  drawn_ones = np.full(len(drawn), -1)
  of = np.concatenate([drawn_ones, number[chosen]])

  def same(start: int, scores: np.ndarray) -> np.ndarray:
    return of[:, None] == number[None, start : start + scores.shape[1]]

  found = m.nearest(queries, train.features(embed), same)
  cut = lambda part: m.Nearest(found.at[part], found.similarity[part])
  n = len(drawn)
  threshold = m.calibrated(cut(slice(n, None)).similarity)
  return Compared(cut(slice(0, n)), threshold, m.duplicates(train.hashes))


class Measured(NamedTuple):
  """What a prompt draws.

  difference  mean over seeds of text_differences, by step   # [steps]
  images      uint8 [seeds, H, W, 3];   nearest: training images, similarity: to them, copied: bool
  clique      how many of the images are all nearly the same
  """

  prompt: str
  difference: np.ndarray
  images: np.ndarray
  nearest: np.ndarray
  similarity: np.ndarray
  copied: np.ndarray
  clique: int

  def to_json(self) -> dict[str, Any]:
    return {
      "prompt": self.prompt,
      "text difference by step": [float(value) for value in self.difference],
      "copied": int(self.copied.sum()),
      "images": len(self.images),
      "nearest": self.nearest.tolist(),
      "similarity": [float(value) for value in self.similarity],
      "largest clique": self.clique,
    }


def measure(
  model: Model,
  prompts: Sequence[str],
  seeds: Sequence[int],
  train: TrainImages,
  *,
  steps: int = 1,
  kind: str = "x0",
  tile: float = 0.1,
  embed: m.Embed = m.pixel_features,
) -> tuple[list[Measured], Compared]:
  """All measures of some prompts.

  tile  distance of tiles up to which two images are nearly the same
  Raises ConfigError, PromptError, DataError.
  """
  differences = text_differences(model, prompts, seeds, steps, kind).mean(axis=1)
  texts = [prompt for prompt in prompts for _ in seeds]
  images = model.draw(texts, list(seeds) * len(prompts))
  if images.dtype != np.uint8:
    raise ConfigError(f"{model.where} draws latents, which are not compared with images.")
  compared = compare(images, train, embed)
  found = []
  for i, prompt in enumerate(prompts):
    part = slice(i * len(seeds), (i + 1) * len(seeds))
    near = m.tile_distances(images[part]) <= tile
    found.append(
      Measured(
        prompt,
        differences[i],
        images[part],
        compared.nearest.at[part],
        compared.nearest.similarity[part],
        compared.copied[part],
        len(m.largest_clique(near)),
      )
    )
  return found, compared


def separates(found: Sequence[Measured]) -> dict[str, Any]:
  """How well the difference at the first step says which prompts draw copies."""
  score = np.array([one.difference[0] for one in found])
  copied = np.array([2 * one.copied.sum() > len(one.copied) for one in found], bool)
  numbers = {
    "auc": m.auc(score[copied], score[~copied]),
    f"found at {m.FALSE_ALARMS:g} false alarms": m.found_at(score[copied], score[~copied]),
  }
  known = {name: value for name, value in numbers.items() if np.isfinite(value)}
  return {"prompts that draw copies": int(copied.sum()), "others": int((~copied).sum()), **known}
