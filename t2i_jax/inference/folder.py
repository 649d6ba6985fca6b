"""A published model opened from its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import apply_overrides
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import RestoreError
from t2i_jax.inference import words
from t2i_jax.inference.adapters import Given, read_given, with_given
from t2i_jax.inference.open import Model, tasks_of
from t2i_jax.models.params import Params
from t2i_jax.parallel import MESH_AXES, bound, mesh_of, overridden
from t2i_jax.pretrained.latent_diffusion import parts_of
from t2i_jax.systems import System, make_system
from t2i_jax.systems.folder import folder_config
from t2i_jax.systems.parts import InTurn
from t2i_jax.training.restore import load_starts
from t2i_jax.training.state import abstract_params


class Prepared(NamedTuple):
  """A published model before its weights are read.

  abstract  parameters as ShapeDtypeStructs with their shardings, in the dtype they are read in
  """

  config: ConfigDict
  mesh: Mesh
  system: System
  tokenizer: Tokenizer
  abstract: Params


def prepare(
  folder: str | Path,
  overrides: dict[str, str] | None = None,
  size: tuple[int, int] | None = None,
  dtype: str = "float32",
  too_long: str = "truncate",
  controlnets: Sequence[str | Path] = (),
  devices: list | None = None,
) -> Prepared:
  """Arguments and errors as for open_pipeline. No weights are read.

  devices  of the mesh, by default all of this machine
  """
  config = folder_config(folder, size, too_long, controlnets)
  given = {f"mesh.{axis}": "1" for axis in MESH_AXES} | {"mesh.data": "-1", "model.dtype": dtype}
  apply_overrides(config, given | (overrides or {}), f"the config of {folder}")
  if config.sampling.guidance.startswith("cfg"):
    config.sampling.cfg = max(1.0, config.sampling.cfg)  # below 1 diffusers does not guide, either
  with overridden(config.mesh.rules):
    mesh = mesh_of(config.mesh, devices)
    tokenizer = Tokenizer.load("", config.text.tokenizer)
    system = make_system(config, tokenizer)
    abstract = abstract_params(system, mesh)
  abstract = {name: _in_dtype(tree, name, dtype) for name, tree in abstract.items()}
  return Prepared(config, mesh, system, tokenizer, abstract)


def starts_in_file(folder: str | Path, path: str | Path) -> dict[str, str]:
  """Overrides with which the parts of a folder's model that a file of the original layout holds
  have its weights. Raises RestoreError for a file that cannot be read, or holds none of them."""
  held, parts = parts_of(path), folder_config(folder).parts
  found = {f"parts.{name}.start": f"file:{path}" for name in held if name in parts}
  if len(found) < len(held):
    other = [name for name in held if name not in parts]
    raise RestoreError(f"{path} has {', '.join(other)}, which the model of {folder} has not.")
  return found


def open_pipeline(
  folder: str | Path,
  overrides: dict[str, str] | None = None,
  size: tuple[int, int] | None = None,
  dtype: str = "float32",
  too_long: str = "truncate",
  in_turn: bool = False,
  controlnets: Sequence[str | Path] = (),
  loras: Given = (),
  embeddings: words.Given = (),
) -> Model:
  """A published model on all devices, its weights read onto the mesh, each device its own shards.

  overrides        of folder_config's keys, as for open_model
  size, too_long, controlnets  as for folder_config
  dtype            of activations and weights; the autoencoder's weights stay float32, and so do
                   its activations unless the key `autoencoder` says otherwise: coder_of
  in_turn          encoders, backbone and autoencoder are in memory one after the other, and read
                   anew for each call
  loras            files or folders of adapters, which are merged into the weights, with factors
  embeddings       files of new words, and what to call the word or "": pretrained.embeddings
  Raises RestoreError, ConfigError, MeshError.
  """
  config, mesh, system, tokenizer, abstract = prepare(
    folder, overrides, size, dtype, too_long, controlnets
  )
  adapters = read_given(loras, system)
  system, rows = words.with_embeddings(system, embeddings)

  def read(name: str) -> Params:
    params = load_starts(system, abstract, (name,))[name]
    adapted = with_given(params, adapters.get(name, ()))
    return jax.block_until_ready(words.with_rows(adapted, rows.get(name)))

  with overridden(config.mesh.rules):
    tasks = tasks_of(system, config, mesh)
    params: Any = InTurn(system.parts, bound(read))
    if not in_turn:
      params = params.hold(system.parts)
  return Model(config, system, tokenizer, params, 0, mesh, tasks, f"--from={folder}")


def _in_dtype(tree: Params, part: str, dtype: str) -> Params:
  """The abstract weights of a part in the dtype that they are read in."""
  kept = "float32" if part == "vae" else dtype
  return jax.tree.map(lambda leaf: leaf.update(dtype=kept), tree)
