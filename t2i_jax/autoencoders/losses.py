"""Losses of autoencoders, of each image [B], as pure functions of arrays.

    L1 + w_p perceptual + w_k KL  (or commitment, entropy)  + w_a lambda (-D(image_hat))

and the discriminator's hinge. lambda is the ratio of gradient norms at the decoder's last kernel.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = 1e4  # of the adaptive weight, as published
DELTA = 1e-4  # added to its denominator, as published in code; the equation has 1e-6
CHANNEL_EPS = 1e-10  # of the norm of features

of_image = lambda x: jnp.mean(x, axis=tuple(range(1, x.ndim)))  # [B, ...] -> [B]


def l1(image_hat: jax.Array, image: jax.Array) -> jax.Array:
  return of_image(jnp.abs(image_hat - image))


def l2(image_hat: jax.Array, image: jax.Array) -> jax.Array:
  return of_image(jnp.square(image_hat - image))


def perceptual(found: Sequence[jax.Array], wanted: Sequence[jax.Array]) -> jax.Array:
  """Squared distance of features, each of unit norm over channels, summed over layers.   # [B]

  found, wanted  of the layers, [B, ..., D]
  Source: [1801.03924 eq. 1] with all w = 1
  """
  unit = lambda x: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + CHANNEL_EPS)
  pairs = zip(found, wanted, strict=True)
  return sum(
    (of_image(jnp.sum(jnp.square(unit(a) - unit(b)), axis=-1)) for a, b in pairs), jnp.float32(0)
  )


def kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """KL of N(mean, exp(logvar)) from a unit Gaussian, summed over the latent, in nats.   # [B]

  mean, logvar  [B, h, w, C]     Source: [1312.6114 app. B; 2112.10752 app. G]
  """
  terms = jnp.square(mean) + jnp.exp(logvar) - 1 - logvar
  return 0.5 * jnp.sum(terms, axis=(1, 2, 3))


def commitment(x: jax.Array, codes: jax.Array) -> jax.Array:
  """Mean squared distance of latents from their codes, which stay.   # [B]

  Source: [1711.00937 eq. 3], its third term
  """
  return of_image(jnp.square(x - jax.lax.stop_gradient(codes)))


def code_entropy(x: jax.Array, values: Sequence[np.ndarray], temperature: float) -> jax.Array:
  """Entropy of an image's codes less that of the codes of the batch, in nats.   # [B]

  Channel i of the latents x [B, h, w, C] is rounded to one of `values[i]` [L_i], evenly spaced. It
  is taken to have the value v with probability softmax(-|(x_i - v) / d_i|^2 / temperature), where
  d_i is half of the spacing, and channels are independent of each other: for values of -1 and 1
  the probabilities of [2310.05737 sec. 3.1]. The second entropy is over all prod(L_i) codes.
  """
  own, joint = jnp.zeros(x.shape[:-1]), jnp.ones((*x.shape[:-1], 1))
  for i, v in enumerate(values):
    distance = (x[..., i, None] - v) / ((v[1] - v[0]) / 2)
    log_p = jax.nn.log_softmax(-jnp.square(distance) / temperature)  # [B, h, w, L_i]
    p = jnp.exp(log_p)
    own -= jnp.sum(p * log_p, axis=-1)
    joint = (joint[..., None] * p[..., None, :]).reshape(*joint.shape[:-1], -1)
  mean = jnp.mean(joint, axis=range(joint.ndim - 1))
  return of_image(own) + jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-30)))


def hinge(real: jax.Array, fake: jax.Array) -> jax.Array:
  """The discriminator's loss of an image and its reconstruction.   # [B]

  real, fake  logits of patches [B, h, w, 1]     Source: [1802.05957 eq. 16], halved as VQGAN has it
  """
  return 0.5 * (of_image(jax.nn.relu(1 - real)) + of_image(jax.nn.relu(1 + fake)))


def adaptive_weight(reconstruction: jax.Array, adversarial: jax.Array) -> jax.Array:
  """|gradient of the reconstruction loss| / (|that of -D| + DELTA), at most LARGEST.   # []

  Both by the last kernel of the decoder; no gradient passes.   Source: [2012.09841 eq. 7]
  """
  ratio = jnp.linalg.norm(reconstruction) / (jnp.linalg.norm(adversarial) + DELTA)
  return jax.lax.stop_gradient(jnp.clip(ratio, 0, LARGEST))
