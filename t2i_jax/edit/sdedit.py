"""SDEdit [2108.01073]: an image gets noise, and is drawn again under another prompt."""

from dataclasses import dataclass
from typing import Annotated, Any

from t2i_jax.edit.request import Edited, Request, needs_image
from t2i_jax.inference.start import repeated
from t2i_jax.ranges import Range, checked
from t2i_jax.systems.tasks import Start

STRENGTHS = (0.3, 0.5, 0.7)
Strength = Annotated[float, Range("(0, 1]")]


@dataclass(frozen=True)
class SDEdit:
  """By rising noise level t, the strength: [2108.01073 alg. 1]; with a mask, alg. 2.

  repeats  of each step with a mask: RePaint's
  """

  repeats: Annotated[int, Range("[1, 1000]")] = 1

  def __call__(self, model: Any, request: Request) -> Edited:
    image, n = needs_image(request, "sdedit"), len(request.seeds)
    given, mask = repeated(image, n), request.mask
    fill = None if mask is None else repeated(mask, n)
    after = {}
    for strength in request.strengths or STRENGTHS:
      checked(strength, Strength, "--strengths")
      start = Start(given, fill, strength, repeats=1 if mask is None else self.repeats)
      after[strength] = model.redraw([request.target] * n, list(request.seeds), start)
    return Edited(given, after)
