"""What a run shows of itself: samples of its fixed prompts, or reconstructions beside originals."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from t2i_jax.data.edit_rows import turns_of
from t2i_jax.data.sheet import grid
from t2i_jax.data.transforms import fit_image
from t2i_jax.models.params import Params
from t2i_jax.systems.tasks import ONLY_EDITS
from t2i_jax.training.checkpoint import dump
from t2i_jax.training.log import Log
from t2i_jax.training.setup import Run

ORIGINALS = 8  # images of the validation split that an autoencoder shows

Show = Callable[[Params, int, Log], None]  # (averaged weights, step, log)


def make_show(c: ConfigDict, run: Run, workdir: Path) -> tuple[int, Show] | None:
  """Every how many steps, and what then goes to samples/ and TensorBoard; None for nothing."""
  if run.tasks.draw is not None:
    prompts = list(c.sampling.prompts)
    draw = run.tasks.draw
    if run.tasks.measures == ONLY_EDITS:
      return c.sampling.every, _edited(c, run, workdir)
    if run.tasks.condition is not None:
      return c.sampling.every, _conditioned(c, run, workdir)
    _begin(workdir, prompts)
    rows = lambda params: [draw(params, prompts, range(len(prompts)))]
    return c.sampling.every, _shown(rows, workdir, "samples")
  if run.tasks.reconstruct is not None:
    reconstruct = run.tasks.reconstruct
    records = run.val_source.spread(ORIGINALS)
    images = np.stack([fit_image(record.image, c.data.image_size) for record in records])
    _begin(workdir, [record.captions[0] for record in records])
    rows = lambda params: [images, reconstruct(params, images)]
    return c.eval.every, _shown(rows, workdir, "reconstructions")
  return None


def _conditioned(c: ConfigDict, run: Run, workdir: Path) -> Show:
  """Condition images of the validation split, as many as there are prompts, and below each what is
  drawn with it and its caption."""
  condition, draw = run.tasks.condition, run.tasks.draw
  assert condition is not None and draw is not None
  records = run.val_source.spread(len(c.sampling.prompts))
  captions = [record.captions[0] for record in records]
  controls, seeds = condition(records), range(len(records))
  _begin(workdir, captions)
  rows = lambda params: [*controls.images, draw(params, captions, seeds, controls=controls)]
  return _shown(rows, workdir, "samples")


def _edited(c: ConfigDict, run: Run, workdir: Path) -> Show:
  """The first edits of records of the validation split, as many as there are prompts: the image
  before, below it what the model makes of it, and the image after."""
  turns = [turns_of(record)[0] for record in run.val_source.spread(len(c.sampling.prompts))]
  before, after = (
    np.stack([fit_image(record.image, c.data.image_size) for record in records])
    for records in zip(*turns, strict=True)
  )
  texts, edit = [record.captions[0] for _, record in turns], run.tasks.edit
  assert edit is not None
  _begin(workdir, texts)
  rows = lambda params: [before, edit(params, before, texts, range(len(texts))), after]
  return _shown(rows, workdir, "samples")


def _begin(workdir: Path, captions: list[str]) -> None:
  if jax.process_index() == 0:
    (workdir / "samples").mkdir(exist_ok=True)
    dump(workdir / "samples" / "prompts.json", captions)


def _shown(rows: Callable[[Params], list[np.ndarray]], workdir: Path, name: str) -> Show:
  def show(params: Params, step: int, log: Log) -> None:
    images = [list(row) for row in rows(params)]
    if images[0][0].shape[-1] != 3 or not log.writes:  # latents of a model without an autoencoder
      return
    strip = grid(images)
    strip.save(workdir / "samples" / f"step_{step:08d}.png")
    log.image(step, name, np.asarray(strip))

  return show
