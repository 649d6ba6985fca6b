"""The way back: prompts -> Conditioning -> guided denoiser -> solver -> x0_hat -> pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, owned_rows
from t2i_jax.process import Process
from t2i_jax.sampling import SOLVERS, Guided, cfg, sample
from t2i_jax.training.system import System

# (params, prompts, one seed a prompt) -> uint8 [n, H, W, C]
Draw = Callable[[Params, Sequence[str], Sequence[int]], np.ndarray]


def check_sampling(c: ConfigDict, process: Process) -> None:
  """Refuses a config.sampling that cannot run. Raises ConfigError."""
  if c.solver not in SOLVERS:
    raise ConfigError(f"sampling.solver = {c.solver!r} is not one of {', '.join(SOLVERS)}.")
  if c.batch < 1:
    raise ConfigError(f"sampling.batch = {c.batch}: at least 1 is needed.")
  process.grid(c.steps)


def make_draw(system: System, tokenizer: Tokenizer, c: ConfigDict, mesh: Mesh) -> Draw:
  """A function that draws any number of prompts in batches of config.sampling.batch.

  A picture is a function of (parameters, prompt, seed): its batch changes it by matmul rounding
  only. The result is whole on every process. Raises ConfigError; the function PromptError.
  """
  check_sampling(c, system.process)
  times = system.process.times(c.steps)
  solver = SOLVERS[c.solver]
  step = mesh.shape["data"] * mesh.shape["fsdp"]
  batch_size = -(-c.batch // step) * step

  def run(params, ids, mask, seeds, scale):
    keys = jax.vmap(jax.random.key)(seeds)
    noise = system.process.prior(keys, system.x_shape)
    cond: Any = system.encode_text(params, ids, mask)
    denoise = lambda x_t, time, cond: system.denoise(params, x_t, time, cond)
    if c.cfg != 1:
      null_ids, null_mask = (jnp.broadcast_to(part, ids.shape) for part in system.null_tokens)
      cond = Guided(cond, system.encode_text(params, null_ids, null_mask))
      denoise = cfg(denoise, scale)
    x0_hat, _ = sample(denoise, solver, times, noise, cond)
    image = system.autoencoder.decode(x0_hat)
    return jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8)

  rows, replicated = batch_sharding(mesh), jax.NamedSharding(mesh, jax.P())
  compiled = jax.jit(run, out_shardings=replicated)
  local = owned_rows(mesh, batch_size)

  def place(host: np.ndarray) -> jax.Array:
    return jax.make_array_from_process_local_data(rows, host[local], host.shape)

  def draw(params: Params, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    ids, mask = tokenizer.encode(list(prompts), system.text_length)
    pictures = []
    for start in range(0, len(ids), batch_size):
      part = [
        np.asarray(a)[start : start + batch_size] for a in (ids, mask, np.asarray(seeds, np.uint32))
      ]
      used = len(part[0])
      part = [np.concatenate([a, np.repeat(a[:1], batch_size - used, 0)]) for a in part]
      with jax.set_mesh(mesh):
        out = compiled(params, *map(place, part), jnp.float32(c.cfg))
      pictures.append(np.asarray(out)[:used])
    return np.concatenate(pictures)

  return draw
