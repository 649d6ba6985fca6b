"""A model that forgets concepts: images of their anchors drawn first, then a run, before and after.

Concept ablation [2303.13516], ESD [2303.07345], loss maximisation; and UCE [2308.14761], without
training. The run is a work directory as any other: it can be the base of the next one, so that
concepts are forgotten one after another.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from t2i_jax.adapt.closed_form import check_reading, edit_backbone
from t2i_jax.adapt.personalise import (
  DATA,
  HELD_OUT,
  PROMPT_SEED,
  SHOWN,
  Base,
  closed_up,
  drawn_images,
  in_turn,
)
from t2i_jax.adapt.subject import AnchorImages, build_subject
from t2i_jax.config import load_config
from t2i_jax.data.drawn import Drawn
from t2i_jax.data.sheet import grid
from t2i_jax.errors import ConfigError, WorkdirError
from t2i_jax.evaluation.report import write_gallery_report
from t2i_jax.inference import Model, open_model
from t2i_jax.parallel import overridden
from t2i_jax.ranges import Weight, Whole
from t2i_jax.systems import make_system, merge_params, split_params
from t2i_jax.systems.roles import PAIR, tokens_of
from t2i_jax.training import train
from t2i_jax.training.begin import begin
from t2i_jax.training.checkpoint import dump
from t2i_jax.training.lock import Lock
from t2i_jax.training.save import Saver, check_workdir
from t2i_jax.training.setup import set_up

ANCHORS, CONCEPTS, SHEET = "anchors", "concepts", "forgotten.png"
METHODS = ("ablation", "noise", "esd", "uce", "maximise")
FREE = ("esd", "maximise")  # that need no anchor
HELD = ("noise", "esd")  # of which the target does not move with the weights
# Of all weights of a work directory, chosen on the planted world (docs/forgetting.md): where
# something holds what is drawn for the anchor, and where nothing does.
HELD_RATE, FREE_RATE = 3e-4, 5e-5
# What is trained -> the config.
CONFIGS = {
  "kv": "ablation",
  "all": "ablation",
  "lora": "ablation_lora",
  "embedding": "ablation_embedding",
}
# Prompts by the kind of a concept, {} where it stands.
TEMPLATES = {
  "instance": ("a {}",),
  "style": ("an image {}", "a painting {}", "a drawing {}", "a photo {}"),
  "caption": ("{}",),
}
BLANK = "{}"


class How(NamedTuple):
  """What is forgotten.

  concepts   as they stand in prompts: "grum circle", "by outl", a whole caption
  anchors    what is drawn instead, one for each: "circle", "", a shorter caption; or none
  keep       prompts of neighbours: shown, validated on, preserved by uce
  what       is trained, of CONFIGS;   kind: of TEMPLATES, unless there are templates
  priors     images of the anchors that the model draws and is trained on
  regularisation  weight of their denoising loss
  frozen     ablation: the anchor's prediction is that of the model before
  eta, ceiling  of esd and of maximise
  overrides  of the method's config: steps, rate, ...
  """

  concepts: tuple[str, ...]
  anchors: tuple[str, ...] = ()
  keep: tuple[str, ...] = ()
  what: str = "kv"
  kind: str = "instance"
  templates: tuple[str, ...] = ()
  priors: Whole = 64
  regularisation: Weight = 0.0
  frozen: bool = False
  eta: Weight = 1.0
  ceiling: Weight = 0.0
  overrides: Mapping[str, str] = {}

  @property
  def pairs(self) -> tuple[tuple[str, str], ...]:
    """(prompt of the anchor, prompt of the concept); without anchors, of the concept twice."""
    return tuple(
      (filled(template, anchor), filled(template, concept))
      for concept, anchor in zip(self.concepts, self.anchors or self.concepts, strict=True)
      for template in self.templates or TEMPLATES[self.kind]
    )

  @property
  def shown(self) -> tuple[str, ...]:
    """Prompts that are drawn before and after: of each concept, of its anchor, and keep."""
    count = len(self.pairs) // len(self.concepts)
    firsts = [prompt for pair in self.pairs[::count] for prompt in pair[::-1]]
    return tuple(dict.fromkeys((*firsts, *self.keep)))


def filled(template: str, text: str) -> str:
  """A template with a text in its place, or without one: spaces and commas close up."""
  return closed_up(template.replace(BLANK, text))


def forget(base: Base, method: str, how: How, to: str | Path) -> Path:
  """Makes a model forget concepts; returns the page that shows it before and after.

  to  a work directory: images, data, the run, drawings; what is there is used again
  Raises ConfigError, DataError, PromptError, RestoreError, WorkdirError.
  """
  to = Path(to)
  check(method, how)
  model = base.open()
  check_pairs(model, how)
  config = config_of(base, method, how, to)
  system = make_system(config, model.tokenizer)  # what is wrong is said before anything is drawn
  system.check_training(config.train.batch // config.train.accumulate)
  split_params(system.abstract, system.parts)
  if method == "uce":
    check_reading(system)
  build_data(model, method, how, to)
  before = _drawings(model, how)
  del model
  if method == "uce":
    anchors, concepts = zip(*how.pairs, strict=True)
    edit(config, to, lambda system, params: edit_backbone(
      system, params, concepts, anchors, how.keep
    ))  # fmt: skip
  else:
    train(config, to)
  return write_page(to, method, how, before, _drawings(open_model(to), how))


def check(method: str, how: How) -> None:
  """Raises ConfigError for choices that do not exist, or do not go together."""
  for flag, value, known in (
    ("method", method, METHODS), ("what", how.what, CONFIGS), ("kind", how.kind, TEMPLATES),
  ):  # fmt: skip
    if value not in known:
      raise ConfigError(f"--{flag}={value} is not one of {', '.join(known)}.")
  if not how.concepts or not all(concept.strip() for concept in how.concepts):
    raise ConfigError('--concept: say what is to be forgotten, as --concept="grum circle".')
  if len(how.anchors) != len(how.concepts) and (how.anchors or method not in FREE):
    raise ConfigError(
      f"--anchor: there are {len(how.concepts)} concepts and {len(how.anchors)} anchors. Give one "
      'for each, in the same order, as --concept="grum circle" --anchor=circle; --anchor="" is '
      "nothing in its place."
    )
  if how.regularisation and not how.anchors:
    raise ConfigError(
      "--regularisation is the weight of images of the anchor: give --anchor, or leave it out."
    )
  for template in how.templates:
    if BLANK not in template:
      raise ConfigError(f"--templates: {template!r} has no {BLANK}, where the concept stands.")
    if method == "uce" and not template.endswith(BLANK):
      raise ConfigError(
        f"--templates: {template!r} does not end in {BLANK}, and --method=uce replaces the "
        "encoding of the last token of a prompt."
      )
  for flag, given, of in (
    ("--frozen", how.frozen, "ablation"), ("--eta", how.eta != 1, "esd"),
    ("--ceiling", how.ceiling, "maximise"),
  ):  # fmt: skip
    if given and method != of:
      raise ConfigError(f"{flag} is of --method={of}: give that, or leave it out.")
  if method == "uce" and (
    how.what != "kv" or how.regularisation or how.overrides.keys() - {"seed"}
  ):
    raise ConfigError(
      "--method=uce computes keys and values of cross-attention, without training: leave out "
      "--what, --regularisation, --steps and --lr."
    )
  if how.priors < len(how.pairs):
    raise ConfigError(
      f"--priors={how.priors}: there are {len(how.pairs)} pairs of prompts. Use one image for each "
      "or more."
    )


def check_pairs(model: Model, how: How) -> None:
  """Raises ConfigError where a concept is read as its anchor is, PromptError for one too long."""
  system: Any = model.system
  prompts = [*(prompt for pair in how.pairs for prompt in pair), *how.keep]
  if not all(prompts):
    raise ConfigError(
      "--anchor, --keep: a prompt is empty. Use an anchor or --templates that leave some of it; "
      "--method=esd without --anchor guides to the empty prompt."
    )
  system.check_captions(prompts)
  for anchor, concept in how.pairs if how.anchors else ():
    one, other = (tokens_of(system, [prompt]) for prompt in (anchor, concept))
    if all(np.array_equal(one[name][0], other[name][0]) for name in one):
      raise ConfigError(
        f"--concept, --anchor: {concept!r} and {anchor!r} have the same tokens in every text "
        "encoder. Write a concept that differs from its anchor."
      )


def config_of(base: Base, method: str, how: How, to: Path) -> ConfigDict:
  """The config of the run. Raises ConfigError."""
  copy = (method == "esd" or how.frozen) and how.what in ("kv", "all")
  name = "esd" if copy else CONFIGS[how.what]
  given = {"data.dir": str(to / DATA), "train.objective": objective_of(method, how)}
  if how.what == "all":
    given["parts.backbone.train"] = "all"
  if method == "uce":
    given["data.train_split"] = PAIR[0]
  config = load_config(f"configs/{name}.py:{base.where}", {**given, **how.overrides})
  config.name = config.name.replace(name, f"{method}_{how.what}", 1)
  if how.what == "all" and config.parts.backbone.start.startswith("run:"):
    rate = HELD_RATE if how.regularisation or method in HELD else FREE_RATE
    config.train.update({k: rate for k in ("lr", "vector_lr") if f"train.{k}" not in how.overrides})
  if how.what == "kv" and config.parts.backbone.train == "all":
    raise ConfigError(
      f"--what=kv: model.kind = {config.model.kind!r} has no keys and values of text. Use "
      "--what=all or lora."
    )
  if how.what == "embedding":
    _set_embeddings(config, how)
  return config


def _set_embeddings(config: ConfigDict, how: How) -> None:
  """Of the tokens of the concepts in every text encoder that has weights. Raises ConfigError."""
  beside, texts = (tuple(dict.fromkeys(side)) for side in zip(*how.pairs, strict=True))
  own = [name for name in config.adapters if name.startswith("embeddings_")]
  if not own:
    raise ConfigError("--what=embedding: no text encoder of this model has weights. Use --what=kv.")
  for name in own:
    of = name.removeprefix("embeddings_")
    config.adapters[name] = f"embeddings(of={of!r}, texts={texts!r}, beside={beside!r})"


def objective_of(method: str, how: How) -> str:
  """config.train.objective."""
  if method == "uce":
    return "denoising"
  weight = f"regularisation={how.regularisation}"
  if method == "esd":
    source = "anchor" if how.anchors else "null"
    return f"esd(eta={how.eta}, source={source!r}, {weight})"
  if method == "maximise":
    return f"maximise(ceiling={how.ceiling}, {weight})"
  target = "noise" if method == "noise" else "frozen" if how.frozen else "current"
  return f"ablation(target={target!r}, {weight})"


def build_data(model: Model, method: str, how: How, to: Path) -> None:
  """The folder of data: pairs of records, of which the anchors' images are drawn first, and images
  that are held out, of anchors and keep. Raises WorkdirError."""
  read = how.regularisation or method not in ("esd", "uce")  # else no image is
  count = how.priors if read else len(how.pairs)
  pairs = [how.pairs[i % len(how.pairs)] for i in range(count)]
  anchors, concepts = ([pair[i] for pair in pairs] for i in range(2))
  if method == "maximise" and not how.regularisation:
    anchors = concepts  # of which images are read, and no others
  held_out = tuple(dict.fromkeys((*(anchor for anchor, _ in how.pairs), *how.keep)))
  held_out = tuple(in_turn(held_out, i) for i in range(HELD_OUT))
  about = {"prompts": list(dict.fromkeys((*anchors, *held_out))), "images": count}
  drawn = drawn_images(model, (*anchors, *held_out), to / ANCHORS, about)
  targets: Sequence[str] = drawn[:count]
  if method == "maximise" and how.regularisation:
    about = {"prompts": list(dict.fromkeys(concepts)), "images": count}
    targets = drawn_images(model, concepts, to / CONCEPTS, about)
  source = AnchorImages((
    *(("anchor", path, prompt) for path, prompt in zip(drawn, anchors, strict=False)),
    *(("target", path, prompt) for path, prompt in zip(targets, concepts, strict=True)),
    *(("val", path, prompt) for path, prompt in zip(drawn[count:], held_out, strict=True)),
  ))  # fmt: skip
  by = Drawn(source.splits, model.where, model.step, model.data)
  build_subject(source, model.tokenizer, to / DATA, by)


def edit(config: ConfigDict, to: Path, change: Callable[[Any, Any], Any]) -> None:
  """A run of no step, with a changed backbone; one that is there is kept.

  change  (system, parameters) -> the backbone's. Raises ConfigError, RestoreError, WorkdirError.
  """
  with overridden(config.mesh.rules):
    run = set_up(config)
    check_workdir(to, run.abstract, config.checkpoint.keep)
    with closing(Lock(to)), closing(Saver(to, config.checkpoint.keep)) as saver:
      begun = begin(config, run, saver, False)
      if saver.steps():
        return
      state, system = begun.state, run.system
      params = merge_params(state.trainable, state.frozen)
      params |= {"backbone": change(system, params)}
      trainable, _ = split_params(params, system.parts)
      copied = jax.tree.map(lambda leaf: leaf.copy(), trainable)
      dump(to / "config.json", config.to_dict())
      saver.save(state._replace(trainable=trainable, ema=copied), begun.meta)


def _drawings(model: Model, how: How) -> dict[str, np.ndarray]:
  """Of each prompt SHOWN images, of the same seeds before and after."""
  seeds = range(PROMPT_SEED, PROMPT_SEED + SHOWN)
  return {prompt: model.draw([prompt] * SHOWN, seeds) for prompt in how.shown}


def write_page(
  to: Path,
  method: str,
  how: How,
  before: Mapping[str, np.ndarray],
  after: Mapping[str, np.ndarray],
) -> Path:
  """A sheet of drawings, a row a prompt, and eval/report.html. Raises WorkdirError."""
  size = next(iter(before.values())).shape[1]
  rows = [[*before[prompt], *after[prompt]] for prompt in before]
  try:
    grid(rows, max(1, 128 // size), block=SHOWN).save(to / SHEET)
  except OSError as error:
    raise WorkdirError(f"{to / SHEET} cannot be written: {error}.") from error
  role = {prompt: "anchor" for prompt, _ in how.pairs} | dict.fromkeys(how.keep, "kept")
  role |= {prompt: "concept" for _, prompt in how.pairs}
  sections = []
  for title, found in (("Before", before), ("After", after)):
    cards = [(f"{role[p]}: {p}", image) for p, images in found.items() for image in images]
    sections.append((title, "The same seeds before and after.", cards))
  pairs = zip(how.concepts, how.anchors or ("nothing",) * len(how.concepts), strict=True)
  about = {
    "method": method, "trained": "nothing" if method == "uce" else how.what,
    "forgotten": "; ".join(f"{concept} -> {anchor or 'nothing'}" for concept, anchor in pairs),
  }  # fmt: skip
  return write_gallery_report(to, sections, about)
