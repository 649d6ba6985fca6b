"""What an editor is given, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from t2i_jax.errors import ConfigError
from t2i_jax.evaluation.report import Section


class Request(NamedTuple):
  """An edit.

  prompt     what the image shows, or what is drawn first
  target     what it is to show
  seeds      an image is drawn of each
  image      uint8 [H, W, 3], fitted to the model; None: it is drawn
  mask       bool [H, W], True where the image may change; None: everywhere
  strengths  how strongly it is edited, in the method's own unit; (): the method's default
  shown      of a model that reads images uint8 [h, w, 3]: the image at its own size, and the others
             that the prompt speaks of, in order; (): the image alone
  """

  prompt: str
  target: str
  seeds: tuple[int, ...] = (0,)
  image: np.ndarray | None = None
  mask: np.ndarray | None = None
  strengths: tuple[float, ...] = ()
  shown: tuple[np.ndarray, ...] = ()


class Edited(NamedTuple):
  """What a method returns.

  before    uint8 [n, H, W, 3], one of each seed
  after     by strength, the same
  sections  further parts of the report
  sheets    further images, by the name of their file
  """

  before: np.ndarray
  after: Mapping[float, np.ndarray]
  sections: Sequence[Section] = ()
  sheets: Mapping[str, Image.Image] = {}


# (inference.Model, Request) -> Edited. Raises ConfigError, PromptError before anything is compiled.
Method = Callable[[Any, Request], Edited]


def needs_image(request: Request, method: str) -> np.ndarray:
  """The image of a request. Raises ConfigError where there is none."""
  if request.image is None:
    raise ConfigError(f"--method={method} edits an image: give it with --image=FILE.")
  return request.image
