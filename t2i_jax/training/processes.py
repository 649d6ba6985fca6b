"""What the processes of one run agree on. Every process calls these, in the same order."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def any_process(flag: bool) -> bool:
  """Whether the flag is set on any process."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def of_first(value: Any) -> Any:
  """The value of process 0, as JSON holds it, on every process."""
  if jax.process_count() == 1:
    return value
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  sent = np.zeros(size, np.uint8)
  if jax.process_index() == 0:
    sent[:] = data
  return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes())
