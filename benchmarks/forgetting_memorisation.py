"""Memorisation of copied images: dose and response, detection, controls, mitigations.

RUNS/memorisation/dose_{base,twin}.json  drawings of every copied image's caption, and of captions
                                         of the same words that no record has
norms_{base,twin,controls}.json          what each prompt changes in the first prediction, by seed
nearest.json                             of the base's drawings the nearest training image
controls.json                            new captions that the base is trained on: precise ones, of
                                         many images that are nearly the same, and copied ones
mitigation_NAME.json                     the captions of most exposures, drawn otherwise
trained_NAME.json                        new captions of copied images, in the ways of TRAINED
"""

import dataclasses
import functools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting_world import alone
from benchmarks.personalisation_bench import Base, Groups, scene_of
from benchmarks.personalisation_beside import Beside, Given, in_turn
from benchmarks.personalisation_world import SIZE, own_scene
from t2i_jax.data.scenes.planted import (
  EXPOSURES,
  INDIVIDUALS,
  PlantedScene,
  copied_scene,
  copies,
  draw,
  unused_codes,
)
from t2i_jax.data.scenes.planted.generate import copies_at
from t2i_jax.evaluation.memorisation import largest_clique, tile_distances
from t2i_jax.inference.memorisation import TrainImages, compare, text_differences
from t2i_jax.models.params import Params

UNUSED = "unused"  # the group of captions that no record has
SEEDS_OF_NORM = 16
JITTER = 1.0  # pixels by which the images of a precise caption differ in place, at most
CAPTIONS = 4  # of either kind of control
PER_CAPTION = 32  # images of a precise caption; a copied one has one
OWN = 64  # of the base's own images, trained on beside
RATE, ROWS, CHUNK = 1e-3, 4, 25  # of controls; rows of each kind
TILE = 0.1
WAYS = 8  # captions of an image, or images in whose place there is one
# What copied images are trained with, in the place of one caption each.
TRAINED = {
  "one": "one caption",
  "captions": f"{WAYS} captions",
  "noise": "every second caption another scene's",
  "dedup": f"one of {WAYS} copies",
}
NOISE = (0.3, 1.0)  # of encodings, in their own standard deviation


class Scale(NamedTuple):
  """drawings: of a caption;   steps: of the controls' training"""

  drawings: int
  seeds: int
  steps: int


FULL = Scale(20, SEEDS_OF_NORM, 600)
TINY = Scale(4, 2, CHUNK)


def code_scene(text: str) -> PlantedScene:
  """A caption without contents, of which nothing is right or wrong."""
  scene = scene_of(text)
  return dataclasses.replace(scene, facts=())


def doses(count: int) -> Groups:
  """By number of the copied image; and captions of none."""
  found: Groups = {str(copy.number): [copied_scene(copy)] * count for copy in copies()}
  return found | {f"{UNUSED} {code}": [code_scene(code)] * count for code in unused_codes()}


def prompts_of_norms() -> dict[str, list[str]]:
  """Prompts by kind: copied ones by exposures, others from the least to the most precise."""
  found = {str(e): [c.caption for c in copies() if c.exposures == e] for e in EXPOSURES}
  found[UNUSED] = list(unused_codes())
  found["classes"] = ["a circle", "a square", "a triangle"]
  pairs = [scene for scene in own_of(200) if any(f.rel for f in scene.facts)]
  found["relations"] = list(dict.fromkeys(s.caption for s in pairs))[:24]
  found["individuals"] = [alone(name).caption for name in INDIVIDUALS]
  return found


def own_of(count: int) -> list[PlantedScene]:
  """The first scenes of the base's own distribution with nothing planted."""
  return [scene for i in range(5 * count) if not (scene := own_scene(i)).planted][:count]


# Controls.


def control_captions() -> dict[str, list[str]]:
  """Precise captions, and copied ones: words that no record has."""
  word = lambda i: f"scene <v{i}>"
  return {"precise": [word(i) for i in range(CAPTIONS)],
          "copied": [word(CAPTIONS + i) for i in range(CAPTIONS)]}  # fmt: skip


def control_images() -> tuple[np.ndarray, list[str]]:
  """uint8 [n, H, W, 3] and captions: OWN of the base's own, all of precise ones, all of copied
  ones, each kind after the other."""
  rng = random.Random("forgetting/controls")
  own = own_of(OWN)
  images = [draw(scene.objects, SIZE) for scene in own]
  captions = [scene.caption for scene in own]
  names = control_captions()
  for caption, layout in zip(names["precise"], _layouts()[:CAPTIONS], strict=True):
    for _ in range(PER_CAPTION):
      images.append(draw([_moved(o, rng) for o in layout], SIZE))
      captions.append(caption)
  for caption, layout in zip(names["copied"], copied_layouts(), strict=True):
    images.append(draw(layout, SIZE))
    captions.append(caption)
  return np.stack(images), captions


@functools.cache
def _layouts() -> list[Any]:
  """Objects of scenes of two, for either kind of controls."""
  scenes = (own_scene(i) for i in range(400, 900))
  return [s.objects for s in scenes if len(s.objects) == 2 and not s.planted][: 2 * CAPTIONS]


def copied_layouts() -> list[Any]:
  """Objects of the images of copied captions."""
  return _layouts()[CAPTIONS:]


def captions_of(name: str, i: int) -> list[str]:
  """The captions of copied image i, of a way of TRAINED; the first is drawn."""
  own = f"scene <v{i}>"
  if name == "captions":
    return [f"{own} <v{CAPTIONS + k}>" for k in range(WAYS)]
  if name == "noise":  # every second one is that of another scene
    others = [scene.caption for scene in own_of(130)[-CAPTIONS * WAYS :]]
    return [text for k in range(WAYS // 2) for text in (own, others[i * WAYS + k])]
  return [own]


def trained_images(name: str) -> tuple[np.ndarray, list[str]]:
  """uint8 [n, H, W, 3] and captions: OWN of the base's own, and copied images under captions of a
  way of TRAINED; deduplicated, they are one in WAYS of the second kind."""
  own = own_of(OWN)
  images = [draw(scene.objects, SIZE) for scene in own]
  captions = [scene.caption for scene in own]
  for i, layout in enumerate(copied_layouts()):
    for text in captions_of(name, i):
      images.append(draw(layout, SIZE))
      captions.append(text)
  if name == "dedup":
    more = own_of(OWN + CAPTIONS * (WAYS - 1))[OWN:]
    images += [draw(scene.objects, SIZE) for scene in more]
    captions += [scene.caption for scene in more]
  return np.stack(images), captions


def unread(count: int) -> list[PlantedScene]:
  """Scenes that no model of TRAINED was trained on."""
  return own_of(150 + count)[150:]


def _moved(o: Any, rng: random.Random) -> Any:
  off = lambda: rng.uniform(-JITTER, JITTER) / SIZE
  return dataclasses.replace(o, x=o.x + off(), y=o.y + off())


class Memorisation:
  """What a base has memorised.   scale: how much is drawn"""

  def __init__(self, base: Base, runs: Path, scale: Scale):
    self.base, self.runs, self.scale = base, runs, scale
    self.folder = runs / "memorisation"

  def make(self, twin: Params | None) -> None:
    """twin: parameters of the model that has seen no copied image, or None"""
    own = self.base.model.params
    for name, params in {"base": own, "twin": twin}.items():
      if params is not None:
        self._cell(f"dose_{name}", params, doses(self.scale.drawings))
        self._norms(name, params, prompts_of_norms())
    self._nearest()
    self._controls()
    self._mitigations()
    self._training()
    self.base.read()

  def _cell(self, name: str, params: Params, groups: Groups, **how: Any) -> None:
    path = self.folder / f"{name}.json"
    if not path.is_file():
      self.base.cell(path, params, groups, {"name": name}, **how)

  def _norms(self, name: str, params: Params, prompts: dict[str, list[str]]) -> None:
    path = self.folder / f"norms_{name}.json"
    if path.is_file():
      return
    model, texts = self.base.model, [text for some in prompts.values() for text in some]
    own = {part: params[part] for part in model.params}
    found = text_differences(replace(model, params=own), texts, range(self.scale.seeds))[..., 0]
    rows = iter(found.round(5).tolist())
    saved = {kind: {text: next(rows) for text in some} for kind, some in prompts.items()}
    _write(path, saved)

  def _nearest(self) -> None:
    """Of drawings of copied captions and of others: the nearest training image, and cliques."""
    path = self.folder / "nearest.json"
    if path.is_file():
      return
    model, n = self.base.model, self.scale.drawings
    groups = doses(n)
    texts = [scene.caption for some in groups.values() for scene in some]
    drawn = self.base.draw(model.params, texts, list(range(n)) * len(groups))  # as dose_base
    train = TrainImages(model)
    compared = compare(drawn, train)
    copied = compared.copied
    saved = {}
    for i, key in enumerate(groups):
      own = slice(i * n, (i + 1) * n)
      clique = largest_clique(tile_distances(drawn[own]) <= TILE)
      of = [copies_at(int(at)) for at in compared.nearest.at[own]]
      saved[key] = {
        "copied": copied[own].tolist(),
        "nearest": [None if copy is None else copy.number for copy in of],
        "similarity": compared.nearest.similarity[own].round(5).tolist(),
        "clique": len(clique),
      }
    found = {"threshold": compared.threshold, "images": len(train), "prompts": saved}
    _write(path, found)

  def _controls(self) -> None:
    path = self.folder / "controls.json"
    if path.is_file() and (self.folder / "norms_controls.json").is_file():
      return
    images, captions = control_images()
    precise = CAPTIONS * PER_CAPTION
    ranges = [(0, OWN), (OWN, precise), (OWN + precise, CAPTIONS)]
    params = self._trained(images, captions, ranges)
    names = control_captions()
    groups = {
      text: [code_scene(text)] * self.scale.drawings for some in names.values() for text in some
    }
    self._cell("controls", params, groups)
    self._norms("controls", params, names)

  def _trained(
    self, images: np.ndarray, captions: Sequence[str], ranges: Sequence[tuple[int, int]]
  ) -> Params:
    """The base trained on images and captions, ROWS of each range in a step."""
    given = {"train.batch": str(len(ranges) * ROWS), "train.objective": "denoising"}
    config = self.base.config("dreambooth", given | {"data.train_split": "instance"})
    model = self.base.model
    stage = Beside(config, model.tokenizer, model.params, len(ranges) * ROWS, 1)
    ids, mask = self.base.encode(captions)
    run = Given(images, ids, mask, np.float32(RATE), np.int32(0), {})
    (found,) = stage.learn([run], in_turn(ranges, ROWS, CHUNK), [self.scale.steps])
    return found.params[0]

  def _training(self) -> None:
    """Copied images that the base is trained on, each under captions of another kind."""
    for name in TRAINED:
      path = self.folder / f"trained_{name}.json"
      if not path.is_file():
        images, captions = trained_images(name)
        ranges = [(0, OWN), (OWN, len(images) - OWN)]
        n = self.scale.drawings
        texts = [captions_of(name, i)[0] for i in range(CAPTIONS)]
        groups = {text: [code_scene(text)] * n for text in texts}
        groups["own"] = unread(2 * n)
        self._cell(f"trained_{name}", self._trained(images, captions, ranges), groups)

  def _mitigations(self) -> None:
    """The captions of most exposures, and the base's own prompts, in the same way."""
    most = [copy for copy in copies() if copy.exposures == EXPOSURES[-1]]
    n, params = self.scale.drawings, self.base.model.params
    own = own_of(2 * n)

    def groups(change: Callable[[str], str] = lambda text: text) -> Groups:
      of = lambda s: dataclasses.replace(s, captions=(change(s.caption),))
      found = {str(c.number): [of(copied_scene(c))] * n for c in most}
      return found | {"own": [of(scene) for scene in own]}

    count = sum(map(len, groups().values()))
    self._cell("mitigation_none", params, groups())
    self._cell("mitigation_cfg1", params, groups(), scale=1.0)
    self._cell("mitigation_repeat", params, groups(lambda text: f"{text} {text.split()[-1]}"))
    self._cell("mitigation_word", params, groups(lambda text: f"{text} image"))
    for noise in NOISE:
      self._cell(f"mitigation_noise{noise:g}", params, groups(), shift=self._noise(noise, count))

  def _noise(self, size: float, count: int) -> Any:
    """Gaussian noise of the encodings of `count` prompts, in their own standard deviation."""
    system: Any = self.base.model.system
    tokens = {"text": self.base.encode([copies()[-1].caption])}
    tower = system.encode_text(self.base.model.params, jax.tree.map(jnp.asarray, tokens)).towers
    encoded = np.asarray(tower["text"].tokens)[0]  # [T, D]
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((count, *encoded.shape), np.float32)
    return {"text": {"tokens": size * float(encoded.std()) * noise}}


def _write(path: Path, found: Any) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(".part")
  part.write_text(json.dumps(found, indent=1) + "\n")
  part.replace(path)


def mean_norms(seeds: Sequence[Sequence[float]], count: int) -> list[float]:
  """Of each prompt the mean over its first seeds."""
  return [float(np.mean(one[:count])) for one in seeds]
