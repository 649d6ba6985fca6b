"""The way back: prompts -> Conditioning -> guided denoiser -> solver -> x0_hat -> pictures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.tokenize import Tokenizer
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
from t2i_jax.training.generate import Draw, Generator
from t2i_jax.training.sampler import Batches, make_sampler
from t2i_jax.training.system import NoisyClassifierSystem, System, pixels
from t2i_jax.training.transfusion import TransfusionSystem


class Classifier(NamedTuple):
  """A noisy classifier that guides, and how strongly: weight 0 = off."""

  system: NoisyClassifierSystem
  tokenizer: Tokenizer
  params: Params
  weight: float


def check_classifier(system: System, classifier: NoisyClassifierSystem) -> None:
  """Refuses a classifier of other pictures or of another process. Raises ConfigError."""
  for what, mine, its in (
    ("process", system.process.name, classifier.process.name),
    ("pictures [H, W, C]", system.x_shape, classifier.x_shape),
  ):
    if mine != its:
      raise ConfigError(
        f"the classifier's {what} is {its}, the drawing model's {mine}: train "
        "configs/scenes_classifier.py with the drawing model's process and data."
      )


def _with_roles(cond: Conditioning, null: Conditioning | None) -> Guided:
  """The conditions of a method with a control: the third is the first, on perturbed rows."""
  null = None if null is None else with_role(null, Role.NULL)
  return Guided(with_role(cond, Role.COND), null, (with_role(cond, Role.PERTURBED),))


DRAWING = (System, TransfusionSystem)  # systems that `make_draw` takes


def make_draw(
  system: Any,
  tokenizer: Tokenizer,
  c: ConfigDict,
  mesh: Mesh,
  classifier: Classifier | None = None,
) -> Draw:
  """A function that draws any number of prompts in batches of config.sampling.batch.

  A picture is a function of (parameters, prompt, seed): its batch changes it by matmul rounding
  only. The result is whole on every process. Raises ConfigError; the function PromptError.
  """
  if isinstance(system, TransfusionSystem):
    if classifier is not None:
      raise ConfigError("a noisy classifier does not guide model.kind = 'transfusion'.")
    return Generator(system, c, mesh).drawing(tokenizer)
  solver, times, method = make_sampler(c, system.process)
  asked = method.perturb
  control = None if asked is None else CONTROLS[asked.kind](asked.layers, system.layers)
  plan = make_plan(solver, system.process, times)
  null_tokens = [part[0] for part in tokenizer.encode([c.negative], system.text_length)]
  if classifier is not None:
    check_classifier(system, classifier.system)
  batches = Batches(mesh, c.batch)

  def run(params, plan, ids, mask, seeds, scale, guide_params, label, weight):
    keys = jax.vmap(jax.random.key)(seeds)
    prior = system.process.prior(keys, system.x_shape)
    cond: Any = system.encode_text(params, ids, mask)
    denoise = lambda x_t, time, cond: system.denoise(params, x_t, time, cond, control)
    hooks: dict[str, Any] = {}
    if c.cfg != 1 or control is not None:  # at scale 1 the null has no weight
      null_ids, null_mask = (jnp.broadcast_to(part, ids.shape) for part in null_tokens)
      null = system.encode_text(params, null_ids, null_mask) if c.cfg != 1 else None
      cond = Guided(cond, null) if control is None else _with_roles(cond, null)
      denoise = guide(denoise, method, scale)
      hooks = remember(method, prior)
    if classifier is not None:
      log_prob = lambda x_t, time, y: classifier.system.log_prob(guide_params, x_t, time, y)
      denoise, cond = classify(denoise, log_prob, weight), Labelled(cond, label)
    noise = row_noise(keys, system.x_shape)
    x0_hat, _ = sample(denoise, solver, plan, prior, cond, noise, **hooks)
    return pixels(system.autoencoder.decode(x0_hat))

  compiled = jax.jit(run, out_shardings=jax.NamedSharding(mesh, jax.P()))

  def draw(params: Params, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    ids, mask = tokenizer.encode(list(prompts), system.text_length)
    given = [ids, mask, np.asarray(seeds, np.uint32)]
    guide_params, weight = None, None
    if classifier is not None:
      given += classifier.tokenizer.encode(list(prompts), classifier.system.text_length)
      guide_params, weight = classifier.params, jnp.float32(classifier.weight)
    pictures = []
    for laid in batches(*given):
      with jax.set_mesh(mesh):
        scale = jnp.float32(c.cfg)
        out = compiled(params, plan, *laid[:3], scale, guide_params, laid[3:], weight)
      pictures.append(np.asarray(out))
    return np.concatenate(pictures)[: len(ids)]

  return draw
