"""What a ControlNet of outlines does on scenes: docs/controlnet.md and .png.

python -m benchmarks.controlnet --data=runs/data/scenes_quickstart --base=runs/scenes_dit_flow

Trains configs/scenes_controlnet.py on a trained run of configs/scenes_dit_flow.py (or goes on where
it stopped), draws scenes that were not trained on with their own outlines, with those of others,
and with outlines that the caption contradicts, and has the judge read where things are. The judge
is in no loss. About 10 minutes of CPU, 3 of them for the drawings.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.few_step import CATEGORIES, cell, finished
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.data.scenes import LEVELS, Fact, Object, Scene, Spec, holds, outlines, prompts
from t2i_jax.data.scenes.geometry import coverage
from t2i_jax.data.scenes.vocabulary import INVERSE
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.judge import UNKNOWN, judge, read
from t2i_jax.evaluation.stats import CONFIDENCE, Rate
from t2i_jax.inference import Model, open_model
from t2i_jax.systems.tasks import ControlImages

LEVEL = "easy"
PROMPT_SEED = 50_000  # prompts that no choice was made on
SCALES = (0.0, 0.25, 0.5, 1.0, 1.5)
GRID = 64  # pixels along a side, of masks
OVER = 0.5  # intersection over union from which an object is where the outline is
SHOWN = 2  # scenes a category in the sheet
SCALE = 3  # of the sheet

Objects = Sequence[Object]


class Drawn(NamedTuple):
  """Drawings of scenes' captions, and the objects whose outlines they were given, or None."""

  scenes: Sequence[Scene]
  given: Sequence[Objects] | None
  images: np.ndarray


def mask(o: Object) -> np.ndarray:
  """[GRID, GRID] in [0, 1]; an object whose shape is unknown counts as a circle of its area."""
  shape, at = "circle" if o.shape == UNKNOWN else o.shape, np.arange(GRID)
  return coverage(shape, GRID * o.x, GRID * o.y, GRID * o.r, at, at)


def overlaps(wanted: Objects, seen: Objects) -> list[float]:
  """Of each wanted object, the intersection over union with the object that it is paired with.

  Pairs are those of the largest sum, whatever colours and shapes are; one without a pair has 0.
  """
  found = np.zeros((len(wanted), len(seen)))
  for i, a in enumerate(map(mask, wanted)):
    for k, b in enumerate(map(mask, seen)):
      found[i, k] = np.minimum(a, b).sum() / np.maximum(a, b).sum()
  pairs = dict(zip(*linear_sum_assignment(-found), strict=True))
  return [float(found[i, pairs[i]]) if i in pairs else 0.0 for i in range(len(wanted))]


def draw(
  model: Model, scenes: Sequence[Scene], given: Sequence[Objects] | None, scale: float = 1.0
) -> Drawn:
  """An image of each caption, with these outlines; the same noise for all settings."""
  captions, size = [scene.caption for scene in scenes], model.config.data.image_size[0]
  how = {}
  if given is not None:
    images = np.stack([outlines(objects, size) for objects in given])
    how = {"controls": ControlImages([images], scales=(scale,))}
  return Drawn(scenes, given, model.draw(captions, range(len(captions)), **how))


def mean(values: Sequence[float]) -> str:
  """The mean with its normal 95% interval."""
  middle = fmean(values)
  half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * stdev(values) / sqrt(len(values))
  return f"{middle:.3f} [{middle - half:.3f}, {middle + half:.3f}]"


def placed(drawn: Drawn, wanted: Sequence[Objects]) -> list[str]:
  """Two cells: the mean overlap with these objects, and in how many images all are above OVER."""
  each = [overlaps(objects, read(x)) for objects, x in zip(wanted, drawn.images, strict=True)]
  rate = Rate.of(min(found) > OVER for found in each)
  return [mean([fmean(found) for found in each]), cell(rate)]


def right(drawn: Drawn) -> list[str]:
  """A cell for each category: images in which all facts of the caption hold."""
  pairs = list(zip(drawn.scenes, drawn.images, strict=True))
  return [
    cell(Rate.of(judge(x, s.facts).correct for s, x in pairs if s.category == name))
    for name in CATEGORIES
  ]


def scenes_of(category: str, count: int) -> list[Scene]:
  """Half of them of compositions that were trained on."""
  return [s for held in (False, True) for s in prompts(LEVEL, category, held, count, PROMPT_SEED)]


def turned(scenes: Sequence[Scene]) -> list[Objects]:
  """The objects of the next scene of the same category, for each."""
  after = {}
  for name in CATEGORIES:
    own = [scene for scene in scenes if scene.category == name]
    after |= {id(a): b.objects for a, b in zip(own, own[1:] + own[:1], strict=True)}
  return [after[id(scene)] for scene in scenes]


class Conflict(NamedTuple):
  """A caption and outlines that contradict it.

  wins  who wins -> whether that is what the judge reads
  """

  scene: Scene
  objects: Objects
  wins: dict[str, Callable[[Objects], bool]]


def of_shapes(count: int) -> list[Conflict]:
  """Single objects, whose outline is of another shape."""
  found, shapes = [], LEVELS[LEVEL].shapes
  for i, scene in enumerate(scenes_of("single", count)):
    (o,) = scene.objects
    others = [shape for shape in shapes if shape != o.shape]
    other = dataclasses.replace(o, shape=others[i % len(others)])
    only = lambda own, not_own: (
      lambda seen: any(s.shape == own for s in seen) and not any(s.shape == not_own for s in seen)
    )
    wins = {
      "caption's shape": only(o.shape, other.shape),
      "outline's shape": only(other.shape, o.shape),
      "caption's colour": lambda seen, color=o.color: any(s.color == color for s in seen),
    }
    found.append(Conflict(scene, [other], wins))
  return found


def of_relations(count: int) -> list[Conflict]:
  """Two objects of other shapes and colours, whose outlines are on each other's side."""
  found = []
  for scene in scenes_of("relation", count):
    fact = next(fact for fact in scene.facts if fact.kind == "relation")
    a, b = fact.a, fact.b
    if a.shape == b.shape or a.color == b.color:
      continue
    across = fact.rel in ("left of", "right of")
    mirror = lambda o, across=across: dataclasses.replace(
      o, **({"x": 1 - o.x} if across else {"y": 1 - o.y})
    )
    states = lambda *fact: lambda seen: holds(Fact("relation", *fact), seen)
    wins = {
      "caption's order": states(a, fact.rel, b),
      "outline's order": states(a, INVERSE[fact.rel], b),
      "shapes by the outline, colours by the caption": states(
        Spec(a.color, b.shape), fact.rel, Spec(b.color, a.shape)
      ),
    }
    found.append(Conflict(scene, [mirror(o) for o in scene.objects], wins))
  return found


def conflict(
  model: Model, conflicts: Sequence[Conflict]
) -> tuple[list[str], list[list[str]], list[Drawn]]:
  """Head and rows of the table over scales, and the drawings of each."""
  scenes, objects = [c.scene for c in conflicts], [c.objects for c in conflicts]
  drawn = [draw(model, scenes, objects, scale) for scale in SCALES]
  rows = []
  for scale, one in zip(SCALES, drawn, strict=True):
    seen = [read(x) for x in one.images]
    names = list(conflicts[0].wins)
    rates = [
      Rate.of(c.wins[name](s) for c, s in zip(conflicts, seen, strict=True)) for name in names
    ]
    rows.append([f"{scale:g}", *map(cell, rates), placed(one, objects)[0]])
    print(*rows[-1], flush=True)
  return ["scale", *names, "overlap with the outlines"], rows, drawn


def sheet(
  base: Drawn, own: Drawn, other: Drawn, drawn: Sequence[Sequence[Drawn]], size: int
) -> tuple[list[list[np.ndarray]], list[str]]:
  """The rows of the picture, and the captions of its columns: first blocks, then contradictions."""
  firsts = [
    i for name in CATEGORIES
    for i in [k for k, s in enumerate(base.scenes) if s.category == name][:SHOWN]
  ]  # fmt: skip
  lines = lambda one, i: outlines(one.given[i], size)
  rows = [
    [lines(own, i) for i in firsts],
    [base.images[i] for i in firsts],
    [own.images[i] for i in firsts],
    [lines(other, i) for i in firsts],
    [other.images[i] for i in firsts],
  ]
  few = range(len(firsts) // 2)
  rows.append([lines(scales[0], i) for scales in drawn for i in few])
  rows += [[scales[k].images[i] for scales in drawn for i in few] for k in range(len(SCALES))]
  captions = [base.scenes[i].caption for i in firsts]
  return rows, [*captions, *(scales[0].scenes[i].caption for scales in drawn for i in few)]


def page(
  model: Model, counts: Sequence[int], tables: Sequence[str], captions: Sequence[str]
) -> str:
  """counts: scenes a category, and of each kind of contradiction"""
  c, half = model.config, len(captions) // 2
  n, singles, pairs = counts
  whole, shapes, relations = tables
  scales = ", ".join(f"{scale:g}" for scale in SCALES)
  return "\n".join([
    "# A ControlNet of outlines",
    "",
    "The quickstart's model, frozen, with a ControlNet that reads the outlines of a scene, white",
    f"on black and without colour: `configs/scenes_controlnet.py`, {model.step} steps of",
    f"{c.train.batch} images, half of the captions dropped, `{c.controlnets.controlnet}`.",
    "Trained once. The judge reads objects in the drawings; it is in no loss.",
    "",
    f"{n} scenes a category that were not trained on, half of them of compositions that never are,",
    "and the same noise in every row. Another's outlines are those of another scene whose caption",
    "is of the same category. Overlap: the intersection over union of an object's mask with that",
    "of the drawn object it is paired with, whatever their colours and shapes; the mean over",
    f"images, with normal 95% intervals. All there: images in which it is above {OVER:g} for every",
    f"object. The last columns, {', '.join(CATEGORIES)}: images in which all that the caption says",
    "is true. Rates have 95% Wilson intervals.",
    "",
    whole,
    "",
    "## Where the caption contradicts the outlines",
    "",
    f"{singles} single objects, whose outline is of another shape, by `--control-scale`: how often",
    "the drawing has the one shape and not the other, and the colour of the caption.",
    "",
    shapes,
    "",
    f"{pairs} scenes of two objects in a relation, whose outlines are on each other's side. In the",
    "third column each colour is on the caption's side, in the shape that is outlined there:",
    "outlines have no colour.",
    "",
    relations,
    "",
    "![Outlines and drawings, a column a scene](controlnet.png)",
    "",
    "Rows 1 to 5: outlines of the scene; drawn without them; with them; outlines of another scene;",
    "drawn with these. Columns:",
    f"{'; '.join(captions[:half])}.",
    "",
    "Row 6: outlines that the captions contradict, of shapes and then of relations; below it",
    f"drawings at scale {scales}. Columns:",
    f"{'; '.join(captions[half:])}.",
  ])  # fmt: skip


def trained(args: argparse.Namespace) -> Path:
  """The work directory of the ControlNet; trained where it is not yet."""
  workdir = Path(args.workdir)
  if not finished(workdir):
    config = f"--config=configs/scenes_controlnet.py:{args.base}"
    t2i("train", config, f"--workdir={workdir}", f"--config.data.dir={args.data}")
  return workdir


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--base", default="runs/scenes_dit_flow", help="a trained run of that config")
  parser.add_argument("--workdir", default="runs/scenes_controlnet", help="where the run goes")
  parser.add_argument("--count", type=int, default=50, help="scenes a category and composition")
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  workdir = trained(args)
  base, model = open_model(args.base), open_model(workdir)
  scenes = [scene for name in CATEGORIES for scene in scenes_of(name, args.count)]
  true, wrong = [scene.objects for scene in scenes], turned(scenes)
  plain, own = draw(base, scenes, None), draw(model, scenes, true)
  other = draw(model, scenes, wrong)
  rows = [
    ["none", "", "", *placed(plain, true), *right(plain)],
    ["the scene's", *placed(own, true), "the same", "the same", *right(own)],
    ["another's", *placed(other, wrong), *placed(other, true), *right(other)],
  ]
  for row in rows:
    print(*row, flush=True)
  head = ["outlines given", "overlap with them", "all there"]
  head += ["overlap with the caption's scene", "all there", *CATEGORIES]
  tables, drawn = [table(head, rows)], []
  contradictions = (of_shapes(args.count), of_relations(args.count))
  for conflicts in contradictions:
    first, found, images = conflict(model, conflicts)
    tables.append(table(first, found))
    drawn.append(images)
  shown, captions = sheet(plain, own, other, drawn, model.config.data.image_size[0])
  grid(shown, SCALE, block=len(shown[0]) // 3).save(Path(args.to, "controlnet.png"))
  command = f"python -m benchmarks.controlnet --data={args.data} --base={args.base}"
  line = run_of(command, Path(args.base, "config.json"), workdir / "config.json")
  counts = [2 * args.count, *map(len, contradictions)]
  text = page(model, counts, tables, captions)
  write(Path(args.to, "controlnet.md"), text, line)
  print(Path(args.to, "controlnet.md"))


if __name__ == "__main__":
  main()
