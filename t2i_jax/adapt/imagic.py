"""One image edited as a text says [2210.09276]: an encoding and then weights are trained on it, and
it is drawn between the two encodings.

RUN/embedding and RUN are work directories of the one trainer; RUN/imagic.png is the strip.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from t2i_jax.adapt.personalise import DATA, Base
from t2i_jax.adapt.subject import SubjectImages, build_subject
from t2i_jax.config import build, load_config
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import ShardSource
from t2i_jax.data.transforms import fit_image
from t2i_jax.errors import ConfigError, DataError, WorkdirError
from t2i_jax.evaluation.report import write_gallery_report
from t2i_jax.inference import Model, kept_steps, open_model
from t2i_jax.models.params import Params
from t2i_jax.parallel import make_mesh
from t2i_jax.ranges import Range
from t2i_jax.systems import make_system, split_params
from t2i_jax.systems.base import INSTANCE
from t2i_jax.systems.imagic import EMBEDDING, Imagic, towards
from t2i_jax.training import train
from t2i_jax.training.checkpoint import is_workdir, open_checkpoints
from t2i_jax.training.running import BINS
from t2i_jax.training.state import abstract_params

STRIP = "imagic.png"
ETAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
WEIGHTS = {"all": "imagic_weights", "lora": "imagic_lora"}  # what is trained -> its config
Eta = Annotated[float, Range("[-1, 3]")]


class Edit(NamedTuple):
  """image: a file;   target: what it is to show

  weights    what the second stage trains, of WEIGHTS: all of the backbone, or adapters of it
  embedding  overrides of the first stage's config;   overrides: of the second's
  """

  image: str
  target: str
  weights: str = "lora"
  embedding: Mapping[str, str] = {}
  overrides: Mapping[str, str] = {}


class Drawn(NamedTuple):
  """What is drawn of an edit: an image of each eta and seed."""

  etas: tuple[float, ...] = ETAS
  seeds: tuple[int, ...] = (0, 1)


DRAWN = Drawn()


def edit(base: Base, how: Edit, to: str | Path, drawn: Drawn = DRAWN) -> Path:
  """Trains both stages and draws; returns the page.

  to  a work directory: it goes on where it was ended
  Raises ConfigError, DataError, PromptError, RestoreError, WorkdirError.
  """
  to = Path(to)
  if not how.target.strip():
    raise ConfigError("--prompt: say what the image is to show.")
  if not Path(how.image).is_file():
    raise DataError(f"--image={how.image} is not a file.")
  model = base.open()
  model.system.check_captions([how.target])
  # Each copy is validated at a time of its own.
  files = tuple((s, how.image, how.target) for s in (INSTANCE, *["val"] * BINS))
  build_subject(SubjectImages(files), model.tokenizer, to / DATA)
  del model
  given = {"data.dir": str(to / DATA), "train.objective": f"imagic(target={how.target!r})"}
  first = load_config(f"configs/imagic.py:{base.where}", given | dict(how.embedding))
  given["parts.embedding.start"] = f"run:{to / EMBEDDING}"
  second = f"configs/{WEIGHTS[how.weights]}.py:{base.where}"
  config = load_config(second, given | dict(how.overrides))
  if is_workdir(to):
    check_first(first.train.steps, to)
  else:
    train(first, to / EMBEDDING)
  train(config, to)
  return draw(to, drawn)


def check_first(steps: int, to: Path) -> None:
  """Raises ConfigError where the second stage has begun on the embedding of another step."""
  *_, done = kept_steps(to / EMBEDDING)
  if done != steps:
    raise ConfigError(
      f"--embedding-steps={steps}: the second stage in {to} was begun with the embedding of step "
      f"{done}. Use --embedding-steps={done}, or another --to."
    )


def draw(to: str | Path, drawn: Drawn = DRAWN) -> Path:
  """Draws an edit that was trained, at any etas; returns the page. Raises as `edit` does."""
  to = Path(to)
  model = open_model(to)
  target, shift = target_of(model), learned(to / EMBEDDING)
  images = {eta: between(model, shift, target, eta, drawn.seeds) for eta in drawn.etas}
  record = ShardSource(model.config.data.dir, INSTANCE)[0]
  original = fit_image(record.image, model.config.data.image_size)
  return write_page(to, target, original, images, drawn.seeds)


def target_of(model: Model) -> str:
  """The text of the edit that a run is of. Raises ConfigError for another run."""
  objective = model.config.train.objective
  if not objective.startswith("imagic("):
    raise ConfigError(f"{model.where} ({model.config.name}) is no run of --method=imagic.")
  return build({"imagic": Imagic}, objective, "train.objective").target


def learned(workdir: str | Path) -> Params:
  """e_opt - e_target of the run of a first stage, on this host. Raises RestoreError."""
  mesh = make_mesh(devices=jax.devices()[:1])
  with closing(open_checkpoints(workdir)) as checkpoints:

    def read(step: int) -> Params:
      meta = checkpoints.meta(step)
      system = make_system(meta.config, meta.tokenizer)
      trained, _ = split_params(abstract_params(system, mesh), system.parts)
      return checkpoints.arrays(step, meta, ema=trained)["ema"][EMBEDDING]

    return jax.device_get(checkpoints.newest(read)[1])


def between(
  model: Model, shift: Params, target: str, eta: float, seeds: Sequence[int]
) -> np.ndarray:
  """Images at e(eta), one of each seed.   # [n, H, W, 3] uint8"""
  rows = jax.device_get(towards(shift, np.full(len(seeds), eta, np.float32)))
  return model.draw([target] * len(seeds), list(seeds), shift=rows)


def write_page(
  to: Path,
  target: str,
  original: np.ndarray,
  images: Mapping[float, np.ndarray],
  seeds: Sequence[int],
) -> Path:
  """The strip, a row a seed: the image, and what is drawn by rising eta; and eval/report.html.

  Raises WorkdirError.
  """
  etas = sorted(images)
  rows = [[original, *(images[eta][i] for eta in etas)] for i in range(len(seeds))]
  try:
    grid(rows, max(1, 128 // original.shape[0])).save(to / STRIP)
    for eta in etas:
      for seed, image in zip(seeds, images[eta], strict=True):
        path = to / "drawn" / f"eta{eta:g}_seed{seed}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
  except OSError as error:
    raise WorkdirError(f"{to / STRIP} cannot be written: {error}.") from error
  named = lambda eta: [(f"seed {s}", x) for s, x in zip(seeds, images[eta], strict=True)]
  sections: list[Any] = [("The image", "As it was trained on.", [(target, original)])]
  note = "0: the encoding that was learned; 1: that of the text."
  sections += [(f"eta = {eta:g}", note, named(eta)) for eta in etas]
  return write_gallery_report(to, sections, {"method": "imagic", "text": target})
