"""The section of DomainGallery of docs/personalisation_more.md, from what was drawn and read."""

import json
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.few_step import cell as percent
from benchmarks.pages import table
from benchmarks.personalisation_bench import cells_of, judged
from benchmarks.personalisation_domain import (
  ARTIST,
  ARTIST_STEPS,
  CLASS_PROMPT,
  COLOR,
  DEV_COLOR,
  ENHANCED,
  ERASE_STEPS,
  IMAGES,
  OTHER_ARTIST,
  PROMPT,
  ROWS,
  SEEDS,
  STEPS,
  artist_prompts,
  domain_images,
  domain_scenes,
  has_class,
  has_color,
  matrix,
  prompts,
  rate,
  rendered,
  right,
)
from benchmarks.personalisation_tables import change
from benchmarks.personalisation_world import SIZE, shown
from t2i_jax.data.scenes.planted import ARTISTS
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.paired import Paired
from t2i_jax.evaluation.placement import repeats, spread
from t2i_jax.evaluation.stats import Rate


def matrix_table(folder: Path) -> str:
  rows = []
  for name in ("base", *ROWS):
    cells, label = cells_of(folder / "cells", f"{name}_?"), "base, untouched"
    label = ROWS[name].name if name in ROWS else label
    if cells:
      n = sum(len(cell.readings["intra"]) for cell in cells)
      rows.append([label, *map(percent, matrix(cells).values()), n])
    else:
      rows.append([label, "not run", *[""] * 5])
  head = ["", "hatched: word, circle", "hatched: word, others", "hatched: no word"]
  head += [f"{COLOR}: word, other colour", "circle: word, other shape", "n of the first"]
  return table(head, rows)


def others_table(folder: Path) -> str:
  """Adherence, harm, copies."""
  base, of, rows = cells_of(folder / "cells", "base_?"), prompts(), []
  for name, row in ROWS.items():
    cells = cells_of(folder / "cells", f"{name}_?")
    if not cells or not base:
      continue
    before = [v.correct for v in judged(base[0], {"own": of["own"]})["own"]]
    after = [v.correct for c in cells for v in judged(c, {"own": of["own"]})["own"]]
    paired = Paired.of(before * len(cells), after)
    layouts = {s: [scene.objects[0] for scene in domain_scenes(s)] for s in SEEDS}
    seen = [(c, o) for c in cells for r in c.readings["intra"] for o in r.objects]
    copied = Rate.of(repeats(o, layouts[c.about["seed"]]) for c, o in seen)
    places = [spread([o for r in c.readings["intra"] for o in r.objects]) for c in cells]
    rows.append([
      row.name,
      percent(rate(cells, ["shape", "color"], right, of)),
      percent(rate(cells, ["cross"], right, of)),
      percent(rate(cells, ["cross"], lambda v: right(v) and rendered(v), of)),
      change(paired),
      percent(copied),
      f"{SIZE * fmean(places):.1f}",
      f"{fmean(c.about['seconds'] for c in cells):.0f}",
    ])  # fmt: skip
  head = ["", "one object right", "two in relation right", "the same and hatched",
          "base's prompts right: change, points", "circles in a trained place",
          "spread of places, pixels", "seconds"]  # fmt: skip
  return table(head, rows)


def enhanced_table(folder: Path) -> str:
  of, rows = prompts(), []
  for key, (label, *_) in ENHANCED.items():
    cells = cells_of(folder / "cells", f"enhanced_{key}_?")
    if not cells:
      rows.append([label, "not run", *[""] * 5])
      continue
    groups = ["shape", "color", "cross"]
    rows.append([
      label,
      percent(rate(cells, ["intra"], rendered, of)),
      percent(rate(cells, groups, rendered, of)),
      percent(rate(cells, ["color", "cross"], has_color(COLOR), of)),
      percent(rate(cells, ["shape", "cross"], has_class, of)),
      percent(rate(cells, groups, right, of)),
      percent(rate(cells, groups, lambda v: right(v) and rendered(v), of)),
    ])  # fmt: skip
  head = ["enhanced", "hatched: circle", "hatched: others", f"{COLOR}: other colour",
          "circle: other shape", "prompt right", "right and hatched"]  # fmt: skip
  return table(head, rows)


def artist_table(folder: Path) -> str:
  of, rows = artist_prompts(), []
  for step in (0, *ARTIST_STEPS):
    cells = cells_of(folder / "artist", f"{step}_?")
    if not cells:
      rows.append([step, "not run", *[""] * 4])
      continue
    style = lambda name: lambda v: v.seen.rendering == ARTISTS[name]
    pairs = [
      a.seen.rendering != b.seen.rendering
      for cell in cells
      for a, b in zip(*(judged(cell, of)[g] for g in ("trained", "class")), strict=True)
    ]
    rows.append([
      step,
      percent(rate(cells, ["trained"], style(ARTIST), of)),
      percent(rate(cells, ["color"], style(ARTIST), of)),
      percent(Rate.of(pairs)),
      percent(rate(cells, ["other"], style(OTHER_ARTIST), of)),
      percent(rate(cells, ["class"], lambda v: v.correct, of)),
    ])  # fmt: skip
  head = ["steps", f"outline: trained prompt, by {ARTIST}", f"outline: a colour, by {ARTIST}"]
  head += ["rendering changed by the word", f"dark: by {OTHER_ARTIST}", "class prompt right"]
  return table(head, rows)


def section(folder: Path, to: Path) -> list[str]:
  """Of the page, with its image in `to`."""
  lines = [
    "## DomainGallery",
    "",
    f'Ten {COLOR} circles, hatched: a rendering in no record. They are taught as "{PROMPT}", each',
    f"row of the ablation in {len(SEEDS)} runs of other images and noise, {STEPS} steps with the",
    f"ten images after {ERASE_STEPS} of erasure in the rows that have it. Drawings of a run: 24 a",
    "group of prompts. Hatched: the whole image is read so. The word should bring the rendering",
    "and nothing else: ideally 100, 100, 0, 0, 0%.",
    "",
    matrix_table(folder),
    "",
    "Other colours are those of single circles and of a square left of (right of, above, below) a",
    "triangle; other shapes triangles and squares alone, and these.",
    "",
    others_table(folder),
    "",
    "Right: the objects of the prompt, their relation and number, in any rendering. The change is",
    "that of the base's own prompts, of the same noise, with Newcombe's interval and McNemar's p;",
    "it counts the runs as independent, which share the base's drawings.",
    "",
    "Enhancement at sampling, of the whole method; the scale of guidance in all is the base's in",
    "every row:",
    "",
    enhanced_table(folder),
    "",
    f'Erasure by itself, of a word that has a meaning: "{CLASS_PROMPT}, by {ARTIST}" is held to',
    f'"{CLASS_PROMPT}", with the losses of the class. The base, then after some steps:',
    "",
    artist_table(folder),
    "",
    "Changed by the word: the rendering that is read is another than that of the class prompt from",
    "the same noise.",
    "",
  ]
  files = {name: folder / "cells" / f"{name}_0.png" for name in ("base", *ROWS)}
  files = {name: path for name, path in files.items() if path.is_file()}
  if files:
    strips, images = [shown(path) for path in files.values()], [*domain_images(0)]
    empty = [np.full_like(images[0], 255)] * (len(strips[0]) - IMAGES)
    grid([[*images, *empty], *strips], 2).save(to / "personalisation_domain.png")
    lines += [
      "![Drawings by row](personalisation_domain.png)",
      "",
      "First row: the ten images. Then the base and the rows of the ablation; four drawings each",
      "of the word with a circle, with another shape, with a colour, with two objects; without it",
      "of the class and of the base's own prompts.",
      "",
    ]
  if (folder / "chosen.json").is_file():
    chosen = json.loads((folder / "chosen.json").read_text())
    lines += [
      f"The learning rate, {chosen['rate']:g} (AdamW, adapters of rank 4), was chosen for the",
      f"whole method on ten {DEV_COLOR} circles, and all rows have it.",
      "",
    ]
  return lines
