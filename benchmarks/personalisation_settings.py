"""How learning rates, steps and the guidance scale are chosen on development subjects."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.personalisation_adapt import STEPS
from benchmarks.personalisation_world import DEVELOPMENT, Verdicts, load_cell
from t2i_jax.evaluation.planted_judge import ATTRIBUTES


def balance(
  cells: Sequence[Verdicts], groups: Sequence[str] = ("alone", "related")
) -> tuple[float, float]:
  """How well a method's drawings, a cell a subject, balance the subject against all else.

  The harmonic mean of the share of drawings with everything right where the prompt has the subject
  (`groups`) and where it does not (class, own), each a mean over its groups: a model that has
  learned nothing has 0, as one that draws the subject for every prompt has. Where these are equal,
  as of a method that never gets all of a subject right, the share of its attributes decides.
  """
  share = lambda group: fmean(fmean(v.correct for v in cell[group]) for cell in cells)
  subject, other = (fmean(map(share, some)) for some in (groups, ("class", "own")))
  alone = [v for cell in cells for v in cell["alone"]]
  attributes = fmean(bool(v.attributes[a]) for v in alone for a in ATTRIBUTES)
  total = subject + other
  return 2 * subject * other / total if total else 0.0, attributes


def choose(folder: Path, guidances: Sequence[float]) -> dict[str, Any]:
  """Rate and steps of each family, and one guidance scale, by `balance`, of all cells of a folder.

  guidances  scales that are tried after the last of STEPS; rates and steps are chosen at the middle
  """
  subjects, found = {s.name: s for s in DEVELOPMENT}, dict[tuple[Any, ...], list[Verdicts]]()
  for path in sorted(folder.glob("*.json")):
    cell = load_cell(path)
    keys = tuple(cell.about[key] for key in ("method", "rate", "step", "guidance"))
    found.setdefault(keys, []).append(cell.judged(subjects[cell.about["subject"]]))
  scores = {keys: balance(each) for keys, each in found.items()}
  settings = {}
  for name in {method for method, *_ in scores}:
    own = {k: value for k, value in scores.items() if k[0] == name and k[3] == guidances[1]}
    best = max(own, key=lambda k: own[k])
    settings[name] = {"rate": best[1], "step": best[2], "score": own[best][0]}
  of = lambda name, g: scores[name, settings[name]["rate"], STEPS[-1], g][0]
  means = {g: fmean(of(name, g) for name in settings) for g in guidances}
  tried = [[*keys, *value] for keys, value in sorted(scores.items())]
  best_scale = max(means, key=lambda g: means[g])
  return {"settings": settings, "guidance": best_scale, "guidances": means, "tried": tried}
