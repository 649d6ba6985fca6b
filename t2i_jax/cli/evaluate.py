"""Draw, judge and report, as eval/score.json and eval/report.html: t2i eval --workdir=D

A model of scenes is scored by the exact judge, a joint one also by its captions and its edits, an
instruction model by its edits alone, as eval/edits.json; a
model of other images gets a report to look at, split by split of its data, and with --encoder the
retrieval of its images, as eval/retrieval.json. --curve scores every kept checkpoint against its
minutes. An autoencoder is scored by its reconstructions, as eval/reconstruction.json and
eval/reconstruction.png.
"""

import argparse
import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from t2i_jax.cli.flags import FirstSeed, Images, number
from t2i_jax.cli.sample import SAMPLING_FLAGS, add_sampling_flags, opened_with
from t2i_jax.errors import ConfigError
from t2i_jax.systems.tasks import ONLY_EDITS

SHOWN = ("psnr", "ssim", "codes_used", "perplexity")  # of reconstructions
GALLERY = 24  # images a split in a report without a judge


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, help="of a training run")
  parser.add_argument(
    "--per-cell",
    type=number("--per-cell", Images),
    default=250,
    help="prompts a category and split; of an autoencoder, images a split",
  )
  parser.add_argument(
    "--seed", type=number("--seed", FirstSeed), default=0, help="of prompts and noise"
  )
  parser.add_argument("--curve", action="store_true", help="score every kept checkpoint")
  parser.add_argument(
    "--encoder",
    metavar="DIR",
    help="workdir of an encoder of images (configs/emoji_contrastive.py): scores retrieval, "
    "--per-cell images a split",
  )
  parser.add_argument(
    "--split", action="append", help="of retrieval, may be given several times; default all"
  )
  parser.add_argument(
    "--concept",
    default="concept",
    help="of retrieval: the name in a record's metadata; 'key': each image is one",
  )
  add_sampling_flags(parser)


def run(args: argparse.Namespace) -> None:
  from t2i_jax.inference import open_model
  from t2i_jax.inference.save import check_out

  check_out(Path(args.workdir) / "eval", "the report of --workdir")
  trained = open_model(args.workdir, opened_with(args), args.step)
  if "reconstruction" in trained.tasks.measures:
    return reconstruction(args, trained)
  trained.need("draw")
  if trained.tasks.measures == ONLY_EDITS:
    return edits(args, trained)
  conditioned = trained.tasks.condition is not None
  if conditioned and (args.curve or args.encoder):
    raise ConfigError(
      "--curve and --encoder score images drawn by captions alone, and this run has a ControlNet."
    )
  if conditioned or not trained.config.score.level:
    print(gallery(args, trained))
    return None
  if args.encoder:
    raise ConfigError(
      f"--encoder={args.encoder}: {args.workdir} is a model of scenes (score.level = "
      f"{trained.config.score.level!r}), which the exact judge scores. Leave it out."
    )
  if args.curve:
    curve(args, trained)
  report(args, trained)
  return None


def reconstruction(args: argparse.Namespace, trained) -> None:
  """PSNR, SSIM and codes by split, and a sheet of images with their reconstructions below."""
  from t2i_jax.data.sheet import grid
  from t2i_jax.inference.reconstruction import score_reconstructions
  from t2i_jax.training.checkpoint import dump

  scores, rows = score_reconstructions(trained, args.per_cell)
  folder = Path(args.workdir) / "eval"
  folder.mkdir(exist_ok=True)
  dump(folder / "reconstruction.json", {"step": trained.step, "splits": scores})
  grid(rows, scale=2).save(folder / "reconstruction.png")
  for split, found in scores.items():
    shown = [f"{name} {found[name]:.4g}" for name in SHOWN if name in found]
    print(f"{split}: {found['images']} images, {', '.join(shown)}")
  print(folder / "reconstruction.png")


def edits(args: argparse.Namespace, trained) -> None:
  """The exact judge's scores of a model that edits, as eval/edits.json, and a report."""
  from rich.console import Console

  from t2i_jax.evaluation.report import write_edits_report

  if not trained.config.score.level:
    raise ConfigError(
      f"{args.workdir} edits images that have no exact judge (score.level = ''): draw edits with "
      "t2i sample --reference=FILE."
    )
  if args.curve or args.encoder:
    raise ConfigError("--curve and --encoder score images drawn by a caption; this model edits.")
  _, found = score_joint(args, trained)
  Console(width=120).print(found.table())
  print(write_edits_report(args.workdir, found, context(args, trained)))


def score_scenes(args: argparse.Namespace, trained):
  """The score of one checkpoint on the level its config names."""
  from t2i_jax.evaluation.score import score

  draw = lambda prompts, seed: draw_all(trained, prompts, seed)
  size = trained.config.data.image_size[0]
  return score(draw, trained.config.score.level, size=size, per_cell=args.per_cell, seed=args.seed)


def draw_all(trained, prompts: Sequence[str], seed: int):
  """An image of each prompt, seeds from `seed` on, config.sampling.batch at once."""
  import numpy as np
  from rich.progress import track

  seeds = range(seed, seed + len(prompts))
  step = trained.config.sampling.batch
  starts = range(0, len(prompts), step)
  parts = [
    trained.draw(prompts[i : i + step], seeds[i : i + step])
    for i in track(starts, f"drawing {len(prompts)} images")
  ]
  return np.concatenate(parts)


def report(args: argparse.Namespace, trained) -> None:
  from rich.console import Console

  from t2i_jax.evaluation.report import write_report

  score = score_scenes(args, trained)
  captions, edits = score_joint(args, trained)
  for result in (score, captions, edits):
    if result is not None:
      Console(width=120).print(result.table())
  about = context(args, trained)
  print(write_report(args.workdir, score, score.samples, about, captions, edits))


def score_joint(args: argparse.Namespace, trained):
  """Captions and edits of scenes, each None where the system has no such task."""
  from t2i_jax.evaluation.caption_judge import score_captions
  from t2i_jax.evaluation.edit_judge import score_edits

  c, measures = trained.config, trained.tasks.measures
  level, size = c.score.level, c.data.image_size[0]
  given = {"size": size, "per_cell": args.per_cell, "seed": args.seed}
  captions = edits = None
  if "captions" in measures:
    captions = score_captions(
      lambda images, seed: trained.caption(images, seeds_from(seed, images)), level, **given
    )
  if "edits" in measures:
    edits = score_edits(
      lambda images, texts, seed: trained.edit(images, texts, seeds_from(seed, images)),
      level,
      **given,
    )
  return captions, edits


def seeds_from(first: int, images: Any) -> range:
  """A seed an image."""
  return range(first, first + len(images))


def curve(args: argparse.Namespace, trained) -> None:
  """eval/curve.json and eval/curve.svg: score against minutes over the kept checkpoints."""
  from t2i_jax.evaluation.report import read_metrics
  from t2i_jax.evaluation.score import score_curve
  from t2i_jax.inference import kept_steps, open_model
  from t2i_jax.training.checkpoint import dump

  metrics, _ = read_metrics(Path(args.workdir) / "metrics.jsonl")
  points = []
  for step in kept_steps(args.workdir):
    at = open_model(args.workdir, opened_with(args), step)
    seconds = max((m["perf"]["elapsed_s"] for m in metrics if m["step"] <= step), default=0)
    points.append((seconds / 60, score_scenes(args, at)))
    print(f"step {step}, {seconds / 60:.1f} minutes scored")
  folder = Path(args.workdir) / "eval"
  folder.mkdir(exist_ok=True)
  dump(folder / "curve.json", [{"minutes": m, "score": s.to_json()} for m, s in points])
  for name, heldout in (("seen", False), ("heldout", True)):
    (folder / f"curve_{name}.svg").write_text(score_curve(points, heldout))
    print(folder / f"curve_{name}.svg")


def gallery(args: argparse.Namespace, trained) -> Path:
  """A report without a judge: captions of every split of the data, drawn, beside the condition
  images where a ControlNet reads any, and what a joint model says of the images.
  """
  import numpy as np

  from t2i_jax.data.source import ShardSource, read_manifest
  from t2i_jax.evaluation.report import write_gallery_report

  folder, condition = trained.config.data.dir, trained.tasks.condition
  manifest = read_manifest(folder)
  sections = []
  for split in manifest["splits"]:
    source = ShardSource(folder, split)
    records = source.spread(GALLERY)
    captions = [record.captions[0] for record in records]
    how = {} if condition is None else {"controls": condition(records)}
    images = trained.draw(captions, seeds_from(args.seed, captions), **how)
    note = f"{len(source)} records; the first caption of {len(captions)}, drawn once."
    if how:
      images = np.concatenate([*how["controls"].images, images], axis=2)  # [n, H, W of all, 3]
    sections.append((split, note, list(zip(captions, images, strict=True))))
    if "captions" in trained.tasks.measures:
      shown, said, right = readings(trained, records, args.seed)
      note = f"What is said of real images; {right} of {len(said)} are a caption of theirs."
      sections.append((f"{split}, read", note, list(zip(said, shown, strict=True))))
  if args.encoder:
    sections += retrieval(args, trained, manifest["splits"])
  about = context(args, trained) | {"attribution": manifest["attribution"]}
  return write_gallery_report(args.workdir, sections, about)


def retrieval(args: argparse.Namespace, trained, splits: Sequence[str]):
  """Scores and saves the retrieval of drawn images; returns sections of the report.

  The encoder's own recall is of the split that it was validated on.
  """
  from rich.console import Console

  from t2i_jax.data.source import ShardSource
  from t2i_jax.evaluation import retrieval as r
  from t2i_jax.inference import open_model
  from t2i_jax.training.checkpoint import dump

  encoder = open_model(args.encoder)
  embed = partial(encoder.need("embed"), encoder.params)
  c = trained.config.data
  own = encoder.config.data.val_split
  found, sections = [], []
  real = images_folder(c.dir)
  for split in dict.fromkeys((own, *(args.split or splits))):
    source = ShardSource(real, split)
    images, captions, concepts, styles = real_images(source, c.image_size, args.concept)
    if split == own:
      views = encoder.need("views")(images, args.seed)
      found.append(r.score_encoder(split, captions, images, concepts, styles, embed, views))
      title = f"{split}: recall of the encoder, images beside the nearest of another style"
      sections.append((title, r.sentence(found[-1]), neighbours(found[-1])))
    if split in (args.split or splits):
      records = source.spread(args.per_cell)
      captions = [record.captions[0] for record in records]
      wanted = r.concepts_of(records, args.concept)
      drawn = draw_all(trained, captions, args.seed)
      found.append(r.score_drawn(split, captions, wanted, drawn, images, concepts, embed))
      sections.append((f"{split}: retrieval", r.sentence(found[-1]), neighbours(found[-1])))
  Console(width=120).print(r.table(found))
  about = {"workdir": str(args.workdir), "step": trained.step, "seed": args.seed}
  about |= {"encoder": str(args.encoder), "encoder_step": encoder.step, "concept": args.concept}
  folder = Path(args.workdir) / "eval"
  folder.mkdir(exist_ok=True)
  dump(folder / "retrieval.json", about | {"splits": [one.to_json() for one in found]})
  print(folder / "retrieval.json")
  return sections


def images_folder(data: str) -> str:
  """The folder of the images of a folder of data, which may hold their latents."""
  from t2i_jax.data.latents import latents_of

  latents = latents_of(data)
  return data if latents is None else latents.images


def real_images(source, image_size: tuple[int, int], concept: str):
  """All images of a split, their first captions, their concepts and their styles; without styles,
  a style an image."""
  import numpy as np

  from t2i_jax.data.transforms import fit_image
  from t2i_jax.evaluation.retrieval import concepts_of

  records = [source[i] for i in range(len(source))]
  images = np.stack([fit_image(record.image, image_size) for record in records])
  if images.shape[-1] != 3:
    raise ConfigError("--encoder: the data are latents of no image, and retrieval compares images.")
  styles = [str(record.meta.get("style", i)) for i, record in enumerate(records)]
  captions = [record.captions[0] for record in records]
  return images, captions, concepts_of(records, concept), styles


def neighbours(found):
  """The first images, each beside the real one nearest to it."""
  import numpy as np

  mark = {True: "right", False: "wrong"}
  return [
    (f"{s.caption} ({mark[s.right]})", np.concatenate([s.image, s.nearest], axis=1))
    for s in found.samples
  ]


def readings(trained, records, seed: int):
  """Images of records, what a joint model says of them, and how often it is their caption."""
  import numpy as np

  from t2i_jax.data.transforms import fit_image

  shown = np.stack([fit_image(r.image, trained.config.data.image_size) for r in records])
  said = trained.caption(shown, seeds_from(seed, shown))
  return shown, said, sum(s in r.captions for s, r in zip(said, records, strict=True))


def context(args: argparse.Namespace, trained) -> dict[str, Any]:
  """What the report's heading says of the run and the machine."""
  import jax

  from t2i_jax.evaluation.report import read_metrics
  from t2i_jax.training.checkpoint import state_size

  c = trained.config
  metrics, _ = read_metrics(Path(args.workdir) / "metrics.jsonl")
  flags = ("step", *SAMPLING_FLAGS)
  given = "".join(f" --{k}={getattr(args, k)}" for k in flags if getattr(args, k))
  return {
    "run": c.name,
    "config": f"configs/{c.name}.py",
    "data": c.data.dir,
    "parameters": state_size(trained.params),
    "steps": trained.step,
    "images": images_seen(metrics, trained.step, c.train.batch),
    "sampling": f"{c.sampling.solver}, {c.sampling.steps} steps, cfg {c.sampling.cfg:g}",
    "machine": f"{processor()}, {os.cpu_count()} cores",
    "jax": f"{jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}",
    "commands": [
      f"t2i train --config=configs/{c.name}.py --workdir={args.workdir}",
      f"t2i eval --workdir={args.workdir} --per-cell={args.per_cell} --seed={args.seed}{given}",
    ],
  }


def images_seen(metrics: Sequence[Mapping[str, Any]], step: int, batch: int) -> int:
  """By training until a step; a row of a joint model holds several, as many as its log says."""
  a_row = [m["images"] for m in metrics if m["kind"] == "train" and "images" in m]
  mean = sum(a_row) / len(a_row) if a_row else 1
  return round(step * batch * mean)


def processor() -> str:
  """The processor's name as its maker gives it."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor() or platform.machine()
  names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.machine()
