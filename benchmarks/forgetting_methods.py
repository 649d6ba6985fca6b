"""The methods of forgetting, and their runs.

Objective, trained weights, optimiser and step are those of the configs of `t2i forget`
(adapt.forget.config_of); benchmarks.personalisation_beside runs them, each compiled once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting_world import Concept, keep_of
from benchmarks.personalisation_bench import Base
from benchmarks.personalisation_beside import UNIT_RATE, Beside, Given, Learned, in_turn
from t2i_jax.adapt import forget
from t2i_jax.adapt.closed_form import edit_backbone
from t2i_jax.adapt.personalise import in_turn as taken_in_turn
from t2i_jax.models.params import Params
from t2i_jax.systems.roles import TEACHER

PRIORS = 64  # images that the base draws of an anchor, or of a concept
PAIRS = 4  # of a step
STEPS, CHUNK = 100, 25  # of a run; of a compiled call

KV_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
FULL_RATES = (1e-5, 3e-5, 5e-5, 1e-4)
HIGHER_RATES = (3e-5, 1e-4, 3e-4)  # where something holds the anchor
ESD_RATES = (1e-4, 3e-4, 1e-3)
LORA_RATES = (3e-4, 5e-4, 7e-4, 1e-3)
ROW_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
MAXIMISE_RATES = (3e-6, 1e-5, 3e-5, 1e-4)
RIDGES = (0.005, 0.05, 0.5, 5.0, 50.0)  # of uce, in the place of a rate


class Method(NamedTuple):
  """How a concept is erased.

  title    in tables
  method, what  of `t2i forget`
  rates    learning rates, or ridges, that are tried on the development concepts
  """

  title: str
  method: str
  what: str
  rates: tuple[float, ...]
  regularisation: float = 0.0
  ceiling: float = 0.0

  @property
  def trained(self) -> bool:
    return self.method != "uce"

  def how(self, concept: Concept) -> forget.How:
    return forget.How(
      (concept.concept,),
      # As published, ESD is guided from the null.
      () if self.method == "esd" else (concept.anchor,),
      keep=keep_of(concept),
      what=self.what,
      kind=concept.kind if concept.kind in forget.TEMPLATES else "caption",
      templates=concept.templates,
      priors=PRIORS,
      regularisation=self.regularisation,
      ceiling=self.ceiling,
      overrides={} if self.method == "uce" else UNIT_RATE | {"train.batch": str(2 * PAIRS)},
    )


_ABLATION = "ablation"
METHOD_OF: dict[str, Method] = {
  "ablation_kv": Method("ablation, keys and values", _ABLATION, "kv", KV_RATES),
  "ablation_kv_reg": Method(
    "ablation, keys and values, regularised", _ABLATION, "kv", KV_RATES, 1.0
  ),
  "ablation_all": Method("ablation, all weights", _ABLATION, "all", FULL_RATES),
  "ablation_all_reg": Method(
    "ablation, all weights, regularised", _ABLATION, "all", HIGHER_RATES, 1.0
  ),
  "ablation_lora": Method("ablation, adapters", _ABLATION, "lora", LORA_RATES),
  "ablation_row": Method("ablation, embedding", _ABLATION, "embedding", ROW_RATES),
  "noise": Method("noise, all weights", "noise", "all", HIGHER_RATES),
  "esd": Method("ESD, all weights", "esd", "all", ESD_RATES),
  "uce": Method("UCE", "uce", "kv", RIDGES),
  "maximise": Method("maximise the loss", "maximise", "all", MAXIMISE_RATES),
  "clipped": Method("clipped ascent", "maximise", "all", MAXIMISE_RATES, ceiling=0.5),
}


class Run(NamedTuple):
  """One concept that is erased.   rate: of learning"""

  concept: Concept
  seed: int
  rate: float


class Eraser:
  """All methods on a base, each compiled once; with embeddings once for each concept."""

  def __init__(self, base: Base):
    self.base = base
    self._stages = dict[tuple[str, str], Beside]()

  def learn(self, name: str, run: Run, steps: int) -> Learned:
    """A run after `steps`; of uce after none."""
    method = METHOD_OF[name]
    if not method.trained:
      return Learned(0, 0.0, [self._edited(method, run)])
    # The row of an anchor and that of its concept have the same number.
    picks = in_turn([(0, PRIORS), (PRIORS, PRIORS)], PAIRS, CHUNK)
    (found,) = self._stage(name, run).learn([self._given(method, run)], picks, [steps])
    return found

  def _stage(self, name: str, run: Run) -> Beside:
    method, concept = METHOD_OF[name], run.concept
    key = (name, concept.concept if method.what == "embedding" else "")
    if key not in self._stages:
      model = self.base.model
      where = forget.Base(self.base.workdir, lambda: model)
      config = forget.config_of(where, method.method, method.how(concept), self.base.folder)
      params = dict(model.params)
      if TEACHER in config.parts:
        params[TEACHER] = params["backbone"]
      self._stages[key] = Beside(config, model.tokenizer, params, 2 * PAIRS, 1)
    return self._stages[key]

  def release(self) -> None:
    """Leaves compiled programs to be collected."""
    self._stages.clear()

  def draw_images(self, concepts: Sequence[Concept]) -> None:
    """All images that runs are trained on: before processes beside each other read them."""
    for concept in concepts:
      pairs = METHOD_OF["maximise"].how(concept).pairs
      for k in range(2):
        self._drawn(concept, [taken_in_turn(pairs, i)[k] for i in range(PRIORS)])

  def _given(self, method: Method, run: Run) -> Given:
    pairs = method.how(run.concept).pairs
    anchors, concepts = ([taken_in_turn(pairs, i)[k] for i in range(PRIORS)] for k in range(2))
    images = self._drawn(run.concept, anchors)
    targets = self._drawn(run.concept, concepts) if method.method == "maximise" else images
    ids, mask = self.base.encode([*anchors, *concepts])
    both = np.concatenate([images, targets])
    return Given(both, ids, mask, np.float32(run.rate), np.int32(run.seed), {})

  def _drawn(self, concept: Concept, prompts: Sequence[str]) -> np.ndarray:
    """What the base draws of a concept or of its anchor, uint8 [PRIORS, H, W, 3]."""
    of = "concept" if concept.concept in prompts[0] else "anchor"
    return self.base.images(prompts, f"{concept.kind}_{concept.key}_{of}")

  def _edited(self, method: Method, run: Run) -> Params:
    how = method.how(run.concept)
    anchors, concepts = zip(*how.pairs, strict=True)
    model = self.base.model
    changed = edit_backbone(model.system, dict(model.params), concepts, anchors, how.keep, run.rate)
    return {**model.params, "backbone": changed}
