"""docs/personalisation.md, its sheet and its chart, from what was drawn and read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.few_step import cell as percent
from benchmarks.pages import run_of, table, write
from benchmarks.personalisation_adapt import CURVES, METHOD_OF, PER_ROLE, PRIORS, STEPS
from benchmarks.personalisation_tables import (
  BASELINES,
  NAMES,
  Results,
  attribute_table,
  copy_table,
  fidelity_table,
  harm_table,
  has_mark,
  identity,
  images_table,
  rate,
  rows_of,
  step_table,
  subject_table,
)
from benchmarks.personalisation_world import COUNTS, SUBJECTS, TIERS, shown, training_images
from benchmarks.recorded import BASE, record
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.chart import Series, line_chart, panels
from t2i_jax.evaluation.stats import Rate

SHEET = ("base", *CURVES, "oracle")
SHEET_OF = ("frux", "wint")  # subjects of the sheet: a known and an unseen mark
SCALE = 2
LINKS = ("personalisation.png", "personalisation.svg")
RECORD = "personalisation.tar.xz"


def chart(results: Results) -> str:
  """Curves over steps, with their intervals."""
  names = [name for name in CURVES if results.of(name, STEPS[-1])]
  shares: dict[str, Callable[[str, int], Rate]] = {
    "Alone, known mark": lambda n, step: identity(results.of(n, step, TIERS[0])),
    "Alone, unseen mark": lambda n, step: identity(results.of(n, step, TIERS[1])),
    "Class prompt: its mark": lambda n, step: rate(results.of(n, step), "class", has_mark),
    "The base's prompts right": lambda n, step: rate(
      results.of(n, step), "own", lambda _, v: v.correct
    ),
  }
  charts = []
  for title, share in shares.items():
    lines = []
    for name in names:
      found = [share(name, step) for step in STEPS]
      low, high = [r.lower for r in found], [r.upper for r in found]
      lines.append(Series(NAMES[name], STEPS, [r.rate for r in found], low, high))
    given: dict[str, Any] = {"x_label": "steps", "y_label": "drawings", "log_x": True}
    charts.append(line_chart(lines, title=title, percent=True, y_limits=(0.0, 1.0), **given))
  return panels(charts, 2)


def drawn(results: Results) -> list[list[Path]]:
  """Files of the sheet, a row a method, a file a subject."""
  return [
    [results.folder / f"{name}_{subject}_0_{results.step_of(name)}.png" for subject in SHEET_OF]
    for name in rows_of(results, SHEET)
  ]


def sheet(results: Results) -> list[list[np.ndarray]]:
  """Rows: the images of the subjects, then a method each; a block a subject."""
  subjects = [s for s in SUBJECTS if s.name in SHEET_OF]
  rows = [[image for s in subjects for image in training_images(s)]]
  return rows + [[image for file in files for image in shown(file)] for files in drawn(results)]


def write_pages(runs: Path, to: Path, command: str, configs: Sequence[Path]) -> None:
  """The page, its sheet and its chart.   configs: of the runs that were trained from scratch"""
  results = Results(runs)
  grid(sheet(results), SCALE, block=8).save(to / LINKS[0])
  (to / LINKS[1]).write_text(chart(results), encoding="utf-8")
  line = run_of(command, *(path for path in configs if path.is_file()))
  write(to / "personalisation.md", page(results, command), line)
  cells = [runs / "chosen.json", *runs.glob(BASE), *results.folder.glob("*.json")]
  record(runs, cells + [file for files in drawn(results) for file in files], to / RECORD)
  print(to / "personalisation.md")


def page(results: Results, command: str) -> str:
  names = [*BASELINES, *METHOD_OF]
  compared = ["base", *METHOD_OF, "oracle"]
  twins = ["inversion", "inversion_twin", "lora4_prior", "lora4_prior_twin"]
  only_known = table(
    ["method", "steps", "alone, known mark"],
    [
      [NAMES[n], results.step_of(n), percent(identity(results.of(n, tier=TIERS[0])))]
      if n in results
      else [NAMES[n], "not run", ""]
      for n in twins
    ],
  )
  return "\n".join([
    "# Personalisation",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    *intro(results),
    "",
    "![Drawings of two subjects](personalisation.png)",
    "",
    f"Left {SHEET_OF[0]}, a known mark, right {SHEET_OF[1]}, an unseen one, seed 0. First row:",
    "the images that are trained on (the first 4 of 8). Then",
    f"{'; '.join(NAMES[n] for n in rows_of(results, SHEET))}.",
    "Columns: the subject alone (3), beside another object (3), the class prompt (2); the same",
    "noise in every row.",
    "",
    "## The subject",
    "",
    fidelity_table(results, compared),
    "",
    "The subject: its object is there with its shape, colour, mark and the mark's colour; chance",
    "is 1 in 696. The rest of the prompt: the other object, the relation, their number. The base",
    "was never trained on the words; the oracle is trained from scratch with the subjects among",
    "its records under names, one run a seed.",
    "",
    "By attribute, of the object most like the subject, drawn alone:",
    "",
    attribute_table(results, compared),
    "",
    "Each subject by itself, drawn alone, both seeds:",
    "",
    subject_table(results, compared),
    "",
    "## What else has changed",
    "",
    harm_table(results, names),
    "",
    'The class prompt, "a circle", names no mark and no colour. The base\'s own prompts are',
    f"scenes of its distribution that are no record ({COUNTS['own']} a run); their change is that",
    "of the rate of drawings in which everything is right, of the same prompts and noise, with a",
    "paired interval (Newcombe's) and McNemar's exact p. Distances are the total variation of the",
    "colours, and of the places in a grid of 3 x 3, of what the class prompt draws from what the",
    "base draws of the same noise; that of other noise is how far two samples of one model are.",
    "",
    "## Copying and diversity",
    "",
    copy_table(results, names),
    "",
    "In a trained place: within 1 pixel of the place and of the radius in an image that was",
    "trained on. For the base these are its drawings of the class: chance. Spread: the root mean",
    "square distance of a subject's places from their mean. Seconds: of a run, of which several",
    "are trained in one program, without compilation and without the images of the class.",
    "",
    "## Over steps",
    "",
    "![Curves over steps](personalisation.svg)",
    "",
    step_table(results, CURVES),
    "",
    "Beside another object it is drawn after the chosen steps alone. Other methods were trained",
    "for the steps that were chosen for them or their family.",
    "",
    "## Number of images",
    "",
    images_table(results),
    "",
    "## Without the marks in the base",
    "",
    "The same methods on the twin of the base, trained on the same data without anything planted:",
    "a mark is unseen there. The three subjects of a known mark:",
    "",
    only_known,
    "",
    "## Settings",
    "",
    *settings(results),
  ])  # fmt: skip


def intro(results: Results) -> list[str]:
  looks = [
    [s.name, s.look.shape, s.look.color, s.look.mark, s.look.mark_color, s.tier] for s in SUBJECTS
  ]
  own = ", ".join(f"{n} {group}" for group, n in COUNTS.items())
  return [
    "The base is `configs/scenes_planted.py`, trained on [the planted world](planted.md): scenes,",
    "named individuals with marks, artists. Five subjects that it does not know are taught to",
    f"it, each from 4 images at different places, on two seeds: {len(SUBJECTS) * 2} runs a method.",
    "A known mark is one of other individuals, on an object that never has it; an unseen mark is",
    "in no record.",
    "",
    table(["subject", "shape", "colour", "mark", "its colour", "mark in the data"], looks),
    "",
    'Prompts name a subject "a `<v0>` circle", with a word that the tokenizer has and no caption',
    'had; textual inversion, and LoRA after it, "a `<v0>`". Methods are those of',
    f"`t2i personalise` ([adapt](adapt.md)): {PER_ROLE} rows of the subject a step, and with prior",
    f"preservation, where nothing else is said, {PER_ROLE} of {PRIORS} images that the base drew",
    "of its class. A run begins at the base's averaged weights; its own weights draw, no average.",
    f"Drawings a run: {own}.",
    "The reader of the planted world judges them; it is in no loss.",
    "Percentages have 95% Wilson intervals over drawings; runs and subjects differ by more.",
  ]


def settings(results: Results) -> list[str]:
  chosen = results.chosen
  rows = [
    [NAMES[name], f"{one['rate']:g}", one["step"], f"{100 * one['score']:.1f}%"]
    for name, one in sorted(chosen["settings"].items())
  ]
  each = chosen["guidances"].items()
  guidances = ", ".join(f"{100 * right:.1f}% at {float(scale):g}" for scale, right in each)
  return [
    "Learning rates (AdamW, constant) and steps were chosen on three other subjects, one of them",
    "of an unseen mark, by the harmonic mean of the rates of drawings in which everything is right",
    "with the subject in the prompt (alone, beside another object) and without it (the class, the",
    "base's own prompts): a method that changes nothing has 0 there. Where that is equal, as at 0,",
    "by the share of the subject's attributes. Methods without prior preservation have the",
    "settings of those with it; DoRA, and LoRA after inversion, those of LoRA 4.",
    "",
    table(["method", "learning rate", "steps", "harmonic mean"], rows),
    "",
    f"The guidance scale is {chosen['guidance']:g} for all, chosen in the same way at the last",
    f"step: {guidances}. Sampling: euler, 10 steps.",
  ]
