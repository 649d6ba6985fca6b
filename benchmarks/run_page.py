"""A page of docs/ from a finished run: its score, its speed, its fixed prompts over time.

python benchmarks/run_page.py --workdir=runs/scenes_dit_flow --out=docs/quickstart
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

SCALE = 3  # a small pixel is drawn as 3 x 3


def strip(samples: Path) -> Image.Image:
  """The rows of samples/step_*.png under each other, the earliest on top."""
  rows = [Image.open(path) for path in sorted(samples.glob("step_*.png"))]
  sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
  for i, row in enumerate(rows):
    sheet.paste(row, (0, i * rows[0].height))
  return sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST)


def rate(of: dict[str, Any]) -> str:
  if of["rate"] is None:
    return "none"
  return f"{of['rate']:.1%} [{of['lower']:.1%}, {of['upper']:.1%}]"


def score_table(score: dict[str, Any]) -> list[str]:
  """One row a cell: the model, its shuffled baseline, and the judge's ceiling."""
  lines = ["| category | compositions | correct [95%] | shuffled captions | ceiling |"]
  lines.append("|---|---|---|---|---|")
  for cell in score["cells"]:
    kind = "held out" if cell["heldout"] else "seen"
    row = [rate(cell[name]) for name in ("model", "shuffled", "ceiling")]
    lines.append(f"| {cell['category']} | {kind} | {' | '.join(row)} |")
  return lines


def page(workdir: Path, out: Path) -> str:
  """The page's text; the strip is saved beside it."""
  config = json.loads((workdir / "config.json").read_text())
  metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  prompts = json.loads((workdir / "samples" / "prompts.json").read_text())
  steps = metrics[-1]["step"]
  images = steps * config["train"]["batch"]
  speed = median(m["perf"]["images_per_s"] for m in metrics if m["kind"] == "train")
  picture = out.with_suffix(".png")
  strip(workdir / "samples").save(picture)
  lines = [
    f"# {config['name']}",
    "",
    f"`configs/{config['name']}.py`: {steps} steps of {config['train']['batch']} pictures. At the "
    f"run's median of {speed:.0f} images/s that is {images / speed / 60:.1f} minutes of steps. "
    "Made by:",
    "",
    "```sh",
    f"python benchmarks/run_page.py --workdir={workdir} --out={out}",
    "```",
    "",
    f"![{'; '.join(prompts)}]({picture.name})",
    "",
    f"The fixed prompts over training time, the same noise in every row: {'; '.join(prompts)}.",
    "",
  ]
  found = workdir / "eval" / "score.json"
  if found.exists():
    lines += [*score_table(json.loads(found.read_text())), ""]
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=Path, required=True, help="of a scored run")
  parser.add_argument("--out", type=Path, required=True, help="page without its ending")
  args = parser.parse_args()
  out = args.out.with_suffix(".md")
  out.write_text(page(args.workdir, args.out))
  print(out)


if __name__ == "__main__":
  main()
