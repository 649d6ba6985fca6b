"""Words, Imagic, ComFusion, DomainGallery on the planted world: docs/personalisation_more.md.

python -m benchmarks.personalisation_more --jobs=2

Needs the base of benchmarks.personalisation. What is drawn is kept in RUNS as it was read: started
again, it goes on, and --only=page writes the page without a model, of what has been run, with
--restore of what is recorded beside it. Each experiment chooses its settings on other images or
subjects than it reports. The judge is in no loss. About 40 minutes on two cores.
"""

import argparse
from pathlib import Path

from benchmarks import personalisation_comfusion as comfusion
from benchmarks import personalisation_domain as domain
from benchmarks import personalisation_domain_page as domain_page
from benchmarks import personalisation_imagic as imagic
from benchmarks import personalisation_words as words
from benchmarks.pages import run_of, write
from benchmarks.personalisation_bench import Base
from benchmarks.personalisation_jobs import each_by_itself, names_of
from benchmarks.recorded import BASE, record, restore

PARTS = ("words", "imagic", "comfusion", "domain", "page")
PAGE, RECORD = "personalisation_more.md", "personalisation_more.tar.xz"


def page(runs: Path, to: Path, command: str) -> str:
  return "\n".join([
    "# Words, edits, scenes and domains",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    "Four methods of `t2i personalise` ([adapt](adapt.md)) on the base of",
    "[personalisation](personalisation.md), `configs/scenes_planted.py`, whose averaged weights",
    "they begin at; drawings by the weights that are trained, euler, 10 steps, the base's guidance",
    "scale. Percentages have 95% Wilson intervals over drawings; runs differ by more. What has not",
    "been run yet says so.",
    "",
    *words.section(runs / "words"),
    *imagic.section(runs / "imagic", to),
    *comfusion.section(runs / "comfusion", to),
    *domain_page.section(runs / "domain", to),
  ])  # fmt: skip


def drawn(runs: Path) -> list[Path]:
  """What the page is made of."""
  every = [
    path for path in runs.rglob("*.json") if path.parent.name in ("words", "cells", "artist")
  ]
  few = [f"imagic/cells/*_{job.name}.png" for job in imagic.few_jobs()]
  few += [f"comfusion/cells/*_{comfusion.SUBJECTS[0].name}_0.png", "domain/cells/*_0.png"]
  every += [*runs.glob("*/chosen.json"), *runs.glob(f"*/{BASE}")]
  return [*every, *(path for one in few for path in runs.glob(one))]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_planted")
  parser.add_argument("--base", default="runs/scenes_planted")
  parser.add_argument("--runs", default="runs/personalisation_more", help="where all else goes")
  parser.add_argument("--classifier-steps", type=int, default=400, help="of ComFusion's network")
  parser.add_argument("--jobs", type=int, default=1, help="experiments beside each other")
  parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
  parser.add_argument("--to", default="docs", help="folder of the page")
  parser.add_argument("--restore", action="store_true", help="what the page's record holds, first")
  args = parser.parse_args()
  parts, runs = names_of(parser, "only", args.only, PARTS), Path(args.runs)
  if args.restore:
    restore(runs, Path(args.to, RECORD))
  given = [f"--data={args.data}", f"--base={args.base}", f"--runs={args.runs}"]
  given.append(f"--classifier-steps={args.classifier_steps}")
  experiments = [part for part in parts if part != "page"]
  if args.jobs > 1 and len(experiments) > 1:
    module = "benchmarks.personalisation_more"
    each_by_itself([[module, *given, f"--only={part}"] for part in experiments], args.jobs, runs)
  else:
    for part in experiments:
      folder = runs / part
      folder.mkdir(parents=True, exist_ok=True)
      base = Base(args.base, folder)
      if part == "words":
        words.make(base, folder)
      elif part == "imagic":
        imagic.make(base, folder)
      elif part == "comfusion":
        comfusion.Fusion(base, folder, args.data, args.classifier_steps).make()
      else:
        domain.Domain(base, folder).make()
  if "page" in parts:
    command = " ".join(["python -m benchmarks.personalisation_more", *given])
    configs = [Path(args.base, "config.json"), runs / "comfusion" / "classifier" / "config.json"]
    line = run_of(command, *(path for path in configs if path.is_file()))
    write(Path(args.to, PAGE), page(runs, Path(args.to), command), line)
    record(runs, drawn(runs), Path(args.to, RECORD))
    print(Path(args.to, PAGE))


if __name__ == "__main__":
  main()
