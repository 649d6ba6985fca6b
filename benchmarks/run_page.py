"""A page of docs/ from a finished run: its speed, its fixed prompts over time, its score.

python -m benchmarks.run_page --workdir=runs/scenes_dit_flow --out=docs/quickstart

After `t2i eval --curve` the page has the score against minutes as well. A run on images that are
no scenes has no score: its page has sheets of drawings beside the real images, split by split,
and what a joint model says of these. The page of an autoencoder has its reconstructions, and after
`t2i eval` their scores.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.pages import run_of, table, write
from t2i_jax.cli.evaluate import images_seen, readings
from t2i_jax.data.contact_sheet import record_image
from t2i_jax.data.sheet import Band, captioned, grid
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.data.transforms import fit
from t2i_jax.evaluation.report import read_metrics
from t2i_jax.inference import open_model

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCALE = 3  # a small pixel of the strip is drawn as 3 x 3
SHEET, COLUMNS = 24, 6  # pairs a split
SCORES = {
  "psnr": "PSNR (dB)",
  "ssim": "SSIM",
  "codes_used": "codes used",
  "perplexity": "perplexity",
}
PROMPTS = "The fixed prompts over training time"
ORIGINALS = (
  "Images of the validation split, and below them their reconstructions over training time"
)


def strip(samples: Path) -> Image.Image:
  """About ten rows of samples/step_*.png under each other, the last at the bottom."""
  paths = sorted(samples.glob("step_*.png"), reverse=True)
  rows = [Image.open(path) for path in reversed(paths[:: -(-len(paths) // 10)])]
  return grid([[np.asarray(row)] for row in rows], SCALE, edge=0)


def rate(of: dict[str, Any]) -> str:
  if of["rate"] is None:
    return "none"
  return f"{of['rate']:.1%} [{of['lower']:.1%}, {of['upper']:.1%}]"


def score_table(score: dict[str, Any]) -> str:
  """One row a cell: the model, its shuffled baseline, and the judge's ceiling."""
  rows = []
  for cell in score["cells"]:
    kind = "held out" if cell["heldout"] else "seen"
    rates = [rate(cell[name]) for name in ("model", "shuffled", "ceiling")]
    rows.append([cell["category"], kind, *rates])
  head = ["category", "compositions", "correct [95%]", "shuffled captions", "ceiling"]
  return table(head, rows)


def curve_table(curve: list[dict[str, Any]]) -> str:
  """One row a checkpoint: correct drawings, seen / held out, a column a category."""
  cells = [point["score"]["cells"] for point in curve]
  categories = list(dict.fromkeys(cell["category"] for cell in cells[0]))
  rows = []
  for point, scored in zip(curve, cells, strict=True):
    rates = {(c["category"], c["heldout"]): c["model"]["rate"] for c in scored}
    both = [f"{rates[c, False]:.0%} / {rates[c, True]:.0%}" for c in categories]
    rows.append([f"{point['minutes']:.0f}", *both])
  return table(["minutes", *categories], rows)


def section_of_scores(evaluated: Path, out: Path) -> list[str]:
  """The curve, where it was drawn, and the table of scores."""
  lines = []
  if (evaluated / "curve.json").exists():
    curve = json.loads((evaluated / "curve.json").read_text())
    n = curve[0]["score"]["cells"][0]["model"]["n"]
    for name in ("seen", "heldout"):
      chart = out.with_name(f"{out.name}_{name}.svg")
      chart.write_text((evaluated / f"curve_{name}.svg").read_text())
      lines.append(f"![score against minutes]({chart.name})")
    lines += ["", f"Correct, seen / held out, {n} drawings a cell:", "", curve_table(curve), ""]
  score = json.loads((evaluated / "score.json").read_text())
  return [*lines, f"The last checkpoint, prompt seed {score['seed']}:", "", score_table(score), ""]


def section_of_reconstructions(evaluated: Path, out: Path) -> list[str]:
  """The scores by split, and a sheet of images with their reconstructions below."""
  if not (evaluated / "reconstruction.json").exists():
    return []
  scores = json.loads((evaluated / "reconstruction.json").read_text())["splits"]
  names = [name for name in SCORES if name in next(iter(scores.values()))]
  rows = [[s, found["images"], *(f"{found[n]:.4g}" for n in names)] for s, found in scores.items()]
  sheet = out.with_name(f"{out.name}_reconstruction.png")
  sheet.write_bytes((evaluated / "reconstruction.png").read_bytes())
  said = "Images of each split, and below them what the autoencoder makes of them"
  head = ["split", "images", *(SCORES[name] for name in names)]
  return [table(head, rows), "", f"![{said}]({sheet.name})", "", f"{said}.", ""]


def pair(drawn: np.ndarray, data: bytes) -> Image.Image:
  """A drawing and, right of it, the record's image at the same size."""
  return grid([[drawn, np.asarray(fit(record_image(data), drawn.shape[:2]))]])


def section_of_pairs(workdir: Path, out: Path) -> list[str]:
  """A sheet a split: what the model draws for a caption, left, and the real image, right. Of a
  joint model another one, of what it says of the real images.
  """
  trained = open_model(workdir)
  folder = trained.config.data.dir
  manifest = read_manifest(folder)
  lines = []

  def show(name: str, heading: str, tiles: list[tuple[Image.Image, str]]) -> None:
    sheet = out.with_name(f"{out.name}_{name}.png")
    laid = captioned([Band(heading, tiles, COLUMNS)], manifest["attribution"])
    laid.save(sheet, optimize=True)
    lines.extend([f"![{heading}]({sheet.name})", ""])

  for split in manifest["splits"]:
    source = ShardSource(folder, split)
    records = source.spread(SHEET)
    captions = [record.captions[0] for record in records]
    drawn = trained.draw(captions, range(len(captions)))
    pairs = [pair(d, record.image) for d, record in zip(drawn, records, strict=True)]
    heading = f"{split}: drawn (left), real (right); {len(pairs)} spread over {len(source):,}"
    show(split, heading, list(zip(pairs, captions, strict=True)))
    if "captions" in trained.tasks.measures:
      shown, said, right = readings(trained, records, 0)
      heading = f"{split}: what is said of it; {right} of {len(said)} are a caption of theirs"
      show(f"{split}_read", heading, list(zip(map(Image.fromarray, shown), said, strict=True)))
  return [*lines, manifest["attribution"], ""]


def file_of(name: str) -> str:
  """configs/X.py of a config's name, or configs/X.py:VARIANT."""
  stem = name
  while not (CONFIGS / f"{stem}.py").exists() and "_" in stem:
    stem = stem.rpartition("_")[0]
  variant = name[len(stem) + 1 :]
  return f"configs/{stem}.py" + (f":{variant}" if variant else "")


def commands(workdir: Path, out: Path, config: dict[str, Any]) -> list[str]:
  """What made the run, its scores and this page, in order."""
  train = f"t2i train --config={file_of(config['name'])} --workdir={workdir}"
  lines = [f"{train} --config.data.dir={config['data']['dir']}"]
  evaluated, score = workdir / "eval", f"t2i eval --workdir={workdir}"
  if (evaluated / "curve.json").exists():
    first = json.loads((evaluated / "curve.json").read_text())[0]["score"]
    lines.append(f"{score} --curve --per-cell={first['cells'][0]['model']['n']}")
  if (evaluated / "score.json").exists():
    last = json.loads((evaluated / "score.json").read_text())
    lines.append(f"{score} --per-cell={last['cells'][0]['model']['n']} --seed={last['seed']}")
  if (evaluated / "reconstruction.json").exists():
    lines.append(score)
  return [*lines, command(workdir, out)]


def command(workdir: Path, out: Path) -> str:
  return f"python -m benchmarks.run_page --workdir={workdir} --out={out}"


def page(workdir: Path, out: Path) -> str:
  """The page's text; its images are saved beside it."""
  config = json.loads((workdir / "config.json").read_text())
  metrics, _ = read_metrics(workdir / "metrics.jsonl")
  prompts = json.loads((workdir / "samples" / "prompts.json").read_text())
  steps = metrics[-1]["step"]
  images = images_seen(metrics, steps, config["train"]["batch"])
  speed = median(m["perf"]["images_per_s"] for m in metrics if m["kind"] == "train")
  shown = out.with_suffix(".png")
  strip(workdir / "samples").save(shown, optimize=True)
  of_autoencoder = config["model"]["kind"] == "autoencoder"
  said, same = (ORIGINALS, "") if of_autoencoder else (PROMPTS, ", the same noise in every row")
  lines = [
    f"# {config['name']}",
    "",
    f"`{file_of(config['name'])}`: {steps} steps, {images:,} images. At the run's "
    f"median of {speed:.0f} images/s that is {images / speed / 60:.1f} minutes of steps. Made by:",
    "",
    "```sh",
    *commands(workdir, out, config),
    "```",
    "",
    f"![{said}]({shown.name})",
    "",
    f"{said}{same}: {'; '.join(prompts)}.",
    "",
  ]
  if of_autoencoder:
    return "\n".join([*lines, *section_of_reconstructions(workdir / "eval", out)])
  scored = (workdir / "eval" / "score.json").exists()
  section = section_of_scores(workdir / "eval", out) if scored else section_of_pairs(workdir, out)
  return "\n".join([*lines, *section])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=Path, required=True, help="of a finished run")
  parser.add_argument("--out", type=Path, required=True, help="page without its ending")
  args = parser.parse_args()
  out = args.out.with_suffix(".md")
  line = run_of(command(args.workdir, args.out), args.workdir / "config.json")
  write(out, page(args.workdir, args.out), line)
  print(out)


if __name__ == "__main__":
  main()
