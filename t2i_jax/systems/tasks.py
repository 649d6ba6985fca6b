"""What a system can do, as a record that it builds: None is what it cannot."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from t2i_jax.data.record import Record
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process import Prediction, Time


class Start(NamedTuple):
  """Images to start from, one a prompt.

  images    uint8 [n, H, W, 3], or float32 latents [n, h, w, C]
  mask      bool [n, H, W], True where the image is to be filled; None: everywhere
  strength  noise level t in (0, 1] from which it is sampled down
  source    prompts that describe the images, for inversion: the noise is the one that the sampler
            would have made them from. None: fresh noise
  inverter  one of sampling.inversion.INVERTERS
  repeats   how often each step is done again with a mask [2201.09865]; 1: replacement alone
  noise     unit Gaussian float32 [n, h, w, C] that is added; None: that of the seeds
  """

  images: np.ndarray
  mask: np.ndarray | None = None
  strength: float = 1.0
  source: Sequence[str] | None = None
  inverter: str = "ddim_inverse"
  repeats: int = 1
  noise: np.ndarray | None = None


class ControlImages(NamedTuple):
  """Condition images of a model's ControlNets, and how these act.

  images  one for each ControlNet: uint8 [n, H, W, 3], red, green, blue, of the size that is drawn
  scales  of the residuals
  starts, ends  fractions of the network's calls between which it is used: of N calls, call i is
          where i / N >= start and (i + 1) / N <= end, as in diffusers
  guess   the residuals of the null are 0, those of the prompt grow from a tenth of their scale in
          the first skip connection to all of it in the middle, as guess mode of diffusers has it
  Scales, starts and ends: one for all ControlNets, or one for each.
  """

  images: Sequence[np.ndarray]
  scales: Sequence[float] = (1.0,)
  starts: Sequence[float] = (0.0,)
  ends: Sequence[float] = (1.0,)
  guess: bool = False


class Ode(NamedTuple):
  """How a likelihood is integrated.

  steps     of the ODE, 4 network calls each
  probes    random vectors of the divergence, an image
  smallest  sigma / (alpha + sigma) at which an image counts as data
  """

  steps: int = 50
  probes: int = 1
  smallest: float = 1e-3


# (params, prompts, one seed a prompt) -> uint8 [n, H, W, 3], or float32 latents [n, h, w, C]. That
# of a model from captions to images takes noise= and decode= besides: systems.draw.Drawing.draw.
Draw = Callable[..., np.ndarray]
# The same, from images.
Redraw = Callable[..., np.ndarray]
# (params, images, one caption an image, one seed an image, Ode) -> bits a dimension [n]
Likelihood = Callable[[Params, np.ndarray, Sequence[str], Sequence[int], Ode], np.ndarray]
# (params, images uint8 [n, H, W, 3], one seed an image) -> captions
Caption = Callable[[Params, np.ndarray, Sequence[int]], list[str]]
# (params, images, one instruction an image, one seed an image, further images of each) -> images
Edit = Callable[..., np.ndarray]
# (params, images uint8 [n, H, W, 3]) -> the same through latents and back
Reconstruct = Callable[[Params, np.ndarray], np.ndarray]
# (params, x_t [B, H, W, C], time, condition) -> what the network predicts
Denoise = Callable[[Params, jax.Array, Time, Conditioning], Prediction]
# (params, x_t [B, H, W, C], time, captions (ids [B, T], mask [B, T])) -> log p(y | x_t) [B], nats
Classify = Callable[[Params, jax.Array, Any, Any], jax.Array]
# (params, images uint8 [n, H, W, 3]) -> unit features [n, D] float32
Embed = Callable[[Params, np.ndarray], np.ndarray]
# (images uint8 [n, H, W, 3], seed) -> one view of each, uint8 [n, side, side, 3]
MakeViews = Callable[[np.ndarray, int], np.ndarray]


ONLY_EDITS = ("edits",)


class Tasks(NamedTuple):
  """The tasks of a system with config.sampling on a mesh.

  chat      (params, seed) -> systems.chat.Chat
  condition (records) -> what ControlNets with a `condition` read of them
  measures  what `t2i eval` scores besides images drawn: "captions", "edits"; alone, of a model that
            draws nothing by a caption: "reconstruction", ONLY_EDITS
  """

  draw: Draw | None = None
  redraw: Redraw | None = None
  likelihood: Likelihood | None = None
  caption: Caption | None = None
  edit: Edit | None = None
  chat: Callable[[Params, int], Any] | None = None
  denoise: Denoise | None = None
  condition: Callable[[Sequence[Record]], ControlImages] | None = None
  classify: Classify | None = None
  embed: Embed | None = None
  views: MakeViews | None = None
  reconstruct: Reconstruct | None = None
  measures: tuple[str, ...] = ()

  def need(self, task: str, where: str) -> Any:
    """The task of that name. Raises ConfigError saying which configs can do it."""
    found = getattr(self, task)
    if found is None:
      raise ConfigError(f"{where} cannot {task}: {ABLE[task]}.")
    return found


# Which systems have a task, for the message where one is missing.
ABLE = {
  "draw": "a classifier draws nothing, give it as --guidance.classifier to a model that draws; an "
  "autoencoder draws nothing, train a model on its latents with --config.autoencoder=run(path=...);"
  " an encoder of images draws nothing, give it as --encoder to t2i eval",
  "redraw": "only a model from captions to images starts from an image, as "
  "configs/scenes_dit_flow.py trains it; a joint model edits: t2i chat",
  "likelihood": "only a model from captions to images has one, as configs/scenes_dit_flow.py trains"
  " it",
  "denoise": "only a model from captions to images denoises, as configs/scenes_dit_flow.py trains"
  " it",
  "caption": "it has no image input. Train configs/transfusion_scenes.py",
  "edit": "it has no image input. Train configs/scenes_instruct.py or "
  "configs/transfusion_scenes.py, or use --from of FLUX.2 or Qwen-Image-Edit",
  "chat": "it has no image input. Train configs/transfusion_scenes.py, or use t2i sample",
  "embed": "it is no encoder of images. Train one with configs/emoji_contrastive.py",
  "views": "it is no encoder of images. Train one with configs/emoji_contrastive.py",
  "reconstruct": "it is no autoencoder. Train one with configs/vae_kl.py or configs/vq.py",
  "classify": "it is no classifier. Train one with configs/scenes_classifier.py",
}
