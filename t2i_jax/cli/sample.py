"""Draw prompts: t2i sample --workdir=D --prompt="a red circle" [--image=FILE [--mask=FILE]]

With --from=FOLDER of a published model, as diffusers saves it, in place of --workdir: drawn with
that pipeline's sizes, scheduler and settings, unless flags say otherwise.
From noise, or from an image: --strength is the noise level from which it is drawn again (1: nothing
of it is left), a --mask is white where it is filled, --invert starts from the noise that the image
would have been made of under another prompt. For a ControlNet --control is the image that
conditions.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2i_jax.cli import guard, lora, refiner, start
from t2i_jax.cli.control import (
  add_control_flags,
  check_control,
  check_folder_control,
  control_images,
)
from t2i_jax.cli.flags import Images, number, parse_size
from t2i_jax.errors import ConfigError, MeshError, PromptError
from t2i_jax.ranges import Count, Seed, Weight, Whole

SAMPLING_FLAGS = {
  "solver": "as in config.sampling: euler, heun, ddim(eta=1.0), dpmpp(order=3), ...",
  "grid": "of times: trailing, leading, karras(rho=7), shifted(factor=3), ...",
  "steps": "solver steps",
  "guidance": "cfg, cfg(rescale=0.7), apg, cfg_zero, cfg_norm, pag(layers=(2,3)), slg(layers=(1,)),"
  " of prompts 'one AND another' compose(weights=(1.0,-0.5)) or dual(image_scale=1.5), "
  "of a word that was taught enhance(word='ki',scale=1.0), auto(workdir='runs/weak',scale=2.0)",
  "cfg": "guidance scale, 1 = off",
  "negative": "what not to draw: the prompt of the null",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--workdir", help="of a training run")
  model.add_argument(
    "--from",
    dest="folder",
    metavar="FOLDER",
    help="with model_index.json; or a safetensors file of the original layout, with --config-from",
  )
  parser.add_argument("--prompt", action="append", default=[], help="may be given several times")
  parser.add_argument("--prompts", help="a UTF-8 file with one prompt a line")
  parser.add_argument(
    "--seed", type=number("--seed", Seed), default=0, help="seed of the first image of a prompt"
  )
  parser.add_argument(
    "--num", type=number("--num", Images), default=1, help="images a prompt: seed, seed + 1, ..."
  )
  parser.add_argument(
    "--out",
    help="folder for the PNGs, or .npy of latents; default WORKDIR/drawn, with --from drawn",
  )
  parser.add_argument(
    "--guidance.classifier", dest="classifier", metavar="DIR", help="workdir of a noisy classifier"
  )
  parser.add_argument(
    "--guidance.weight",
    dest="weight",
    type=number("--guidance.weight", Weight),
    default=1.0,
    help="of the classifier, 0 = off",
  )
  guard.add_flag(parser)
  start.add_flags(parser)
  add_control_flags(parser)
  add_sampling_flags(parser)
  add_folder_flags(parser)
  refiner.add_flags(parser)


FLOATS = ("float32", "bfloat16")


def add_size_flags(parser: argparse.ArgumentParser) -> None:
  """What --from takes besides, of all that decides about memory."""
  parser.add_argument("--size", help="HEIGHTxWIDTH in pixels; default what the model was made for")
  parser.add_argument(
    "--round", action="store_true", help="a --size that the model does not draw becomes the nearest"
  )
  parser.add_argument("--batch", type=number("--batch", Count), help="images at once, default 1")
  parser.add_argument("--dtype", choices=FLOATS, help="of all but the autoencoder; default float32")
  attentions = "default xla; chunked, by_head (CPUs), splash (TPUs), cudnn (GPUs)"
  parser.add_argument("--attention", help=f"how the backbone's is computed: {attentions}")
  parser.add_argument(
    "--vae-dtype", choices=FLOATS, help="of the autoencoder's activations; default float32"
  )
  parser.add_argument(
    "--vae-tiling",
    choices=("smooth", "diffusers"),
    help="how the autoencoder divides large images: blended smoothly, or as diffusers does; "
    "default not at all",
  )
  parser.add_argument(
    "--controlnet",
    action="append",
    default=[],
    metavar="FOLDER",
    help="of a ControlNet that --from has not itself; may be given several times",
  )
  lora.add_flag(parser)


def add_folder_flags(parser: argparse.ArgumentParser) -> None:
  """What --from takes besides."""
  add_size_flags(parser)
  lora.add_embedding_flag(parser)
  parser.add_argument(
    "--config-from",
    metavar="FOLDER",
    help="configs, scheduler and tokenizers for --from=FILE, and the weights that it lacks",
  )
  parser.add_argument(
    "--embedded-cfg",
    type=number("--embedded-cfg", Weight),
    help="guidance scale that a distilled model is given as an input, as FLUX.1-dev or LCM",
  )
  parser.add_argument(
    "--too-long",
    choices=("truncate", "error", "chunk"),
    help="of prompts for an encoder; default truncate, as the published pipelines do; chunk: as "
    "many windows of CLIP as the longest prompt needs",
  )
  parser.add_argument(
    "--offload", action="store_true", help="encoders, backbone and decoder in memory in turn"
  )


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
  """The step, the keys of config.sampling that can be changed after training, and the mesh."""
  step = number("--step", Whole)
  parser.add_argument("--step", type=step, help="of a checkpoint; default the newest that is whole")
  for key, text in SAMPLING_FLAGS.items():
    parser.add_argument(f"--{key}", help=f"{text}; default as trained")
  parser.add_argument(
    "--freeu", metavar="B1,B2,S1,S2", help="FreeU of a U-Net: 1.3,1.4,0.9,0.2 for SDXL"
  )
  parser.add_argument("--mesh", help="data=-1,fsdp=1,tensor=1,...: axes of the devices (data=-1)")


def opened_with(args: argparse.Namespace, keys: Sequence[str] = ()) -> dict[str, str]:
  """The overrides of the config that the flags of add_sampling_flags, and other keys, give."""
  given = {f"sampling.{key}": getattr(args, key) for key in (*SAMPLING_FLAGS, *keys)}
  given |= {f"mesh.{axis}": size for axis, size in parse_mesh(args.mesh or "").items()}
  given["model.freeu"] = None if args.freeu is None else f"({args.freeu},)"
  return {key: value for key, value in given.items() if value is not None}


def parse_mesh(text: str) -> dict[str, str]:
  """ "fsdp=8,tensor=2" by axis. Raises MeshError for an axis that does not exist."""
  from t2i_jax.parallel import MESH_AXES

  found = dict(part.strip().partition("=")[::2] for part in text.split(",") if part.strip())
  wrong = [axis for axis, size in found.items() if axis not in MESH_AXES or not size]
  if wrong:
    raise MeshError(f"--mesh={text}: write axis=devices, of the axes {', '.join(MESH_AXES)}.")
  if found and "data" not in found:
    found["data"] = "-1"
  return found


def read_prompts(args: argparse.Namespace) -> list[str]:
  """The prompts of the command line and of the file. Raises PromptError where there are none."""
  prompts = list(args.prompt)
  if args.prompts:
    try:
      text = Path(args.prompts).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
      raise PromptError(f"--prompts={args.prompts} cannot be read as UTF-8: {error}.") from error
    lines = [line.strip(" \t\r") for line in text.split("\n")]  # nothing else ends a line
    prompts += [line for line in lines if line]
  if args.seed > 2**32 - args.num:
    raise PromptError(f"--num={args.num} --seed={args.seed}: seeds end at 4294967295.")
  if not prompts:
    raise PromptError('nothing to draw: give --prompt="..." or --prompts=FILE.')
  return prompts


SIZE_FLAGS = (
  "size", "round", "batch", "dtype", "attention", "vae_dtype", "vae_tiling", "controlnet", "lora",
)  # fmt: skip
SHARED_FLAGS = (*SIZE_FLAGS, "config_from", "embedded_cfg", "too_long", "offload", "embedding")
FOLDER_FLAGS = (*SHARED_FLAGS, *refiner.FLAGS)


def check_folder(args: argparse.Namespace, flags: Sequence[str]) -> None:
  """Raises ConfigError for one of these flags where no --from is given."""
  given = [f"--{name.replace('_', '-')}" for name in flags if getattr(args, name)]
  if args.folder is None and given:
    raise ConfigError(f"{', '.join(given)}: only with --from=FOLDER of a published model.")


def sized(args: argparse.Namespace, overrides: dict[str, str]) -> tuple[int, int] | None:
  """The size that the flags of add_size_flags give; what else they give is added to overrides."""
  from t2i_jax.inference import coder_of, nearest_size

  if args.batch is not None:
    overrides["sampling.batch"] = str(args.batch)
  if args.attention is not None:
    overrides["model.attention"] = args.attention
  if args.vae_dtype or args.vae_tiling:
    how = (args.vae_dtype or "float32", args.vae_tiling or "")
    overrides["autoencoder"] = coder_of(args.folder, *how)
  if args.size is None:
    if args.round:
      raise ConfigError("--round belongs to --size: give that, too, or leave it out.")
    return None
  size = parse_size(args.size)
  near = nearest_size(args.folder, size) if args.round else size
  if near != size:
    print(f"--size={args.size}: rounded to {near[0]} x {near[1]}.", file=sys.stderr)
  return near


def weights_of(args: argparse.Namespace) -> dict[str, str]:
  """Overrides with the starts of parts for --from=FILE, whose folder is that of --config-from
  from then on. Raises ConfigError where one is given without the other, RestoreError."""
  from t2i_jax.inference import starts_in_file
  from t2i_jax.pretrained.tensors import PICKLES

  path = Path(args.folder)
  if path.is_dir() or path.suffix not in (".safetensors", *PICKLES):
    if args.config_from is not None:
      raise ConfigError("--config-from belongs to --from=FILE.safetensors: leave it out.")
    return {}
  if args.config_from is None:
    raise ConfigError(
      f"--from={path} is one file, without configs, scheduler and tokenizers. Give the folder of a "
      "model of the same kind, as diffusers saves it, as --config-from=FOLDER; it needs no weights."
    )
  args.folder = args.config_from
  return starts_in_file(args.folder, path)


def opened(
  args: argparse.Namespace,
  prompts: Sequence[str],
  second: bool = False,
  conditions: Sequence[Any] = (),
) -> Any:
  """The model of --workdir or --from;   second: it is that of --refiner.

  conditions  images of --control
  Raises ConfigError for a flag of the other one.
  """
  from t2i_jax.inference import in_windows, open_model, open_pipeline
  from t2i_jax.inference.start import edited_size

  overrides = opened_with(args)
  if args.folder is None:
    return open_model(
      args.workdir, overrides, args.step, guide=args.classifier, guide_weight=args.weight
    )
  for flag, value in (("--step", args.step), ("--guidance.classifier", args.classifier)):
    if value is not None:
      raise ConfigError(f"{flag} belongs to --workdir: a published model has none.")
  overrides |= weights_of(args)
  if args.embedded_cfg is not None:
    overrides["model.guidance"] = str(args.embedded_cfg)
  too_long = args.too_long or "truncate"
  if too_long == "chunk":  # of the other encoders' prompts the beginning is taken
    overrides |= in_windows(args.folder, [*prompts, args.negative or ""])
    too_long = "truncate"
  size = sized(args, overrides)
  if not second:
    refiner.check_models(args)
  size = check_folder_control(args, conditions, size or edited_size(args.folder, args.reference))
  how = (overrides, size, args.dtype or "float32", too_long, args.offload, args.controlnet)
  words = lora.parsed_embeddings(args)
  return open_pipeline(args.folder, *how, lora.parsed(args.lora), words)


def cut_prompts(model: Any, prompts: Sequence[str]) -> list[str]:
  """A line for each prompt and encoder of which the encoder takes only the beginning."""
  found = []
  for name, encoder in model.system.text.items():
    for prompt, tokens in zip(prompts, encoder.tokenizer.lengths(prompts), strict=True):
      if tokens > encoder.length:
        found.append(f"{prompt[:40]!r}: {name} takes {encoder.length} of its {tokens} tokens.")
  return found


def run(args: argparse.Namespace) -> None:
  from t2i_jax.inference import start as files
  from t2i_jax.inference.refine import draw_refined
  from t2i_jax.inference.save import check_out, save_images
  from t2i_jax.systems.controlnet import check_count

  policy, prompts = guard.opened(args, read_prompts(args))
  start.check_flags(args)
  refiner.check_flags(args)
  check_control(args)
  check_folder(args, FOLDER_FLAGS)
  out = Path(args.out or Path(args.workdir or "") / "drawn")
  check_out(out)
  image, mask = start.opened(args)
  conditions = [files.ConditionImage(path) for path in args.control]
  model = opened(args, prompts, conditions=conditions)
  guard.check_texts(policy, model, prompts)
  if conditions:
    check_count(len(getattr(model.system, "controlnets", ())), len(conditions))
    files.check_conditions(conditions, model.config.data.image_size)
  if args.folder is not None and args.too_long != "error":
    print("".join(f"{line}\n" for line in cut_prompts(model, prompts)), end="", file=sys.stderr)
  config, texts = model.config, [prompt for prompt in prompts for _ in range(args.num)]
  seeds = [args.seed + i for _ in prompts for i in range(args.num)]
  controls = control_images(args, conditions, len(texts))
  how: dict[str, Any] = {"controls": controls} if controls else {}
  if image is None:
    if args.reference:
      model.need("redraw")
      shown = [files.fitted_reference(path, model.system) for path in args.reference]
      how["references"] = [files.repeated(one, len(texts)) for one in shown]
    if args.refiner is None:
      images = model.draw(texts, seeds, **how)
    else:
      second = refiner.opened(args, model, lambda own: opened(own, prompts, True))
      images = draw_refined(model, second, texts, seeds, refiner.end_of(args), **how)
      config = refiner.described(config, args)
  else:
    model.need("redraw")
    begun = start.start_of(args, image, mask, model, len(texts))
    images = model.redraw(texts, seeds, begun, **how)
  guard.check_drawn(policy, images, texts, seeds)
  for path in save_images(images, texts, seeds, out, config, args.num):
    print(path)
