"""Files of adapters with published models: drawn with, merged into a folder, written of a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError, WorkdirError
from t2i_jax.inference.card import card
from t2i_jax.inference.export import check_target, run_plan, write_plan
from t2i_jax.models.adapters import Adapters, merge_adapters
from t2i_jax.models.params import Params
from t2i_jax.parallel import make_mesh
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.lora import BACKBONE, Network, matrices_of, read_adapters
from t2i_jax.pretrained.lora_files import write_matrices
from t2i_jax.pretrained.pipelines import read_index
from t2i_jax.pretrained.tensors import write_file
from t2i_jax.systems import System, make_system
from t2i_jax.systems.adapters import LowRank, Words
from t2i_jax.systems.folder import folder_config
from t2i_jax.training.checkpoint import open_checkpoints
from t2i_jax.training.restore import load_starts, restore_params
from t2i_jax.training.state import abstract_params

Given = Sequence[tuple[str, float]]  # a file or folder of adapters, and a factor of their scales
ByPart = Mapping[str, Sequence[tuple[Adapters, float]]]
UNADAPTED = "vae"
EMBEDDINGS = "learned_embeds.safetensors"  # as diffusers names the file of new words


def read_given(given: Given, system: System) -> ByPart:
  """The adapters of files by part of a system. Raises RestoreError for those of another model."""
  found: dict[str, list[tuple[Adapters, float]]] = {}
  networks = _networks(system)
  for path, scale in given:
    for name, adapters in read_adapters(path, networks).items():
      found.setdefault(name, []).append((adapters, scale))
  return found


def _networks(system: System) -> dict[str, Network]:
  """The parts that adapters of files can be of: how they are made, and their configs."""
  found: dict[str, Network] = {}
  for name, part in system.parts.items():
    if name == UNADAPTED:
      continue
    try:
      spec_for(part.config)
    except ConfigError:
      continue
    found[name] = (part.make, part.config)
  return found


def with_given(params: Params, given: Sequence[tuple[Adapters, float]]) -> Params:
  """The weights of a part with adapters merged, in the dtype that they have."""
  for adapters, scale in given:
    params = merge_adapters(params, adapters, scale)
  return params


def merge_folder(
  folder: str | Path, given: Given, to: str | Path, dtype: str = "", licence: str = ""
) -> None:
  """Writes a published model with adapters merged into its weights to a new folder.

  dtype, licence  as for export_folder; merged weights are float32 where no dtype is given
  Raises as export_folder does, and RestoreError for adapters of another model.
  """
  root, to = Path(folder), Path(to)
  check_target(to, dtype, [root])
  config = folder_config(root)
  system = make_system(config, Tokenizer.load("", config.text.tokenizer))
  found = read_given(given, system)
  parts = {
    name: part._replace(train="all" if name in found else "none")
    for name, part in system.parts.items()
  }
  system = dataclasses.replace(system, parts=parts)
  starts = {name: Path(part.start.removeprefix("folder:")) for name, part in parts.items()}
  plan = run_plan(system, config, starts, dtype, licence)
  mesh = make_mesh(devices=jax.devices()[:1])
  read = load_starts(system, abstract_params(system, mesh), tuple(found))
  params = {name: with_given(read[name], own) for name, own in found.items()}
  said = ", ".join(f"{path} x {scale:g}" for path, scale in given)
  made = f"a published {read_index(root).name} with the adapters {said} merged into its weights."
  write_plan(to, plan, params, card(config, plan.licence, plan.rows, made))


def is_adapter(workdir: str | Path, part: str) -> bool:
  """Whether a part of a run is adapters. Raises RestoreError."""
  with closing(open_checkpoints(workdir)) as checkpoints:
    _, meta = checkpoints.newest(checkpoints.meta)
  return part in meta.config.get("adapters", {})


def export_adapter(workdir: str | Path, to: str | Path, part: str, form: str = "diffusers") -> Path:
  """Writes the adapters of a run, averaged, as a file that other libraries read.

  part  of the run, for which is_adapter holds;   form: one of pretrained.lora_files.FORMATS. New
        words are a safetensors file of their embeddings, by word
  Returns what was written. Raises ConfigError for those of a model without a published layout,
  RestoreError, WorkdirError.
  """
  to = Path(to)
  if to.exists() and (to.is_file() or any(to.iterdir())):
    raise WorkdirError(f"--to={to} is not empty. Choose another folder, or remove it first.")
  mesh = make_mesh(devices=jax.devices()[:1])
  with closing(open_checkpoints(workdir)) as checkpoints:

    def read(step: int) -> tuple[System, Params]:
      meta = checkpoints.meta(step)
      system = make_system(meta.config, meta.tokenizer)
      if isinstance(system.adapters[part], LowRank):
        spec_for(_base(system, part))
      return system, restore_params(checkpoints, step, meta, system, mesh)

    _, (system, params) = checkpoints.newest(read)
  one = system.adapters[part]
  own, base = params[part], params[one.of]
  try:
    if isinstance(one, Words):
      return _write_words(to, one, jax.device_get(one.rows(own, base)))
    if not isinstance(one, LowRank):
      raise ConfigError(
        f"--part={part}: changed embeddings have no file of their own. Leave out --part: the whole "
        "model is written with them."
      )
    matrices = matrices_of(jax.device_get(one.adapters(own, base)), _base(system, part))
    return write_matrices(to, {_subfolder(system, part): matrices}, form)
  except OSError as error:
    raise WorkdirError(f"--to={to} cannot be written: {error}.") from error


def _base(system: System, part: str) -> Any:
  return system.parts[system.adapters[part].of].config


def _subfolder(system: System, part: str) -> str:
  """The folder of the adapted network in a pipeline."""
  name = system.adapters[part].of
  if name != BACKBONE:
    return name
  return "unet" if spec_for(_base(system, part)).hf_class.startswith("UNet") else "transformer"


def _write_words(to: Path, words: Words, rows: np.ndarray) -> Path:
  path = to if to.suffix == ".safetensors" else to / EMBEDDINGS
  path.parent.mkdir(parents=True, exist_ok=True)
  write_file(path, {word: np.asarray(rows[i : i + 1]) for i, word in enumerate(words.tokens)})
  return path
