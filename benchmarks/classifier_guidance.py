"""Classifier guidance beside classifier-free: docs/classifier_guidance.md and .png.

python -m benchmarks.classifier_guidance --workdir=runs/objectives/flow_x0 \\
  --classifier=runs/scenes_classifier

The same model, three ways to make it obey: the classifier on its null prediction, the classifier on
its conditional one, and classifier-free guidance. About ten minutes on two cores.
"""

import argparse
from pathlib import Path

from benchmarks.pages import run_of, table, write
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.score import score
from t2i_jax.inference import open_model

WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
CATEGORIES = ("single", "binding", "relation")
PER_CELL = 60
SHOWN = ("a red circle", "a yellow circle and a purple square")
SCALE = 2
# label -> (guidance scale, weight of the classifier) of w
WAYS = {
  "null + classifier": lambda w: (0.0, w),
  "conditional + classifier": lambda w: (1.0, w),
  "classifier-free, scale 1 + w": lambda w: (1.0 + w, None),
}


def measure(workdir: str, classifier: str, scale: float, weight: float | None):
  """Rates by category and the shown images, at one setting."""
  guiding = {} if weight is None else {"guide": classifier, "guide_weight": weight}
  at = open_model(workdir, {"sampling.cfg": str(scale)}, **guiding)
  result = score(
    lambda captions, seed: at.draw(captions, range(seed, seed + len(captions))),
    "easy",
    size=at.config.data.image_size[0],
    per_cell=PER_CELL,
    seed=30_000,  # prompts that no choice was made on
    categories=CATEGORIES,
  )
  rates = [result.pooled(category) for category in CATEGORIES]
  return rates, at.draw([p for p in SHOWN for _ in range(2)], [0, 1, 0, 1])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--classifier", required=True)
  parser.add_argument("--to", default="docs")
  args = parser.parse_args()
  command = "python -m benchmarks.classifier_guidance "
  command += f"--workdir={args.workdir} --classifier={args.classifier}"
  n = 2 * PER_CELL
  lines = [
    "# Classifier guidance on scenes",
    "",
    f"Made by `{command}`.",
    "",
    "One model, guided by a noisy classifier (`configs/scenes_classifier.py`) of weight w or by",
    f"classifier-free guidance of scale 1 + w. Percent correct of {n} drawings a cell (seen and",
    "held-out compositions together), with 95% intervals. The classifier reads the caption as a",
    "set of words: it cannot know which colour belongs to which shape, nor what is left of what.",
    "",
  ]
  measured, shown = [], []
  for label, setting in WAYS.items():
    row = []
    for w in WEIGHTS:
      rates, images = measure(args.workdir, args.classifier, *setting(w))
      cells = [f"{rate.percent()} {rate.interval()}" for rate in rates]
      measured.append([label, f"{w:g}", *cells])
      print(*measured[-1], flush=True)
      row += list(images)
    shown.append(row)
  block = 2 * len(SHOWN)
  grid(shown, SCALE, block=block).save(Path(args.to) / "classifier_guidance.png")
  lines += [
    table(["guidance", "w", *CATEGORIES], measured),
    "",
    "![Drawings: a row a way, a block a weight](classifier_guidance.png)",
    "",
    f"Rows: {'; '.join(WAYS)}. Blocks: w = {', '.join(f'{w:g}' for w in WEIGHTS)}, two seeds each",
    f"of {' and '.join(SHOWN)}.",
  ]
  configs = (Path(folder, "config.json") for folder in (args.workdir, args.classifier))
  write(Path(args.to, "classifier_guidance.md"), "\n".join(lines), run_of(command, *configs))
  print(Path(args.to, "classifier_guidance.md"))


if __name__ == "__main__":
  main()
