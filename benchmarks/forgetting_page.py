"""docs/forgetting.md, its charts and its sheet, of what has been run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.forgetting_efficacy import ATTACKED, NAMES, Results, path_of
from benchmarks.forgetting_guard import guarding
from benchmarks.forgetting_memorisation_page import CHART, dose_chart, memorisation
from benchmarks.forgetting_methods import METHOD_OF, PAIRS, PRIORS, STEPS
from benchmarks.forgetting_recovery import ENOUGH, INVERSION_RATE, TUNING_RATE
from benchmarks.forgetting_tables import (
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
from benchmarks.forgetting_world import DEVELOPMENT, IN_TWIN, KINDS, REPORTED
from benchmarks.pages import run_of, write
from benchmarks.personalisation_world import SIZE, shown
from benchmarks.recorded import record
from t2i_jax.data.sheet import grid

PAGE, SHEET, RECORD = "forgetting.md", "forgetting.png", "forgetting.tar.xz"
CURVES = "forgetting.svg"
ASCENT = "instance"  # the kind whose development concept shows what maximising the loss does
IN_ROW = 3  # drawings of a concept in the sheet
DRAWN = ("efficacy", "recovery", "prefixes", "memorisation", "guard")  # folders of what was drawn


# What the tables say, written by hand.
FOUND = """\
In short, of the individual "grum circle" where nothing else is said:

- No method gives the twin, which draws neighbours as the base does or better. Of those that change
  the backbone, what erases the individual (0 to 3% left) leaves at most 40% of its near neighbours
  right; the base draws 88%.
- *The embedding alone* erases it in every sentence with its name, and all else stays. Its second
  name, and a word learned from its images, give it as they do on the base. Under its own name
  fine-tuning takes nearly as long as on the twin: of four images 65% after 160 steps, the twin 60%.
- *All weights with regularisation*: no second name, no learned word, no SDEdit of its own images
  and no two words before its name bring it back. Fine-tuning on its images does, in 107 to 144
  steps; the twin learns it in 140 steps from one image, and in 160 to 60% from four and to 25% from
  sixteen. After 160 steps on benign images 45% of drawings have it again; of the twin none.
- *Without regularisation* all weights or adapters lose every image at rates at which the
  development concept was still drawn as its anchor: the anchor's prediction moves along.
- *Maximising the loss*, bounded or not, is undone soonest: after 19 to 60 steps on one or four of
  the individual's images.
- *A copied image* is drawn every time from 256 records on, in 1% of drawings with 64, with fewer
  never. In training, with as many steps, eight captions in place of one halve the copies, false
  ones for every second leave a fifth, one copy in place of eight a twentieth. At sampling only
  noise that spoils all prompts helps.
- *A policy* refuses whatever names the individual and, by the text encoder, its second name;
  misspelt names pass, and one drawing in ten of these has it. A check by the encoder takes half the
  time of a drawing. Whoever has the weights has the individual.

The base draws the artists in a third of what names them, so that their rows say little."""


def files_of_sheet(runs: Path) -> dict[str, list[Path | None]]:
  """By method, of which all was drawn: files of the first concept of each kind; None where it has
  none of a kind."""
  found = {}
  for name in NAMES:
    files = [
      None if name == "twin" and kind in IN_TWIN
      else path_of(runs / "efficacy", name, REPORTED[kind][0], 0).with_suffix(".png")
      for kind in KINDS
    ]  # fmt: skip
    if all(file is None or file.is_file() for file in files):
      found[name] = files
  return found


def sheet(runs: Path) -> list[list[np.ndarray]]:
  """A row a method: drawings of the first concept of each kind."""
  # The first drawings of a cell are of its target; four of each group are kept.
  blank = [np.full((SIZE, SIZE, 3), 255, np.uint8)] * IN_ROW
  return [
    [image for file in files for image in (shown(file)[:IN_ROW] if file else blank)]
    for files in files_of_sheet(runs).values()
  ]


def write_page(runs: Path, to: Path, command: str, configs: Sequence[Path]) -> None:
  """The page, its sheet and its charts.   configs: of the base and of the twin"""
  to.mkdir(parents=True, exist_ok=True)
  if rows := sheet(runs):
    grid(rows, 2, block=IN_ROW).save(to / SHEET)
  for name, text in ((CURVES, recovery_chart(runs)), (CHART, dose_chart(runs))):
    if text:
      (to / name).write_text(text, encoding="utf-8")
  line = run_of(command, *(path for path in configs if path.is_file()))
  write(to / PAGE, page(runs, command), line)
  cells = [path for part in DRAWN for path in (runs / part).rglob("*.json")]
  cells += [
    *runs.glob("*.json"),
    *(f for files in files_of_sheet(runs).values() for f in files if f),
  ]
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
    "after `python -m benchmarks.personalisation --only=base`. The base is",
    "`configs/scenes_planted.py`, trained on [the planted world](planted.md). Its twin is the same",
    "run on the same records without the individuals, artists and copied images that are erased",
    "here: an erased model is right when nothing tells it from its twin. Methods are those of",
    "`t2i forget` ([forget](forget.md)); a run begins at the base's averaged weights, and its own",
    f"weights draw: {PAIRS} pairs of prompts a step, {PRIORS} images that the base drew of an",
    "anchor. Drawings: euler, 10 steps, the base's guidance scale. The reader of the planted world",
    "judges them; it is in no loss. Percentages have 95% Wilson intervals over drawings; concepts",
    "and runs differ by more. What has not been run says so.",
    "",
    *((FOUND, "") if results.base else ()),
    *erasure(results, runs),
    *recovery(runs),
    *memorisation(runs),
    *guarding(runs),
  ])  # fmt: skip


def erasure(results: Results, runs: Path) -> list[str]:
  lines = [
    "## Erasure",
    "",
    f"Drawings of a run: {counts_text()};",
    "one run of each of two concepts. *Concept drawn*: it is in the image, where its prompt",
    "names it, and where other sentences do that no method is trained on. *Anchor in its",
    "place*: the image is what the anchor's prompt asks for, without the concept. Neighbours",
    "and own prompts are right where all of the prompt is, own prompts beside the base's of the",
    "same noise, with Newcombe's paired interval and McNemar's exact p. *Distance*: the total",
    "variation of what is drawn for the concept from what the base draws for the anchor, of",
    "identities and of places in a grid of 3 x 3; of other noise, it is that of the anchor's",
    "drawings themselves: how far two samples of one model are. Renaming replaces the concept",
    "by the anchor in prompts, and is of the base's weights.",
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
      f"{concept_list(REPORTED[kind])}. {notes[kind]}",
      f'Settings were chosen on "{dev.concept}".',
      "",
      efficacy_table(results, kind),
      "",
    ]
  if of_sheet := files_of_sheet(runs):
    names = [NAMES[name] for name in of_sheet]
    lines += [
      f"![Drawings of a concept of each kind, a row a method]({SHEET})",
      "",
      f"{IN_ROW} drawings each of {'; '.join(REPORTED[k][0].concept for k in KINDS)}, the same",
      f"noise in every row: {'; '.join(names)}.",
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
    "drawn, and their share of the twin's: 1 is forgotten, as far as this attack tells. Where they",
    "do not suffice, success after the last step is given.",
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
