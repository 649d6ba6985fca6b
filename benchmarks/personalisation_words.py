"""What one word can hold: textual inversion of individuals that the base knows, and of others."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.few_step import cell as percent
from benchmarks.pages import table
from benchmarks.personalisation_adapt import AT_ONCE, METHOD_OF, Learner, Run
from benchmarks.personalisation_bench import Base, Groups, cells_of, judged, scene_of
from benchmarks.personalisation_tables import ATTRIBUTE_NAMES
from benchmarks.personalisation_world import SIZE, SUBJECTS, TIERS, Cell, Subject
from t2i_jax.data.scenes.planted import INDIVIDUALS
from t2i_jax.evaluation.planted_judge import ATTRIBUTES
from t2i_jax.evaluation.stats import Rate
from t2i_jax.models.params import Params

RATE, STEPS = 1e-2, (100, 400)  # the rate is the one that benchmarks.personalisation chooses
SEEDS = (0, 1)
COUNT = 24  # drawings of a prompt
KNOWN = tuple(
  Subject(name, f"<v{5 + i}>", look)
  for i, (name, look) in enumerate(INDIVIDUALS.items())
  if look not in [*INDIVIDUALS.values()][:i]  # one of two that look the same
)
GROUPS = {
  "individuals of the base": KNOWN,
  **{f"subjects, {tier} mark": tuple(s for s in SUBJECTS if s.tier == tier) for tier in TIERS},
}


def prompts(subject: Subject, *phrases: str) -> Groups:
  """The subject alone, by each of these phrases."""
  return {phrase: [scene_of(f"a {phrase}", subject.look)] * COUNT for phrase in phrases}


def path_of(folder: Path, subject: Subject, step: int, seed: int = 0) -> Path:
  """Step 0: by its name."""
  return folder / f"{subject.name}_{step}_{seed}.json"


def make(base: Base, folder: Path) -> None:
  for subject in KNOWN:
    path = path_of(folder, subject, 0)
    if not path.is_file():
      by_name = prompts(subject, f"{subject.name} {subject.shape}", subject.name)
      base.cell(path, base.model.params, by_name, {"subject": subject.name, "step": 0})
  every = [Run(s, seed, RATE) for seed in SEEDS for s in (*KNOWN, *SUBJECTS)]
  todo = [run for run in every
          if not path_of(folder, run.subject, STEPS[-1], run.seed).is_file()]  # fmt: skip
  if todo:
    unused = {s.shape: np.zeros((0, SIZE, SIZE, 3), np.uint8) for s in (*KNOWN, *SUBJECTS)}
    learner = Learner(base.model, METHOD_OF["inversion"], unused)
    for step, run, params in _learned(learner, todo):
      word = prompts(run.subject, run.subject.word)
      about = {"subject": run.subject.name, "step": step, "seed": run.seed, "rate": RATE}
      base.cell(path_of(folder, run.subject, step, run.seed), params, word, about)
  base.read()


def _learned(learner: Learner, runs: list[Run]) -> Iterator[tuple[int, Run, Params]]:
  for start in range(0, len(runs), AT_ONCE):
    some = runs[start : start + AT_ONCE]
    for step, seconds, found in learner.learn(some, [None] * len(some), STEPS):
      print(f"words: step {step}, {seconds:.1f} s a run", flush=True)
      for run, params in zip(some, found, strict=True):
        yield step, run, params


def rates(cells: list[tuple[Subject, Cell]], which: int = 0) -> list[Rate]:
  """Drawings by a cell's phrase of this number: all right, then by attribute."""
  found = []
  for subject, cell in cells:
    phrase = [*cell.readings][which]
    found += judged(cell, prompts(subject, phrase))[phrase]
  attributes = [Rate.of(bool(v.attributes[a]) for v in found) for a in ATTRIBUTES]
  return [Rate.of(bool(v.identity) for v in found), *attributes]


def section(folder: Path) -> list[str]:
  rows = []
  for title, subjects in GROUPS.items():
    of = lambda step, subjects=subjects: [
      (s, cell) for s in subjects for cell in cells_of(folder, f"{s.name}_{step}_*")
    ]
    by_name = [("by name and class", of(0), 0), ("by name alone", of(0), 1)]
    learned = [(f"by a word, {step} steps", of(step), 0) for step in STEPS]
    for prompt, cells, which in (*by_name, *learned):
      if cells:
        rows.append([title, prompt, *map(percent, rates(cells, which))])
  lines = ["## What one word can hold", ""]
  if not rows:
    return [*lines, "Not run yet: `--only=words`.", ""]
  return [
    *lines,
    'Textual inversion in the prompt "a `<v0>`", of individuals that the base draws by name,',
    "beside the subjects, whose look no record has. One embedding is learned from 4 images, at the",
    f"rate of [personalisation](personalisation.md), {RATE:g}, on {len(SEEDS)} seeds; each draws",
    f"{COUNT} images.",
    "",
    table(["what", "prompt", "all right", *ATTRIBUTE_NAMES], rows),
    "",
  ]
