"""docs/forgetting.md, its charts and its sheet, of what has been run."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.few_step import cell as percent
from benchmarks.forgetting_efficacy import ATTACKED, NAMES, Results, path_of
from benchmarks.forgetting_guard import guarding
from benchmarks.forgetting_memorisation import (
  NOISE,
  PER_CAPTION,
  UNUSED,
  control_captions,
  mean_norms,
  own_of,
)
from benchmarks.forgetting_methods import METHOD_OF, PAIRS, PRIORS, STEPS
from benchmarks.forgetting_recovery import ENOUGH, INVERSION_RATE, TUNING_RATE
from benchmarks.forgetting_tables import (
  NOT_RUN,
  ascent_table,
  concept_list,
  counts_text,
  efficacy_table,
  levels_text,
  prefix_table,
  prompts_table,
  recovery_chart,
  sdedit_table,
  settings_table,
  steps_table,
)
from benchmarks.forgetting_world import DEVELOPMENT, KINDS, REPORTED
from benchmarks.pages import run_of, table, write
from benchmarks.personalisation_world import Cell, load_cell, shown
from benchmarks.recorded import record
from t2i_jax.data.scenes.planted import EXPOSURES, copies
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.chart import Series, line_chart
from t2i_jax.evaluation.memorisation import auc, found_at
from t2i_jax.evaluation.planted_judge import judge_reading, same_layout
from t2i_jax.evaluation.planted_reader import Reading
from t2i_jax.evaluation.stats import Rate

PAGE, SHEET, RECORD = "forgetting.md", "forgetting.png", "forgetting.tar.xz"
CURVES, DOSE = "forgetting.svg", "forgetting_dose.svg"
ASCENT = "instance"  # the kind whose development concept shows what maximising the loss does
DRAWN = ("efficacy", "recovery", "prefixes", "memorisation", "guard")  # folders of what was drawn
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
  rows = []
  for name, title in MITIGATIONS.items():
    path = runs / "memorisation" / f"mitigation_{name}.json"
    if not path.is_file():
      rows.append([title, NOT_RUN, ""])
      continue
    cell = load_cell(path)
    numbers = [key for key in cell.readings if key.isdigit()]
    copies_of = Rate.of(is_copy(seen, int(key)) for key in numbers for seen in cell.readings[key])
    rows.append([title, percent(copies_of), percent(own_right(cell))])
  return table(["", "copied", "the base's own prompts right"], rows)


def own_right(cell: Cell) -> Rate:
  seen = cell.readings["own"]
  return Rate.of(judge_reading(*pair).correct for pair in zip(seen, own_of(len(seen)), strict=True))


def files_of_sheet(runs: Path) -> list[list[Path]]:
  """A row a method, of which all was drawn: files of the first concept of each kind."""
  rows = []
  for name in NAMES:
    files = [path_of(runs / "efficacy", name, REPORTED[k][0], 0).with_suffix(".png") for k in KINDS]
    if all(file.is_file() for file in files):
      rows.append(files)
  return rows


def sheet(runs: Path) -> list[list[np.ndarray]]:
  """A row a method: drawings of the first concept of each kind."""
  # The first drawings of a cell are of its target; four of each group are kept.
  return [[image for file in files for image in shown(file)[:3]] for files in files_of_sheet(runs)]


def write_page(runs: Path, to: Path, command: str, configs: Sequence[Path]) -> None:
  """The page, its sheet and its charts.   configs: of the base and of the twin"""
  to.mkdir(parents=True, exist_ok=True)
  if rows := sheet(runs):
    grid(rows, 2, block=3).save(to / SHEET)
  for name, text in ((CURVES, recovery_chart(runs)), (DOSE, dose_chart(runs))):
    if text:
      (to / name).write_text(text, encoding="utf-8")
  line = run_of(command, *(path for path in configs if path.is_file()))
  write(to / PAGE, page(runs, command), line)
  cells = [path for part in DRAWN for path in (runs / part).rglob("*.json")]
  cells += [*runs.glob("*.json"), *(file for files in files_of_sheet(runs) for file in files)]
  record(runs, cells, to / RECORD)
  print(to / PAGE)


def page(runs: Path, command: str) -> str:
  results = Results(runs / "efficacy")
  return "\n".join([
    "# Forgetting and memorisation",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    "The base is `configs/scenes_planted.py`, trained on [the planted world](planted.md). Its",
    "twin is the same run on the same records without the individuals, artists and copied images",
    "that are erased here: an erased model is right when nothing tells it from its twin. Methods",
    "are those of `t2i forget` ([forget](forget.md)); a run begins at the base's averaged",
    f"weights, and its own weights draw: {PAIRS} pairs of prompts a step, {PRIORS} images that",
    "the base drew of an anchor. Drawings: euler, 10 steps, the base's guidance scale. The",
    "reader of the planted world judges them; it is in no loss. Percentages have 95% Wilson",
    "intervals over drawings; concepts and runs differ by more. What has not been run says so.",
    "",
    *erasure(results, runs),
    *recovery(runs),
    *memorisation(runs),
    *guarding(runs),
  ])  # fmt: skip


def erasure(results: Results, runs: Path) -> list[str]:
  lines = [
    "## Erasure",
    "",
    f"Drawings of a run: {counts_text()}. *Concept drawn*: it is in the image, where its prompt",
    "names it, and where other sentences do that no method is trained on. *Anchor in its place*:",
    "the image is what the anchor's prompt asks for, without the concept. Neighbours and own",
    "prompts are right where all of the prompt is, own prompts beside the base's of the same",
    "noise, with Newcombe's paired interval and McNemar's exact p. *Distance*: the total",
    "variation of what is drawn for the concept from what the base draws for the anchor, of",
    "identities and of places in a grid of 3 x 3; of other noise, it is that of the anchor's",
    "drawings themselves: how far two samples of one model are. Renaming replaces the concept by",
    "the anchor in prompts, and is of the base's weights.",
    "",
  ]
  notes = {
    "instance": "Near neighbours share two attributes with the individual, far ones less.",
    "style": "Near: the other of the two, which the twin lacks, too; far: individuals.",
    "caption": "Near: copied images whose captions share a word; far: others. The twin has none.",
    "composition": "Near: either object, alone and with others; far: individuals. It has no twin.",
  }
  for kind in KINDS:
    dev = DEVELOPMENT[kind]
    lines += [
      f"### {kind.capitalize()}",
      "",
      f"{concept_list(REPORTED[kind])}. {notes[kind]} Settings were chosen on",
      f'"{dev.concept}".',
      "",
      efficacy_table(results, kind),
      "",
    ]
  if sheet(runs):
    names = [NAMES[name] for name in NAMES if results.of(name, KINDS[0])]
    lines += [
      f"![Drawings of a concept of each kind, a row a method]({SHEET})",
      "",
      f"Three drawings each of {'; '.join(REPORTED[k][0].concept for k in KINDS)}, the same noise",
      f"in every row: {'; '.join(names)}.",
      "",
    ]
  return [
    *lines,
    "### Settings",
    "",
    f"{STEPS} steps of AdamW at a constant rate: that rate, or UCE's ridge, by the harmonic mean",
    "on the development concept, which is given, of what is erased (concept not drawn, anchor in",
    "its place) and of what stays (anchor, near neighbours and own prompts right). UCE preserves",
    "the prompts of neighbours that are drawn. Tried were:",
    "",
    *(
      f"- {method.title}: {', '.join(f'{r:g}' for r in method.rates)}"
      for method in METHOD_OF.values()
    ),
    "",
    settings_table(results),
    "",
    f'Maximising the loss of "{DEVELOPMENT[ASCENT].concept}", with every rate:',
    "",
    ascent_table(results, ASCENT),
    "",
  ]


def recovery(runs: Path) -> list[str]:
  chart = recovery_chart(runs)
  return [
    "## Recovery",
    "",
    f'What attacks bring back of "{ATTACKED.concept}", on the models above, seed 0. Textual',
    f"inversion learns a new word on the erased model (rate {INVERSION_RATE:g}), fine-tuning all",
    f"weights (rate {TUNING_RATE:g}) under its name; benign images have nothing planted. Renaming",
    "leaves the base's weights as they are, and these attacks find it where they find the base.",
    f"Steps to {100 * ENOUGH:.0f}% of drawings with the individual, linear between those that were",
    "drawn, and their share of the twin's: 1 is forgotten, as far as this attack tells.",
    "",
    steps_table(runs),
    "",
    *([f"![Success over steps of attacks]({CURVES})", ""] if chart else []),
    "Other sentences and its second name, without training:",
    "",
    prompts_table(runs),
    "",
    "SDEdit of its images, with noise of level t, under its name: states near a target are in no",
    "loss of concept ablation, whose noisy images are of the anchor.",
    "",
    sdedit_table(runs),
    "",
    "Two words before the prompt, of all texts that are one token: the pairs with the least",
    f"denoising loss of a few images at t = {levels_text()} are compared on more, and the best are",
    "drawn. The budget is that of network calls of a row. Searched were the base, the twin,",
    "renamed prompts, and of concept ablation and of ESD what was best on the development concept.",
    "",
    prefix_table(runs),
    "",
  ]  # fmt: skip


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
    *([f"![The copied image over its records]({DOSE})", ""] if chart else []),
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
  ]  # fmt: skip
