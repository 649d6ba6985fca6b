"""What the compiled sampler of a model that draws is given, as pytrees of rows."""

from typing import Any, NamedTuple


class Origin(NamedTuple):
  """images [B, H, W, C] or what they are encoded to; fill [B, H, W, 1] bool or None; source: a
  prompt, as in Inputs, or None."""

  images: Any
  fill: Any = None
  source: Any = None


class Inputs(NamedTuple):
  """What a compiled sampler is given besides the backbone's parameters and a plan.

  cond    of the prompts: their tokens, and images of an encoder that sees them, by encoder, which
          `_conditioned` replaces by the encoders' output, a Conditioning;   others: of each further
          prompt of an image
  null    of the negative prompt, or None where it has no weight
  references  images [B, H, W, 3] that the model is shown besides, encoded like those of `origin`
  seeds   [B] uint32;   noise: unit Gaussian [B, h, w, C] in place of that of the seeds, or None
  scale   of guidance
  label, guide_params, weight  captions and parameters of a noisy classifier, and how strongly it
          guides
  weak, weak_params  of the weak model
  """

  cond: Any
  seeds: Any
  scale: Any = None
  noise: Any = None
  null: Any = None
  references: tuple[Any, ...] = ()
  others: tuple[Any, ...] = ()
  label: Any = ()
  guide_params: Any = None
  weight: Any = None
  weak: Any = None
  weak_params: Any = None
  origin: Origin | None = None
