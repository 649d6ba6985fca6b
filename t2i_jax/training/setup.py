"""A config made into the parts of a run, every mistake found before anything is compiled."""

from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.edit_rows import check_edits
from t2i_jax.data.lengths import check_lengths
from t2i_jax.data.loader import RowMaker
from t2i_jax.data.roles import Roles, check_roles, each_split, open_split
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.tombstones import read_tombstones
from t2i_jax.data.transforms import conditions_of
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.parallel import mesh_of, owned_rows
from t2i_jax.systems import System, Tasks, make_system
from t2i_jax.training.as_published import check_published
from t2i_jax.training.cached import latents_in, reading
from t2i_jax.training.cached_text import reading_text
from t2i_jax.training.optimizer import Optimizers, make_optimizers
from t2i_jax.training.state import TrainState, abstract_state


class Run(NamedTuple):
  """rows are those of a global batch that this process reads; abstract is the state's shapes.

  row_maker  makes the rows of a batch of records
  notes      lines for the log, about the data
  without    records that are not read, by split
  """

  mesh: Mesh
  rows: np.ndarray
  source: ShardSource | Roles
  val_source: ShardSource
  tokenizer: Tokenizer
  system: System
  optimizers: Optimizers
  abstract: TrainState
  tasks: Tasks
  row_maker: RowMaker
  notes: list[str]
  without: dict[str, tuple[int, ...]]


def set_up(c: ConfigDict, tokenizer: Tokenizer | None = None) -> Run:
  """Builds and checks the parts of a training run; allocates no parameter.

  tokenizer  by default the one that config.text.tokenizer names
  Raises ConfigError, MeshError, DataError, PromptError.
  """
  mesh = mesh_of(c.mesh)
  rows = owned_rows(mesh, c.train.batch)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if c.train.batch % (c.train.accumulate * parts):
    raise ConfigError(
      f"train.batch = {c.train.batch} does not divide into train.accumulate = "
      f"{c.train.accumulate} parts over data x fsdp = {parts} devices. Use a train.batch that "
      f"{c.train.accumulate * parts} divides, or train.accumulate=1."
    )
  latents = latents_in(c)
  without = read_tombstones(c.data.tombstones, c.data.dir)
  source = open_split(c.data.dir, c.data.train_split, without)
  val_source = ShardSource(c.data.dir, c.data.val_split, without.get(c.data.val_split, ()))
  tokenizer = tokenizer or Tokenizer.load(c.data.dir, c.text.tokenizer)
  system = make_system(c, tokenizer)
  if set(c.train.caption_dropout) != set(system.droppable):
    raise ConfigError(
      f"train.caption_dropout names {sorted(c.train.caption_dropout)}; the text encoders are "
      f"{sorted(system.droppable)}."
    )
  tasks = system.tasks(c.get("sampling"), mesh)
  if tasks.draw is not None:
    system.check_captions([*c.sampling.prompts, c.sampling.negative])
  check_published(c, system)
  system, of_text = reading_text(reading(system, latents, c), c)
  check_conditions(system, source, val_source)
  row_maker = system.row_maker(c.text.too_long, c.data.crop)
  check_roles(source, system.roles, c.train.batch, c.data.train_split, c.train.accumulate)
  system.check_training(c.train.batch // c.train.accumulate)
  used = dict.fromkeys(each_split(source)) | {val_source: c.eval.rows * row_maker.window}
  said = [
    check_lengths(part, limit, c.text.too_long, records)
    for part, records in used.items()
    for limit in row_maker.limits
  ]
  if without:
    said.append(f"{sum(map(len, without.values())):,} records are not read: {c.data.tombstones}")
  notes = [*of_text, *dict.fromkeys(filter(None, said))]
  optimizers = make_optimizers(c.train, system)
  abstract = abstract_state(system, optimizers, mesh)
  return Run(
    mesh=mesh,
    rows=rows,
    source=source,
    val_source=val_source,
    tokenizer=tokenizer,
    system=system,
    optimizers=optimizers,
    abstract=abstract,
    tasks=tasks,
    row_maker=row_maker,
    notes=notes,
    without=without,
  )


def check_conditions(system: System, *sources: ShardSource | Roles) -> None:
  """Raises DataError where the first record of a split has not what a ControlNet, or a model that
  edits, is trained on."""
  conditions, size = system.reads.get("conditions", {}), system.image_shape[:2]
  for source in sources if getattr(system, "edits", False) else ():
    for split in each_split(source):
      check_edits(split, size)
  for source in sources if conditions else ():
    record = source[0]
    try:
      conditions_of(record, conditions, size)
    except DataError as error:
      raise DataError(
        f"controlnets.{', '.join(conditions)}: record {record.key!r} of {source.folder}: {error}"
      ) from error
