"""The section of docs/forgetting.md on memorisation, and its chart."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.few_step import cell as percent
from benchmarks.forgetting_memorisation import (
  CAPTIONS,
  NOISE,
  PER_CAPTION,
  TRAINED,
  UNUSED,
  captions_of,
  control_captions,
  copied_layouts,
  mean_norms,
  own_of,
  unread,
)
from benchmarks.forgetting_tables import NOT_RUN
from benchmarks.pages import table
from benchmarks.personalisation_world import load_cell
from t2i_jax.data.scenes.planted import EXPOSURES, PlantedScene, copies
from t2i_jax.evaluation.chart import Series, line_chart
from t2i_jax.evaluation.memorisation import auc, found_at
from t2i_jax.evaluation.planted_judge import judge_reading, same_layout
from t2i_jax.evaluation.planted_reader import Reading
from t2i_jax.evaluation.stats import Rate

CHART = "forgetting_dose.svg"
SEEDS = (1, 4, 16)  # over which norms are averaged
MITIGATIONS = {
  "none": "none",
  "cfg1": "without guidance",
  "repeat": "last word repeated",
  "word": 'a word added: "image"',
  **{f"noise{noise:g}": f"encodings with noise of {noise:g}" for noise in NOISE},
}
DETECTED = (
  "nearest training image is the copied one",
  "nearer than the threshold",
  "largest set of near equals",
)
AGAINST = {
  UNUSED: "captions of no record",
  "classes": '"a circle"',
  "relations": "two objects in a relation",
  "individuals": '"a grum circle"',
}


def is_copy(seen: Reading, number: int) -> bool:
  return same_layout(seen.objects, copies()[number].objects)


def any_copy(seen: Reading) -> bool:
  return any(same_layout(seen.objects, copy.objects) for copy in copies())


def dose(runs: Path, name: str) -> dict[int, Rate]:
  """Of captions by exposures, the rate of drawings that are their image; 0: captions of none, of
  any image. Empty where it was not run."""
  path = runs / "memorisation" / f"dose_{name}.json"
  if not path.is_file():
    return {}
  readings = load_cell(path).readings
  unused = [seen for key, some in readings.items() if key.startswith(UNUSED) for seen in some]
  found = {0: Rate.of(map(any_copy, unused))}
  for exposures in EXPOSURES:
    own = [str(copy.number) for copy in copies() if copy.exposures == exposures]
    found[exposures] = Rate.of(is_copy(s, int(key)) for key in own for s in readings[key])
  return found


def dose_table(runs: Path) -> str:
  base, twin, path = dose(runs, "base"), dose(runs, "twin"), runs / "memorisation" / "nearest.json"
  near = json.loads(path.read_text())["prompts"] if path.is_file() else {}
  rows = []
  for exposures in (0, *EXPOSURES):
    keys = [str(copy.number) for copy in copies() if copy.exposures == exposures]
    keys = keys or [key for key in near if key.startswith(UNUSED)]
    found = [near[key] for key in keys if key in near]
    flagged = Rate.of(one for each in found for one in each["copied"])
    hits = [
      (near[key]["nearest"], int(key) if key.isdigit() else None) for key in keys if key in near
    ]
    same = Rate.of(
      one is not None and own in (None, one) for nearest, own in hits for one in nearest
    )
    cliques = fmean(each["clique"] / len(each["copied"]) for each in found) if found else None
    rows.append([
      exposures or "in no record",
      percent(base[exposures]) if base else NOT_RUN,
      percent(twin[exposures]) if twin else NOT_RUN,
      percent(same) if found else NOT_RUN,
      percent(flagged) if found else NOT_RUN,
      NOT_RUN if cliques is None else f"{100 * cliques:.0f}%",
    ])  # fmt: skip
  head = ["records of the image", "drawn by the base", "by the twin"]
  return table([*head, *DETECTED], rows)


def similarity_auc(runs: Path) -> str:
  """How well the similarity to the nearest training image tells drawings that are copies."""
  path, drawn = runs / "memorisation" / "nearest.json", runs / "memorisation" / "dose_base.json"
  if not path.is_file() or not drawn.is_file():
    return NOT_RUN
  near, scores = json.loads(path.read_text())["prompts"], dict[bool, list[float]]()
  for key, readings in load_cell(drawn).readings.items():
    for seen, similarity in zip(readings, near[key]["similarity"], strict=True):
      scores.setdefault(any_copy(seen), []).append(similarity)
  copies_of, others = scores.get(True, []), scores.get(False, [])
  if not copies_of or not others:
    return f"not known: {len(copies_of)} copies, {len(others)} others"
  found = f"AUC {auc(copies_of, others):.2f}, {100 * found_at(copies_of, others):.0f}% found"
  return f"{found} at 1% of false alarms"


def dose_chart(runs: Path) -> str:
  lines = []
  for name in ("base", "twin"):
    found = {e: r for e, r in dose(runs, name).items() if e}
    if found:
      rates = list(found.values())
      lines.append(Series(name, list(found), [r.rate for r in rates], [r.lower for r in rates],
                          [r.upper for r in rates]))  # fmt: skip
  given: dict[str, Any] = {"x_label": "records of the image", "y_label": "drawings"}
  more: dict[str, Any] = {"log_x": True, "percent": True, "y_limits": (0.0, 1.0)}
  title = "The copied image is drawn"
  return line_chart(lines, title=title, **given, **more) if lines else ""


def norms(runs: Path, name: str) -> dict[str, list[list[float]]]:
  """By kind of prompt, of each prompt its norms by seed; empty where it was not run."""
  path = runs / "memorisation" / f"norms_{name}.json"
  if not path.is_file():
    return {}
  return {kind: list(some.values()) for kind, some in json.loads(path.read_text()).items()}


def norm_table(runs: Path) -> str:
  """How well norms tell the captions of most exposures from others."""
  base, controls = norms(runs, "base"), norms(runs, "controls")
  most = [str(e) for e in EXPOSURES[-2:]]
  positive = [one for e in most for one in base.get(e, [])]
  rows = []
  for kind, title in AGAINST.items():
    rows.append([f"{title}, n = {len(base.get(kind, []))}", *_separated(positive, base.get(kind))])
  precise, single = (controls.get(kind, []) for kind in ("precise", "copied"))
  rows.append([f"trained on: precise, n = {len(precise)}", *_separated(single, precise)])
  head = [f"{n} seed{'s' * (n > 1)}" for n in SEEDS]
  return table(["copied captions against", *(f"AUC, {h}" for h in head), "found at 1%"], rows)


def _separated(positive: Any, negative: Any) -> list[str]:
  if not positive or not negative:
    return [NOT_RUN, *[""] * len(SEEDS)]
  pairs = [(mean_norms(positive, n), mean_norms(negative, n)) for n in SEEDS]
  cells = [f"{auc(*pair):.2f}" for pair in pairs]
  return [*cells, f"{100 * found_at(*pairs[-1]):.0f}%"]


def mitigation_table(runs: Path) -> str:
  of = {str(copy.number): copy.objects for copy in copies()}
  return _copied_table(runs, "mitigation", MITIGATIONS, lambda _: of, own_of)


def trained_table(runs: Path) -> str:
  of = lambda name: {captions_of(name, i)[0]: o for i, o in enumerate(copied_layouts())}
  return _copied_table(runs, "trained", TRAINED, of, unread)


def _copied_table(
  runs: Path,
  cells: str,
  titles: Mapping[str, str],
  layouts: Callable[[str], Mapping[str, Any]],
  own: Callable[[int], Sequence[PlantedScene]],
) -> str:
  """layouts: name -> objects of copied images, by group of a cell;   own: count -> scenes"""
  rows = []
  for name, title in titles.items():
    path = runs / "memorisation" / f"{cells}_{name}.json"
    if not path.is_file():
      rows.append([title, NOT_RUN, ""])
      continue
    groups = load_cell(path).readings
    plain, of = groups.pop("own"), layouts(name)
    copied = Rate.of(same_layout(s.objects, of[key]) for key in groups for s in groups[key])
    pairs = zip(plain, own(len(plain)), strict=True)
    right = Rate.of(judge_reading(*pair).correct for pair in pairs)
    rows.append([title, percent(copied), percent(right)])
  return table(["", "copied", "the base's own prompts right"], rows)


def memorisation(runs: Path) -> list[str]:
  chart = dose_chart(runs)
  names = control_captions()
  return [
    "## Memorisation",
    "",
    "Of each caption of a copied image, whether the image is drawn: every object with its",
    "identity, within 1 pixel; of captions of no record, whether any copied image is. Beside it",
    "detection after sampling (`t2i memorisation`): the nearest of all training images by pixels,",
    "whether it is above the similarity that 1% of the training images have to another, and the",
    "largest set of drawings of a caption that are all nearly the same.",
    "",
    dose_table(runs),
    "",
    "The similarity to the nearest training image, of drawings that are copies against others, has",
    f"{similarity_auc(runs)}.",
    "",
    *([f"![The copied image over its records]({CHART})", ""] if chart else []),
    "Before sampling: the norm of what the caption changes in the first prediction, mean over",
    f"seeds. Copied are captions of {EXPOSURES[-2]} and {EXPOSURES[-1]} records. In the last row",
    f"the base was trained on {len(names['precise'])} new captions of {PER_CAPTION} images each,",
    f"which differ by at most a pixel in place, and as often on {len(names['copied'])} of one",
    "image each: low entropy is not memory, and a norm that tells these apart is not only of",
    "precision.",
    "",
    norm_table(runs),
    "",
    "Mitigations at sampling, of the captions of most records; ablation is above:",
    "",
    mitigation_table(runs),
    "",
    f"And in training: {CAPTIONS} new images with captions that no record has, as often as images",
    "of the base's own:",
    "",
    trained_table(runs),
    "",
  ]  # fmt: skip
