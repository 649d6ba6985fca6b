"""All solvers by name. To add one, write a function that returns a Solver and add a line here."""

from collections.abc import Callable

from t2i_jax.sampling.ancestral import ddpm_learned
from t2i_jax.sampling.linear import (
  consistency,
  ddim,
  ddpm,
  dpmpp,
  dpmpp_sde,
  euler,
  euler_ancestral,
  flow_sde,
  unipc,
)
from t2i_jax.sampling.runge_kutta import edm, heun, pndm
from t2i_jax.sampling.solver import Solver

SOLVERS: dict[str, Callable[..., Solver]] = {
  "euler": euler,
  "ddim": ddim,
  "ddpm": ddpm,
  "ddpm_learned": ddpm_learned,
  "euler_ancestral": euler_ancestral,
  "flow_sde": flow_sde,
  "consistency": consistency,
  "dpmpp": dpmpp,
  "dpmpp_sde": dpmpp_sde,
  "unipc": unipc,
  "pndm": pndm,
  "heun": heun,
  "edm": edm,
}
