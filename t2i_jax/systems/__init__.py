"""What a config names: parts with weights, an objective over them, and the tasks it can do.

`make_system` builds one; `System` is what the train step, checkpoints and inference know of it.
"""

from t2i_jax.systems.make import for_inference, make_system
from t2i_jax.systems.parts import Part, merge_params, split_params
from t2i_jax.systems.system import Draws, System, Term
from t2i_jax.systems.tasks import Tasks

__all__ = [
  "Draws",
  "Part",
  "System",
  "Tasks",
  "Term",
  "for_inference",
  "make_system",
  "merge_params",
  "split_params",
]
