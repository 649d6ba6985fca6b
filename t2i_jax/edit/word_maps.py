"""Maps of words: how much each image token attends to a word, from what a control recorded."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.sampling.loop import OnStep

QUARTER = 4  # a U-Net's maps lie on a quarter of its latent's side, as in [2208.01626], its code


class Grid(NamedTuple):
  """Image tokens: rows and columns."""

  rows: int
  cols: int


def grid_of(config: Any, latent: tuple[int, ...]) -> Grid:
  """The tokens that maps are compared at.   config: of the backbone;   latent: height, width"""
  patch = getattr(config, "patch", QUARTER)
  return Grid(*(max(1, -(-side // patch)) for side in latent[:2]))


def own_grid(tokens: int, config: Any, latent: tuple[int, ...]) -> Grid:
  """The grid of a layer with so many image tokens, or with more, where a model fills them up."""
  if hasattr(config, "patch"):
    return grid_of(config, latent)
  halved = 1
  while -(-latent[0] // halved) * -(-latent[1] // halved) > tokens:
    halved *= 2
  return Grid(-(-latent[0] // halved), -(-latent[1] // halved))


class Maps(NamedTuple):
  """Of R rows and K words, float32.

  mean    [R, rows, cols, K], over the layers whose own tokens are that grid, or all where none is
  layers  [R, layers, rows, cols, K]
  """

  mean: Any
  layers: Any


def maps_of(notes: dict[str, Any], config: Any, latent: tuple[int, ...]) -> Maps:
  """What models.edit_control recorded, of all layers at one grid.

  notes  stack.Answer.notes: {stack: {site: [layers, R, L, K] or None}}
  """
  to, found, main = grid_of(config, latent), [], []
  for note in (note for sites in notes.values() for note in sites.values() if note is not None):
    layers, rows, tokens, words = note.shape
    own = own_grid(tokens, config, latent)
    maps = note[:, :, : own.rows * own.cols].reshape(layers, rows, *own, words)
    if own == to:
      main.append(maps)
    else:
      maps = jax.image.resize(maps, (layers, rows, *to, words), "linear")
    found.append(maps)
  mean = jnp.mean(jnp.concatenate(main or found), axis=0)
  return Maps(mean, jnp.moveaxis(jnp.concatenate(found), 0, 1))


class Recorded(NamedTuple):
  """Maps of a drawing: [R, S, rows, cols, K] of each step, over the layers; [R, layers, rows, cols,
  K] of each layer, over the steps."""

  by_step: Any
  by_layer: Any


class Seen(NamedTuple):
  """The state of a sampler that reads maps: their sum, of word 0, and what is kept, or None."""

  total: Any
  recorded: Recorded | None


def starts(maps: Maps, rows: int, steps: int, keep: bool) -> Seen:
  """Before the first step.   maps: of ShapeDtypeStructs, of any number of rows"""
  _, height, width, words = maps.mean.shape
  kept = None
  if keep:
    layers = (rows, *maps.layers.shape[1:])
    kept = Recorded(jnp.zeros((rows, steps, height, width, words)), jnp.zeros(layers))
  return Seen(jnp.zeros((rows, height, width)), kept)


def reads(steps: int, threshold: jax.Array | None, first: int) -> OnStep:
  """The hook of `sample` over `Seen`, for predictions whose aux is Maps.

  threshold  of `blended`, by word 0, from step `first` on; None: nothing is blended
  x may be a pytree of states, as sampling.coupled has them.
  """

  def hook(i, x, prediction, state):
    maps, (total, recorded) = prediction.aux, state
    total = total + maps.mean[..., 0]
    if threshold is not None:
      blend = lambda leaf: jnp.where(i >= first, blended(leaf, total, threshold), leaf)
      x = jax.tree.map(blend, x)
    if recorded is not None:
      by_step = jax.lax.dynamic_update_index_in_dim(recorded.by_step, maps.mean, i, 1)
      recorded = Recorded(by_step, recorded.by_layer + maps.layers / steps)
    return x, Seen(total, recorded)

  return hook


def blended(x: jax.Array, maps: jax.Array, threshold: jax.Array) -> jax.Array:
  """Local blending: x of the target is taken from the source outside the mask.

      mask = maps of source or target > threshold max;   x_target = x_source + mask (x_target - ..)

  x     [2 n, H, W, C], rows source and target in turn
  maps  [2 n, rows, cols], of any scale; first each token has the largest value of its neighbours,
        within a sixteenth of the side
  Source: [2208.01626 sec. 3.2, local editing, and its code]
  """
  reach = round(min(maps.shape[1:]) / 16)
  if reach:
    window = (1, 2 * reach + 1, 2 * reach + 1)
    maps = jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, window, (1, 1, 1), "SAME")
  high = jax.image.resize(maps, (len(x), *x.shape[1:3]), "nearest")
  most = jnp.max(high, axis=(1, 2), keepdims=True)
  inside = high > threshold * most
  pairs = inside.reshape(-1, 2, *inside.shape[1:])
  mask = jnp.any(pairs, axis=1)[..., None]  # [n, H, W, 1]
  both = x.reshape(-1, 2, *x.shape[1:])
  source, target = both[:, 0], both[:, 1]
  kept = jnp.where(mask, target, source)
  return jnp.stack([source, kept], axis=1).reshape(x.shape)
