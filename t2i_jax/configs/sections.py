"""Sections that several configs share: functions that return plain dicts, and
one that sets some keys. t2i_jax.config.DEFAULTS
has the keys that none of them lists."""

from typing import Any

from ml_collections import ConfigDict

SCENES_PROMPTS = (
  "a red circle",
  "a blue square",
  "a green triangle",
  "a yellow circle and a purple square",
  "a red circle left of a blue square",
  "a green square above a red triangle",
)
EMOJI_PROMPTS = (
  "fox, Twemoji style",
  "fox, OpenMoji style",
  "red heart, Twemoji style",
  "red heart, OpenMoji style",
  "pizza, Twemoji style",
  "rocket, OpenMoji style",
  "grinning face, Twemoji style",
  "mushroom, OpenMoji style",
)


def text(vocab: int, length: int, encoder: str) -> dict[str, Any]:
  """One encoder of captions, named "text".   length: tokens of a caption, begin and end counted"""
  return {"vocab": vocab, "length": length, "towers": {"text": encoder}}


def labels(classes: int) -> dict[str, Any]:
  """Captions that are the number of a class, and the null beside them."""
  return {
    "tokenizer": f"labels:{classes}",
    "vocab": classes + 1,
    "length": 1,
    "towers": {"label": "label"},
  }


def parts(*names: str) -> dict[str, Any]:
  """Networks that start at random and are trained, all of them."""
  return {name: {} for name in names}


def latent_model(kind: str, **sizes: Any) -> dict[str, Any]:
  """A backbone on latents: patches of 2, bfloat16."""
  runs = {"dtype": "bfloat16", "remat": "none", "attention": "xla"}
  return {"kind": kind, "channels": 4, "patch": 2} | runs | sizes


def small_unet(widths: tuple[int, ...]) -> dict[str, Any]:
  """A U-Net on pixels: attention at a fourth and an eighth of their sides, one block a level.

  widths  of the four levels
  """
  runs = {"dtype": "float32", "remat": "none", "attention": "xla"}
  sizes = {
    "widths": widths,
    "res_blocks": 1,
    "depths": (0, 0, 1, 1),
    "heads": (4,) * 4,
    "groups": 8,
  }
  return {"kind": "unet", "channels": 3} | sizes | runs


def ddpm(kind: str, prediction: str = "eps") -> dict[str, Any]:
  """The plain squared error of the noise at uniform steps [2006.11239 eq. 14]."""
  return {"kind": kind, "prediction": prediction, "weighting": "eps", "timesteps": "uniform"}


def muon() -> dict[str, Any]:
  """Optimiser and average of small models in pixels.   lr: hidden matrices; vector_lr: the rest"""
  return {
    "optimizer": "muon(b2=0.99)",
    "lr": 2e-2,
    "vector_lr": 4e-3,
    "schedule": "cosine(warmup=50)",
    "ema": 0.995,
  }


def emoji(c: ConfigDict) -> None:
  """What models of emoji have in place of the quickstart's settings."""
  c.data.val_split = "val_concept"
  # The longest trained caption has 28 tokens, the longest of all 36.
  c.text.update(vocab=4096, length=28, too_long="truncate")
  c.model.width = 256
  c.train.update(steps=1400, batch=128, lr=1.5e-2, ema=0.998)
  c.process.timesteps = "logit_normal(mean=0.3, std=1.2)"
  c.sampling.prompts = EMOJI_PROMPTS
  c.score.level = ""


def first_recipe(c: ConfigDict) -> None:
  """The quickstart's settings before docs/speedrun.md, which the figures of other runs are of."""
  c.model.absolute = False
  c.process.t_sampling = ()
  c.train.update(batch=96, optimizer="muon(b2=0.99)")


def subject(c: ConfigDict) -> None:
  """What a model is taught a subject with: batches of its images and of its class."""
  c.data.update(train_split="instance+prior", val_split="val")
  c.train.objective = "dreambooth(prior=1.0)"
  own = c.parts.backbone.start.startswith("run:")  # a published model has the times that it has
  if own and c.process.kind == "flow":  # marks and outlines are decided at low noise
    c.process.update(timesteps="uniform", t_sampling=())
  c.train.ema = 0.0  # the weights themselves: an average is behind in a short run
  c.log.every = 10
  c.eval.update(every=50, rows=8)
  c.checkpoint.update(every=50, keep=2)
  c.sampling.every = 0
  c.score.level = ""


def forgetting(c: ConfigDict) -> None:
  """What a model forgets a concept with: pairs of the prompts of the anchor and of the concept.

  A published model has the published batch and rate [2303.13516, its code]; others the rate that
  was chosen on the planted world (docs/forgetting.md).
  """
  subject(c)
  c.data.train_split = "anchor+target"
  c.train.objective = "ablation(target='current')"
  c.train.caption_dropout = dict.fromkeys(c.text.towers, 0.0)
  c.process.t_sampling = ()
  own = c.parts.backbone.start.startswith("run:")
  lr = 1e-3 if own else 1.6e-5
  c.train.update(steps=100, batch=16, **adamw(lr, "constant"))
  c.train.ema = 0.0


def from_scratch(c: ConfigDict) -> None:
  """configs/finetune.py with a backbone of random weights, and its training."""
  c.parts.backbone.start = ""
  c.train.update(steps=400_000, batch=2048, **adamw(1e-4, "constant(warmup=10000)"))
  c.log.every = 100
  c.update(periods(every=5000, rows=2048, keep=3))
  c.sampling.update(every=10_000, batch=64)


def adamw(lr: float, schedule: str) -> dict[str, Any]:
  """Optimiser and average of large models [2212.09748 sec. 4]."""
  return {
    "optimizer": "adamw",
    "lr": lr,
    "vector_lr": lr,
    "schedule": schedule,
    "ema": 0.9999,
  }


def periods(every: int, rows: int, keep: int) -> dict[str, Any]:
  """The sections eval and checkpoint.   rows: records that are validated on; keep: checkpoints"""
  return {"eval": {"every": every, "rows": rows}, "checkpoint": {"every": every, "keep": keep}}
