"""What a system can do, as a record that it builds: None is what it cannot."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params

# (params, prompts, one seed a prompt) -> uint8 [n, H, W, 3], or float32 latents [n, h, w, C]
Draw = Callable[[Params, Sequence[str], Sequence[int]], np.ndarray]
# (params, images uint8 [n, H, W, 3], one seed an image) -> captions
Caption = Callable[[Params, np.ndarray, Sequence[int]], list[str]]
# (params, images, one instruction an image, one seed an image) -> images
Edit = Callable[[Params, np.ndarray, Sequence[str], Sequence[int]], np.ndarray]
# (params, x_t [B, H, W, C], time, captions (ids [B, T], mask [B, T])) -> log p(y | x_t) [B], nats
Classify = Callable[[Params, jax.Array, Any, Any], jax.Array]


class Tasks(NamedTuple):
  """The tasks of a system with config.sampling on a mesh.

  chat      (params, seed) -> systems.chat.Chat
  measures  what `t2i eval` scores besides images drawn: "captions", "edits"
  """

  draw: Draw | None = None
  caption: Caption | None = None
  edit: Edit | None = None
  chat: Callable[[Params, int], Any] | None = None
  classify: Classify | None = None
  measures: tuple[str, ...] = ()

  def need(self, task: str, where: str) -> Any:
    """The task of that name. Raises ConfigError saying which configs can do it."""
    found = getattr(self, task)
    if found is None:
      raise ConfigError(f"{where} cannot {task}: {ABLE[task]}.")
    return found


# Which systems have a task, for the message where one is missing.
ABLE = {
  "draw": "a classifier draws nothing; give it as --guidance.classifier to a model that draws",
  "caption": "it has no image input. Train configs/transfusion_scenes.py",
  "edit": "it has no image input. Train configs/transfusion_scenes.py",
  "chat": "it has no image input. Train configs/transfusion_scenes.py, or use t2i sample",
  "classify": "it is no classifier. Train one with configs/scenes_classifier.py",
}
