"""What the experiments of benchmarks.personalisation_more share: the base, drawings as read."""

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.few_step import finished
from benchmarks.personalisation_adapt import PRIORS
from benchmarks.personalisation_beside import UNIT_RATE
from benchmarks.personalisation_world import Cell, load_cell, read_groups, save_cell
from benchmarks.recorded import check_base
from t2i_jax.adapt.personalise import How, drawn_images, drawn_of_class, in_turn
from t2i_jax.config import load_config
from t2i_jax.data.scenes import Fact
from t2i_jax.data.scenes.planted import Look, PlantedScene
from t2i_jax.errors import NotFinite
from t2i_jax.evaluation.planted_judge import PlantedVerdict, judge_reading
from t2i_jax.inference import Model, open_model
from t2i_jax.models.params import Params
from t2i_jax.systems.draw import Drawing
from t2i_jax.systems.tasks import Start

SAMPLING = {"sampling.steps": "10", "sampling.batch": "20"}
SHOWN = 4  # drawings of a group that are kept as images

Groups = dict[str, list[PlantedScene]]


def scene_of(caption: str, *looks: Look, relation: str = "") -> PlantedScene:
  """A prompt, and what must be there: these objects, no others, the first related to the second."""
  facts = [*(Fact("exists", look) for look in looks), Fact("total", n=len(looks))]
  if relation:
    facts.append(Fact("relation", looks[0], relation, looks[1]))
  return PlantedScene((), tuple(facts), (caption,), "asked", "planted", heldout=False)


def judged(cell: Cell, groups: Groups) -> dict[str, list[PlantedVerdict]]:
  """A verdict of each drawing, by group."""
  return {
    group: [judge_reading(*pair) for pair in zip(cell.readings[group], scenes, strict=True)]
    for group, scenes in groups.items()
  }


def open_base(workdir: str, given: dict[str, str], runs: Path) -> Model:
  """A base whose drawings go to RUNS. Exits where it is not trained, or is not the one of these."""
  if not finished(Path(workdir)):
    sys.exit(f"{workdir} has not made all of its steps: python -m benchmarks.personalisation"
             " --only=base goes on with it.")  # fmt: skip
  model = open_model(workdir, given)
  check_base(runs, dict(model.params))
  return model


class Base:
  """A base, its samplers, and cells that are drawn by it and by what is made of it.

  folder  of an experiment: images of classes are kept there
  """

  def __init__(self, workdir: str, folder: Path):
    self.workdir, self.folder = workdir, folder
    self._drawings = dict[str, Drawing]()
    self._pool = ThreadPoolExecutor(1)  # reads while the next images are drawn
    self._reading: list[Future[None]] = []

  @cached_property
  def model(self) -> Model:
    return open_base(self.workdir, SAMPLING, self.folder)

  def config(self, name: str, given: dict[str, str]) -> ConfigDict:
    """configs/NAME.py of the base, at rate 1."""
    return load_config(f"configs/{name}.py:{self.workdir}", UNIT_RATE | given)

  def encode(self, prompts: Sequence[str]) -> Any:
    """ids [n, T] and mask [n, T] of the base's text encoder."""
    return self.model.system.text["text"].encode(list(prompts))

  def draw(
    self,
    params: Params,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: str = "cfg",
    scale: float | None = None,
    shift: Any = None,
  ) -> np.ndarray:
    """uint8 [n, H, W, 3], by one compiled sampler for each guidance."""
    return self._drawing(guidance, scale).draw(self._own(params), prompts, seeds, shift=shift)

  def redraw(
    self,
    params: Params,
    prompts: Sequence[str],
    seeds: Sequence[int],
    images: np.ndarray,
    strength: float,
  ) -> np.ndarray:
    """SDEdit [2108.01073]: images with fresh noise of level `strength`, drawn again.

    uint8 [n, H, W, 3]
    """
    start = Start(images, strength=strength)
    return self._drawing("cfg", None).redraw(self._own(params), prompts, seeds, start)

  def _drawing(self, guidance: str, scale: float | None) -> Drawing:
    model = self.model
    if guidance not in self._drawings:
      sampling = model.config.sampling.copy_and_resolve_references()
      sampling.guidance = guidance
      self._drawings[guidance] = Drawing(model.system, sampling, model.mesh)
    drawing = self._drawings[guidance]
    drawing.scale = model.config.sampling.cfg if scale is None else scale
    return drawing

  def _own(self, params: Params) -> Params:
    """Of parameters by part those of the base's parts."""
    return {part: params[part] for part in self.model.params}

  def of_class(self, shape: str, scenes: tuple[str, ...] = ()) -> tuple[np.ndarray, list[str]]:
    """PRIORS images that the base draws of a class, in scenes in turn, and their captions."""
    how = How("", shape, priors=PRIORS, scenes=scenes)
    folder = self.folder / "priors" / f"{shape}{'_in_scenes' if scenes else ''}"
    paths = drawn_of_class(self._sampled(), how, folder)[:PRIORS]
    return _opened(paths), [in_turn(how.class_prompts, i) for i in range(PRIORS)]

  def images(self, prompts: Sequence[str], name: str) -> np.ndarray:
    """An image of each prompt by the base, of seeds 0, 1, ..., kept in priors/NAME of the folder.

    uint8 [n, H, W, 3]
    """
    about = {"prompts": list(prompts)}
    return _opened(drawn_images(self._sampled(), prompts, self.folder / "priors" / name, about))

  def _sampled(self) -> Model:
    """The base, drawing by the sampler of all models."""
    draw = lambda params, prompts, seeds, **how: self.draw(params, prompts, seeds)
    return replace(self.model, tasks=self.model.tasks._replace(draw=draw))

  def cell(
    self,
    path: Path,
    params: Params,
    groups: Groups,
    about: dict[str, Any],
    noise: int = 0,
    may_diverge: bool = False,
    **how: Any,
  ) -> None:
    """Draws prompts, the groups from the same noise; they are read and written while the next cell
    is drawn.

    noise  the first seed of a group;   how: of `draw`
    may_diverge  images of a model whose weights or predictions are not finite are black, and the
                 cell says so; else NotFinite is raised
    """
    prompts = [scene.caption for scenes in groups.values() for scene in scenes]
    seeds = [noise + i for scenes in groups.values() for i in range(len(scenes))]
    try:
      images = self.draw(params, prompts, seeds, **how)
    except NotFinite:
      if not may_diverge:
        raise
      images = np.zeros((len(prompts), *self.model.system.image_shape), np.uint8)
      about = about | {"diverged": True}
    self.keep(path, images, groups, about)

  def keep(self, path: Path, images: np.ndarray, groups: Groups, about: dict[str, Any]) -> None:
    """Reads and writes drawings of groups of prompts, while the next ones are drawn."""
    counts = {group: len(scenes) for group, scenes in groups.items()}
    starts = np.cumsum([0, *counts.values()])[:-1].tolist()
    few = [images[start + i] for start, n in zip(starts, counts.values(), strict=True)
           for i in range(min(n, SHOWN))]  # fmt: skip

    def read() -> None:
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(np.concatenate(few, axis=1)).save(path.with_suffix(".png"))
      save_cell(path, Cell(about, read_groups(images, counts)))

    self._reading.append(self._pool.submit(read))

  def read(self) -> None:
    """Waits for what is still read."""
    for future in self._reading:
      future.result()
    self._reading.clear()


def _opened(paths: Sequence[str]) -> np.ndarray:
  return np.stack([np.asarray(Image.open(path)) for path in paths])


def cells_of(folder: Path, pattern: str) -> list[Cell]:
  return [load_cell(path) for path in sorted(folder.glob(f"{pattern}.json"))]
