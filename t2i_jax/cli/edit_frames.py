"""The flags of t2i edit --method=sdedit --frames=DIR: every image of a folder, in order of names.

t2i edit --workdir=D --method=sdedit --frames=DIR --to-prompt="a blue circle" --strengths=0.6
         --noise=shared --out=DIR
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from t2i_jax.cli.flags import numbers
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.ranges import Seed

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHEET = "frames.png"
ONLY = ("noise", "motion")


def add_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("of --method=sdedit with --frames")
  group.add_argument(
    "--frames", metavar="DIR", help="images of a sequence, in order of their names"
  )
  group.add_argument(
    "--noise", help="alone, shared (the default), moved or previous: which noise each frame gets"
  )
  group.add_argument(
    "--motion", metavar="FILE",
    help=".npy of [F, 2] or [F, H, W, 2]: rows and columns of the model's images by which what is "
    "seen has moved since the first frame; for moved and previous",
  )  # fmt: skip


def check(args: argparse.Namespace) -> None:
  """Raises ConfigError for flags that do not go together."""
  given = lambda names: ", ".join(f"--{name.replace('_', '-')}" for name in names
                                  if getattr(args, name) is not None)  # fmt: skip
  if args.frames is None:
    if given(ONLY):
      raise ConfigError(f"{given(ONLY)}: only with --frames.")
    return
  if args.method != "sdedit":
    raise ConfigError(f"--frames: --method={args.method} edits one --image. Use --method=sdedit.")
  if given(("image", "mask")):
    raise ConfigError(f"{given(('image', 'mask'))}: the images are those of --frames.")


def read(folder: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """uint8 [H, W, 3] by name, fitted to a size. Raises DataError."""
  from t2i_jax.inference.start import SourceImage

  if not Path(folder).is_dir():
    raise DataError(f"--frames={folder} is not a folder.")
  paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
  if not paths:
    raise DataError(f"--frames={folder} has no images ({', '.join(SUFFIXES)}).")
  return {path.stem: SourceImage(str(path)).fitted(size) for path in paths}


def read_motion(path: str | None) -> np.ndarray | None:
  """Raises DataError."""
  if path is None:
    return None
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise DataError(f"--motion={path} cannot be read: {error}.") from error


def run(args: argparse.Namespace, model: Any, target: str, out: Path) -> list[Path]:
  """Writes every frame under its name, and a sheet: the frames, and below them what is drawn."""
  from t2i_jax.data.sheet import grid
  from t2i_jax.edit.frames import edit_frames
  from t2i_jax.edit.sdedit import Strength
  from t2i_jax.inference.save import save_png

  strengths = numbers("--strengths", args.strengths, Strength, (0.5,))
  seeds = numbers("--seeds", args.seeds, Seed, (0,))
  if len(strengths) != 1 or len(seeds) != 1:
    raise ConfigError("--frames: give one of --strengths and one of --seeds.")
  frames, motion = read(args.frames, model.config.data.image_size), read_motion(args.motion)
  given, noise = np.stack(list(frames.values())), args.noise or "shared"
  drawn = edit_frames(model, given, target, strengths[0], noise, motion, seeds[0])
  out.mkdir(parents=True, exist_ok=True)
  about = {"prompt": target, "strength": f"{strengths[0]:g}", "noise": noise}
  paths = [out / f"{name}.png" for name in frames]
  for path, image in zip(paths, drawn, strict=True):
    save_png(path, image, about | {"seed": str(seeds[0])})
  grid([list(given), list(drawn)], max(1, 128 // given.shape[1])).save(out / SHEET)
  return [*paths, out / SHEET]
