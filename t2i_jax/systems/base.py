"""The config of a model that another run adapts: of a work directory, or of a published folder."""

from pathlib import Path

from ml_collections import ConfigDict

from t2i_jax.errors import ConfigError
from t2i_jax.systems.trained import config_of

WHAT = "the work directory of a run, as runs/scenes_dit_flow, or the folder of a published model"


def base_config(path: str, of: str) -> ConfigDict:
  """A config in which all parts are frozen at their weights in `path`, unlocked.

  path  WHAT;   of: the config that needs it, for the message
  A published folder may be followed by a size, as in configs/finetune.py. Raises ConfigError.
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
  for name in c.parts:
    c.parts[name] = ConfigDict({"start": f"run:{path}", "train": "none"})
  return c
