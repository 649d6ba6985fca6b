"""A codebook that follows the latents by moving averages, without a gradient, and how it is used.

    N_i <- decay N_i + (1 - decay) n_i,   m_i <- decay m_i + (1 - decay) sum of x,   e_i = m_i / N_i

over the n_i latents x of a batch whose nearest code is e_i [1711.00937 app. A.1]. m_i is e_i N_i,
so that the codes and N are all there is to keep. A code that hardly any latent is nearest to
becomes a latent of the batch [2107.03312 sec. III-C].
"""

import jax
import jax.numpy as jnp


def assigned(
  x: jax.Array, indices: jax.Array, weight: jax.Array, codes: int
) -> tuple[jax.Array, jax.Array]:
  """How many latents are nearest to each code, and their sums.   # [K], [K, C]

  x [R, h, w, C];   indices [R, h, w] of their codes;   weight [R] of the images, 0 or 1
  """
  # A product with one-hot rows, not a scatter: its sums have one order on every device.
  hot = jax.nn.one_hot(indices, codes) * weight[:, None, None, None]
  hot = hot.reshape(-1, codes)
  x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
  return jnp.sum(hot, axis=0), jnp.einsum("tk,tc->kc", hot, x, precision="highest")


def averaged(
  codebook: jax.Array, sizes: jax.Array, counts: jax.Array, sums: jax.Array, decay: float
) -> tuple[jax.Array, jax.Array]:
  """Codes [K, C] and N [K] after a batch.     Source: [1711.00937 app. A.1]

  counts [K], sums [K, C]: of `assigned`. A code that no latent is nearest to stays where it is.
  """
  after = decay * sizes + (1 - decay) * counts
  moved = (1 - decay) * (sums - counts[:, None] * codebook)
  return codebook + moved / jnp.maximum(after, 1e-12)[:, None], after


def candidates(x: jax.Array, rows: jax.Array, key: jax.Array, codes: int, batch: int) -> jax.Array:
  """A latent drawn from the batch for each code, or 0 where its image is not among `rows`.

  x [R, h, w, C];   rows [R] numbers of the images in a batch of `batch` images
  The sum over the micro-batches of a step has one latent a code.   # [K, C]
  """
  of_image, of_place = jax.random.split(key)
  image = jax.random.randint(of_image, (codes,), 0, batch)
  place = jax.random.randint(of_place, (codes,), 0, x.shape[1] * x.shape[2])
  here = rows[None] == image[:, None]  # [K, R]
  found = x.reshape(len(x), -1, x.shape[-1])[jnp.argmax(here, axis=1), place]
  return jnp.where(jnp.any(here, axis=1)[:, None], found, 0)


def restarted(
  codebook: jax.Array, sizes: jax.Array, latents: jax.Array, total: jax.Array, least: float
) -> tuple[jax.Array, jax.Array]:
  """Codes whose N is below `least` of an even share become latents, with an even share.

  latents [K, C] of `candidates`;   total [] latents of a batch;   least: 0 = none restarts
  """
  share = total / len(sizes)
  dead = sizes < least * share
  return jnp.where(dead[:, None], latents, codebook), jnp.where(dead, share, sizes)


def perplexity(counts: jax.Array) -> jax.Array:
  """exp of the entropy of the codes, in nats: K where all are used evenly.   counts [K] -> []"""
  p = counts / jnp.maximum(jnp.sum(counts), 1e-12)
  return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-38)), 0)))


def used(counts: jax.Array, least: float = 0.0) -> jax.Array:
  """Share of the codes with more than `least` latents.   counts [K] -> []"""
  return jnp.mean(counts > least)
