"""The guided denoiser of a model that draws, with its condition and the hooks of `sample`."""

from typing import Any, NamedTuple

import jax

from t2i_jax.models.control import Control
from t2i_jax.models.params import Params
from t2i_jax.sampling import (
  Combine,
  Denoiser,
  Guided,
  Labelled,
  Solver,
  Step,
  autoguide,
  classify,
  guide,
  remember,
)
from t2i_jax.systems.controlnet import progress_of, with_hints, with_progress
from t2i_jax.systems.guides import Guides
from t2i_jax.systems.inputs import Inputs, all_until, with_roles


class GuidedSampler(NamedTuple):
  """config.sampling's guidance of a systems.drawing.DrawingSystem.

  control  of the method's perturbed prediction, or None;   guides: other models that guide it
  """

  system: Any
  solver: Solver
  method: Combine
  control: Control | None
  guides: Guides

  def denoiser(
    self,
    params: Params,
    given: Inputs,
    x: jax.Array,
    plan: Step,
    on_step: Any = None,
    whole: Step | None = None,
  ) -> tuple[Denoiser, Any, dict[str, Any]]:
    """The denoiser, its condition, and the hooks of `sample`.

    params  of what is sampled
    whole   the plan of which `plan` is a stage, where it is one: ControlNets are used between
            fractions of all its steps, as in diffusers
    """
    system, control, method = self.system, self.control, self.method
    given = with_hints(system, params, given)
    cond: Any = given.cond
    denoise: Denoiser = lambda x_t, time, cond: system.denoise(params, x_t, time, cond, control)
    hooks: dict[str, Any] = {} if on_step is None else {"on_step": on_step}
    if system.two_times:
      hooks["cond_at"] = lambda i, cond, _: all_until(cond, plan.to.model_time[i])
    elif given.controls:
      progress = progress_of(self.solver, plan if whole is None else whole)
      hooks["cond_at"] = lambda i, cond, _: with_progress(cond, progress, i)
    if self.guides.weak is not None:
      weak, weak_params = self.guides.weak.system, given.weak_params
      denoise = autoguide(
        lambda x_t, time, both: system.denoise(params, x_t, time, both[0]),
        lambda x_t, time, both: weak.denoise(weak_params, x_t, time, both[1]),
        method,
        given.scale,
      )
      cond = Guided((cond, given.weak))
    elif given.null is not None or control is not None:
      null = given.null
      cond = Guided(cond, null, given.others) if control is None else with_roles(cond, null)
      denoise = guide(denoise, method, given.scale)
      hooks = remember(method, x, **hooks)
    if self.guides.classifier is not None:
      guide_params, helper = given.guide_params, self.guides.classifier
      log_prob = lambda x_t, time, y: helper.classify(guide_params, x_t, time, y)
      denoise, cond = classify(denoise, log_prob, given.weight), Labelled(cond, given.label)
    return denoise, cond, hooks
