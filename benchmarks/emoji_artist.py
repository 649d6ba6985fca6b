"""A third artist's style from ten images, and one of the base's two forgotten, on real images.

    npm pack @iconify-json/fluent-emoji-flat@1.2.6
    mkdir -p runs/fluent && tar xzf iconify-json-*.tgz -C runs/fluent --strip-components=1
    python -m benchmarks.emoji_artist --artist=runs/fluent

Makes docs/emoji_artist.md and .png: trains what --runs does not have yet (a base of two artists'
emoji, a classifier of three artists), teaches the base the third artist by `t2i personalise` and
makes it forget Twemoji by `t2i forget`, draws, and counts the artists that the classifier names.
Begun again, it goes on from where it stopped. Nothing is downloaded.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.emoji_artist_judge import (
  SIDE,
  STEPS,
  concepts_of,
  confusion,
  divided,
  learned,
  read_artist,
  styles_of,
)
from benchmarks.emoji_artist_runs import (
  BASE_STEPS,
  DRAWN,
  ERASED,
  FORGET_RATE,
  FORGOTTEN,
  METHODS,
  NEIGHBOUR,
  OWN,
  PERSONALISED,
  TAUGHT,
  TEMPLATES,
  Paths,
  World,
  adapt,
  draw,
  train_base,
  write_inputs,
)
from benchmarks.few_step import cell as percent
from benchmarks.pages import run_of, table, write
from benchmarks.personalisation_tables import change
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import read_manifest
from t2i_jax.evaluation.paired import Paired
from t2i_jax.evaluation.stats import Rate

SHOWN, SCALE = 4, 2  # concepts of the sheet; its scale
THIRD = 2
KINDS = ("word", "plain", NEIGHBOUR, FORGOTTEN)
Images = dict[str, np.ndarray]  # by kind of prompt
Answers = dict[str, dict[str, np.ndarray]]  # artists by row and kind of prompt

# What the tables and the sheet say, written when they were made.
FOUND = """\
DomainGallery as the verb runs it teaches nothing here: its rates are the base's, with enhancement
too, and so are its images to the eye. LoRA, which is the same without the further terms, comes to
about a fifth; all weights of DreamBooth to seven in ten, and then more than half of the drawings in
the OpenMoji style and a fifth of those in the Twemoji style are of the third artist as well. That
agrees with the planted world, where the further terms suppressed the rendering. The term of
similarity is about 1e-6 in the log of the run, beside 0.3 of the images: it did nothing.

What DreamBooth learned is seen in the sheet: blots of red, orange and yellow with a margin, where
the base has blots of blue and green. That is the palette of the ten images. The classifier, which
saw all colours of the artist, counts it as the style; an eye would not. LoRA reddens the drawings
in the Twemoji style, too, and there the classifier still answers Twemoji. No row draws an object
that can be recognised.

Forgetting Twemoji fails at 2e-4. Without a style this base draws Twemoji in three of four, so the
anchor for styles demands little. By keys and values nothing changes, with OpenMoji as the anchor
neither: in 100 steps the term of ablation does not fall. By all weights it falls, Twemoji stays in
nearly all drawings, and OpenMoji is lost in half of its own: worse than no change. Ten times the
rate does not help: OpenMoji suffers, Twemoji stays. Few steps of a base that draws no objects may
be why; a longer one was not tried."""

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions: The above copyright notice and this
permission notice shall be included in all copies or substantial portions of the Software. THE
SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT.
IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def credit(world: World) -> str:
  """Of the third artist, by what its package says."""
  info = world.artist.info
  author, licence = info["author"], info["license"]
  lines = [
    f"{info['name']}, npm package `@iconify-json/{info['prefix']}` {info['version']}:",
    f"Copyright (c) {author['name']}, {author['url']}.",
    f"Licence: {licence['title']}, {licence['url']}.",
    "Changes: drawn as pixels on a white background. The sheet has ten of these images.",
  ]
  return "\n".join([*lines, "", MIT] if licence["spdx"] == "MIT" else lines)


def classifier_table(world: World, rates: list[list[Rate]]) -> str:
  styles = world.concepts.styles
  rows = [[style, *map(percent, row), row[0].n] for style, row in zip(styles, rates, strict=True)]
  return table(["real images of", *(f"answer {style}" for style in styles), "n"], rows)


def base_table(world: World, found: dict[str, np.ndarray]) -> str:
  styles = world.concepts.styles
  said = prompts_by_kind(world)
  rows = []
  for kind in (*KINDS, "taught"):
    answers = [Rate.of(found[kind] == i) for i in range(len(styles))]
    rows.append([said[kind], *map(percent, answers), answers[0].n])
  return table(["prompts of the base", *(f"answer {style}" for style in styles), "n"], rows)


def prompts_by_kind(world: World) -> dict[str, str]:
  return {
    "word": f"..., {world.word}",
    "plain": "...",
    NEIGHBOUR: f"..., {NEIGHBOUR} style",
    FORGOTTEN: f"..., {FORGOTTEN} style",
    "taught": f"the ten, {world.word}",
  }


def rates_table(world: World, answers: Answers, rows: Sequence[str], style: int) -> str:
  """How often the answer is one artist, by row and kind of prompt."""
  said = prompts_by_kind(world)
  kinds = ["taught", *KINDS] if style == THIRD else [FORGOTTEN, NEIGHBOUR, "plain"]
  lines = [
    [METHODS[name].label]
    + [percent(Rate.of(answers[name][k] == style)) if k in answers[name] else "" for k in kinds]
    for name in rows
  ]
  name = world.concepts.styles[style]
  return table(["", *(f"{name}: {said[kind]}" for kind in kinds)], lines)


def changes_table(
  world: World, answers: Answers, rows: Sequence[str], columns: Sequence[tuple[str, int]]
) -> str:
  """Paired with the base, of the same prompts and noise.   columns: kind of prompt, artist"""
  said, styles = prompts_by_kind(world), world.concepts.styles
  lines = []
  for name in rows:
    own = answers[name]
    pairs = [
      change(Paired.of(answers["base"][kind] == style, own[kind] == style)) if kind in own else ""
      for kind, style in columns
    ]
    lines.append([METHODS[name].label, *pairs])
  return table(["", *(f"{styles[style]}: {said[kind]}" for kind, style in columns)], lines)


def cost_table(paths: Paths) -> str:
  kept = paths.kept_seconds()
  names = {name: method.label for name, method in METHODS.items()} | {
    "data": "building the data", "base": "training the base",
    "classifier": "the classifier", "drawing": "drawing what is judged",
  }  # fmt: skip
  rows = [[names[name], f"{seconds / 60:.1f}"] for name, seconds in kept.items()]
  return table(["minutes of processors", ""], [*rows, ["in all", f"{sum(kept.values()) / 60:.1f}"]])


def sheet(world: World, drawn: dict[str, Images], to: Path) -> None:
  """The ten images, then a row a model; prompts of one concept side by side."""
  ten = world.concepts.images[world.parts.taught, THIRD]
  rows = [list(ten)]
  blank = np.full_like(ten[0], 255)
  for images in drawn.values():
    one = lambda kind, i, images=images: images[kind][i] if kind in images else blank
    rows.append([one(kind, i) for i in range(SHOWN) for kind in KINDS])
  grid(rows, SCALE, block=len(KINDS), band=1).save(to, optimize=True)


def classifier_section(world: World, rates: list[list[Rate]], base: dict[str, np.ndarray]) -> str:
  parts = world.parts
  right = Rate(sum(rates[i][i].successes for i in range(3)), sum(row[0].n for row in rates))
  return "\n".join([
    "## The classifier",
    "",
    f"A small convolutional network, {STEPS} steps on real images of {len(parts.trained)}",
    "concepts that all three artists have drawn, none of them one of the ten, shifted and mirrored",
    "at random.",
    f"Of real images of {len(parts.held_out)} concepts that neither it nor the base was trained on",
    f"{percent(right)} are classified correctly (n = {right.n}). It is in no loss of a generator.",
    "Drawings are less clean than real images, and there are only three possible answers: compare",
    "with the base's row.",
    "",
    classifier_table(world, rates),
    "",
    f"Its answers for the base's drawings of {len(world.judged)} concepts that the base was",
    f"trained on in both styles, and no method on; \"{world.word}\" is in no caption of the base:",
    "",
    base_table(world, base),
  ])  # fmt: skip


def personalised_section(world: World, answers: Answers) -> str:
  styles = world.concepts.styles
  third = [(kind, THIRD) for kind in KINDS]
  own = [(kind, styles.index(kind)) for kind in (NEIGHBOUR, FORGOTTEN)]
  return "\n".join([
    "## The third artist from ten images",
    "",
    f"One image each of {', '.join(TAUGHT)}, with captions as \"{TAUGHT[0]}, {world.word}\";",
    f"images of the class are those that the base draws for \"{TAUGHT[0]}\" and the others. The",
    f"first column has {OWN} drawings of each of the ten, all others are of other concepts.",
    f"Wanted is {world.artist.name} in the first two columns, and in no other: the last three are",
    "leakage.",
    "",
    rates_table(world, answers, ["base", *PERSONALISED], THIRD),
    "",
    "Points of change from the base, of the same prompts and noise, with Newcombe's interval and",
    "McNemar's p; in the last two columns, of the artist that the prompt names:",
    "",
    changes_table(world, answers, list(PERSONALISED), [*third, *own]),
  ])  # fmt: skip


def forgotten_section(world: World, answers: Answers) -> str:
  one, other = (world.concepts.styles.index(style) for style in (FORGOTTEN, NEIGHBOUR))
  columns = [(FORGOTTEN, one), (NEIGHBOUR, other), ("plain", one)]
  return "\n".join([
    f"## {FORGOTTEN} forgotten",
    "",
    f"`t2i forget --kind=style --concept=\"{FORGOTTEN} style\" --anchor= --regularisation=1",
    f"--lr={FORGET_RATE:g}`: concept ablation on 64 images that the base draws for {TEMPLATES}",
    f"further concepts without a style. So \"{FORGOTTEN} style\" is to be drawn as no style, for",
    "which the base draws either artist: the aim of the first column is the base's last one, not",
    f"0. In the last rows the anchor is \"{NEIGHBOUR} style\", and the aim the base's second one.",
    "",
    rates_table(world, answers, ["base", *ERASED], one),
    "",
    rates_table(world, answers, ["base", *ERASED], other),
    "",
    "Points of change from the base, as above:",
    "",
    changes_table(world, answers, list(ERASED), columns),
  ])  # fmt: skip


def page(
  paths: Paths, world: World, rates: list[list[Rate]], answers: Answers, command: str
) -> str:
  trained = json.loads((paths.base / "config.json").read_text())["train"]
  names = [world.concepts.name(i) for i in world.judged[:SHOWN]]
  said = prompts_by_kind(world)
  kinds = ", ".join(f'"{said[kind]}"' for kind in KINDS)
  return "\n".join([
    "# A third artist's emoji from ten images, and one artist forgotten",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    "Real images in place of [the planted world](personalisation_more.md). The base is",
    f"`configs/emoji_dit_flow.py`, {trained['steps']} steps of {trained['batch']} images where the",
    f"config has 1400: emoji of {SIDE} x {SIDE} pixels by name, by OpenMoji and Twemoji. It draws",
    "few objects ([emoji](emoji.md)), so styles alone are judged. The third artist,",
    f"{world.artist.info['name']}, is in none of its data.",
    "[`t2i personalise`](adapt.md) runs at its own settings, which were chosen on other models,",
    "[`t2i forget`](forget.md) at the rates below; one run each. Intervals are 95% Wilson",
    "intervals over drawings; runs differ by more.",
    "",
    FOUND,
    "",
    classifier_section(world, rates, answers["base"]),
    "",
    personalised_section(world, answers),
    "",
    forgotten_section(world, answers),
    "",
    "## The sheet",
    "",
    "![The ten images, and drawings by row](emoji_artist.png)",
    "",
    f"First the ten images. Then the rows: {'; '.join(METHODS[name].label for name in METHODS)}.",
    f"Columns: {', '.join(names)}, each as {kinds}. The same noise for all images of a concept.",
    "",
    "## Cost and credits",
    "",
    cost_table(paths),
    "",
    credit(world),
    "",
    read_manifest(str(paths.data))["attribution"],
  ])  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--artist", required=True, help="folder of an npm package of Iconify")
  parser.add_argument("--runs", default="runs/emoji_artist", help="where data and runs go")
  parser.add_argument("--base-steps", type=int, default=BASE_STEPS, help="of the base's training")
  parser.add_argument("--steps", type=int, default=0, help="of each verb; 0: its own")
  parser.add_argument("--drawn", type=int, default=DRAWN, help="concepts a kind of prompt")
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  paths, to = Paths(args.runs), Path(args.to)
  train_base(paths, args.base_steps)
  artist = read_artist(args.artist)
  concepts = concepts_of(paths.data, artist)
  world = World(artist, concepts, divided(concepts, TAUGHT), args.drawn)
  write_inputs(paths, world)
  with paths.timed("classifier"):
    params = learned(paths.classifier, concepts, world.parts.trained)
    rates = confusion(params, concepts, world.parts.held_out)
  drawn: dict[str, Images] = {}
  for name in METHODS:
    adapt(paths, world, name, args.steps)
    drawn[name] = draw(paths, world, name)
  of_row = lambda found: {kind: styles_of(params, images) for kind, images in found.items()}
  answers = {name: of_row(found) for name, found in drawn.items()}
  sheet(world, drawn, to / "emoji_artist.png")
  own = (("base-steps", BASE_STEPS, args.base_steps), ("drawn", DRAWN, args.drawn))
  more = [f" --{flag}={value}" for flag, default, value in (*own, ("steps", 0, args.steps))
          if value != default]  # fmt: skip
  command = f"python -m benchmarks.emoji_artist --artist={args.artist} --runs={args.runs}"
  runs = dict.fromkeys(paths.run(name) for name in METHODS)
  command += "".join(more)
  line = run_of(command, *(run / "config.json" for run in runs))
  write(to / "emoji_artist.md", page(paths, world, rates, answers, command), line)
  print(to / "emoji_artist.md")


if __name__ == "__main__":
  main()
