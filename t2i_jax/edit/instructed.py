"""Editing by a model that reads images: FLUX.2, Qwen-Image-Edit, InstructPix2Pix, a joint model."""

from dataclasses import dataclass
from typing import Any

from t2i_jax.edit.request import Edited, Request, needs_image
from t2i_jax.errors import ConfigError
from t2i_jax.evaluation.report import Section
from t2i_jax.inference.start import repeated


@dataclass(frozen=True)
class Instruct:
  """The image changed as the prompt says, an instruction, which may speak of the others shown.

  It has no strengths: how much is done is the guidance scale, or that of the image in `dual`.
  """

  def __call__(self, model: Any, request: Request) -> Edited:
    image, n = needs_image(request, "instruct"), len(request.seeds)
    if request.mask is not None:
      raise ConfigError("--mask: --method=instruct edits the whole image. Leave it out.")
    if request.strengths:
      raise ConfigError(
        "--strengths: --method=instruct has none. Use --cfg, or image_scale of --guidance=dual."
      )
    first, *others = request.shown or (image,)
    texts, rows = [request.target] * n, [repeated(one, n) for one in others]
    after = model.edit(repeated(first, n), texts, list(request.seeds), rows)
    sections: list[Section] = []
    if others:
      names = [f"image {i}" for i, _ in enumerate(others, 2)]
      sections = [("Shown besides", "", list(zip(names, others, strict=True)))]
    return Edited(repeated(image, n), {float(model.config.sampling.cfg): after}, sections)
