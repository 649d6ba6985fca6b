"""A model taught a subject: images of its class drawn first, then a run, then before and after.

DreamBooth [2208.12242]: the model is trained on a few images under "a [V] circle", and on what it
itself draws for "a circle" so that the class stays what it was; all of its weights, or adapters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from t2i_jax.adapt.objectives import check_choices, objective_of
from t2i_jax.adapt.subject import SubjectImages, build_subject, image_files
from t2i_jax.config import build, load_config
from t2i_jax.data.drawn import Drawn
from t2i_jax.data.sheet import grid
from t2i_jax.errors import ConfigError, WorkdirError
from t2i_jax.evaluation.report import write_gallery_report
from t2i_jax.inference import Model, open_model, open_pipeline
from t2i_jax.ranges import Weight, Whole
from t2i_jax.systems import make_system
from t2i_jax.systems.adapters import ADAPTERS
from t2i_jax.training import train
from t2i_jax.training.checksum import fingerprint

PRIORS, PRIORS_FILE, DATA, SHEET = "priors", "priors.json", "data", "personalised.png"
HELD_OUT = 8  # drawn images of the class that are validated on: how far the class has moved
SHOWN = 4  # drawings of a prompt, before and after; and scenes
PROMPT_SEED = 2**20  # of the drawings that are shown; those of the class begin at 0


WORD, CLASS = "{word}", "{class}"  # in a template
TEMPLATE = f"a {WORD} {CLASS}"


class How(NamedTuple):
  """What is taught.

  images      folder of images of the subject
  class_word  what it is one of, "circle"; or of each image, in the order of their names, what it is
  word        the name that it gets
  template    of prompts with both; of the prompts of the class without the word
  priors      images of the class that the model draws and is trained on, too; 0: none
  prior       weight of their loss
  scenes  what follows the class in the prompts of its images, of comfusion
  matching  work directory of a classifier, or folder of VGG16, that compares images, of comfusion
  weights  of terms, by the names that the method's objective gives them
  erase_steps  of training, in which domain_gallery erases what the word means; None: ERASE_STEPS
  stands_alone  the word is a token of its own, in place of the class word: textual inversion
  overrides   of the method's config: steps, rank, ...
  """

  images: str
  class_word: str | tuple[str, ...]
  word: str = "sks"
  priors: Whole = 64
  prior: Weight = 1.0
  prompts: tuple[str, ...] = ()
  scenes: tuple[str, ...] = ()
  matching: str = ""
  weights: Mapping[str, float] = {}
  erase_steps: Whole | None = None
  stands_alone: bool = False
  overrides: Mapping[str, str] = {}
  template: str = TEMPLATE

  @property
  def of_images(self) -> tuple[str, ...]:
    """The class word of each image, or the one of all."""
    return (self.class_word,) if isinstance(self.class_word, str) else self.class_word

  @property
  def class_words(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(self.of_images))

  def prompt_of(self, class_word: str) -> str:
    return self._filled("" if self.stands_alone else class_word, self.word)

  def class_prompt_of(self, class_word: str) -> str:
    return self._filled(class_word, "")

  def _filled(self, class_word: str, word: str) -> str:
    return closed_up(self.template.replace(CLASS, class_word).replace(WORD, word))

  @property
  def prompt(self) -> str:
    return self.prompt_of(self.of_images[0])

  @property
  def class_prompt(self) -> str:
    return self.class_prompt_of(self.of_images[0])

  @property
  def class_prompts(self) -> tuple[str, ...]:
    """Of the images that are drawn of the class, in turn."""
    scenes = tuple(f"{self.class_prompt} {scene}" for scene in self.scenes)
    return scenes or tuple(map(self.class_prompt_of, self.class_words))

  def caption(self, i: int) -> str:
    """Of image i."""
    return self.prompt_of(in_turn(self.of_images, i))

  @property
  def shown(self) -> tuple[str, ...]:
    """Prompts of which there are drawings before and after."""
    scenes = (f"{self.prompt} {scene}" for scene in self.scenes[:SHOWN])
    first = self.class_words[:SHOWN]
    own = (prompt for w in first for prompt in (self.prompt_of(w), self.class_prompt_of(w)))
    return tuple(dict.fromkeys((*own, *scenes, *self.prompts)))


# Method -> its config.
METHODS: dict[str, str] = {
  "dreambooth": "dreambooth",
  "lora": "dreambooth_lora",
  "comfusion": "comfusion",
  "domain_gallery": "domain_gallery",
  "textual_inversion": "textual_inversion",
}
NEW_WORD = "textual_inversion"


class Base(NamedTuple):
  """A model that is adapted.   where: as configs name it;   open: it, to draw with"""

  where: str
  open: Callable[[], Model]


def of_workdir(workdir: str) -> Base:
  return Base(workdir, lambda: open_model(workdir))


def of_folder(folder: str, size: tuple[int, int] | None = None) -> Base:
  """A published model.   size: height and width"""
  where = folder if size is None else f"{folder}:{size[0]}x{size[1]}"
  return Base(where, lambda: open_pipeline(folder, size=size))


def personalise(base: Base, method: str, how: How, to: str | Path) -> Path:
  """Teaches a model a subject; returns the page that shows it before and after.

  to  a work directory: images of the class, data, the run, drawings; what is there is used again
  Raises ConfigError, DataError, RestoreError, WorkdirError.
  """
  if method not in METHODS:
    raise ConfigError(f"--method={method} is not one of {', '.join(METHODS)}.")
  to, files = Path(to), image_files(how.images)
  if how.prior and not how.priors and method != NEW_WORD:
    raise ConfigError("--priors=0: without images of the class give --prior=0, too.")
  check_words(how, len(files))
  check_choices(method, how)
  if method == NEW_WORD:
    how = how._replace(stands_alone=True, priors=0)
  model = base.open()
  given = {"data.dir": str(to / DATA), **how.overrides}
  if method == NEW_WORD:
    given |= _new_words(model, how)
  else:
    known = {prompt: _tokens(model, prompt) for prompt in (*how.shown, *how.class_prompts)}
    if known[how.prompt] == known[how.class_prompt]:
      raise ConfigError(f"--word={how.word}: the model reads {how.class_prompt!r} without it, too.")
  given |= objective_of(method, how)
  config = load_config(f"configs/{METHODS[method]}.py:{base.where}", given)
  make_system(config, model.tokenizer)  # what is wrong is said before anything is drawn
  drawn = drawn_of_class(model, how, to / PRIORS)
  build_data(model, how, files, drawn, to / DATA)
  before = _drawings(model, how)
  del model
  train(config, to)
  after = _drawings(open_model(to), how)
  return write_page(to, method, how, files, before, after)


def check_words(how: How, images: int) -> None:
  """Raises ConfigError.   images: their number"""
  if not how.word.strip() or not all(word.strip() for word in how.of_images):
    raise ConfigError("--word and --class-word: give a word for each.")
  if len(how.of_images) not in (1, images):
    raise ConfigError(
      f"--class-word: there are {images} images and {len(how.of_images)} class words. Give one for "
      "all, or one for each image in the order of the names of their files."
    )
  for blank in (WORD, CLASS):
    if blank not in how.template:
      raise ConfigError(f"--template={how.template!r} has no {blank}: write it as {TEMPLATE!r}.")


def closed_up(text: str) -> str:
  """A text with something left out: without double spaces, and spaces or commas at its ends."""
  return " ".join(text.split()).strip(" ,")


def _new_words(model: Model, how: How) -> dict[str, str]:
  """Overrides with the word in every text encoder that has weights. Raises ConfigError."""
  found = {}
  for name in model.system.text:
    if name in model.system.parts:
      choice = f"words(of={name!r}, tokens=({how.word!r},), start={how.of_images[0]!r})"
      build(ADAPTERS, choice, "--word", model.system.parts, model.system.text)
      found[f"adapters.words_{name}"] = choice
  return found


def _tokens(model: Model, prompt: str) -> list[Any]:
  """What each text encoder reads of a prompt. Raises PromptError for one that is too long."""
  model.system.check_captions([prompt])
  return [encoder.encode([prompt])[0].tolist() for encoder in model.system.text.values()]


def drawn_of_class(model: Model, how: How, folder: Path) -> tuple[str, ...]:
  """Images of the class by the model itself: see drawn_images."""
  several = len(how.class_words) > 1
  about: dict[str, Any] = {"prompt": [*how.class_prompts] if several else how.class_prompt}
  about |= {"scenes": list(how.scenes)} if how.scenes else {}
  prompts = [in_turn(how.class_prompts, i) for i in range(how.priors + HELD_OUT)]
  return drawn_images(model, prompts, folder, about)


def drawn_images(
  model: Model, prompts: Sequence[str], folder: Path, about: Mapping[str, Any]
) -> tuple[str, ...]:
  """An image of each prompt by the model itself, of seeds 0, 1, ...; those that are there are kept.

  about  what the images are, besides the weights, as JSON
  Raises WorkdirError where there are others.
  """
  about = {**about, "weights": fingerprint(dict(model.params))}
  said = folder / PRIORS_FILE
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if said.exists() and json.loads(said.read_text()) != about:
      raise WorkdirError(
        f"{folder} has images of another model or prompt: use another --to, or remove it."
      )
    said.write_text(json.dumps(about, indent=1) + "\n")
    paths = [folder / f"{i:05d}.png" for i in range(len(prompts))]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    there = len(paths) - len(missing)
    print(f"{prompts[0]!r}: {there} images are there, {len(missing)} drawn")
    step = model.config.sampling.batch
    for start in range(0, len(missing), step):
      seeds = missing[start : start + step]
      images = model.draw([prompts[seed] for seed in seeds], seeds)
      for seed, image in zip(seeds, images, strict=True):
        part = paths[seed].with_suffix(".part")
        Image.fromarray(image).save(part, "PNG")
        part.replace(paths[seed])
  except OSError as error:
    raise WorkdirError(f"{folder} cannot be written: {error}.") from error
  return tuple(map(str, paths))


def in_turn(prompts: Sequence[str], i: int) -> str:
  return prompts[i % len(prompts)]


def build_data(
  model: Model, how: How, files: Sequence[str], drawn: Sequence[str], to: Path
) -> None:
  """The folder of data of both roles, with the tokenizer of the model."""
  split = lambda i: "val" if i >= how.priors else "prior"
  source = SubjectImages((
    *(("instance", path, how.caption(i)) for i, path in enumerate(files)),
    *((split(i), path, in_turn(how.class_prompts, i)) for i, path in enumerate(drawn)),
  ))  # fmt: skip
  by = Drawn(("prior", "val"), model.where, model.step, model.data)
  build_subject(source, model.tokenizer, to, by)


def _drawings(model: Model, how: How) -> dict[str, np.ndarray]:
  """Of each prompt SHOWN images, of the same seeds before and after; of a model that has not the
  new word, with the class word in its place."""
  found = {}
  knows = not how.stands_alone or bool(model.config.get("adapters"))
  for prompt in how.shown:
    given = prompt if knows else prompt.replace(how.word, how.of_images[0])
    found[prompt] = model.draw([given] * SHOWN, range(PROMPT_SEED, PROMPT_SEED + SHOWN))
  return found


def write_page(
  to: Path,
  method: str,
  how: How,
  files: Sequence[str],
  before: Mapping[str, np.ndarray],
  after: Mapping[str, np.ndarray],
) -> Path:
  """A sheet of drawings, and eval/report.html. Raises WorkdirError."""
  size = next(iter(before.values())).shape[1:3]
  shown = [np.asarray(Image.open(f).convert("RGB").resize(size[::-1])) for f in files[: 2 * SHOWN]]
  rows = [shown, *([*before[prompt], *after[prompt]] for prompt in before)]
  try:
    grid(rows, max(1, 128 // size[0]), block=SHOWN, band=1).save(to / SHEET)
  except OSError as error:
    raise WorkdirError(f"{to / SHEET} cannot be written: {error}.") from error
  sections = [("The subject", f"{len(files)} images.", [(Path(f).name, image) for f, image in
              zip(files, shown, strict=False)])]  # fmt: skip
  for title, found in (("Before", before), ("After", after)):
    pairs = [(prompt, image) for prompt, images in found.items() for image in images]
    sections.append((title, "The same seeds before and after.", pairs))
  about = {"method": method, "subject": how.prompt, "class": how.class_prompt}
  return write_gallery_report(to, sections, about | {"drawn of the class": how.priors})
