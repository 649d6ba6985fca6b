"""The methods of personalisation, and many of their runs in one program.

The system, objective, adapters, optimiser and step are those of the methods' configs
(t2i_jax.adapt.METHODS); benchmarks.personalisation_beside runs them beside each other.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.personalisation_beside import UNIT_RATE, Beside, Given, in_turn
from benchmarks.personalisation_world import MOST_IMAGES, Subject, training_images
from t2i_jax.adapt import METHODS
from t2i_jax.config import load_config
from t2i_jax.inference import Model
from t2i_jax.models.params import Params
from t2i_jax.towers.words import TABLE

STEPS = (25, 100, 400)  # checkpoints of a run
AT_ONCE = 6  # runs beside each other
PRIORS = 64  # images of the class
PER_ROLE = 4  # rows of a step of a subject, and as many of its class
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


# Methods that are measured at all STEPS; the others after the steps that were chosen for them.
CURVES = ("dreambooth", "dreambooth_prior", "lora4", "lora4_prior", "inversion", "pivotal")


def chains(named: dict[str, Method]) -> list[list[str]]:
  """Methods that can be run beside each other: one, and those that need its words after it.

  Those of CURVES, which take longest, come first.
  """
  heads = sorted((name for name, one in named.items() if not one.word),
                 key=lambda name: name not in CURVES)  # fmt: skip
  return [[head, *(name for name, one in named.items() if one.word == head)] for head in heads]


class Run(NamedTuple):
  """One subject that is taught.   rate: of learning"""

  subject: Subject
  seed: int
  rate: float


class Learner:
  """A method on a base: compiled once for all subjects, seeds and learning rates.

  base    its params are the averaged weights, which a run begins at
  priors  uint8 [PRIORS, H, W, 3] by shape, images that the base drew of the class
  """

  def __init__(self, base: Model, method: Method, priors: dict[str, np.ndarray]):
    self.base, self.method, self.priors = base, method, priors
    rows = PER_ROLE * (2 if method.prior else 1)
    given = UNIT_RATE | {"train.batch": str(rows)}
    if not method.prior:
      given |= {"train.objective": "denoising", "data.train_split": "instance"}
    if method.kind == "textual_inversion":
      # One program for all classes: the word begins at the row of the placeholder, which is made
      # the class word's.
      given["adapters.words_text"] = f"words(of='text', tokens=('{NEW_WORD}',), start='<v0>')"
    if method.adapters:
      given["adapters.lora"] = method.adapters
    where = base.where.removeprefix("--workdir=")
    config = load_config(f"configs/{METHODS[method.kind]}.py:{where}", given)
    inverted = method.kind == "textual_inversion"
    finish = self._with_row if inverted else None
    self.beside = Beside(config, base.tokenizer, base.params, rows, AT_ONCE, finish)
    self._encoder = self.beside.system.text["text"]
    self._start = self._id("<v0>")

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

  def _with_row(self, params: Params) -> Params:
    """The parameters of the base, and "row", the embedding of the word."""
    words: Any = self.beside.system.adapters["words_text"]
    (learned,) = words.rows(params["words_text"], params["text"])
    return {name: params[name] for name in self.base.params} | {"row": learned}

  def table(self, run: Run, row: np.ndarray | None) -> np.ndarray:
    """The embedding of the text encoder of a run, [V, D].

    row  of the subject's word, where another method has learned it
    """
    own = np.asarray(self.base.params["text"][TABLE]).copy()
    if row is not None:
      own[self._id(run.subject.word)] = row
    if self.method.kind == "textual_inversion":
      own[self._start] = own[self._ids(run.subject.shape)].mean(0)
    return own

  def given(self, run: Run, row: np.ndarray | None) -> Given:
    method, subject = self.method, run.subject
    inverted = method.kind == "textual_inversion"
    phrase = NEW_WORD if inverted else method.phrase(subject)
    images = np.concatenate([training_images(subject), self.priors[subject.shape]])
    ids, mask = self._encoder.encode([f"a {phrase}", f"a {subject.shape}"])
    role = np.arange(len(images)) >= MOST_IMAGES
    own = {"text": {TABLE: self.table(run, row)}}
    of = role.astype(int)
    return Given(images, ids[of], mask[of], np.float32(run.rate), np.int32(run.seed), own)

  def learn(
    self, runs: Sequence[Run], rows: Sequence[np.ndarray | None], steps: Sequence[int]
  ) -> Iterator[tuple[int, float, list[Params]]]:
    """Step, seconds of a run so far, and the parameters of each run, after each of `steps`.

    Seconds are those of all runs divided by their number, without compilation. With textual
    inversion parameters have "row", the embedding of the word.
    """
    ranges = [(0, self.method.images), (MOST_IMAGES, PRIORS)][: 1 + self.method.prior]
    given = [self.given(*one) for one in zip(runs, rows, strict=True)]
    for step, seconds, found in self.beside.learn(given, in_turn(ranges, PER_ROLE), steps):
      yield step, seconds, [self._placed(p, run) for p, run in zip(found, runs, strict=True)]

  def _placed(self, params: Params, run: Run) -> Params:
    """A learned word's row at its placeholder, where the base's encoder reads it."""
    if self.method.kind != "textual_inversion":
      return params
    table = self.base.params["text"][TABLE].at[self._id(run.subject.word)].set(params["row"])
    return params | {"text": params["text"] | {TABLE: table}}
