"""Where a run begins: at step 0, or at its newest checkpoint, of the same config and data."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from t2i_jax import config as configs
from t2i_jax.data.exposures import Order, changed
from t2i_jax.data.roles import each_split
from t2i_jax.data.source import manifest_hash
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.systems.parts import check_started
from t2i_jax.training.cached import check_weights
from t2i_jax.training.cached_text import check_text_weights
from t2i_jax.training.checkpoint import Meta
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.restore import copied_parts, load_starts, restore_state
from t2i_jax.training.save import Saver
from t2i_jax.training.setup import Run, set_up
from t2i_jax.training.state import TrainState, abstract_params, create_state

# Keys that identify a run: a checkpoint is restored only where these are equal.
IDENTITY: tuple[str, ...] = (
  "seed",
  "text.",
  "model.",
  "process.",
  "autoencoder",
  "controlnets.",
  "adapters.",
  "parts.",
  "rows.",
  "data.image_size",
  "data.train_split",
)
IDENTITY += ("train.batch", "train.objective", "train.optimizer")
FREE = ("model.remat", "model.attention", "text.too_long")


class Beginning(NamedTuple):
  """step: the last one done;   meta: of checkpoints to come;   notes: differences that are taken"""

  run: Run
  step: int
  state: TrainState
  meta: Meta
  notes: tuple[str, ...]


def begin(c: ConfigDict, run: Run, saver: Saver, new_data: bool) -> Beginning:
  """The state that training goes on from.

  new_data  whether the data may be others than those of the checkpoint
  Raises ConfigError where the run has done more than train.steps, RestoreError where a checkpoint
  cannot be used or is of another run or of other data; nothing on disk is changed then.
  """
  steps, data = saver.steps(), manifest_hash(c.data.dir)
  if not steps:
    check_started(run.system.parts)
    starts = load_starts(run.system, abstract_params(run.system, run.mesh))
    state = create_state(run.system, run.optimizers, run.abstract, jax.random.key(c.seed), starts)
    copied = copied_parts(run.system, c.checkpoint.frozen, state.frozen, starts)
    frozen = fingerprint(state.frozen)
    check_weights(c, run.system.latents, frozen)
    check_text_weights(c, run.system, frozen)
    meta = Meta(c, run.tokenizer, 0, frozen, copied, data, without=run.without)
    return Beginning(run, 0, state, meta, ())
  if steps[-1] > c.train.steps:
    raise ConfigError(
      f"train.steps = {c.train.steps}: the run in {saver.root.parent} has done {steps[-1]} steps. "
      f"Write --config.train.steps=N with N above {steps[-1]}, or use another --workdir."
    )

  def read(step: int) -> Beginning:
    saved = saver.meta(step)
    changed = check_same_run(saved.config, c, step)
    notes = [f"{key} was {old!r} in the checkpoint, is {new!r} now" for key, (old, new) in changed]
    taken, since = run, saved.since
    if saved.data != data or saved.tokenizer != run.tokenizer:
      notes.append(check_data(c, saved, run, data, step, new_data))
      if saved.tokenizer != run.tokenizer:  # the weights know its ids
        taken = set_up(c, saved.tokenizer)
    if saved.data != data:
      since = step
    elif saved.without != run.without:
      check_not_read(saved, run, step)
    state = restore_state(saver, step, saved, taken.system, taken.abstract)
    frozen = fingerprint(state.frozen)
    check_weights(c, run.system.latents, frozen)
    check_text_weights(c, run.system, frozen)
    meta = saved._replace(config=c, frozen=frozen, data=data, arrays=None)
    meta = meta._replace(since=since, without=run.without)
    return Beginning(taken, step, state, meta, tuple(notes))

  step, found = saver.newest(read)
  saver.set_aside(step)
  return found


def check_same_run(saved: ConfigDict, config: ConfigDict, step: int) -> list[tuple[str, tuple]]:
  """Raises RestoreError where the checkpoint is of another run; returns allowed differences."""
  different = configs.differences(saved, config)
  fatal = {
    key: pair
    for key, pair in different.items()
    if key.startswith(IDENTITY) and key not in FREE and not key.endswith(".start")
  }
  if fatal:
    lines = [f"{key} is {a!r} there, {b!r} here" for key, (a, b) in fatal.items()]
    raise RestoreError(
      f"the checkpoint of step {step} was written by {saved.name}, this run is {config.name}: "
      f"{'; '.join(lines)}. Use another --workdir, or the config of the checkpoint."
    )
  return [(key, pair) for key, pair in different.items() if key not in fatal]


def check_not_read(saved: Meta, run: Run, step: int) -> None:
  """Raises RestoreError where the checkpoint has read other records than the run would have.

  So a run that goes on with other tombstones is, to the bit, the run that had them from step 0.
  """
  sizes = tuple((source.split, len(source)) for source in each_split(run.source))
  order = order_of(saved, sizes, run.row_maker.window)
  found = {key: steps for key, steps in changed(order, run.without, step).items() if steps}
  if found:
    first = min(steps[0] for steps in found.values())
    raise RestoreError(
      f"data.tombstones: the checkpoint of step {step} has read {len(found)} records that a run "
      f"with this list would not have read, or read in other places, first at step {first}. Start "
      f"at a checkpoint before that one, as t2i erase does, or in another --workdir."
    )


def order_of(meta: Meta, sizes: tuple[tuple[str, int], ...], window: int) -> Order:
  """The order that a checkpoint's run reads.   sizes: splits that are read in turn, with records"""
  c = meta.config
  return Order(sizes, c.seed, c.train.batch, window, meta.since, meta.without)


def check_data(c: ConfigDict, saved: Meta, run: Run, data: str, step: int, new_data: bool) -> str:
  """Raises RestoreError where the data are not the checkpoint's; says so where that is allowed."""
  where = f"data.dir = {c.data.dir!r}"
  ids = "" if saved.tokenizer == run.tokenizer else ", and its tokenizer gives other ids"
  if not saved.data and not ids:
    return f"{where}: the checkpoint of step {step} does not say which data it is of"
  hashes = f"manifest.json has the hash {data[:12]}, {saved.data[:12] or 'unknown'} then"
  if not new_data:
    raise RestoreError(
      f"{where} is not the folder that step {step} was trained on: {hashes}{ids}. Put the original "
      "there, or go on with other data and the checkpoint's tokenizer by --new-data."
    )
  return f"{where} is another folder than before: {hashes}{ids}; the checkpoint's tokenizer is kept"
