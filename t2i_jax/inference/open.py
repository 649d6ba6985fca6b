"""A trained model from a work directory alone: its config, tokenizer and averaged weights."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import apply_overrides, build
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.models.params import Params
from t2i_jax.parallel import MESH_AXES, bound, mesh_of, overridden
from t2i_jax.sampling import GUIDANCE_OF_PROMPTS
from t2i_jax.systems import System, Tasks, for_inference, make_system
from t2i_jax.systems.adapters import merged, without
from t2i_jax.systems.guides import NO_GUIDES, Guide, Guides, Weak
from t2i_jax.systems.tasks import ControlImages, Ode, Start
from t2i_jax.training.checkpoint import open_checkpoints
from t2i_jax.training.restore import restore_params


@dataclass(frozen=True)
class Model:
  """A system with its averaged weights on a mesh.

  step   optimiser steps done
  where  what it was opened from, for messages
  data   hash of the manifest of what it was trained on; "" where that is not known
  """

  config: ConfigDict
  system: System
  tokenizer: Tokenizer
  params: Params
  step: int
  mesh: Mesh
  tasks: Tasks
  where: str
  data: str = ""

  def draw(self, prompts: Sequence[str], seeds: Sequence[int], **how: Any) -> np.ndarray:
    """uint8 [n, H, W, 3], or float32 latents [n, h, w, C]. Raises ConfigError, PromptError.

    how  noise, decode, references, controls: systems.draw.Drawing.draw
    """
    return self.need("draw")(self.params, prompts, seeds, **how)

  def redraw(
    self,
    prompts: Sequence[str],
    seeds: Sequence[int],
    start: Start,
    decode: bool = True,
    controls: ControlImages | None = None,
  ) -> np.ndarray:
    """`draw` from images: systems.tasks.Start. Raises ConfigError, PromptError."""
    return self.need("redraw")(self.params, prompts, seeds, start, decode, controls)

  def likelihood(
    self, images: np.ndarray, captions: Sequence[str], seeds: Sequence[int], ode: Ode
  ) -> np.ndarray:
    """Bits a dimension of images given their captions [n]. Raises ConfigError, PromptError."""
    return self.need("likelihood")(self.params, images, captions, seeds, ode)

  def caption(self, images: np.ndarray, seeds: Sequence[int]) -> list[str]:
    """A caption of each image, uint8 [n, H, W, 3]. Raises ConfigError."""
    return self.need("caption")(self.params, images, seeds)

  def edit(
    self,
    images: np.ndarray,
    texts: Sequence[str],
    seeds: Sequence[int],
    others: Sequence[np.ndarray] = (),
  ) -> np.ndarray:
    """Each image changed as its instruction says. Raises ConfigError, PromptError.

    others  [n, h, w, 3] each: further images that the model is shown, after those
    """
    return self.need("edit")(self.params, images, texts, seeds, others)

  def chat(self, seed: int = 0) -> Any:
    """A conversation: systems.chat.Chat. Raises ConfigError."""
    return self.need("chat")(self.params, seed)

  def need(self, task: str) -> Callable[..., Any]:
    """The task of that name, over parameters. Raises ConfigError where the system has none."""
    return self.tasks.need(task, f"{self.where} ({self.config.name})")


def kept_steps(workdir: str | Path) -> list[int]:
  """The steps of a work directory's checkpoints, oldest first. Raises RestoreError."""
  with closing(open_checkpoints(workdir)) as checkpoints:
    return checkpoints.steps()


def open_model(
  workdir: str | Path,
  overrides: dict[str, str] | None = None,
  step: int | None = None,
  guide: str | Path | None = None,
  guide_weight: float = 1.0,
) -> Model:
  """A checkpoint of a work directory, the newest that is whole by default, on all devices.

  overrides  dotted keys of its config to set, as text: {"sampling.steps": "50", "mesh.fsdp": "8"};
             without any of config.mesh, weights are whole on every device
  guide      the work directory of a noisy classifier that guides it, with this weight
  Parameters are read onto the mesh, each device its own shards; no optimiser is built. Nothing in
  the work directory is changed. Raises RestoreError, ConfigError, MeshError.
  """
  given = {f"mesh.{axis}": "1" for axis in MESH_AXES} | {"mesh.data": "-1"} | (overrides or {})

  def read(step: int) -> Model:
    meta = checkpoints.meta(step)
    config = meta.config.copy_and_resolve_references()
    apply_overrides(config, given, f"the config in {workdir}")
    with overridden(config.mesh.rules):
      mesh = mesh_of(config.mesh)
      system = for_inference(make_system(config, meta.tokenizer))
      guides = Guides(
        None if guide is None else _opened_guide(guide, guide_weight), _opened_weak(config)
      )
      plain = without(system)
      tasks = tasks_of(plain, config, mesh, guides)
      params = merged(system, restore_params(checkpoints, step, meta, system, mesh))
      params = jax.block_until_ready(params)
    where = f"--workdir={workdir}"
    return Model(config, plain, meta.tokenizer, params, step, mesh, tasks, where, meta.data)

  with closing(open_checkpoints(workdir)) as checkpoints:
    return checkpoints.newest(read, step)[1]


def tasks_of(system: System, config: ConfigDict, mesh: Mesh, guides: Guides = NO_GUIDES) -> Tasks:
  """The tasks of a system with config.sampling, each under the mesh's rules that are in force."""
  tasks = system.tasks(config.get("sampling"), mesh, guides)
  under_rules: dict[str, Any] = {
    name: bound(task) for name, task in tasks._asdict().items() if callable(task)
  }
  return tasks._replace(**under_rules)


def _opened_guide(workdir: str | Path, weight: float) -> Guide:
  model = open_model(workdir)
  classify = model.tasks.need("classify", f"--guidance.classifier={workdir} ({model.config.name})")
  return Guide(model.system, classify, model.params, weight)


def _opened_weak(config: ConfigDict) -> Weak | None:
  """The weak model that config.sampling.guidance names, of its own work directory and process."""
  if "sampling" not in config:
    return None
  worse = build(GUIDANCE_OF_PROMPTS, config.sampling.guidance, "sampling.guidance").worse
  if worse is None:
    return None
  model = open_model(worse.workdir, {"sampling.guidance": "cfg"}, worse.step or None)
  model.tasks.need("denoise", f"the weak model of {worse.workdir} ({model.config.name})")
  return Weak(model.system, model.params)
