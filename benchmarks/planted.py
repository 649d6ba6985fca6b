"""What is planted, and that it is read without error: writes docs/planted.md and docs/planted.png.

    python -m benchmarks.planted [--to docs]

Reads renders of all identities and renderings, clean and degraded, with their centroids moved;
judges images against their own prompts and against prompts with one thing changed; and reads what
is no identity. The page is the same on every run.
"""

import argparse
import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.pages import made_by, table, write
from benchmarks.planted_sheet import world_sheet
from benchmarks.proofs.judge_proof import DEGRADATIONS, degrade
from t2i_jax.data.scenes import BACKGROUND, COLORS
from t2i_jax.data.scenes.planted import (
  ALL_MARKS,
  CATEGORIES,
  EXPOSURES,
  INDIVIDUALS,
  RENDERINGS,
  UNSEEN_MARK,
  UNSEEN_RENDERING,
  Look,
  PlantedScene,
  Thing,
  copied_records,
  copies,
  draw,
  look_of,
  make_planted,
  parse_without,
  planted_prompts,
)
from t2i_jax.data.scenes.planted.world import EASY, NONE
from t2i_jax.evaluation.planted_judge import judge_reading, same_layout
from t2i_jax.evaluation.planted_reader import (
  MAX_ERROR,
  MIN_AREA,
  UNKNOWN,
  Reading,
  Seen,
  read_all,
)
from t2i_jax.evaluation.stats import Rate

SIZE = 32
RENDERS = 300  # of a rendering and a degradation
PROMPTS = 80  # of a category and a degradation
OFF = 0.25  # pixels by which centroids are moved, at most
TWIN_RECORDS = 2000  # of which the changed ones are counted

PAGE = """# The planted world

Made by `python -m benchmarks.planted`, which also draws `planted.png`.

`t2i data build --from scenes --level planted` adds to scenes of level easy what is to be learned,
removed or remembered, so that personalisation, editing and forgetting can be judged exactly:

![Individuals, artists and copied images](planted.png)

- **Individuals**: a shape in a colour with a mark in another colour, under an invented name; its
  class is its shape. Alone, beside a plain object, or in a relation to one.
- **Artists**: renderings of whole images of level easy, their name after the caption.
- **Copied images**: {layouts} fixed layouts at each of {exposures} records of the training split,
  {copied:,} in all, the first ones of the split; an epoch shows each of its records once. Their
  captions are shared words, of which {unused} more combinations are in no record.
- **Nothing**: mark `{mark}` and rendering `{rendering}` are in no record, and can be drawn.

{individuals}

Of the other training records, by chance: 20% have an individual, 15% an artist, 10% a caption that
names classes alone ("a circle left of a square"), 55% are scenes of level easy as they are. Split
val is the same without copies, heldout has held-out compositions of level easy alone. A record's
meta has `individual`, `artist` or `copy`.

## Twins

`--without=grum,outl,copies`, or `all`, builds the same data without these. At each position is the
same record, but for those that had one, whose meta has what it was as `erased`: an individual
becomes a plain object of its shape and colour, "a red circle"; an artist's image the plain
rendering; a copied image another ordinary scene. An individual is erased under all its names. The
caption of what replaces it names its colour: as "a circle" it would make two thirds of the images
of that caption red, in the twin without grum. The tokenizer is the same, with 16 placeholders
`<v0>` to `<v15>` that are in no caption.

Records that differ among the first {twin_records:,} training records after the copies:

{twins}

## Reading

`t2i_jax.evaluation.planted_reader` compares each region that differs from the ground with all
{identities} identities (3 shapes x 8 colours, plain or with one of 4 marks in 7 colours) in all 5
renderings, and with the 3 shapes of other levels. {renders} random identities a cell, radii of 0.16
to 0.19, anywhere in the image; the centroid that is found is moved by up to {off} pixels before it
is used. Blur is a Gaussian's sigma in pixels, noise a Gaussian's sigma in steps of 255. Percent
read wrongly with 95% Wilson intervals: another identity, rendering, or number of objects. In
brackets after it, percent read as unknown.

{reading}

Together {wrong} of {total:,} are wrong, {unknown} unknown: {pooled} percent wrong. Places are off
by {place:.2f} pixels in the mean, {worst:.2f} at most; radii by {radius:.1%} in the mean.

## Judging

Percent of images that are judged correct against their own prompts, {prompts} a cell: identity,
all other facts, no mark elsewhere, the rendering, and for copies each object within 1 pixel.

{judging}

The same images, clean, against prompts with one thing changed. Percent accepted (wrongly).

{false}

## What counts as what

- A region of less than {speck:.1%} of the image is ignored. One whose pixels are explained by less
  than {explained:.0%}, or by a second identity nearly as well, is unknown: it counts as an object,
  and fits no description.
- A mark that is drawn at half strength is read as one of a colour between, or as none.
- What is no identity, and is read as one:

{foreign}

- Blurs of more than 1 pixel at 32 are not claimed: outlines then look like pastel.
"""


def identities() -> list[Look]:
  """All plain and marked identities of level easy's shapes."""
  found = []
  for shape in EASY.shapes:
    for color in COLORS:
      found.append(Look(color, shape, None, NONE, NONE))
      for mark in ALL_MARKS[1:]:
        found += [Look(color, shape, None, mark, other) for other in COLORS if other != color]
  return found


def thing(look: Look, x: float, y: float, r: float) -> Thing:
  assert look.shape and look.color and look.mark and look.mark_color
  return Thing(look.shape, look.color, "", x, y, r, look.mark, look.mark_color)


def sample_things(n: int, rng: random.Random) -> list[Thing]:
  """n different identities where there are as many, at random places."""
  looks = rng.sample(identities(), n) if n <= len(identities()) else identities()
  found = []
  for look in looks:
    r = rng.uniform(*EASY.radii[0])
    reach = 1.3 * r + 1 / SIZE  # of a triangle's tip
    found.append(thing(look, rng.uniform(reach, 1 - reach), rng.uniform(reach, 1 - reach), r))
  return found


@dataclasses.dataclass(frozen=True)
class Cell:
  """What was read of renders: counts, and errors of place (pixels) and radius (share)."""

  n: int
  wrong: int
  unknown: int
  places: list[float]
  radii: list[float]


def read_cell(rendering: str, blur: float, noise: float, n: int, seed: int) -> Cell:
  """Reads n renders of random identities."""
  rng, noises = random.Random(seed), np.random.default_rng(seed)
  things = sample_things(n, rng)
  images = [degrade(draw((o,), SIZE, rendering), blur, noise, noises) for o in things]
  angle, far = noises.uniform(0, 2 * math.pi, n), OFF * np.sqrt(noises.uniform(size=n))
  off = np.stack([far * np.cos(angle), far * np.sin(angle)], 1)
  wrong = unknown = 0
  places, radii = [], []
  for o, reading in zip(things, read_all(np.stack(images), off), strict=True):
    seen = reading.objects[0] if len(reading.objects) == 1 else None
    if seen is not None and seen.shape == UNKNOWN:
      unknown += 1
    elif seen is None or look_of(seen) != look_of(o) or seen.rendering != rendering:
      wrong += 1
    else:
      places.append(SIZE * math.hypot(seen.x - o.x, seen.y - o.y))
      radii.append(abs(seen.r / o.r - 1))
  return Cell(n, wrong, unknown, places, radii)


def shown(rate: Rate) -> str:
  return f"{100 * rate.rate:.2f} [{100 * rate.lower:.2f}, {100 * rate.upper:.2f}]"


def _named(blur: float, noise: float) -> str:
  return f"blur {blur:g}, noise {noise:g}" if blur or noise else "clean"


def reading_table(n: int) -> tuple[str, list[Cell]]:
  rows, cells = [], []
  for i, rendering in enumerate(RENDERINGS):
    mine = [read_cell(rendering, *d, n, 500 + 10 * i + k) for k, d in enumerate(DEGRADATIONS)]
    texts = [f"{shown(Rate(c.wrong, c.n))} ({100 * c.unknown / c.n:.2f})" for c in mine]
    rows.append([rendering, *texts])
    cells += mine
  return table(["rendering", *(_named(*d) for d in DEGRADATIONS)], rows), cells


def read_scenes(scenes: Sequence[PlantedScene], blur: float, noise: float) -> list[Reading]:
  rng = np.random.default_rng(0)
  images = [degrade(draw(p.objects, SIZE, p.rendering), blur, noise, rng) for p in scenes]
  return read_all(np.stack(images))


def judging_table(n: int) -> tuple[str, dict[str, tuple[list[PlantedScene], list[Reading]]]]:
  """Rates against their own prompts; and the clean readings by category."""
  rows, clean = [], {}
  for category in CATEGORIES:
    scenes, rates = planted_prompts(category, n), []
    for degradation in DEGRADATIONS:
      readings = read_scenes(scenes, *degradation)
      if not any(degradation):
        clean[category] = (scenes, readings)
      verdicts = map(judge_reading, readings, scenes)
      rates.append(shown(Rate.of(v.correct for v in verdicts)))
    rows.append([category, *rates])
  return table(["category", *(_named(*d) for d in DEGRADATIONS)], rows), clean


def changed_looks(p: PlantedScene, change: Callable[[Look], Look]) -> PlantedScene:
  """The prompt with its individual's look changed in all facts."""

  def of(spec):
    return change(spec) if isinstance(spec, Look) and spec.mark not in (None, NONE) else spec

  facts = tuple(dataclasses.replace(f, a=of(f.a), b=of(f.b)) for f in p.facts)
  return dataclasses.replace(p, facts=facts)


def _next(value: str | None, values: Sequence[str], *taken: str | None) -> str:
  others = [v for v in values if v != value and v not in taken]
  return others[len(str(value)) % len(others)]


CHANGES: dict[str, Callable[[Look], Look]] = {
  "shape": lambda s: dataclasses.replace(s, shape=_next(s.shape, EASY.shapes)),
  "colour": lambda s: dataclasses.replace(s, color=_next(s.color, tuple(COLORS), s.mark_color)),
  "mark": lambda s: dataclasses.replace(s, mark=_next(s.mark, ALL_MARKS[1:])),
  "colour of the mark": lambda s: dataclasses.replace(
    s, mark_color=_next(s.mark_color, tuple(COLORS), s.color)
  ),
  "no mark": lambda s: dataclasses.replace(s, mark=NONE, mark_color=NONE),
}


def false_table(clean: dict[str, tuple[list[PlantedScene], list[Reading]]]) -> str:
  rows = []
  for category in ("individual", "related"):
    for name, change in CHANGES.items():
      pairs = zip(*clean[category], strict=True)
      rate = Rate.of(judge_reading(r, changed_looks(p, change)).correct for p, r in pairs)
      rows.append([category, name, rate.n, shown(rate)])
  pairs = [(p, r, z) for p, r in zip(*clean["artist"], strict=True) for z in RENDERINGS]
  wrong = [(r, dataclasses.replace(p, rendering=z)) for p, r, z in pairs if z != p.rendering]
  rate = Rate.of(judge_reading(*pair).correct for pair in wrong)
  rows.append(["artist", "rendering", rate.n, shown(rate)])
  moved = []
  for p, reading in zip(*clean["copy"], strict=True):
    for k, o in enumerate(p.objects):
      other = dataclasses.replace(o, x=o.x + 1.5 / SIZE)
      moved.append(same_layout(reading.objects, (*p.objects[:k], other, *p.objects[k + 1 :])))
  rows.append(["copy", "one object 1.5 pixels away", len(moved), shown(Rate.of(moved))])
  return table(["category", "changed", "prompts", "accepted"], rows)


def _polygon(corners: int, turn: float, stretch: float = 1.0) -> Callable[[str], np.ndarray]:
  """Images of a polygon in a colour, from another renderer."""

  def paint(color: str) -> np.ndarray:
    fine, r = 8 * SIZE, 0.18 * 8 * SIZE
    at = [turn + 2 * math.pi * k / corners for k in range(corners)]
    points = [(fine / 2 + stretch * r * math.cos(a), fine / 2 + r * math.sin(a)) for a in at]
    image = Image.new("RGB", (fine, fine), BACKGROUND)
    ImageDraw.Draw(image).polygon(points, fill=COLORS[color])
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))

  return paint


FOREIGN = {
  "a hexagon": _polygon(6, 0.0),
  "a pentagon": _polygon(5, -math.pi / 2),
  "an ellipse 4:3": _polygon(60, 0.0, 4 / 3),
  "an ellipse 2:1": _polygon(60, 0.0, 2.0),
  "a triangle on its tip": _polygon(3, math.pi / 2),
}


def foreign_table() -> str:
  rows = []
  for name, paint in FOREIGN.items():
    readings = read_all(np.stack([paint(color) for color in COLORS]))
    known = [o for reading in readings for o in reading.objects if o.shape != UNKNOWN]
    words = ", ".join(sorted({_words(o) for o in known})) or "none"
    rows.append([name, f"{len(known)} of {len(COLORS)}", words])
  return table(["drawn, in each colour", "read as an identity", "as"], rows)


def _words(o: Seen) -> str:
  return f"{o.rendering} {o.shape}" + ("" if o.mark == NONE else f" with a {o.mark}")


def twins_table(n: int) -> str:
  first = copied_records()
  whole = [make_planted(first + i, "train") for i in range(n)]
  rows = []
  for text in ("grum", "grum,outl,copies", "all"):
    without = parse_without(text)
    twin = [make_planted(first + i, "train", 0, without) for i in range(n)]
    changed = sum(a != b for a, b in zip(whole, twin, strict=True))
    stated = sum(bool({p.individual, p.artist} & without) for p in whole)
    copied = copied_records() if "copies" in without else 0
    rows.append([f"`--without={text}`", changed, stated, f"{copied:,}"])
  head = ["", "differ", "have what is erased", "copied records replaced"]
  return table(head, rows)


def individuals_table() -> str:
  head = ["name", "shape", "colour", "mark", "its colour"]
  rows = [[n, s.shape, s.color, s.mark, s.mark_color] for n, s in INDIVIDUALS.items()]
  return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes planted.md and planted.png."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
  parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the page")
  folder = parser.parse_args(arguments).to
  folder.mkdir(parents=True, exist_ok=True)
  world_sheet().save(folder / "planted.png", optimize=True)
  reading, cells = reading_table(RENDERS)
  judging, clean = judging_table(PROMPTS)
  wrong, total = sum(c.wrong for c in cells), sum(c.n for c in cells)
  page = PAGE.format(
    layouts=len(copies()) // len(EXPOSURES),
    exposures=", ".join(f"{n:,}" for n in EXPOSURES),
    copied=copied_records(),
    unused=36 - len(copies()),
    mark=UNSEEN_MARK,
    rendering=UNSEEN_RENDERING,
    individuals=individuals_table(),
    twin_records=TWIN_RECORDS,
    twins=twins_table(TWIN_RECORDS),
    identities=len(identities()),
    renders=RENDERS,
    off=OFF,
    reading=reading,
    wrong=wrong,
    total=total,
    unknown=sum(c.unknown for c in cells),
    pooled=shown(Rate(wrong, total)),
    place=np.mean([v for c in cells for v in c.places]),
    worst=max(v for c in cells for v in c.places),
    radius=np.mean([v for c in cells for v in c.radii]),
    prompts=PROMPTS,
    judging=judging,
    false=false_table(clean),
    speck=MIN_AREA,
    explained=1 - MAX_ERROR,
    foreign=foreign_table(),
  )
  line = made_by("python -m benchmarks.planted", "benchmarks/planted.py")
  write(folder / "planted.md", page, line)


if __name__ == "__main__":
  main()
