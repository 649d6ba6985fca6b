"""The methods of guidance. To add one, write a function that returns a Combine and add a line here.

At scale 1 every method returns the conditional prediction. Each works in the kind of prediction of
its paper and converts; a method that is linear in the prediction is the same in every kind.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.process import KINDS, Prediction, Time, convert
from t2i_jax.ranges import Count, Range, Share, Weight, Whole
from t2i_jax.sampling.guidance import Combine, Perturb, Scale, Views, Worse, row_scale

# Of sigma / alpha, where a method is used.
Low = Weight
High = Annotated[float, Range("(0, inf]")]

Layers = Annotated[tuple[Whole, ...], Range("[1, 1000]")]
# One a prompt: AND above 0, NOT below.
Weights = Annotated[tuple[Annotated[Scale, Range("(-inf, inf)")], ...], Range("[1, 16]")]

TINY = 1e-12  # keeps a quotient of norms finite where both are 0


def _sum(x: jax.Array) -> jax.Array:
  """Over all axes but the batch.   # [B, 1, ...]"""
  return jnp.sum(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def _norm(x: jax.Array) -> jax.Array:
  return jnp.sqrt(_sum(jnp.square(x)))


def extrapolate(null: jax.Array, cond: jax.Array, scale: Scale) -> jax.Array:
  """(1 + w) cond - w null with w = scale - 1: exactly null at scale 0, and cond at scale 1."""
  scale = row_scale(scale, cond)
  return scale * cond + (1 - scale) * null


def plain(views: Views, scale: Scale) -> Prediction:
  return views.cond._replace(value=extrapolate(views.null.value, views.cond.value, scale))


# Modifiers of a method.


def within(method: Combine, low: float, high: float) -> Combine:
  """The method where low < sigma / alpha <= high, and scale 1 elsewhere.

  The limits are those of [2404.07724], in the paper's sigma, which is our sigma / alpha;
  flow matching is there at t = s / (1 + s).
  """
  if not 0 <= low < high:
    raise ConfigError(f"a guidance interval from low = {low} to high = {high} is empty.")

  def combine(views: Views, scale: Scale) -> Prediction:
    return method.combine(views, jnp.where(inside(views.time, low, high), scale, 1.0))

  everywhere = low == 0 and high == float("inf")
  return method if everywhere else method._replace(combine=combine)


def inside(time: Time, low: float, high: float) -> jax.Array:
  """Whether low < sigma / alpha <= high; pure noise is inside where high is infinite."""
  above = jnp.asarray(time.sigma) > low * time.alpha
  return above if high == float("inf") else above & (time.sigma <= high * time.alpha)


def rescaled(method: Combine, mix: float, on: str = "x0") -> Combine:
  """Gives the guided prediction the standard deviation of the conditional one, in part.

      mix guided std(cond) / std(guided) + (1 - mix) guided        [2305.08891 eq. 14-16]

  with the unbiased std of a row over everything but the batch, as published.

  mix  0 = off; 0.7 is the paper's
  on   the kind of prediction that is rescaled. The paper's motivation (overexposed images) is x0;
       published samplers rescale the network's kind: "eps", "v" or "velocity"
  """
  if on not in KINDS:
    raise ConfigError(f"rescale: on = {on!r} is not one of {', '.join(KINDS)}.")

  def combine(views: Views, scale: Scale) -> Prediction:
    guided = convert(method.combine(views, scale), on, views.x_t, views.time)
    cond = convert(views.cond, on, views.x_t, views.time)
    axes = tuple(range(1, cond.value.ndim))
    std = lambda x: jnp.std(x, axis=axes, ddof=1, keepdims=True)
    ratio = std(cond.value) / jnp.maximum(std(guided.value), TINY)
    return guided._replace(value=guided.value * (mix * ratio + (1 - mix)))

  return method._replace(combine=combine) if mix else method


def thresholded(method: Combine, percentile: float) -> Combine:
  """Dynamic thresholding of x0_hat, for data in [-1, 1].   Source: [2205.11487 sec. 2.3]

      clip(x0_hat, -s, s) / s,   s = max(1, the percentile of |x0_hat| in a row)

  percentile  from 0 to 1; 0 = off, 0.995 is the paper's. Applies at every scale
  """
  if not 0 <= percentile <= 1:
    raise ConfigError(f"threshold = {percentile}: a percentile is from 0 to 1 (0.995, not 99.5).")

  def combine(views: Views, scale: Scale) -> Prediction:
    guided = convert(method.combine(views, scale), "x0", views.x_t, views.time)
    x0_hat = guided.value
    axes = tuple(range(1, x0_hat.ndim))
    s = jnp.quantile(jnp.abs(x0_hat), percentile, axis=axes, keepdims=True)
    s = jnp.maximum(s, 1)
    return guided._replace(value=jnp.clip(x0_hat, -s, s) / s)

  return method._replace(combine=combine) if percentile else method


# Methods over a conditional and a null prediction.

INFINITY = float("inf")


def cfg(
  rescale: Share = 0.0,
  on: str = "x0",
  threshold: Share = 0.0,
  low: Low = 0.0,
  high: High = INFINITY,
) -> Combine:
  """Classifier-free guidance: null + scale (cond - null).   Source: [2207.12598 eq. 6]

  scale = 1 + w with the paper's w. Linear in the prediction, hence the same for every kind at a
  fixed x_t.

  rescale, on  as in `rescaled`
  threshold    percentile of `thresholded`
  low, high    as in `within`
  """
  return thresholded(within(rescaled(Combine(plain), rescale, on), low, high), threshold)


def cfg_zero(zero_steps: Whole = 1, low: Low = 0.0, high: High = INFINITY) -> Combine:
  """CFG-Zero*: the null velocity is first scaled to be as near the conditional one as possible.

      (1 - scale) s null + scale cond,   s = <cond, null> / |null|^2        [2503.18886 sec. 4]

  zero_steps  of the first steps the velocity is 0, so that x stays ("zero-init")
  low, high   as in `within`
  """

  def combine(views: Views, scale: Scale) -> Prediction:
    own = views.of("velocity")
    cond, null = own.cond.value, own.null.value
    s = _sum(cond * null) / (_sum(jnp.square(null)) + 1e-8)
    return own.cond._replace(value=extrapolate(s * null, cond, scale))

  def waiting(views: Views, scale: Scale) -> Prediction:
    guided = method.combine(views, scale)
    value = jnp.where(views.memory < zero_steps, 0, guided.value)
    return guided._replace(value=value, memory=views.memory + 1)

  method = within(Combine(combine), low, high)
  if not zero_steps:
    return method
  return method._replace(combine=waiting, starts=lambda x: jnp.int32(0))


def apg(
  eta: Annotated[float, Range("[-10, 10]")] = 0.0,
  norm: Weight = 15.0,
  momentum: Annotated[float, Range("(-1, 1)")] = -0.5,
  low: Low = 0.0,
  high: High = INFINITY,
) -> Combine:
  """Adaptive projected guidance on x0: the component of cond - null parallel to cond is reduced.

      d_i = (cond - null) + momentum d_(i-1),    d = d_i min(1, norm / |d_i|)
      cond + (scale - 1) (orthogonal(d) + eta parallel(d))        [2410.02416 sec. 4]

  eta       weight of the parallel component; with 1, norm = 0 and momentum = 0 this is plain CFG
  norm      upper bound of |d| per row, 0 = none. |d| grows with the root of the number of values;
            15 is the reference library's default, for latents of 128 x 128 x 4
  momentum  negative: the previous update is subtracted. Kept from step to step
  low, high as in `within`; the momentum is updated outside, too
  """

  def combine(views: Views, scale: Scale) -> Prediction:
    own = views.of("x0")
    cond = own.cond.value
    moving = cond - own.null.value
    if momentum:
      moving = moving + momentum * views.memory
    d = moving
    if norm:
      d = d * jnp.minimum(1, norm / jnp.maximum(_norm(d), TINY))
    direction = cond / jnp.maximum(_norm(cond), TINY)
    parallel = _sum(d * direction) * direction
    update = d - parallel + eta * parallel
    value = cond + (row_scale(scale, cond) - 1) * update
    return own.cond._replace(value=value, memory=moving if momentum else None)

  return within(Combine(combine, starts=jnp.zeros_like if momentum else None), low, high)


def cfg_norm(patch: Count = 1, low: Low = 0.0, high: High = INFINITY) -> Combine:
  """Plain CFG in which each token keeps the norm of the conditional velocity (Qwen-Image).

      guided |cond| / |guided|,   norms over the patch x patch x C values of a token

  patch     of a side; Qwen-Image packs 2 x 2 latents into a token
  low, high as in `within`   Source: Qwen-Image's pipeline in diffusers
  """

  def norms(x: jax.Array) -> jax.Array:
    if patch == 1:
      return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    b, h, w, c = x.shape
    if h % patch or w % patch:
      raise ConfigError(f"cfg_norm: patch = {patch} does not divide {h} x {w}.")
    tokens = jnp.square(x).reshape(b, h // patch, patch, w // patch, patch, c)
    total = jnp.sqrt(jnp.sum(tokens, axis=(2, 4, 5), keepdims=True))
    return jnp.broadcast_to(total, tokens.shape).reshape(x.shape)

  def combine(views: Views, scale: Scale) -> Prediction:
    own = views.of("velocity")
    guided = plain(own, scale)
    ratio = norms(own.cond.value) / jnp.maximum(norms(guided.value), TINY)
    return guided._replace(value=guided.value * ratio)

  return within(Combine(combine), low, high)


# Methods over more conditions, all in one call.


def _perturbed(kind: str, scale: float, layers: tuple, low: float, high: float) -> Combine:
  """plain(cond, null) + scale (cond - perturbed), the latter where low < sigma / alpha <= high."""
  if not isinstance(layers, tuple) or not all(type(layer) is int for layer in layers):
    raise ConfigError(f"guidance: layers = {layers!r} is no tuple of numbers. Write layers=(2, 3).")
  own = scale  # the scale below is that of the conditional part

  def combine(views: Views, scale: Scale) -> Prediction:
    (perturbed,) = views.others
    guided, cond = plain(views, scale), views.cond.value
    here = row_scale(jnp.where(inside(views.time, low, high), own, 0.0), cond)
    return guided._replace(value=guided.value + here * (cond - perturbed.value))

  return Combine(combine, others=1, perturb=Perturb(kind, layers))


def pag(layers: Layers, scale: Weight = 3.0, low: Low = 0.0, high: High = INFINITY) -> Combine:
  """Perturbed-attention guidance: away from the model with identity self-attention of the image.

      null + cfg (cond - null) + scale (cond - perturbed)        [2403.17377 sec. 4]

  layers     whose self-attention map is the identity in the perturbed prediction
  scale      beside config.sampling.cfg, which may be 1; the authors' examples have 3 where that
             is 4 and 5 where it is off
  low, high  sigma / alpha where the perturbed prediction is used
  """
  return _perturbed("identity_attention", scale, layers, low, high)


def slg(layers: Layers, scale: Weight = 2.8, low: Low = 0.0, high: High = INFINITY) -> Combine:
  """Skip-layer guidance: away from the model without some of its blocks (SD3.5 Medium).

      null + cfg (cond - null) + scale (cond - skipped)        [github.com/Stability-AI/sd3.5]

  layers     the blocks that the third prediction skips; SD3.5 Medium: (7, 8, 9) of 24
  scale      2.8 is SD3.5 Medium's
  low, high  sigma / alpha where it is used; SD3.5 Medium does so in steps 1% to 20%
  """
  return _perturbed("skip_blocks", scale, layers, low, high)


def dual(image_scale: Annotated[Scale, Range("[0, inf)")] = 1.5) -> Combine:
  """Two conditions with a scale each, Guided(image and text, neither, (image only,)).

      null + image_scale (image - null) + scale (both - image)        [2211.09800 eq. 3]

  Of prompts, "both AND one": the second stands where the image does. 1.5 is the paper's usual
  image_scale; it may be traced.
  """

  def combine(views: Views, scale: Scale) -> Prediction:
    both, null, image = views.cond.value, views.null.value, views.others[0].value
    value = extrapolate(null, image, image_scale) + row_scale(scale, both) * (both - image)
    return views.cond._replace(value=value)

  return Combine(combine, others=1)


def compose(weights: Weights = (1.0, 1.0)) -> Combine:
  """Several prompts at once, Guided(first, null, (second, ...)): AND by weight > 0, NOT by < 0.

  null + scale sum_i weights_i (prompt_i - null)        [2206.01714 eq. 11; eq. 12 for NOT]
  """
  if not isinstance(weights, tuple) or not weights:
    raise ConfigError(f"compose: weights = {weights!r}. Write one a prompt: weights=(1.0, -0.5).")

  def combine(views: Views, scale: Scale) -> Prediction:
    null = views.null.value
    prompts = zip(weights, (views.cond, *views.others), strict=True)
    push = sum(row_scale(weight, null) * (one.value - null) for weight, one in prompts)
    return views.cond._replace(value=null + row_scale(scale, null) * push)

  return Combine(combine, others=len(weights) - 1)


def enhance(word: str, scale: Weight = 1.0, of: Literal["word", "rest"] = "word") -> Combine:
  """Attribute enhancement of a word that DomainGallery has taught [2411.04571 eq. 6].

      null + cfg (cond - null) + cfg scale (word - null)          of="word"
      null + cfg (cond - null) + cfg scale (cond - rest)          of="rest"

  The other prompt is the word alone, or the prompt without it. In all, the scale is cfg (1 + scale)
  at a prompt that has the word.
  """

  def reworded(prompt: str) -> str:
    return word if of == "word" else " ".join(w for w in prompt.split() if w != word)

  weights = (1.0, scale) if of == "word" else (1.0 + scale, -scale)
  return compose(weights)._replace(reworded=reworded)


def auto(workdir: str, step: Whole = 0, scale: Weight | None = None) -> Combine:
  """Autoguidance: away from a weaker model under the same prompt, in place of the null.

      worse + scale (cond - worse)        [2406.02507 sec. 4]

  workdir  of the weaker model: an earlier checkpoint of the same run, or a smaller or shorter one
  step     of the checkpoint, 0 = the newest
  scale    by default config.sampling.cfg
  """
  return Combine(plain, worse=Worse(workdir, step, scale))


# The values of config.sampling.guidance for a system with a prompt and a null only.
GUIDANCE: dict[str, Callable[..., Combine]] = {
  "cfg": cfg,
  "cfg_zero": cfg_zero,
  "apg": apg,
  "cfg_norm": cfg_norm,
  "pag": pag,
  "slg": slg,
}

# And for one that also takes several prompts per image, joined by AND, or a second model.
GUIDANCE_OF_PROMPTS = GUIDANCE | {
  "compose": compose,
  "dual": dual,
  "enhance": enhance,
  "auto": auto,
}
