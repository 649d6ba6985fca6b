"""The config of a model that another run adapts: of a work directory, or of a published folder."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from t2i_jax.data.roles import BETWEEN
from t2i_jax.errors import ConfigError
from t2i_jax.systems.adapters import merged_in
from t2i_jax.systems.trained import config_of

INSTANCE, ANCHOR = "instance", "anchor"  # first splits of objectives over batches by role
WHAT = "the work directory of a run, as runs/scenes_dit_flow, or the folder of a published model"


def base_config(path: str, of: str) -> ConfigDict:
  """A config in which all parts are frozen at their weights in `path`, unlocked.

  path  WHAT;   of: the config that needs it, for the message
  A published folder may be followed by a size, as in configs/finetune.py. The low-rank adapters of
  a run are merged into what they adapt (training.restore.part_of_run); its new words stay parts of
  their own. Raises ConfigError, also for a run that trains ControlNets.
  """
  if not path:
    raise ConfigError(f"--config=configs/{of}.py needs {WHAT}.")
  if not (Path(path) / "config.json").exists():
    from t2i_jax.configs import finetune

    c = finetune.get_config(path)
    for name in c.parts:
      c.parts[name].train = "none"
    return c
  c = config_of(path).copy_and_resolve_references()
  c.unlock()
  if c.get("controlnets"):
    raise ConfigError(
      f"{path} ({c.name}) trains {', '.join(c.controlnets)} beside a backbone that it does not "
      f"change. Give what that starts from: {c.parts.backbone.start!r} is its start."
    )
  for name in merged_in(c):
    del c.adapters[name], c.parts[name]
  if c.data.train_split.split(BETWEEN)[0] in (INSTANCE, ANCHOR):  # of an objective of its own
    c.train.objective, c.data.train_split = "denoising", "train"
    for name in set(c.parts) - {"backbone", "vae", *c.text.towers, *c.get("adapters", {})}:
      del c.parts[name]
  for name in c.parts:
    c.parts[name] = ConfigDict({"start": f"run:{path}", "train": "none"})
  return c


def add_adapters(c: ConfigDict, path: str, choices: Mapping[str, str]) -> None:
  """Adds adapters, and the parts that they are, to the config of base_config.

  path  its base;   choices: by name, as in config.adapters. Raises ConfigError for a name that the
  base has, too.
  """
  c.adapters = c.get("adapters", ConfigDict())
  for name, choice in choices.items():
    if name in c.adapters:
      raise ConfigError(
        f"{path} has adapters.{name} = {c.adapters[name]!r} already. The new words of an encoder "
        "are learned in one run: start from what that run started from, with all of them in tokens."
      )
    c.adapters[name] = choice
    c.parts[name] = ConfigDict({})
