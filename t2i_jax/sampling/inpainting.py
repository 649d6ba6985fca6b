"""Inpainting with a network that was not trained for it: a hook, and a plan with repeated steps.

    replacement   after every step the known region is set to the given image, noised to that time
    resampling    RePaint: every few steps x is noised back up and they are repeated, so that the
                  unknown region becomes consistent with the known one

`repeated` lists the steps of a block several times, and the hook adds noise from the end of one
step to the start of the next wherever the two differ. It works with any solver without memory.
"""

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction
from t2i_jax.sampling.loop import Noise, OnStep
from t2i_jax.sampling.solver import Step


def repeated(plan: Step, times: int, block: int = 1) -> Step:
  """The plan with every block of `block` steps repeated `times` times, the last block once.

  For solvers without memory (ddim, ddpm, heun): a multistep solver would use outputs from before
  the jump as history. Source: [2201.09865 alg. 1]: times U = 10; its app. B has block 10
  Raises ConfigError.
  """
  steps = len(plan.index)
  if times < 1 or block < 1 or steps % block:
    raise ConfigError(
      f"inpainting: {steps} steps in blocks of {block}, {times} times each. Blocks must divide the "
      "steps, and both numbers be at least 1."
    )
  order = jnp.arange(steps).reshape(-1, block)
  order = jnp.concatenate([jnp.repeat(order[:-1], times, 0).reshape(-1), order[-1]])
  again = jax.tree.map(lambda a: a[order], plan)
  return again._replace(index=jnp.arange(len(order)))


def inpaint(plan: Step, known: jax.Array, mask: jax.Array, noise: Noise) -> OnStep:
  """The hook of `sample` that replaces the known region, and adds noise where the plan goes back.

      x_s = mask (alpha_s known + sigma_s eps) + (1 - mask) x_s       [2201.09865 eq. 8]
      x_t ~ N((alpha_t / alpha_s) x_s, sigma_{t|s}^2 I)  back up      [2201.09865 alg. 1]

  plan   the one given to `sample`, from `make_plan` or `repeated`
  known  [B, ...] like x0, used where mask [B, ..., 1 or C] is 1
  noise  step index -> unit Gaussian, from other keys than the solver's. Each step draws it twice.
  With a plan without repeats this is replacement alone: [2011.13456 app. I.2]. After the last step
  it is without noise, also where the grid ends above 0, as the published ones of diffusion may.
  """
  steps, now, to = len(plan.index), plan.now, plan.to
  after = lambda f, end: jnp.concatenate([f[1:], end[-1:]])  # what the next step starts from
  alpha, sigma = after(now.alpha, to.alpha), after(now.sigma, to.sigma)
  grow = alpha / to.alpha
  add = jnp.sqrt(jnp.maximum(sigma**2 - grow**2 * to.sigma**2, 0))
  last = jnp.arange(steps) == steps - 1
  to_alpha, to_sigma = jnp.where(last, 1, to.alpha), jnp.where(last, 0, to.sigma)
  contiguous = (alpha == to.alpha) & (sigma == to.sigma)
  grow, add = jnp.where(contiguous, 1, grow), jnp.where(contiguous, 0, add)

  def on_step(i, x: jax.Array, prediction: Prediction, state):
    given = to_alpha[i] * known + to_sigma[i] * noise(i).astype(x.dtype)
    x = mask * given + (1 - mask) * x
    return grow[i] * x + add[i] * noise(steps + i).astype(x.dtype), state

  return on_step
