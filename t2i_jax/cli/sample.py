"""Draw prompts: t2i sample --workdir=D --prompt="a red circle" [--prompts=FILE] [--num=1]"""

import argparse
import json
from pathlib import Path

import numpy as np

from t2i_jax.errors import PromptError, WorkdirError

SAMPLING_FLAGS = {
  "solver": "as in config.sampling: euler, heun, ddim(eta=1.0), dpmpp(order=3), ...",
  "grid": "of times: trailing, leading, karras(rho=7), shifted(factor=3), ...",
  "steps": "solver steps",
  "guidance": "cfg, cfg(rescale=0.7), apg, cfg_zero, cfg_norm, pag(layers=(2,3)), slg(layers=(1,))",
  "cfg": "guidance scale, 1 = off",
  "negative": "what not to draw: the prompt of the null",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, help="of a training run")
  parser.add_argument("--prompt", action="append", default=[], help="may be given several times")
  parser.add_argument("--prompts", help="a UTF-8 file with one prompt a line")
  parser.add_argument("--seed", type=int, default=0, help="seed of the first picture of a prompt")
  parser.add_argument("--num", type=int, default=1, help="pictures a prompt: seed, seed + 1, ...")
  parser.add_argument("--out", help="folder for the PNGs; default WORKDIR/drawn")
  parser.add_argument(
    "--guidance.classifier", dest="classifier", metavar="DIR", help="workdir of a noisy classifier"
  )
  parser.add_argument(
    "--guidance.weight", dest="weight", type=float, default=1.0, help="of the classifier, 0 = off"
  )
  add_sampling_flags(parser)


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
  """The keys of config.sampling that can be changed after training."""
  for key, text in SAMPLING_FLAGS.items():
    parser.add_argument(f"--{key}", help=f"{text}; default as trained")


def sampling_overrides(args: argparse.Namespace) -> dict[str, str]:
  given = {key: getattr(args, key) for key in SAMPLING_FLAGS}
  return {key: value for key, value in given.items() if value is not None}


def read_prompts(args: argparse.Namespace) -> list[str]:
  """The prompts of the command line and of the file. Raises PromptError where there are none."""
  prompts = list(args.prompt)
  if args.prompts:
    try:
      text = Path(args.prompts).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
      raise PromptError(f"--prompts={args.prompts} cannot be read as UTF-8: {error}.") from error
    prompts += [line.strip() for line in text.splitlines() if line.strip()]
  if args.num < 1 or not 0 <= args.seed <= 2**32 - args.num:
    raise PromptError(
      f"--num={args.num} --seed={args.seed}: at least 1 picture is needed, with seeds from 0 to "
      "4294967295."
    )
  if not prompts:
    raise PromptError('nothing to draw: give --prompt="..." or --prompts=FILE.')
  return prompts


def run(args: argparse.Namespace) -> None:
  from t2i_jax.training.serve import open_workdir

  prompts = read_prompts(args)
  trained = open_workdir(
    args.workdir, sampling_overrides(args), classifier=args.classifier, weight=args.weight
  )
  texts = [prompt for prompt in prompts for _ in range(args.num)]
  seeds = [args.seed + i for _ in prompts for i in range(args.num)]
  pictures = trained.draw(texts, seeds)
  out = Path(args.out or Path(args.workdir) / "drawn")
  paths = save(pictures, texts, seeds, out, json.dumps(trained.config.to_dict()), args.num)
  for path in paths:
    print(path)


def save(
  pictures: np.ndarray, texts: list[str], seeds: list[int], out: Path, config: str, columns: int
) -> list[Path]:
  """Writes a PNG a picture, with prompt, seed and config in its text chunks, and grid.png.

  Latents [n, H, W, C != 3] are written as .npy. Raises WorkdirError.
  """
  from PIL import Image
  from PIL.PngImagePlugin import PngInfo

  try:
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, (picture, text, seed) in enumerate(zip(pictures, texts, seeds, strict=True)):
      path = out / f"{i:04d}_seed{seed}.png"
      info = PngInfo()
      for key, value in (("prompt", text), ("seed", str(seed)), ("config", config)):
        info.add_itxt(key, value)
      Image.fromarray(picture).save(path, pnginfo=info)
      paths.append(path)
    columns = columns if columns > 1 else max(1, int(len(pictures) ** 0.5))
    empty = -len(pictures) % columns
    tiles = np.pad(pictures, ((0, empty), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows = [np.concatenate(list(row), 1) for row in tiles.reshape(-1, columns, *tiles.shape[1:])]
    Image.fromarray(np.concatenate(rows)).save(out / "grid.png")
  except OSError as error:
    raise WorkdirError(f"--out={out} cannot be written: {error}.") from error
  return [*paths, out / "grid.png"]
