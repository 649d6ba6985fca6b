"""Many runs of personalisation in one program: the parts of `t2i personalise` under vmap.

The system, objective, adapters, optimiser and step are those of the methods' configs
(t2i_jax.adapt.METHODS). What differs from run to run is an argument: images, prompts, priors, the
order of rows, the seed and the learning rate.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.personalisation_world import MOST_IMAGES, Subject, training_images
from t2i_jax.adapt import METHODS
from t2i_jax.config import load_config
from t2i_jax.data.batch import Batch, Tokens
from t2i_jax.data.order import index_at
from t2i_jax.inference import Model
from t2i_jax.models.params import Params
from t2i_jax.systems import make_system, merge_params, split_params
from t2i_jax.systems.adapters import merged
from t2i_jax.towers.words import TABLE
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.running import new_running
from t2i_jax.training.state import TrainState
from t2i_jax.training.step import make_train_step

STEPS = (25, 100, 200, 400)  # checkpoints of a run
CHUNK = 25  # steps of a compiled call
AT_ONCE = 6  # runs beside each other
PRIORS = 64  # images of the class
PER_ROLE = 4  # rows of a step of a subject, and as many of its class
SEED_STEPS = 2**20  # a seed's noise is that of steps from here on
NEW_WORD = "<new>"


class Method(NamedTuple):
  """How a subject is taught.

  kind     of adapt.METHODS
  rates    learning rates that are tried on the development subjects
  family   the method whose learning rate it has; "": its own
  prior    whether half of a batch are images of the class
  alone    the subject is called "<v0>", without its class
  word     the embedding of its word is that of another method's runs
  """

  kind: str
  rates: tuple[float, ...] = ()
  family: str = ""
  prior: bool = True
  alone: bool = False
  word: str = ""
  images: int = 4
  adapters: str = ""

  @property
  def program(self) -> tuple[Any, ...]:
    """What differs from program to program."""
    return (self.kind, self.prior, self.adapters)

  def phrase(self, subject: Subject) -> str:
    return subject.word if self.alone else f"{subject.word} {subject.shape}"


FULL_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
LORA_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
WORD_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
_lora = partial(Method, "lora")
_rank = "lora(of='backbone', rank={})"
METHOD_OF: dict[str, Method] = {
  "dreambooth": Method("dreambooth", family="dreambooth_prior", prior=False),
  "dreambooth_prior": Method("dreambooth", FULL_RATES),
  **{
    name: one
    for rank in (1, 4, 16)
    for name, one in {
      f"lora{rank}": _lora(family=f"lora{rank}_prior", prior=False, adapters=_rank.format(rank)),
      f"lora{rank}_prior": _lora(LORA_RATES, adapters=_rank.format(rank)),
    }.items()
  },
  "dora4_prior": _lora(
    family="lora4_prior", adapters="lora(of='backbone', rank=4, dora=True)"
  ),
  "inversion": Method("textual_inversion", WORD_RATES, prior=False, alone=True),
  "pivotal": _lora(
    family="lora4_prior", adapters=_rank.format(4), alone=True, word="inversion"
  ),
}  # fmt: skip
IMAGES = {
  f"lora4_prior_{n}": METHOD_OF["lora4_prior"]._replace(
    rates=(), family="lora4_prior", images=n
  )
  for n in (1, 2, 8)
}  # fmt: skip


class Run(NamedTuple):
  """One subject that is taught.   rate: of learning"""

  subject: Subject
  seed: int
  rate: float


class Scaled(NamedTuple):
  """Optimizers of rate 1, and the rate: AdamW's updates are linear in it."""

  optimizers: Any
  rate: jax.Array

  def update(self, grads: Params, state: Any, trainable: Params) -> tuple[Params, Any]:
    updates, after = self.optimizers.update(grads, state, trainable)
    return jax.tree.map(lambda u: self.rate * u, updates), after


class Given(NamedTuple):
  """The data of a run: images uint8 [MOST_IMAGES + PRIORS, H, W, 3]; ids, mask of the two prompts
  [2, T]; the learning rate."""

  images: Any
  ids: Any
  mask: Any
  rate: Any


class Learner:
  """A method on a base: compiled once for all subjects, seeds and learning rates.

  base    its params are the averaged weights, which a run begins at
  priors  uint8 [PRIORS, H, W, 3] by shape, images that the base drew of the class
  """

  def __init__(self, base: Model, method: Method, priors: dict[str, np.ndarray]):
    self.base, self.method, self.priors = base, method, priors
    self.rows = PER_ROLE * (2 if method.prior else 1)
    given = {"train.lr": "1.0", "train.vector_lr": "1.0", "train.batch": str(self.rows)}
    if not method.prior:
      given |= {"train.objective": "denoising", "data.train_split": "instance"}
    if method.kind == "textual_inversion":
      # One program for all classes: the word begins at the row of the placeholder, which is made
      # the class word's.
      given["adapters.words_text"] = f"words(of='text', tokens=('{NEW_WORD}',), start='<v0>')"
    if method.adapters:
      given["adapters.lora"] = method.adapters
    where = base.where.removeprefix("--workdir=")
    self.config = load_config(f"configs/{METHODS[method.kind]}.py:{where}", given)
    self.system = make_system(self.config, base.tokenizer)
    self.optimizers = make_optimizers(self.config.train, self.system)
    self._encoder = self.system.text["text"]
    self._start = self._id("<v0>")
    self._init: Any = jax.jit(jax.vmap(self._fresh, in_axes=(0, None)))
    self._advance: Any = jax.jit(self._all_steps)
    self._programs = dict[str, Any]()  # shared by copies
    self._merge: Any = jax.jit(self._merged)

  def using(self, method: Method) -> "Learner":
    """The same program for a method of the same `program`."""
    other = copy.copy(self)
    other.method = method
    return other

  def _id(self, word: str) -> int:
    (found,) = self._ids(word)
    return found

  def _ids(self, words: str) -> list[int]:
    ids, mask = self.base.system.text["text"].encode([words])
    return ids[0][mask[0]].tolist()[1:-1]

  def _fresh(self, key: jax.Array, base: Params) -> TrainState:
    params = merge_params(self.system.init(key), base)
    trainable, _ = split_params(params, self.system.parts)
    opt = self.optimizers.init(trainable)
    return TrainState(jnp.int32(0), trainable, {}, opt, trainable, new_running())

  def _frozen(self, base: Params, table: jax.Array) -> Params:
    params = base | {"text": base["text"] | {TABLE: table}}
    own = {name: tree for name, tree in params.items() if name in self.system.parts}
    trained = {name for name, part in self.system.parts.items() if part.train != "none"}
    return {name: tree for name, tree in own.items() if name not in trained}

  def _all_steps(
    self, states: TrainState, base: Params, tables: jax.Array, given: Given, picks: jax.Array
  ) -> TrainState:
    """CHUNK steps of all runs.   picks [runs, CHUNK, rows]"""
    return jax.vmap(self._steps, in_axes=(0, None, 0, 0, 0))(states, base, tables, given, picks)

  def _steps(
    self, state: TrainState, base: Params, table: jax.Array, given: Given, picks: jax.Array
  ) -> TrainState:
    step = make_train_step(self.system, Scaled(self.optimizers, given.rate), self.config)  # type: ignore[arg-type]
    role = jnp.arange(self.rows) % 2 if self.method.prior else jnp.zeros(self.rows, jnp.int32)

    def one(state: TrainState, pick: jax.Array) -> tuple[TrainState, None]:
      ones = jnp.ones((self.rows, 1))
      text: Any = {"text": Tokens(given.ids[role], given.mask[role])}
      roles = role if self.method.prior else None
      batch = Batch(given.images[pick][:, None], ones, ones, text, role=roles)
      return step(state, batch)[0], None

    whole = state._replace(frozen=self._frozen(base, table))
    return jax.lax.scan(one, whole, picks)[0]._replace(frozen={})

  def _merged(self, states: TrainState, base: Params, tables: jax.Array, i: jax.Array) -> Params:
    """The parameters of a run, as the base has them."""
    trainable, table = jax.tree.map(lambda x: x[i], (states.trainable, tables))
    params = merge_params(trainable, self._frozen(base, table))
    if self.method.kind != "textual_inversion":
      return merged(self.system, params)
    (learned,) = self.system.adapters["words_text"].rows(params["words_text"], params["text"])  # type: ignore[attr-defined]
    return {name: params[name] for name in base} | {"row": learned}

  def tables(self, runs: Sequence[Run], rows: Sequence[np.ndarray | None]) -> jax.Array:
    """The embedding of the text encoder of each run, [runs, V, D].

    rows  of each subject's word, where another method has learned it
    """
    table, found = np.asarray(self.base.params["text"][TABLE]), []
    for run, row in zip(runs, rows, strict=True):
      own = table.copy()
      if row is not None:
        own[self._id(run.subject.word)] = row
      if self.method.kind == "textual_inversion":
        own[self._start] = table[self._ids(run.subject.shape)].mean(0)
      found.append(own)
    return jnp.asarray(np.stack(found))

  def given(self, run: Run) -> Given:
    method, subject = self.method, run.subject
    inverted = method.kind == "textual_inversion"
    phrase = NEW_WORD if inverted else method.phrase(subject)
    ids, mask = self._encoder.encode([f"a {phrase}", f"a {subject.shape}"])
    images = np.concatenate([training_images(subject), self.priors[subject.shape]])
    return Given(images, ids, mask, np.float32(run.rate))

  def picks(self, seed: int, first: int) -> np.ndarray:
    """Indices of the images of CHUNK steps from step `first` on.   # [CHUNK, rows]"""
    start = first * PER_ROLE
    turns = range(start, start + CHUNK * PER_ROLE)
    own = [index_at(turn, self.method.images, seed)[1] for turn in turns]
    if not self.method.prior:
      return np.array(own).reshape(CHUNK, self.rows)
    priors = [MOST_IMAGES + index_at(turn, PRIORS, seed)[1] for turn in turns]
    return np.stack([own, priors], 1).reshape(CHUNK, self.rows)

  def learn(
    self, runs: Sequence[Run], rows: Sequence[np.ndarray | None], steps: Sequence[int]
  ) -> Iterator[tuple[int, float, list[Params]]]:
    """Step, seconds of a run so far, and the parameters of each run, after each of `steps`.

    Seconds are those of all runs divided by their number, without compilation. With textual
    inversion parameters have "row", the embedding of the word.
    """
    filled = [*runs, *[runs[-1]] * (AT_ONCE - len(runs))]
    every = [*rows, *[rows[-1]] * (AT_ONCE - len(runs))]
    base, tables = self.base.params, self.tables(filled, every)
    keys = jnp.stack([jax.random.key(run.seed) for run in filled])
    states = self._init(keys, base)
    begins = jnp.array([SEED_STEPS * run.seed for run in filled], jnp.int32)
    states = states._replace(step=begins)
    given = jax.tree.map(lambda *x: np.stack(x), *map(self.given, filled))
    advance = self._compiled(states, base, tables, given)
    seconds = 0.0
    for first in range(0, max(steps), CHUNK):
      picks = np.stack([self.picks(run.seed, first) for run in filled]).astype(np.int32)
      began = time.perf_counter()
      states = jax.block_until_ready(advance(states, base, tables, given, picks))
      seconds += (time.perf_counter() - began) / len(filled)
      if first + CHUNK in steps:
        merge = lambda i, states=states: self._merge(states, base, tables, jnp.int32(i))
        yield first + CHUNK, seconds, [self._placed(merge(i), run) for i, run in enumerate(runs)]

  def _compiled(self, *arguments: Any) -> Any:
    """CHUNK steps, compiled beforehand, so that no compilation is timed."""
    if "advance" not in self._programs:
      picks = np.zeros((AT_ONCE, CHUNK, self.rows), np.int32)
      self._programs["advance"] = self._advance.lower(*arguments, picks).compile()
    return self._programs["advance"]

  def _placed(self, params: Params, run: Run) -> Params:
    """A learned word's row at its placeholder, where the base's encoder reads it."""
    if self.method.kind != "textual_inversion":
      return params
    table = self.base.params["text"][TABLE].at[self._id(run.subject.word)].set(params["row"])
    return params | {"text": params["text"] | {TABLE: table}}
