"""Losses of autoencoders, of each image [B], as pure functions of arrays.

    L1 + w_p perceptual + w_k KL  (or commitment, or entropy)  + w_a lambda (-D(image_hat))

and the discriminator's hinge. lambda is the ratio of gradient norms at the decoder's last kernel.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

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


def bit_entropy(x: jax.Array, temperature: float) -> jax.Array:
  """Entropy of an image's codes less that of the codes of the batch, in nats.   # [B]

  Latents x [B, h, w, C] have the code c in {-1, 1}^C with probability softmax(-|x - c|^2 /
  temperature), whose bits are independent. The second entropy is over all 2^C codes.
  Source: [2310.05737 sec. 3.1]
  """
  logits = 4 * x / temperature  # of a bit being 1
  p, q = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
  one = -p * jax.nn.log_sigmoid(logits) - q * jax.nn.log_sigmoid(-logits)
  own = of_image(jnp.sum(one, axis=-1))
  joint = jnp.ones((p.size // p.shape[-1], 1))  # [T, 2^i] after i bits
  for i in range(p.shape[-1]):
    bit = jnp.stack([q[..., i].reshape(-1), p[..., i].reshape(-1)], axis=-1)
    joint = (bit[:, :, None] * joint[:, None]).reshape(len(joint), -1)
  mean = jnp.mean(joint, axis=0)
  return own + jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-30)))


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
