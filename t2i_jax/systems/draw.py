"""From prompts to images: Conditioning -> guided denoiser -> solver -> x0_hat -> decode."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.control import CONTROLS, Role, with_role
from t2i_jax.models.params import Params
from t2i_jax.sampling import (
  Guided,
  Labelled,
  classify,
  guide,
  make_plan,
  remember,
  row_noise,
  sample,
)
from t2i_jax.systems.sampler import Batches, make_sampler
from t2i_jax.systems.system import System, pixels
from t2i_jax.systems.tasks import Classify, Draw


class Guide(NamedTuple):
  """A noisy classifier that guides another model, and how strongly: weight 0 = off.

  system    it has the process and the image size of the model that it guides
  classify  its task
  """

  system: System
  classify: Classify
  params: Params
  weight: float


def check_guide(system: System, guide: System) -> None:
  """Refuses a classifier of other images or of another process. Raises ConfigError."""
  for what, mine, its in (
    ("process", system.process.name, guide.process.name),
    ("images [H, W, C]", system.x_shape, guide.x_shape),
  ):
    if mine != its:
      raise ConfigError(
        f"the classifier's {what} is {its}, that of the model it guides is {mine}: train "
        "configs/scenes_classifier.py with this model's process and data."
      )


def _with_roles(cond: Conditioning, null: Conditioning | None) -> Guided:
  """The conditions of a method with a control: the third is the first, on perturbed rows."""
  null = None if null is None else with_role(null, Role.NULL)
  return Guided(with_role(cond, Role.COND), null, (with_role(cond, Role.PERTURBED),))


def make_draw(system: Any, c: ConfigDict, mesh: Mesh, guiding: Guide | None = None) -> Draw:
  """A function that draws any number of prompts in batches of config.sampling.batch.

  system  systems.drawing.DrawingSystem
  An image is a function of (parameters, prompt, seed): its batch changes it by matmul rounding
  only. The result is whole on every process. Raises ConfigError; the function PromptError.
  """
  if not hasattr(system, "denoise"):
    raise ConfigError("a noisy classifier does not guide model.kind = 'transfusion'.")
  solver, times, method = make_sampler(c, system.process)
  perturb = method.perturb
  control = None if perturb is None else CONTROLS[perturb.kind](perturb.layers, system.layers)
  plan = make_plan(solver, system.process, times)
  negative = {name: encoder.encode([c.negative]) for name, encoder in system.text.items()}
  if guiding is not None:
    check_guide(system, guiding.system)
  batches = Batches(mesh, c.batch)

  def run(params, plan, text, seeds, scale, guide_params, label, weight):
    keys = jax.vmap(jax.random.key)(seeds)
    prior = system.process.prior(keys, system.x_shape)
    cond: Any = system.encode_text(params, text)
    denoise = lambda x_t, time, cond: system.denoise(params, x_t, time, cond, control)
    hooks: dict[str, Any] = {}
    if c.cfg != 1 or control is not None:  # at scale 1 the null has no weight
      tokens = jax.tree.map(lambda row, like: jnp.broadcast_to(row, like.shape), negative, text)
      null = system.encode_text(params, tokens) if c.cfg != 1 else None
      cond = Guided(cond, null) if control is None else _with_roles(cond, null)
      denoise = guide(denoise, method, scale)
      hooks = remember(method, prior)
    if guiding is not None:
      log_prob = lambda x_t, time, y: guiding.classify(guide_params, x_t, time, y)
      denoise, cond = classify(denoise, log_prob, weight), Labelled(cond, label)
    noise = row_noise(keys, system.x_shape)
    x0_hat, _ = sample(denoise, solver, plan, prior, cond, noise, **hooks)
    return pixels(system.decode(params, x0_hat))

  compiled = jax.jit(run, out_shardings=jax.NamedSharding(mesh, jax.P()))

  def draw(params: Params, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    text = {name: encoder.encode(prompts) for name, encoder in system.text.items()}
    given: dict[str, Any] = {"text": text, "seeds": np.asarray(seeds, np.uint32), "label": ()}
    guide_params, weight = None, None
    if guiding is not None:
      given["label"] = guiding.system.text["text"].encode(prompts)
      guide_params, weight = guiding.params, jnp.float32(guiding.weight)
    images = []
    for laid in batches(given):
      with jax.set_mesh(mesh):
        scale = jnp.float32(c.cfg)
        out = compiled(
          params, plan, laid["text"], laid["seeds"], scale, guide_params, laid["label"], weight
        )
      images.append(np.asarray(out))
    return np.concatenate(images)[: len(prompts)]

  return draw
