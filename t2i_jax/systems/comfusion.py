"""ComFusion [2402.11849]: a subject in scenes that are known by their texts.

Composite stream: DreamBooth whose images of the class are in the scenes. Fusion stream: an image of
the subject, with noise, is denoised under "a [V] N" and a scene to a coarse image, which is held to
the subject by what a network sees in both, and to the scene by what a classifier reads off it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.autoencoders.features import Features
from t2i_jax.data.batch import Batch
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process import mix
from t2i_jax.process.matching import denoised, textual_distance, visual_distance
from t2i_jax.process.timesteps import inside
from t2i_jax.ranges import Count, Range, Share, Weight
from t2i_jax.systems.denoising import denoise_batch
from t2i_jax.systems.parts import Part, split_start
from t2i_jax.systems.roles import (
  INSTANCE,
  SUBJECT,
  check_prompts,
  in_place,
  of_role,
  prompted,
  term_of,
  tokens_of,
)
from t2i_jax.systems.system import (
  DRAW_END,
  Draws,
  Mixture,
  Term,
  row_keys,
)
from t2i_jax.systems.trained import FEATURES, Reader, reader

if TYPE_CHECKING:
  from t2i_jax.systems.drawing import DrawingSystem

Scenes = Annotated[tuple[str, ...], Range("[1, 1000]")]


@dataclass(frozen=True)
class ComFusion:
  """Half of a batch are images of a subject, half those that the model drew of its class in scenes.

  prompt        "a [V] N", the captions of the former;   class_prompt: "a N"
  scenes        what follows it in the captions of the latter
  prior         weight of the loss of the latter
  visual        weight of the distance of the coarse image from the image of the subject
  textual       weight of what the scene names and is not read off the coarse image
  features      where the network starts whose features are compared: run:WORKDIR of an encoder of
                images or of a noisy classifier, or folder:PATH of VGG16
  reader        where the noisy classifier starts that reads: run:WORKDIR
  low, high     t of the noise on the image, uniform between them
  denoise_steps of DDIM from there to the coarse image
  The distances, their weights, low, high and the number of steps are ours.
  """

  prompt: str
  class_prompt: str
  scenes: Scenes
  prior: Weight = 1.0
  visual: Weight = 0.0
  textual: Weight = 0.0
  features: str = ""
  reader: str = ""
  low: Share = 0.5
  high: Share = 1.0
  denoise_steps: Count = 2

  roles = SUBJECT

  @property
  def terms(self) -> dict[str, Term]:
    weights = {"visual": self.visual, "textual": self.textual}
    return {name: term_of(weight, INSTANCE) for name, weight in weights.items() if weight}

  @cached_property
  def seen(self) -> Features | None:
    """What is compared. Raises ConfigError."""
    if not self.visual:
      return None
    kind, path = split_start(self.features, "train.objective: comfusion's features")
    if kind not in ("run", "folder"):
      raise ConfigError(
        f"train.objective: comfusion(visual={self.visual:g}) compares features: give features="
        "'run:WORKDIR' of a noisy classifier or an encoder, or 'folder:PATH' of VGG16; or visual=0."
      )
    return FEATURES[kind](path)

  @cached_property
  def read(self) -> Reader | None:
    """What is read. Raises ConfigError, DataError."""
    if not self.textual:
      return None
    kind, path = split_start(self.reader, "train.objective: comfusion's reader")
    if kind != "run":
      raise ConfigError(
        f"train.objective: comfusion(textual={self.textual:g}) reads images: give reader="
        "'run:WORKDIR' of a noisy classifier, or textual=0."
      )
    return reader(path)

  @property
  def reading(self) -> str:
    """The part that reads: one network may do both."""
    return "features" if self.visual and self.features == self.reader else "reader"

  @property
  def networks(self) -> dict[str, Part]:
    """The frozen parts that the objective brings. Raises ConfigError, DataError."""
    found = {}
    if self.seen is not None:
      one = self.seen
      found["features"] = Part(one.make, one.config, self.features, "none", one.part)
    if self.read is not None and self.reading == "reader":
      one = self.read.network
      found["reader"] = Part(one.make, one.config, self.reader, "none", one.part)
    return {name: part._replace(training_only=True) for name, part in found.items()}

  def check(self, system: "DrawingSystem") -> None:
    """Raises ConfigError, PromptError."""
    if self.low > self.high:
      raise ConfigError(
        f"train.objective: comfusion(low={self.low:g}, high={self.high:g}) needs low <= high."
      )
    size = system.image_shape[:2]
    if self.read is not None and self.read.size != size:
      raise ConfigError(
        f"train.objective: comfusion's reader {self.reader} reads images of {self.read.size}, and "
        f"those here are {size}. Train one on images of this size, or use textual=0."
      )
    if self.seen is not None and self.seen.least > min(size):
      raise ConfigError(
        f"train.objective: comfusion's features {self.features} need images of {self.seen.least} "
        f"pixels, and those here are {size}. Use others, or visual=0."
      )
    if self.terms:
      check_prompts(system, "comfusion")
      tokens_of(system, self.prompts)

  @property
  def prompts(self) -> list[str]:
    """Of the coarse images, by scene."""
    return [f"{self.prompt} {scene}" for scene in self.scenes]

  @cached_property
  def named(self) -> np.ndarray:
    """What each scene names besides the class.   # [scenes, vocab]"""
    assert self.read is not None
    scenes = self.read.tokens([f"{self.class_prompt} {scene}" for scene in self.scenes])
    return np.maximum(scenes - self.read.tokens([self.class_prompt]), 0)

  def __call__(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    found, m, cond, _ = denoise_batch(system, params, batch, draws)
    if batch.role is None:  # of validation
      return found | {name: jnp.zeros_like(found["image"]) for name in self.terms}
    found["image"] *= jnp.where(batch.role == INSTANCE, 1.0, self.prior)
    if not self.terms:
      return found
    keys = row_keys(draws.key, draws.rows, DRAW_END)
    m, cond, keys = of_role((m, cond, keys), INSTANCE)
    scene = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(self.scenes)))(keys)
    coarse = self._coarse(system, params, m, cond, keys, scene)
    values = self._distances(system, params, coarse, m.x0, scene)
    return found | {name: in_place(value, INSTANCE) for name, value in values.items()}

  def _coarse(
    self,
    system: "DrawingSystem",
    params: Params,
    m: Mixture,
    cond: Conditioning,
    keys: jax.Array,
    scene: jax.Array,
  ) -> jax.Array:
    """x0_hat of images of the subject with noise, denoised in their scenes.   # [B, h, w, C]"""
    u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys)
    t = system.process.on_grid(inside(self.low + (self.high - self.low) * u))
    texts = jax.tree.map(lambda x: jnp.asarray(x)[scene], tokens_of(system, self.prompts))
    within = prompted(system, params, texts, cond)
    denoise = lambda x_t, time: system.denoise(params, x_t, time, within)
    x_t = mix(m.x0, m.eps, system.process.at(t))
    return denoised(denoise, system.process, x_t, t, self.denoise_steps)

  def _distances(
    self,
    system: "DrawingSystem",
    params: Params,
    coarse: jax.Array,
    x0: jax.Array,
    scene: jax.Array,
  ) -> dict[str, jax.Array]:
    """Of coarse images from those of the subject, and from their scenes.   # name -> [B]"""
    decode = jax.checkpoint(lambda x0: system.decode(params, x0).astype(system.dtype))
    found, values = decode(coarse), dict[str, jax.Array]()
    if self.seen is not None:
      network = system.module(params, "features")
      layers = [self.seen.layers(network, image) for image in (found, decode(x0))]
      values["visual"] = visual_distance(*layers)
    if self.read is not None:
      logits = self.read.logits(system.module(params, self.reading), found)
      values["textual"] = textual_distance(logits, jnp.asarray(self.named)[scene])
    return values
