"""Edit by text: t2i edit --workdir=D --prompt="a red circle" --to-prompt="a blue circle" --out=DIR

With --from=FOLDER of a published model in place of --workdir. --method=p2p, the default, draws both
prompts from one noise and edits the second one's attention by the first one's; with --image it
edits that, of which --prompt says what it shows. --method=sdedit draws an --image again under
--to-prompt, or --prompt, from each of --strengths, and --frames of a folder. --method=instruct is
for models that read images: --prompt is an instruction, each --reference a further image that it
speaks of. The others invert an --image or follow it: null_text, negative_prompt, edict,
rf_inversion, flow_edit, ilvr, pnp, pix2pix_zero. DIR has the images before and after, a grid, and
report.html.
"""

import argparse
import copy
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from t2i_jax.cli import edit_frames, sample
from t2i_jax.cli.flags import number, numbers
from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.ranges import Range, Seed, Share, Whole

# Flags of settings, and the fields of a method that they set.
SETTINGS = {
  "kind": "kind", "cross": "cross", "self": "inside", "reweight": "reweight", "blend": "blend",
  "threshold": "threshold", "largest": "largest", "joint": "joint", "inverter": "inverter",
  "maps": "maps",
}  # fmt: skip
Strength = Annotated[float, Range("[-1e3, 1e3]")]  # each method has its own range


def add_flags(parser: argparse.ArgumentParser) -> None:
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--workdir", help="of a training run")
  model.add_argument(
    "--from", dest="folder", metavar="FOLDER", help="with model_index.json, or a safetensors file"
  )
  parser.add_argument("--method", default="p2p", help="with its settings, as flow_edit(draws=4)")
  parser.add_argument("--prompt", help="what is drawn first, or what the image shows")
  parser.add_argument("--to-prompt", help="what it is to show; default --prompt")
  parser.add_argument("--image", help="a file, scaled and cropped to the model's size")
  parser.add_argument(
    "--reference", action="append", default=[],
    help="of instruct: a file that the model is shown after --image; may be given several times",
  )  # fmt: skip
  parser.add_argument("--mask", help="of sdedit: a file of its size, white where it changes")
  parser.add_argument("--seeds", help="an image is drawn of each, as 0,1,2; default 0")
  parser.add_argument(
    "--strengths",
    help="how strongly it is edited, as 0.3,0.5,0.7, in the method's unit: noise levels of sdedit, "
    "values of --cross",
  )
  parser.add_argument("--out", help="folder; default WORKDIR/edited, with --from edited")
  group = parser.add_argument_group("of --method=p2p")
  group.add_argument("--kind", help="replace, word by word, or refine; default by their number")
  share = lambda flag: number(flag, Share)
  group.add_argument(
    "--cross", type=share("--cross"),
    help="share of the steps with edited attention to the text; default 0.8",
  )  # fmt: skip
  group.add_argument(
    "--self", type=share("--self"),
    help="share of the steps with the source's self-attention of the image; default 0.4",
  )  # fmt: skip
  group.add_argument("--reweight", help="WORD=NUMBER,...: attention to words is scaled")
  group.add_argument(
    "--blend", metavar="WORD[,WORD]",
    help="only this word's region changes: of --prompt, and of --to-prompt where that has another",
  )  # fmt: skip
  group.add_argument(
    "--threshold", type=number("--threshold", Annotated[float, Range("[0, 1)")]),
    help="of the region, over the map's maximum; default 0.3",
  )  # fmt: skip
  group.add_argument(
    "--largest", type=number("--largest", Whole),
    help="image tokens up to which self-attention is edited; default everywhere",
  )  # fmt: skip
  group.add_argument(
    "--joint",
    help="of joint attention: image, rows of the image at their own totals (default), or whole",
  )  # fmt: skip
  group.add_argument(
    "--inverter",
    help="of --image: ddim_inverse (default), midpoint, negative_prompt, null_text(steps=10), "
    "edict or direct",
  )
  group.add_argument(
    "--maps", action="store_true", default=None,
    help="write sheets of the attention to each word, by step and by layer",
  )  # fmt: skip
  edit_frames.add_flags(parser)
  sample.add_sampling_flags(parser)
  sample.add_folder_flags(parser)
  # Flags of t2i sample that opening a model reads, and editing has not.
  parser.set_defaults(refiner=None, classifier=None, weight=1.0)


def method_of(args: argparse.Namespace) -> Any:
  """The method with its settings. Raises ConfigError for one that it does not have."""
  from t2i_jax.config import build
  from t2i_jax.edit import METHODS

  method = build(METHODS, args.method, "--method")
  given = {flag: getattr(args, flag) for flag in SETTINGS if getattr(args, flag) is not None}
  fields = dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
  has = {field.name for field in fields}
  wrong = [f"--{flag}" for flag in given if SETTINGS[flag] not in has]
  if wrong:
    raise ConfigError(f"{', '.join(wrong)}: not of --method={args.method}.")
  settings = {SETTINGS[flag]: value for flag, value in given.items()}
  return dataclasses.replace(method, **settings) if settings else method


def run(args: argparse.Namespace) -> None:
  import numpy as np

  from t2i_jax.edit import Request
  from t2i_jax.edit.instructed import Instruct
  from t2i_jax.edit.page import write
  from t2i_jax.inference.save import check_out
  from t2i_jax.inference.start import Mask, SourceImage, fitted_reference

  method = method_of(args)
  edit_frames.check(args)
  instructs = isinstance(method, Instruct)
  check_references(args, instructs)
  prompt = args.prompt or args.to_prompt
  if not prompt:
    raise PromptError("--prompt: say what is drawn, or what the image shows.")
  seeds = numbers("--seeds", args.seeds, Seed, (0,))
  strengths = numbers("--strengths", args.strengths, Strength, ())
  if args.mask is not None and args.image is None:
    raise ConfigError("--mask belongs to --image: give that, too, or leave it out.")
  sample.check_folder(args, sample.SHARED_FLAGS)
  if args.controlnet:
    raise ConfigError("--controlnet: a model with ControlNets is not edited. Leave it out.")
  out = Path(args.out or Path(args.workdir or "") / "edited")
  check_out(out)
  image = None if args.image is None else SourceImage(args.image)
  mask = None if image is None or args.mask is None else Mask.read(args.mask, image)
  target = args.to_prompt or prompt
  read = copy.copy(args)
  read.reference = [*args.reference, args.image] if instructs else []  # the last decides the size
  model = sample.opened(read, [prompt, target])
  model.need("edit" if instructs else "redraw")
  if args.frames is not None:
    for path in edit_frames.run(args, model, target, out):
      print(path)
    return
  size = model.config.data.image_size
  paths = (args.image, *args.reference) if instructs else ()
  request = Request(
    prompt,
    target,
    seeds,
    None if image is None else image.fitted(size),
    None if mask is None else mask.fitted(size),
    strengths,
    tuple(fitted_reference(path, model.system) for path in paths),
  )
  latent = request.image is not None and request.image.dtype != np.uint8
  if latent or model.system.image_shape[2] != 3:
    raise ConfigError("latents are not edited: give an image, and a model that decodes to images.")
  edited = method(model, request)
  for path in write(out, request, edited, model.config, str(method), [command()]):
    print(path)


def check_references(args: argparse.Namespace, instructs: bool) -> None:
  """Raises ConfigError for --reference of another method, or instruct without an image."""
  if args.reference and not instructs:
    raise ConfigError(f"--reference: not of --method={args.method}. Use --method=instruct.")
  if instructs and args.image is None:
    raise ConfigError("--method=instruct edits an image: give it with --image=FILE.")


def command(argv: Sequence[str] | None = None) -> str:
  """The command line, for the report."""
  return shlex.join(["t2i", *(sys.argv[1:] if argv is None else argv)])
