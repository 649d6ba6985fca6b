"""What the parts of benchmarks.editing share: the base, its compiled editors, drawings as read."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks.few_step import cell
from benchmarks.personalisation_bench import open_base
from benchmarks.personalisation_world import SIZE, Cell, load_cell, read_groups, save_cell
from t2i_jax.data.scenes import Object, Turn, edit_prompts
from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.edit_captions import edit_text
from t2i_jax.data.scenes.edit_plans import looks
from t2i_jax.data.scenes.planted import draw
from t2i_jax.edit.pairs import Drawn, Given, How, Pairs
from t2i_jax.edit.prompt_to_prompt import INVERTER, LATER, PromptToPrompt
from t2i_jax.edit.session import Session
from t2i_jax.edit.towers import places_of, read
from t2i_jax.evaluation.done_kept import DoneKept
from t2i_jax.evaluation.stats import Rate
from t2i_jax.inference import Model
from t2i_jax.parallel import overridden

LEVEL = "easy"  # of the scenes, which are most of the planted world
BATCH = 64
DIFFERENCE = "difference"  # in what a cell is about
SHOWN = 3  # drawings of a group that are kept as images
MEASURES: dict[str, Callable[[DoneKept], bool]] = {
  "done": lambda v: v.done,
  "kept": lambda v: v.kept,
  "done and kept": lambda v: v.correct,
}


class Task(NamedTuple):
  """An image that is to be edited, by the prompts before and after."""

  kind: str
  turn: Turn
  source: str
  target: str

  @property
  def image(self) -> np.ndarray:
    return draw(self.turn.before.objects, SIZE)

  @property
  def truth(self) -> np.ndarray:
    return draw(self.turn.after.objects, SIZE)

  @property
  def phrases(self) -> str:
    """What the changed object is called before and after, as --blend has it; "" where none is."""
    pairs = zip(self.turn.before.objects, self.turn.after.objects, strict=False)
    changed = next(((a, b) for a, b in pairs if a != b), None)
    if len(self.turn.before.objects) != len(self.turn.after.objects) or changed is None:
      return ""
    return ",".join(say.noun(looks(o)) for o in changed)


def listed(objects: Sequence[Object]) -> str:
  """The caption that lists objects, as that of an edited scene does."""
  return say.listed([say.one(looks(o)) for o in objects])


def task_of(kind: str, turn: Turn) -> Task:
  """Of a recoloured or reshaped scene both prompts list its objects, the second being the one that
  Imagic is given; others say where an object is, as far as the place is clear."""
  if kind in ("recolor", "reshape"):
    return Task(kind, turn, listed(turn.before.objects), turn.after.caption)
  text = edit_text(turn)
  assert not isinstance(text, str), text
  return Task(kind, turn, text.caption, text.edited)


def tasks_of(kinds: Sequence[str], count: int, seed: int = 0) -> list[Task]:
  """`count` of each kind; those of a larger count begin with the same ones."""
  return [
    task_of(kind, turn) for kind in kinds for turn in edit_prompts(LEVEL, kind, False, count, seed)
  ]


class Rows(NamedTuple):
  """What is edited beside each other.   images: uint8 [n, H, W, 3], or None"""

  sources: list[str]
  targets: list[str]
  images: np.ndarray | None
  seeds: list[int]


def rows_of(tasks: Sequence[Task]) -> Rows:
  images = np.stack([task.image for task in tasks])
  sources, targets = [task.source for task in tasks], [task.target for task in tasks]
  return Rows(sources, targets, images, list(range(len(tasks))))


class Bench:
  """A base with its editors, each compiled once.

  batch  rows of a network call, at most
  runs   where drawings of this base go
  """

  def __init__(self, workdir: str, steps: int, batch: int, runs: Path):
    self.workdir, self.steps, self.batch, self.runs = workdir, steps, batch, runs
    self._samplers = dict[Any, Any]()
    self._pairs = dict[How, Pairs]()

  @cached_property
  def model(self) -> Model:
    given = {"sampling.steps": str(self.steps), "sampling.batch": str(self.batch)}
    return open_base(self.workdir, given, self.runs)

  @cached_property
  def session(self) -> Session:
    return Session(self.model, "an editor")

  def edit(self, method: Any, rows: Rows, strength: float, traced: bool = False) -> np.ndarray:
    """uint8 [n, H, W, 3], by an editor with a `sampler`.   traced: one program for all strengths"""
    assert rows.images is not None
    key = (repr(method), None if traced else strength)
    with overridden(self.model.config.mesh.rules):
      if key not in self._samplers:
        self._samplers[key] = self.session.compiled(method.sampler(self.session, strength))
      return self.session.draw_rows(
        self._samplers[key], rows.sources, rows.targets, rows.images, rows.seeds, strength
      )

  def pairs(
    self, methods: Sequence[PromptToPrompt], rows: Rows, words: Sequence[Any] = ()
  ) -> Drawn:
    """Prompt-to-Prompt of each row with its own settings, all of which blend or none, and invert
    images by the same inverter.

    words  of each row [2, T, K], of source and target, whose maps are kept; (): none are
    """
    model, system = self.model, self.model.system
    blends = bool(methods[0].blend)
    inverter = "" if rows.images is None else methods[0].inverter or INVERTER
    first = int(LATER * self.steps) if blends else 0
    how = How(inverter=inverter, blends=blends, first=first, keeps=bool(words))
    place = places_of(system)
    with overridden(model.config.mesh.rules):
      if how not in self._pairs:
        self._pairs[how] = Pairs(model, how)
      of = lambda text: read(system, place, text)
      edits = [
        method.rows(of(source), of(target), self.steps, method.cross)
        for method, source, target in zip(methods, rows.sources, rows.targets, strict=True)
      ]
      if words:
        edits = [edit._replace(words=w) for edit, w in zip(edits, words, strict=True)]
      tokens = lambda texts: {name: one.encode(texts) for name, one in system.text.items()}
      return self._pairs[how].draw(
        Given(
          tokens(rows.sources),
          tokens(rows.targets),
          tokens([model.config.sampling.negative] * len(edits)),
          np.asarray(rows.seeds, np.uint32),
          jax.tree.map(lambda *leaves: np.stack(leaves), *edits),
          rows.images,
        )
      )


def keep(
  path: Path, images: np.ndarray, counts: dict[str, int], about: dict[str, Any] | None = None
) -> None:
  """Writes drawings as read, by group, and the first of each group as an image beside it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  starts = np.cumsum([0, *counts.values()])[:-1].tolist()
  few = [i + k for i, n in zip(starts, counts.values(), strict=True) for k in range(min(n, SHOWN))]
  Image.fromarray(np.concatenate([images[i] for i in few], axis=1)).save(path.with_suffix(".png"))
  save_cell(path, Cell(about or {}, read_groups(images, counts)))
  print(path, flush=True)


def difference(images: np.ndarray, before: np.ndarray) -> dict[str, list[float]]:
  """Of each image the mean absolute difference of its pixels: uint8 [n, H, W, 3] each."""
  off = np.abs(images.astype(np.float32) - before).mean((1, 2, 3))
  return {DIFFERENCE: [round(float(one), 3) for one in off]}


def counts_of(tasks: Sequence[Task]) -> dict[str, int]:
  """By kind, in their order."""
  found: dict[str, int] = {}
  for task in tasks:
    found[task.kind] = found.get(task.kind, 0) + 1
  return found


def kept(path: Path) -> Cell | None:
  return load_cell(path) if path.is_file() else None


def rates(verdicts: Sequence[DoneKept]) -> list[str]:
  """Cells of a table: done, kept, both."""
  return [cell(Rate.of(map(of, verdicts))) for of in MEASURES.values()]
