"""Edited attention beside softmax in numpy; in models, what is the same and what is left alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_weights

from t2i_jax.models import DiT, abstract_of, with_params
from t2i_jax.models.attention import attend, padding_mask
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.control import Here, Role
from t2i_jax.models.dit import DiTConfig
from t2i_jax.models.edit_control import EDIT, EditRows, prompt_to_prompt
from t2i_jax.models.streams import joint_mask

# Of one pair under guidance: the prompt and the null of the source, those of the target.
ROLES = jnp.array([Role.SOURCE, Role.NULL, Role.TARGET, Role.NULL], jnp.int32)
R, T, L, N, K = 4, 5, 6, 4, 8  # rows, text tokens, image tokens, heads, their width
TEXT_MASK = jnp.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], bool)
RNG = np.random.default_rng(0)
MAPPER = RNG.random((T, T)).astype(np.float32)
OWN = np.array([0, 1, 0.5, 0, 0], np.float32)
SCALE = np.array([1, 2, -1, 0.5, 1], np.float32)
UNTIL = np.array([9, 9, 9, 2, 9])  # of the columns; the step is 3


def edit_rows(step=3, cross=UNTIL, inside=9, mapper=MAPPER, own=OWN, scale=SCALE):
  each = lambda a, dtype=jnp.float32: jnp.broadcast_to(jnp.asarray(a, dtype), (R, *np.shape(a)))
  words = np.eye(T)[:, [1, 2]]
  cross = np.broadcast_to(cross, (T,))
  return EditRows(each(mapper), each(own), each(scale), each(cross, jnp.int32),
                  each(inside, jnp.int32), each(step, jnp.int32), each(words))  # fmt: skip


def block(e, text=0, stack="blocks"):
  return Here(None, ROLES, {EDIT: e}, stack, text, attend)


def qkv(queries, keys, seed=0):
  """Grouped: two queries' heads of each of two heads of k and v."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return draw(R, queries, N, K), draw(R, keys, N // 2, K), draw(R, keys, N // 2, K)


def softmax(q, k, allowed):
  """In float64.   # [R, N, Lq, Lkv]"""
  q, k = np.asarray(q, np.float64), np.repeat(np.asarray(k, np.float64), 2, axis=2)
  scores = np.einsum("rqnk,rsnk->rnqs", q, k) / np.sqrt(K)
  if allowed is not None:
    scores = np.where(np.asarray(allowed)[:, None], scores, -np.inf)
  e = np.exp(scores - scores.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def values(p, v):
  return np.einsum("rnqs,rsnk->rqnk", p, np.repeat(np.asarray(v, np.float64), 2, axis=2))


def moved(own, source, renormalise=False):
  """Row 2's text columns by the definition, column by column; masked ones have none."""
  found = own.copy()
  for j in range(T):
    if not TEXT_MASK[2, j]:
      found[..., j] = 0
    if UNTIL[j] <= 3 or not TEXT_MASK[2, j]:
      continue
    of_source = sum(MAPPER[j, i] * source[..., i] for i in range(T))
    found[..., j] = OWN[j] * own[..., j] + (1 - OWN[j]) * of_source
  if renormalise:
    found *= own.sum(-1, keepdims=True) / found.sum(-1, keepdims=True)
  return found * np.where(UNTIL > 3, SCALE, 1)


def test_cross_attention_by_definition():
  q, k, v = qkv(L, T)
  mask = padding_mask(jnp.ones((R, L), bool), TEXT_MASK)
  p = softmax(q, k, mask.allowed())
  p[2] = moved(p[2], p[0])
  control = prompt_to_prompt(1, 2, record=True)
  place = block(edit_rows())
  np.testing.assert_allclose(
    control.attention(place, "cross", q, k, v, mask), values(p, v), atol=1e-5
  )
  words = control.record(place, "cross", q, k, v, mask)
  np.testing.assert_allclose(words, p.mean(1)[..., [1, 2]], atol=1e-6)


def test_self_attention_has_the_map_of_the_source():
  q, k, v = qkv(L, L)
  p = softmax(q, k, None)
  p[2] = p[0]
  control = prompt_to_prompt(1, 2)
  run = lambda place, control=control: control.attention(place, "self", q, k, v, None)
  np.testing.assert_allclose(run(block(edit_rows())), values(p, v), atol=1e-5)
  plain = attend(q, k, v)
  for place in (block(edit_rows(inside=3)), block(edit_rows(), stack="text_refiner")):
    np.testing.assert_array_equal(run(place), plain)
  few = prompt_to_prompt(1, 2, largest=L - 1)
  np.testing.assert_array_equal(run(block(edit_rows()), few), plain)


def test_joint_attention_keeps_the_mass_on_text_and_image():
  q, k, v = qkv(T + L, T + L)
  mask = joint_mask(TEXT_MASK, L)
  p = softmax(q, k, mask.allowed())
  own, source = p[2][:, T:].copy(), p[0][:, T:]
  text = moved(own[..., :T], source[..., :T], renormalise=True)
  pixels = source[..., T:] / source[..., T:].sum(-1, keepdims=True)
  pixels *= own[..., T:].sum(-1, keepdims=True)
  p[2][:, T:] = np.concatenate([text, pixels], axis=-1)
  control = prompt_to_prompt(1, 2, record=True)
  found = control.attention(block(edit_rows(), T), "joint", q, k, v, mask)
  np.testing.assert_allclose(found, values(p, v), atol=1e-5)
  words = control.record(block(edit_rows(), T), "joint", q, k, v, mask)
  np.testing.assert_allclose(words, p.mean(1)[:, T:, [1, 2]], atol=1e-6)


def test_a_joint_map_that_is_held_whole():
  """Two prompts with the same tokens in another order: with all of the source's map the target's
  outputs are the source's, those of the text in that order, whatever queries and keys are."""
  q, k, v = qkv(T + L, T + L)
  order = np.array([2, 0, 1, 4, 3])  # of the target's tokens, in the source
  both = np.concatenate([order, T + np.arange(L)])
  v = v.at[2].set(v[0][both])
  e = edit_rows(mapper=np.eye(T)[order], own=np.zeros(T), scale=np.ones(T), cross=9)
  run = lambda e, **how: np.asarray(
    prompt_to_prompt(1, 2, **how).attention(block(e, T), "joint", q, k, v, None)
  )
  plain, found = np.asarray(attend(q, k, v)), run(e, whole=True)
  np.testing.assert_allclose(found[2], plain[0][both], atol=2e-6)
  np.testing.assert_allclose(found[[0, 1, 3]], plain[[0, 1, 3]], atol=2e-6)
  for other in (run(e), run(e._replace(inside=e.step), whole=True)):
    assert np.abs(other[2] - plain[0][both]).max() > 1e-2
  ended = e._replace(cross=0 * e.cross, inside=e.step)
  np.testing.assert_allclose(run(ended, whole=True), plain, atol=2e-6)


CONFIG = DiTConfig(
  width=32, depth=2, heads=2, patch=2, channels=3, out=3, text="cross", text_width=16
)
X = jnp.tile(jax.random.normal(jax.random.key(5), (1, 8, 8, 3)), (4, 1, 1, 1))


@pytest.mark.newest
@pytest.mark.parametrize("mode", ["cross", "joint", "whole"])
def test_in_a_model(mode):
  """Same prompt: the same image. No step left: as without it. Else the target alone changes."""
  config = dataclasses.replace(CONFIG, text="cross" if mode == "cross" else "joint")
  bind = with_params(lambda rngs: DiT(config, rngs))
  params = random_weights(abstract_of(lambda rngs: DiT(config, rngs)), seed=9)
  rng = np.random.default_rng(3)
  source, target, null = (jnp.asarray(rng.standard_normal((T, 16)), jnp.float32) for _ in range(3))
  identity = {"mapper": np.eye(T), "own": np.zeros(T), "scale": np.ones(T)}

  def cond(of_target, e):
    tokens = jnp.stack([source, null, of_target, null])
    tower = Tower(tokens, jnp.array([TEXT_MASK[0], TEXT_MASK[1]] * 2), tokens[:, 0])
    return Conditioning({"text": tower}, {"role": ROLES, EDIT: e})

  control = prompt_to_prompt(2, 2, whole=mode == "whole")
  edited = jax.jit(lambda cond: bind(params)(X, jnp.full(4, 300.0), cond, control).value)
  same = np.asarray(edited(cond(source, edit_rows(**identity))))
  np.testing.assert_allclose(same[2], same[0], atol=1e-5)
  plain = jax.jit(lambda cond: bind(params)(X, jnp.full(4, 300.0), cond).value)
  alone = np.asarray(plain(cond(target, edit_rows())))
  never = np.asarray(edited(cond(target, edit_rows(cross=3, inside=3))))
  np.testing.assert_allclose(never, alone, atol=1e-5)
  both = np.asarray(edited(cond(target, edit_rows(**identity))))
  np.testing.assert_allclose(both[[0, 1, 3]], alone[[0, 1, 3]], atol=1e-5)
  assert np.abs(both[2] - alone[2]).max() > 1e-2
  assert edited._cache_size() == 1  # the edit and its steps are arguments
