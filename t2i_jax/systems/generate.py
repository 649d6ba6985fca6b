"""Generation with the joint model: prefill tokens and images into a cache, decode, and sample.

`prefill` takes tokens; after BOI, `draw` samples an image given the cache, and `prefill_image`
extends the cache by the clean image and its EOI; `decode` generates tokens from there until EOS or
another BOI. Rows of a batch may be of different lengths.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.data.documents import patch_positions
from t2i_jax.errors import ConfigError
from t2i_jax.models.decoder import Cache
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, bound
from t2i_jax.process import Prediction, Time
from t2i_jax.ranges import Range, Whole
from t2i_jax.sampling import Guided, guide, remember, row_noise, sample
from t2i_jax.sampling.guidance import interleave
from t2i_jax.sampling.solver import Denoiser
from t2i_jax.systems.sampler import Batches, checked_plan, make_sampler
from t2i_jax.systems.system import clipped, pixels, predicted

if TYPE_CHECKING:
  from t2i_jax.systems.joint import JointSystem

AND = "and"  # between two images that an instruction is about
NOT_STOPPED = -1  # what ended a text that was cut off


class Choice(NamedTuple):
  """How the next token is chosen.

  temperature  0 takes the most likely one
  top_k        of the k most likely ones; 0 = of all
  top_p        of the fewest whose probabilities reach p [1904.09751 sec. 3.1]
  most         tokens at most
  """

  temperature: Annotated[float, Range("[0, 100]")] = 1.0
  top_k: Whole = 0
  top_p: Annotated[float, Range("(0, 1]")] = 1.0
  most: Annotated[int, Range("[1, 2^16]")] = 64


def choose(logits: jax.Array, keys: jax.Array, c: Choice) -> jax.Array:
  """One token a row.   logits [B, V] float32, keys [B] -> [B] int32"""
  if c.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits / c.temperature
  ordered = -jnp.sort(-logits, axis=-1)  # [B, V], the likely ones first
  if c.top_k:
    least = ordered[:, c.top_k - 1, None]
    logits = jnp.where(logits < least, -jnp.inf, logits)
    ordered = jnp.where(ordered < least, -jnp.inf, ordered)
  if c.top_p < 1:
    p = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(p, axis=-1) - p
    least = jnp.min(jnp.where(before < c.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


class Generated(NamedTuple):
  """ids [B, most] int32, pad after length [B]; ended [B]: EOS or BOI, not read, or NOT_STOPPED."""

  ids: jax.Array
  length: jax.Array
  ended: jax.Array


class Generator:
  """The compiled functions of a joint model.

  c     config.sampling
  Raises ConfigError for a config.sampling that cannot run.
  """

  def __init__(self, system: "JointSystem", c: ConfigDict, mesh: Mesh):
    self.system, self.c, self.mesh = system, c, mesh
    sampler = make_sampler(c, system.process)
    self.solver, self.method = sampler.solver, sampler.guidance
    if self.method.perturb is not None or self.method.others:
      raise ConfigError(
        f"sampling.guidance = {c.guidance!r} is not for model.kind = 'transfusion': use cfg, apg, "
        "cfg_zero or cfg_norm."
      )
    self.plan = checked_plan(c, sampler, system)
    self.choice = build({"sample": Choice}, c.words, "sampling.words")
    layout, self.batches = system.layout, Batches(mesh, c.batch)
    if system.text_length + layout.patches > layout.length:
      raise ConfigError(
        f"a text of text.length = {system.text_length} tokens and an image of {layout.patches} "
        f"patches do not fit into the length = {layout.length} of rows."
      )
    self.places = patch_positions(layout.positions, layout.rows, layout.cols)
    self.prefill = bound(jax.jit(self._prefill))
    self.prefill_image = bound(jax.jit(self._prefill_image))
    whole = jax.NamedSharding(mesh, jax.P())  # on every process
    self.decode = bound(jax.jit(self._decode, out_shardings=(whole, None)))
    self.draw = bound(jax.jit(self._draw, out_shardings=whole))

  def empty(self, rows: int) -> Cache:
    """A cache in which nothing has been read, as long as the rows of training."""
    c = self.system.model_config
    cache = Cache.empty(c.block, c.depth, rows, self.system.layout.length, self.system.dtype)
    by_row = batch_sharding(self.mesh)
    if rows != self.batches.rows:  # one conversation
      return cache
    layered = jax.NamedSharding(self.mesh, jax.P(None, *by_row.spec))
    return jax.device_put(cache, Cache(layered, layered, by_row, by_row))

  def _prefill(
    self, params: Params, cache: Cache, ids: jax.Array, count: jax.Array
  ) -> tuple[jax.Array, Cache]:
    """Reads the first count [B] of ids [B, S]: logits of what comes next [B, V], and the cache."""
    model = self.system.model(params)
    hidden, cache = model.read_tokens(ids, count, cache, self.system.dtype)
    last = jnp.take_along_axis(hidden, (count - 1)[:, None, None], axis=1)[:, 0]
    return model.logits(last), cache

  def _prefill_image(
    self, params: Params, cache: Cache, images: jax.Array
  ) -> tuple[jax.Array, Cache]:
    """Extends the cache by images of the data set [B, H, W, C] and their EOI, after their BOI."""
    system, model = self.system, self.system.model(params)
    x0 = system.encode(params, images)
    clean = system.process.at(system.process.on_grid(jnp.zeros(len(x0))))
    _, cache = model.prefill_image(x0.astype(system.dtype), clean.model_time, cache, self.places)
    one = jnp.ones(len(x0), jnp.int32)
    return self._prefill(params, cache, one[:, None] * system.layout.ids.eoi, one)

  def _draw(
    self, params: Params, cache: Cache, null: Cache | None, seeds: jax.Array, scale: jax.Array
  ) -> jax.Array:
    """Images [B, H, W, C] after the BOI at the end of both caches; null: without the text."""
    system, model = self.system, self.system.model(params)
    keys = jax.vmap(jax.random.key)(seeds)
    prior = system.process.prior(keys, system.x_shape)
    prefix = cache if null is None else _interleaved(cache, null)

    def plain(x_t: jax.Array, time: Time, _: Any) -> Prediction:
      model_time = jnp.broadcast_to(time.model_time, x_t.shape[:1])
      network = lambda x: model.prefill_image(
        x.astype(system.dtype), model_time, prefix, self.places
      )[0]
      return predicted(system.output, network, x_t, time)

    denoise: Denoiser = plain
    cond: Any = jnp.zeros(len(prior))  # the caches already lie as `guide` lays its rows
    hooks: dict[str, Any] = {}
    if null is not None:
      denoise, cond = guide(denoise, self.method, scale), Guided(cond, cond)
      hooks = remember(self.method, prior)
    noise = row_noise(keys, system.x_shape)
    x0_hat, _ = sample(denoise, self.solver, self.plan, prior, cond, noise, **hooks)
    return clipped(system.decode(params, x0_hat))

  def _decode(
    self, params: Params, cache: Cache, logits: jax.Array, keys: jax.Array
  ) -> tuple[Generated, Cache]:
    """Goes on writing, from the logits of the next token, until every row has ended."""
    model, c, marks = self.system.model(params), self.choice, self.system.layout.ids
    rows, ids = len(logits), jnp.arange(logits.shape[-1])
    # EOI follows an image by itself. A model without a BOS of its own begins with the EOS.
    never = ((ids == marks.pad) | (ids == marks.bos)) & (ids != marks.eos) | (ids > marks.boi)

    def goes_on(state):
      i, _, _, generated = state
      return (i < c.most) & jnp.any(generated.ended == NOT_STOPPED)

    def one_more(state):
      i, logits, cache, generated = state
      logits = jnp.where(never, -jnp.inf, logits)
      token = choose(logits, jax.vmap(lambda key: jax.random.fold_in(key, i))(keys), c)
      running = generated.ended == NOT_STOPPED
      stops = (token == marks.eos) | (token == marks.boi)
      ended = jnp.where(running & stops, token, generated.ended)
      taken = (running & ~stops).astype(jnp.int32)
      ids = generated.ids.at[:, i].set(jnp.where(taken == 1, token, marks.pad))
      hidden, cache = model.read_tokens(token[:, None], taken, cache, self.system.dtype)
      logits = jnp.where(taken[:, None] == 1, model.logits(hidden[:, 0]), logits)
      return i + 1, logits, cache, Generated(ids, generated.length + taken, ended)

    empty = jnp.full((rows, c.most), marks.pad, jnp.int32)
    nothing = Generated(empty, jnp.zeros(rows, jnp.int32), jnp.full(rows, NOT_STOPPED, jnp.int32))
    state = (jnp.int32(0), logits, cache, nothing)
    _, _, cache, generated = jax.lax.while_loop(goes_on, one_more, state)
    return generated, cache

  def start_with_image(self, params: Params, images: jax.Array) -> tuple[jax.Array, Cache]:
    """Documents that begin with images: logits of the next token, and the cache."""
    rows, ids = len(images), self.system.layout.ids
    first = np.tile(np.array([ids.bos, ids.boi], np.int32), (rows, 1))
    _, cache = self.prefill(params, self.empty(rows), first, np.full(rows, 2, np.int32))
    return self.prefill_image(params, cache, images)

  def caption(self, params: Params, images: np.ndarray, seeds: Sequence[int]) -> list[str]:
    """A caption of each image, uint8 [n, H, W, 3] or latents."""
    found: list[str] = []
    for part, keys in self.batches((images, np.asarray(seeds, np.uint32))):
      with jax.set_mesh(self.mesh):
        logits, cache = self.start_with_image(params, part)
        generated, _ = self.decode(params, cache, logits, jax.vmap(jax.random.key)(keys))
      found += [self.system.tokenizer.decode(row) for row in np.asarray(generated.ids)]
    return found[: len(images)]

  def edit(
    self,
    params: Params,
    images: np.ndarray,
    instructions: Sequence[str],
    seeds: Sequence[int],
    others: Sequence[np.ndarray] = (),
  ) -> np.ndarray:
    """Each image changed as its instruction says, uint8 [n, H, W, 3]. Raises ConfigError for more
    images than a row has space for, PromptError, NotFinite.

    others  further images [n, H, W, 3] of each document, each after the word "and"
    The null of guidance is the images without texts.
    """
    boi = self.system.layout.ids.boi
    joined = self.tokenize([AND] * self.batches.rows, boi)
    self._check_space(1 + len(others), int(joined[1][0]) - 2)
    joined = np.roll(joined[0], -1, axis=1), joined[1] - 1
    ids, count = self.tokenize(instructions, boi)
    ids, count = np.roll(ids, -1, axis=1), count - 1  # without BOS: the document has begun
    found = []
    given = (tuple(others), images, ids, count, np.asarray(seeds, np.uint32))
    for further, part, *text, keys in self.batches(given):
      with jax.set_mesh(self.mesh):
        nothing = [np.full_like(text[0], boi), np.ones_like(text[1])]
        _, before = self.start_with_image(params, part)
        without = before
        for image in further:
          _, before = self.prefill(params, before, *joined)
          _, before = self.prefill_image(params, before, image)
          _, without = self.prefill(params, without, *nothing)
          _, without = self.prefill_image(params, without, image)
        _, cache = self.prefill(params, before, *text)
        null = None if self.c.cfg == 1 else self.prefill(params, without, *nothing)[1]
        drawn = self.draw(params, cache, null, keys, jnp.float32(self.c.cfg))
        found.append(pixels(drawn))
    return np.concatenate(found)[: len(images)]

  def _check_space(self, images: int, between: int) -> None:
    """Raises ConfigError where so many images, an instruction and what is drawn are too long.

    between  tokens of text between two images
    """
    layout = self.system.layout
    text, image = self.system.text_length, layout.patches + 2  # with BOS; with BOI and EOI
    most = (layout.length - text - image + between) // (image + between)
    if images > most:
      raise ConfigError(
        f"this model reads {'one image' if most == 1 else f'at most {most} images'} and was given "
        f"{images}: its rows have {layout.length} positions. Leave the others out."
      )

  def prompts(self, params: Params, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """An image of each caption, uint8 [n, H, W, 3]. Raises PromptError."""
    boi = self.system.layout.ids.boi
    ids, count = self.tokenize(prompts, boi)
    nothing = self.tokenize([self.c.negative] * self.batches.rows, boi)
    found = []
    with jax.set_mesh(self.mesh):
      empty = self.empty(self.batches.rows)
      null = None if self.c.cfg == 1 else self.prefill(params, empty, *nothing)[1]
      for *text, keys in self.batches((ids, count, np.asarray(seeds, np.uint32))):
        _, cache = self.prefill(params, empty, *text)
        drawn = self.draw(params, cache, null, keys, jnp.float32(self.c.cfg))
        found.append(pixels(drawn))
    return np.concatenate(found)[: len(ids)]

  def tokenize(self, texts: Sequence[str], last: int) -> tuple[np.ndarray, np.ndarray]:
    """BOS, the text and the id `last` of each: ids [n, text_length] and how many of them [n].

    Raises PromptError where a text does not fit.
    """
    ids, mask = self.system.tokenizer.encode(list(texts), self.system.text_length)
    count = mask.sum(axis=1).astype(np.int32)
    ids[np.arange(len(ids)), count - 1] = last
    return ids, count


def _interleaved(a: Cache, b: Cache) -> Cache:
  layered = jax.vmap(interleave)
  return Cache(
    layered(a.k, b.k),
    layered(a.v, b.v),
    interleave(a.used, b.used),
    interleave(a.position, b.position),
  )
