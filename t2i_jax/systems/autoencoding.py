"""Training of an autoencoder: a reconstruction loss, a regulariser, and a discriminator's.

Two players learn in one step, each from its own terms at the weights before the step: the
autoencoder, and the discriminator that scores images against their reconstructions. There is no
noise level; a codebook and the statistics of the latents move without a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.autoencoders import codebook, losses, measured, quality
from t2i_jax.autoencoders.discriminator import PatchConfig
from t2i_jax.autoencoders.features import Features
from t2i_jax.autoencoders.kl import LOGVAR, KLConfig
from t2i_jax.autoencoders.lookup_free import BITS, LookupFreeConfig
from t2i_jax.autoencoders.vq import RoundedSizes
from t2i_jax.config import build, section
from t2i_jax.data.batch import Batch
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.ranges import Factor, Range, Share, Weight, Whole, Width
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.parts import Part, configured
from t2i_jax.systems.system import (
  DRAW_POSTERIOR,
  NO_NOISE,
  Draws,
  System,
  Term,
  checked,
  flat_images,
  image_counts,
  levels,
  row_noise,
  unit_range,
)
from t2i_jax.systems.tasks import Tasks
from t2i_jax.systems.trained import FEATURES

KEEP = 0.99  # decay a step of the counts of codes and of the latents' statistics
RECENT = (1 - KEEP) / np.e  # of such a count: one latent, about 100 steps ago
LAST = ("decoder", "conv_out", "kernel")  # the decoder's last kernel, in the part "vae"


@dataclass(frozen=True)
class AutoencodingConfig:
  """config.model of an autoencoder's training; the autoencoder itself is config.autoencoder.

  channels       of the latents
  discriminator  "none", or "patch(width=64, layers=3)"
  perceptual     network whose features are compared: "none", "folder(path=DIR)" of VGG16, or
                 "run(path=WORKDIR)" of an encoder of images or of a classifier
  """

  channels: Width
  discriminator: str = "none"
  perceptual: str = "none"


DISCRIMINATORS: dict[str, Callable[..., PatchConfig | None]] = {
  "none": lambda: None,
  "patch": PatchConfig,
}


@dataclass(frozen=True)
class Reconstruction:
  """config.train.objective: weights of the terms, each 0 = without it.

  l1, l2       mean absolute and squared error of pixels in [-1, 1]
  perceptual   distance of features
  kl           of the posterior from a unit Gaussian, in nats a dimension of the image: 1e-6 is what
               [2112.10752 app. G] has, whose terms are sums
  commitment   of latents to their codes
  entropy      of the codes of LFQ [2310.05737 sec. 3.1] and, ours, of FSQ;   temperature: of their
               probabilities
  adversarial  times the adaptive weight [2012.09841 eq. 7] unless adaptive=False
  start        step from which the discriminator learns and is learned from
  decay        of the codebook a step [1711.00937 app. A.1]
  restart      share of an even use below which a code is moved to a latent of the batch; 0 = never
  """

  l1: Weight = 1.0
  l2: Weight = 0.0
  perceptual: Weight = 0.0
  kl: Weight = 0.0
  commitment: Weight = 0.0
  entropy: Weight = 0.0
  temperature: Factor = 1.0
  adversarial: Weight = 0.0
  start: Whole = 0
  adaptive: bool = True
  decay: Annotated[float, Range("[0, 1)")] = 0.99
  restart: Share = 0.1


@dataclass(frozen=True)
class AutoencodingSystem(System):
  """The parts "vae", "discriminator" where there is one, and that of `features`.

  batch  images of a step
  """

  objective: Reconstruction
  features: Features | None
  batch: int

  timed = False

  @property
  def terms(self) -> dict[str, Term]:
    names = ("perceptual", "kl", "commitment", "entropy", "adversarial")
    weights = {"image": 1.0} | {name: getattr(self.objective, name) for name in names}
    found = {n: Term(w, image_counts, "autoencoder") for n, w in weights.items() if w}
    if self.objective.adversarial:
      found["discriminator"] = Term(1.0, image_counts, "discriminator")
    return found

  @property
  def players(self) -> dict[str, tuple[str, ...]]:
    both = {"autoencoder": ("vae",), "discriminator": ("discriminator",)}
    return {player: parts for player, parts in both.items() if parts[0] in self.parts}

  @property
  def row(self) -> str:
    return "an image of {} x {}".format(*self.image_shape[:2])

  def encoded(
    self, params: Params, image: jax.Array, weight: jax.Array, draws: Draws
  ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
    """What is decoded [R, h, w, C], the values of the regularisers [R], and sums.

    image [R, H, W, 3] in [-1, 1];   weight [R]
    """
    c, model = self.objective, self.module(params, "vae")
    codes = getattr(self.autoencoder, "codes", None)
    if codes is None:
      mean, logvar = model.moments(image)
      logvar = jnp.clip(logvar, *LOGVAR)
      noise = row_noise(draws.key, draws.rows, DRAW_POSTERIOR, mean.shape[1:])
      values = {"kl": losses.kl(mean, logvar) / np.prod(self.image_shape)}
      return (
        mean + jnp.exp(0.5 * logvar) * noise,
        values,
        {"latents": measured.moments(mean, weight)},
      )
    x = model.to_latents(image)
    fixed = jax.lax.stop_gradient(x)
    indices = model.nearest(fixed)
    values = {"commitment": losses.commitment(x, model.vectors(indices))}
    if c.entropy:
      values["entropy"] = losses.code_entropy(x, model.values, c.temperature)
    sums = {"latents": measured.moments(fixed, weight)}
    if "codebook" in params["vae"]:
      sums["codes"], sums["sums"] = codebook.assigned(fixed, indices, weight, codes)
      key = jax.random.fold_in(draws.key, DRAW_POSTERIOR)
      sums["candidates"] = codebook.candidates(fixed, draws.rows, key, codes, self.batch)
    else:
      sums["codes"] = used_codes(indices, weight, codes)
    return model.quantise(x), values, sums

  def reconstruction(
    self, params: Params, image_hat: jax.Array, image: jax.Array
  ) -> dict[str, jax.Array]:
    """The terms that compare images [R, H, W, 3] in [-1, 1].   # name -> [R]"""
    c = self.objective
    found = {"image": c.l1 * losses.l1(image_hat, image) + c.l2 * losses.l2(image_hat, image)}
    if self.features is not None:
      network = self.module(params, self.features.part)
      pair = [self.features.layers(network, one.astype(self.dtype)) for one in (image_hat, image)]
      found["perceptual"] = losses.perceptual(*pair)
    return found

  def finish(self, vae: Params, kernel: jax.Array, before: jax.Array) -> jax.Array:
    """The image [R, H, W, 3] of what comes before the decoder's last module, with this kernel."""
    model = self.module({"vae": replaced(vae, LAST, kernel)}, "vae")
    return model.run(model.decode_stages()[-1:], before)

  def balance(
    self, params: Params, before: jax.Array, image: jax.Array, weight: jax.Array
  ) -> jax.Array:
    """The adaptive weight lambda of the adversarial term.   # []"""
    params, before = jax.lax.stop_gradient((params, before))
    share = weight / jnp.maximum(jnp.sum(weight), 1)

    def error(image_hat: jax.Array) -> jax.Array:
      found = self.reconstruction(params, image_hat, image)
      return sum((self.terms[name].weight * value for name, value in found.items()), jnp.zeros(()))

    def gradient(loss: Callable[[jax.Array], jax.Array]) -> jax.Array:
      of_kernel = lambda kernel: share @ loss(self.finish(params["vae"], kernel, before))
      return jax.grad(of_kernel)(leaf_of(params["vae"], LAST))

    deceived = lambda image_hat: -losses.of_image(self.score(params, image_hat))
    return losses.adaptive_weight(gradient(error), gradient(deceived))

  def score(self, params: Params, image: jax.Array) -> jax.Array:
    """The discriminator's logits of patches.   # [R, h, w, 1]"""
    return self.module(params, "discriminator")(image.astype(self.dtype))

  def losses(self, params: Params, batch: Batch, draws: Draws) -> dict[str, jax.Array]:
    c, model = self.objective, self.module(params, "vae")
    image, weight = unit_range(flat_images(batch)), batch.image_weight.reshape(-1)
    x, values, sums = self.encoded(params, image, weight, draws)
    before = model.run(model.decode_stages()[:-1], x)
    image_hat = self.finish(params["vae"], leaf_of(params["vae"], LAST), before)
    values |= self.reconstruction(params, image_hat, image)
    if c.adversarial:
      on = jnp.where(jnp.asarray(draws.step) >= c.start, 1.0, 0.0)
      by = on * self.balance(params, before, image, weight) if c.adaptive else on
      real, fake = self.score(params, image), self.score(params, jax.lax.stop_gradient(image_hat))
      values["adversarial"] = -by * losses.of_image(self.score(params, image_hat))
      values["discriminator"] = on * losses.hinge(real, fake)
      sums["adaptive_weight"] = jnp.stack([jnp.sum(by * weight), jnp.sum(weight)])
    sums |= quality_sums(image_hat, image, weight)
    return {name: values[name] for name in self.terms} | jax.lax.stop_gradient(sums)

  @property
  def kept(self) -> dict[str, Any]:
    """codes [K]: how often each code was used, decaying; sizes [K]: N of codebook.py."""
    if not hasattr(self.autoencoder, "codes"):
      return {}
    counts = jax.ShapeDtypeStruct((self.autoencoder.codes,), jnp.float32)
    has = "codebook" in self.abstract["vae"]
    return {"codes": counts, "sizes": counts} if has else {"codes": counts}

  def moved(
    self, trainable: Params, kept: dict[str, jax.Array], sums: dict[str, jax.Array], step: jax.Array
  ) -> tuple[Params, dict[str, jax.Array]]:
    """The codebook and the statistics of the latents, where they are trained."""
    c, own = self.objective, trainable.get("vae", {})
    after: Params = {}
    if "latents" in own:
      keep = jnp.minimum(KEEP, step / (step + 1))  # a plain mean of the first steps
      old = own["latents"]
      mean, var = measured.tracked(old["mean"], old["var"], sums["latents"], keep)
      after["latents"] = {"mean": mean, "var": var}
    if "codes" in kept:
      kept = kept | {"codes": KEEP * kept["codes"] + (1 - KEEP) * sums["codes"]}
    if "codebook" in own:
      counts = sums["codes"]
      moved = codebook.averaged(own["codebook"], kept["sizes"], counts, sums["sums"], c.decay)
      total = jnp.sum(counts)
      moved = codebook.restarted(*moved, sums["candidates"], total, c.restart)
      after["codebook"], kept = moved[0], kept | {"sizes": moved[1]}
    return {"vae": after} if after else {}, kept

  def measured(self, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """PSNR (dB) and SSIM, codes, and the latents by channel before their scale."""
    of = lambda name: sums[name][0] / jnp.maximum(sums[name][1], 1)
    names: tuple[str, ...] = ("psnr", "ssim", "adaptive_weight")
    found = {name: of(name) for name in names if name in sums}
    if "codes" in sums:
      found["codes_used"] = codebook.used(sums["codes"], RECENT)
      found["perplexity"] = codebook.perplexity(sums["codes"])
    mean, var = measured.mean_and_var(sums["latents"])
    for i in range(self.x_shape[-1]):
      found |= {f"latent_mean_{i}": mean[i], f"latent_std_{i}": jnp.sqrt(var[i])}
    return found

  def scores(self, params: Params, images: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    """Sums for `measured` of reconstructions from the mean of the posterior.

    images uint8 [R, H, W, 3];   weight [R], 0 or 1
    """
    model, z = self.module(params, "vae"), self.encode(params, images)
    sums = {"latents": measured.moments(model.restore(z), weight)}
    if hasattr(self.autoencoder, "codes"):
      sums["codes"] = used_codes(model.indices(z), weight, self.autoencoder.codes)
    return sums | quality_sums(self.decode(params, z), unit_range(images), weight)

  def reconstruct(self, params: Params, images: jax.Array) -> jax.Array:
    """uint8 [R, H, W, 3] through latents and back: 0, 1 .. 255 in float32."""
    return levels(self.decode(params, self.encode(params, images)))

  def forward(self, params: Params, batch: Batch) -> Any:
    image_hat = self.decode(params, self.encode(params, flat_images(batch)))
    return self.score(params, image_hat) if self.objective.adversarial else image_hat

  def tasks(self, c: ConfigDict | None, mesh: Mesh, guides: Guides = NO_GUIDES) -> Tasks:
    guides.refuse("autoencoder")
    found = jax.jit(self.reconstruct, out_shardings=jax.NamedSharding(mesh, jax.P()))
    return Tasks(
      reconstruct=lambda params, images: checked(found({"vae": params["vae"]}, images)),
      measures=("reconstruction",),
    )


def quality_sums(image_hat: jax.Array, image: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
  """Sums of PSNR and SSIM, and how many images they are of.   # name -> [2]"""
  shown = jnp.clip(image_hat, -1, 1)
  values = {"psnr": quality.psnr(shown, image), "ssim": quality.ssim(shown, image)}
  return {name: jnp.stack([v @ weight, jnp.sum(weight)]) for name, v in values.items()}


def used_codes(indices: jax.Array, weight: jax.Array, codes: int) -> jax.Array:
  """How often each code is used.   indices [R, h, w], weight [R] -> [K]"""
  each = jnp.broadcast_to(weight[:, None, None], indices.shape)
  return jnp.zeros(codes).at[indices].add(each)  # sums of 0 and 1: exact in any order


def leaf_of(tree: Params, path: tuple[str, ...]) -> jax.Array:
  first, *rest = path
  return leaf_of(tree[first], tuple(rest)) if rest else tree[first]


def replaced(tree: Params, path: tuple[str, ...], leaf: jax.Array) -> Params:
  """The tree with another leaf at a path."""
  first, *rest = path
  return tree | {first: replaced(tree[first], tuple(rest), leaf) if rest else leaf}


def make_autoencoding(
  c: ConfigDict, common: dict[str, Any], vae: dict[str, Part], tokenizer: Tokenizer
) -> AutoencodingSystem:
  """Of a config with model.kind = "autoencoder". Raises ConfigError."""
  own = {key: c.model[key] for key in c.model if key not in ("kind", "dtype")}
  model = section(AutoencodingConfig, own, "model (kind = 'autoencoder')")
  objective = build(OBJECTIVES, c.train.objective, "train.objective")
  patch = build(DISCRIMINATORS, model.discriminator, "model.discriminator")
  features = build(FEATURES, model.perceptual, "model.perceptual")
  check(c, objective, common["autoencoder"])
  if patch is not None and min(common["image_shape"][:2]) >> patch.layers < 3:
    raise ConfigError(
      f"model.discriminator = {model.discriminator!r} halves {c.data.image_size} pixels "
      f"{patch.layers} times, and needs 3 x 3 after it. Use fewer layers."
    )
  if features is not None and min(common["image_shape"][:2]) < features.least:
    raise ConfigError(
      f"model.perceptual = {model.perceptual!r} needs sides of {features.least} pixels at least; "
      f"data.image_size = {c.data.image_size}."
    )
  parts = dict(vae)
  if patch is not None:
    parts["discriminator"] = Part(patch.make, patch)
  if features is not None:
    parts[features.part] = Part(features.make, features.config)
    if features.part in c.parts and c.parts[features.part].train != "none":
      raise ConfigError(f"parts.{features.part}.train: features are frozen. Write 'none'.")
  return AutoencodingSystem(
    parts=configured(parts, c.parts),
    text={},
    **NO_NOISE,
    objective=objective,
    features=features,
    batch=c.train.batch,
    **common,
  )


def check(c: ConfigDict, objective: Reconstruction, autoencoder: Any) -> None:
  """Raises ConfigError for terms that do not go together, or not with the autoencoder."""
  where, kind = f"train.objective = {c.train.objective!r}", f"autoencoder = {c.autoencoder!r}"
  codes = isinstance(autoencoder, RoundedSizes)
  if not codes and not isinstance(autoencoder, KLConfig):
    raise ConfigError(f"{kind} cannot be trained here. Use kl, vq, fsq or lfq.")
  if not objective.l1 and not objective.l2:
    raise ConfigError(f"{where}: nothing compares pixels. Give l1 or l2.")
  pairs = {"adversarial": "discriminator", "perceptual": "perceptual"}
  for name, key in pairs.items():
    if bool(getattr(objective, name)) == (c.model[key] == "none"):
      raise ConfigError(
        f"{where} has {name} = {getattr(objective, name):g}, and model.{key} = {c.model[key]!r}: "
        "give both, or neither."
      )
  if objective.adversarial and objective.start >= c.train.steps:
    raise ConfigError(
      f"{where}: the discriminator starts at step {objective.start}, after the last of train.steps "
      f"= {c.train.steps}. Lower start, or leave out adversarial."
    )
  wrong: tuple[str, ...] = ("kl",) if codes else ("commitment", "entropy")
  wrong += () if isinstance(autoencoder, LookupFreeConfig) else ("entropy",)
  for name in wrong:
    if getattr(objective, name):
      of = {"kl": "kl", "commitment": "vq, fsq or lfq", "entropy": "fsq or lfq"}
      raise ConfigError(f"{where}: {name} is a term of {of[name]}; this is {kind}.")
  if objective.entropy and autoencoder.codes > 2**BITS:
    raise ConfigError(
      f"{where}: entropy is a sum over all codes, of which {kind} has {autoencoder.codes}; "
      f"{2**BITS} is the most. Use fewer levels, or entropy=0."
    )
  if min(c.data.image_size) < quality.SIDE:
    raise ConfigError(
      f"data.image_size = {c.data.image_size}: SSIM is over windows of {quality.SIDE} pixels."
    )


# By the name in config.train.objective of an autoencoder's training.
OBJECTIVES: dict[str, Callable[..., Reconstruction]] = {"reconstruction": Reconstruction}
