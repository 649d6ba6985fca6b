"""Where an image attends to a word, against where the word's object was drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.editing_bench import LEVEL, Bench, Rows, keep, kept
from benchmarks.pages import table
from benchmarks.personalisation_world import SIZE
from t2i_jax.data.scenes import Object, Scene, Spec, prompts
from t2i_jax.data.scenes.geometry import BOXES
from t2i_jax.data.sheet import grid
from t2i_jax.edit.prompt_to_prompt import PromptToPrompt
from t2i_jax.edit.towers import places_of, read
from t2i_jax.edit.words_page import lit
from t2i_jax.evaluation.chart import Series, line_chart

CATEGORIES = ("binding", "relation")
GROUPS = ("two shapes", "one shape")  # of the two objects; colours differ in both
WORDS = ("color", "shape")
THRESHOLD = 0.5  # of a map's maximum
RANGES = 4  # of steps
SEED = 5
SHEET = 4  # drawings of the sheet


class Box(NamedTuple):
  """Edges in sides of the image."""

  left: float
  top: float
  right: float
  bottom: float


def box_of(o: Object) -> Box:
  """Around an object that was read."""
  left, top, right, bottom = BOXES[o.shape]
  return Box(o.x + left * o.r, o.y + top * o.r, o.x + right * o.r, o.y + bottom * o.r)


def points_inside(maps: np.ndarray, box: Box) -> np.ndarray:
  """Whether the centre of a map's largest cell is in a box.   # [..., rows, cols] -> [...]"""
  rows, cols = maps.shape[-2:]
  at = maps.reshape(*maps.shape[:-2], -1).argmax(-1)
  y, x = (at // cols + 0.5) / rows, (at % cols + 0.5) / cols
  return (x >= box.left) & (x <= box.right) & (y >= box.top) & (y <= box.bottom)


def iou(maps: np.ndarray, box: Box, threshold: float = THRESHOLD, size: int = SIZE) -> np.ndarray:
  """Intersection over union of a box and the cells above a share of the maximum.   # [...]

  maps  [..., rows, cols], of which rows and cols divide size: the pixels that are compared
  """
  high = maps > threshold * maps.max((-2, -1), keepdims=True)
  mask = high.repeat(size // maps.shape[-2], -2).repeat(size // maps.shape[-1], -1)
  inside = pixels_of(box, size)
  both, either = (mask & inside).sum((-2, -1)), (mask | inside).sum((-2, -1))
  return both / np.maximum(either, 1)


def pixels_of(box: Box, size: int) -> np.ndarray:
  """The pixels whose centres are in a box.   # bool [size, size]"""
  at = (np.arange(size) + 0.5) / size
  across = (at >= box.left) & (at <= box.right)
  down = (at >= box.top) & (at <= box.bottom)
  return down[:, None] & across


def of_pixels(box: Box, rows: int, cols: int, size: int = SIZE) -> np.ndarray:
  """The map of a word with all of its attention on its object's box.   # [rows, cols]"""
  inside = pixels_of(box, size).reshape(rows, size // rows, cols, size // cols)
  return inside.mean((1, 3))


def group_of(scene: Scene) -> str | None:
  """None: of scenes whose words do not tell the objects apart."""
  (a, b), (c, d) = _looks(scene)
  if a == c:
    return None
  return GROUPS[b == d]


def _looks(scene: Scene) -> list[tuple[str, str]]:
  """Colour and shape of both objects, in the order of the caption."""
  specs: list[Spec] = []
  for fact in scene.facts:
    specs += [one for one in (fact.a, fact.b) if one is not None and one not in specs]
  assert len(specs) == 2, scene.caption
  specs.sort(key=lambda spec: scene.caption.index(f"{spec.color} {spec.shape}"))
  return [(str(spec.color), str(spec.shape)) for spec in specs]


def scenes_of(count: int) -> list[Scene]:
  """`count` of each group, in turn of the categories."""
  found: dict[str, list[Scene]] = {group: [] for group in GROUPS}
  sources = [prompts(LEVEL, c, False, 8 * count + 8, SEED) for c in CATEGORIES]
  for pair in zip(*sources, strict=False):
    for scene in pair:
      group = group_of(scene)
      if group is not None and len(found[group]) < count:
        found[group].append(scene)
  return [scene for group in GROUPS for scene in found[group]]


def make(bench: Bench, folder: Path, count: int) -> None:
  """Draws captions, two of them side by side, and keeps their maps and what was read."""
  path = folder / "drawn.json"
  if path.is_file():
    return
  scenes, system = scenes_of(count), bench.model.system
  place = places_of(system)
  words = []
  for scene in scenes:
    text = read(system, place, scene.caption)
    words.append(text.columns([word for look in _looks(scene) for word in look]))
  half = len(scenes) // 2
  rows = Rows([s.caption for s in scenes[:half]], [s.caption for s in scenes[half:]], None,
              list(range(half)))  # fmt: skip
  method = PromptToPrompt(kind="refine", cross=0.0, inside=0.0)
  each = [np.stack(pair) for pair in zip(words[:half], words[half:], strict=True)]
  drawn = bench.pairs([method] * half, rows, each)
  assert drawn.recorded is not None
  images = np.concatenate([drawn.before, drawn.after])
  both = lambda leaf: np.concatenate([leaf[:, 0], leaf[:, 1]]).astype(np.float16)  # a record's size
  folder.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(
    folder / "maps.npz", images=images,
    by_step=both(drawn.recorded.by_step), by_layer=both(drawn.recorded.by_layer),
  )  # fmt: skip
  keep(path, images, dict.fromkeys(GROUPS, count))


class Drawn(NamedTuple):
  """A drawing with both objects of its caption.

  boxes    of both
  by_step, by_layer  [S or layers, rows, cols, 2, 2]: of object, of WORDS
  """

  group: str
  scene: Scene
  image: np.ndarray
  boxes: tuple[Box, Box]
  by_step: np.ndarray
  by_layer: np.ndarray


def drawn_in(folder: Path, count: int) -> tuple[list[Drawn], int] | None:
  """Drawings that have exactly the two objects, and how many there are in all. None: not run."""
  cell = kept(folder / "drawn.json")
  if cell is None:
    return None
  with np.load(folder / "maps.npz") as file:
    maps = {name: file[name] if name == "images" else file[name].astype(float) for name in file}
  found = []
  scenes = scenes_of(count)
  readings = [(group, reading) for group in GROUPS for reading in cell.readings[group]]
  for i, (scene, (group, reading)) in enumerate(zip(scenes, readings, strict=True)):
    of = {(o.color, o.shape): o for o in reading.objects}
    looks = _looks(scene)
    if len(reading.objects) != 2 or not all(look in of for look in looks):
      continue
    boxes = (box_of(of[looks[0]]), box_of(of[looks[1]]))
    each = lambda leaf: leaf.reshape(*leaf.shape[:-1], 2, len(WORDS))
    by_step, by_layer = each(maps["by_step"][i]), each(maps["by_layer"][i])
    found.append(Drawn(group, scene, maps["images"][i], boxes, by_step, by_layer))
  return found, len(scenes)


class Measured(NamedTuple):
  """Means of the word's own object and of the other one."""

  points: float
  points_other: float
  iou: float
  iou_other: float
  n: int

  def cells(self) -> list[str]:
    percent = [f"{100 * value:.0f}%" for value in (self.points, self.points_other)]
    return [*percent, f"{self.iou:.2f}", f"{self.iou_other:.2f}", str(self.n)]


def measured(maps: Sequence[np.ndarray], boxes: Sequence[tuple[Box, Box]]) -> Measured:
  """maps: of each drawing [2, rows, cols], of both objects' words"""
  values = []
  for pair, (first, second) in zip(maps, boxes, strict=True):
    for one, own, other in ((pair[0], first, second), (pair[1], second, first)):
      values.append([
        points_inside(one, own), points_inside(one, other), iou(one, own), iou(one, other)
      ])  # fmt: skip
  return Measured(*np.mean(values, 0).tolist(), len(values))


def kind_of(group: str, word: str) -> bool:
  """Whether a word tells the objects of a group apart."""
  return word == "color" or group == GROUPS[0]


def rows_of(drawn: Sequence[Drawn]) -> list[list[Any]]:
  """Of the table: each word of each group, over all, by layer, by range of steps."""
  rows = []
  for group in GROUPS:
    some = [one for one in drawn if one.group == group]
    if not some:
      continue
    boxes = [one.boxes for one in some]
    for w, word in enumerate(WORDS):
      if not kind_of(group, word):
        continue
      of = lambda leaf, w=w: np.moveaxis(leaf[..., w], -1, 0)  # [2, rows, cols]
      name = f"{'colour' if word == 'color' else 'noun'}, {group}"
      means = [of(one.by_layer.mean(0)) for one in some]
      rows.append([name, "all", *measured(means, boxes).cells()])
      for k in range(len(some[0].by_layer)):
        rows.append(["", f"layer {k}", *measured([of(o.by_layer[k]) for o in some], boxes).cells()])
      for part in np.array_split(np.arange(len(some[0].by_step)), RANGES):
        if len(part):
          maps = [of(o.by_step[part].mean(0)) for o in some]
          rows.append(["", f"steps {part[0]} to {part[-1]}", *measured(maps, boxes).cells()])
  boxes = [one.boxes for one in drawn]
  shape = drawn[0].by_step.shape[1:3]
  exact = [np.stack([of_pixels(box, *shape) for box in pair]) for pair in boxes]
  return [*rows, ["the box itself, in cells", "", *measured(exact, boxes).cells()]]


def chance(drawn: Sequence[Drawn]) -> float:
  """The share of cells whose centre is in an object's box."""
  rows, cols = drawn[0].by_step.shape[1:3]
  each = np.eye(rows * cols).reshape(-1, rows, cols)
  return float(np.mean([points_inside(each, box) for one in drawn for box in one.boxes]))


def chart(drawn: Sequence[Drawn]) -> str:
  """The pointing game by step."""
  lines = []
  for group in GROUPS:
    some = [one for one in drawn if one.group == group]
    for w, word in enumerate(WORDS):
      if not some or not kind_of(group, word):
        continue
      name = f"{'colour' if word == 'color' else 'noun'}, {group}"
      found = [
        measured([np.moveaxis(o.by_step[i, ..., w], -1, 0) for o in some],
                 [o.boxes for o in some])
        for i in range(len(some[0].by_step))
      ]  # fmt: skip
      x = list(range(len(found)))
      lines.append(Series(name, x, [m.points for m in found]))
      lines.append(Series(f"{name}: the other object", x, [m.points_other for m in found],
                          dash="5 3"))  # fmt: skip
  return line_chart(lines, title="The maximum of a word's map lies in its object's box",
                    x_label="step, from noise to image", y_label="words", percent=True,
                    y_limits=(0.0, 1.0), width=760)  # fmt: skip


def section(folder: Path, to: Path, count: int, title: str, name: str) -> list[str]:
  """Of the page, with its images in `to`.   name: of their files"""
  lines = [f"## {title}", ""]
  got = drawn_in(folder, count)
  if got is None:
    return [*lines, "Not run.", ""]
  drawn, number = got
  if not drawn:
    return [*lines, f"None of {number} drawings has the two objects of its caption.", ""]
  rows, cols = drawn[0].by_step.shape[1:3]
  width = np.mean([box.right - box.left for one in drawn for box in one.boxes])
  head = ["word", "maps of", "in its object", "in the other", "IoU", "IoU, the other", "words"]
  lines += [
    f"Maps of {len(drawn)} drawings that have the two objects of their caption, of {number}; the",
    "boxes are those of what was read. In the pointing game the maximum of a word's map is in its",
    "object's box, or in the other object's: that is the baseline of exchanged words. IoU is of",
    f"the box and the cells above {THRESHOLD:g} of the maximum. Where both objects have one shape,",
    "only colours tell them apart.",
    "",
    f"The model has {rows} x {cols} image tokens of {SIZE // cols} pixels, and a box is",
    f"{width * SIZE:.1f} pixels wide: a cell at random is in it in {100 * chance(drawn):.0f}% of",
    "cases, and a map that has the box's share of each cell reaches what the last row says.",
    "",
    table(head, rows_of(drawn)),
    "",
  ]
  (to / f"{name}.svg").write_text(chart(drawn), encoding="utf-8")
  few = [one for group in GROUPS for one in drawn if one.group == group][:: max(
    1, len(drawn) // SHEET)][:SHEET]  # fmt: skip
  grid([tiles(one) for one in few], 3).save(to / f"{name}.png")
  return [
    *lines,
    f"![The pointing game by step]({name}.svg)",
    "",
    f"![Word maps]({name}.png)",
    "",
    "The image, then where it attends to the colour and the shape of the first object and of the",
    "second, over all layers and steps; bright is the map's maximum. The captions:",
    f"{'; '.join(one.scene.caption for one in few)}.",
    "",
  ]


def tiles(one: Drawn) -> list[np.ndarray]:
  maps = one.by_layer.mean(0).reshape(*one.by_layer.shape[1:3], -1)
  each = [maps[..., k] for k in range(maps.shape[-1])]
  return [one.image, *(lit(one.image, m, float(m.max())) for m in each)]
