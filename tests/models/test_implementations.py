"""Every implementation of the one attention answers as "xla" does, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SHARED_CODE, here
from families import FAMILIES, condition, config_of, forward, image, live_params
from jax.interpreters import partial_eval

from t2i_jax.errors import ConfigError
from t2i_jax.models import Mask, matmul_flops
from t2i_jax.models.attention import attend, padding_mask
from t2i_jax.models.control import Alone
from t2i_jax.models.implementations import ATTENTIONS, Blocks, _block
from t2i_jax.models.params import REMAT
from t2i_jax.parallel import make_mesh

HERE = ["chunked", "by_head", "splash_interpret"]  # what a CPU can run


def qkv(b=2, lq=300, lkv=300, heads=4, kv_heads=4, k=16, seed=0):
  rng = np.random.default_rng(seed)
  shapes = [(b, lq, heads, k), (b, lkv, kv_heads, k), (b, lkv, kv_heads, k)]
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def real(b, length, used):
  return jnp.arange(length) < jnp.array(used)[:b, None]


def value_and_slopes(attention, q, k, v, mask):
  """The answer, and the gradients of a sum in which every element has a weight of its own."""

  def weighed(q, k, v):
    out = attention(q, k, v, mask)
    return jnp.sum(jax.random.normal(jax.random.key(1), out.shape) * out), out

  (_, out), slopes = jax.jit(jax.value_and_grad(weighed, (0, 1, 2), has_aux=True))(q, k, v)
  return out, *slopes


def agree(name, q, k, v, mask):
  found, expected = (value_and_slopes(f, q, k, v, mask) for f in (ATTENTIONS[name], attend))
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
  "sizes",
  [
    {"lq": 256, "lkv": 128},
    {"lq": 300, "lkv": 77},  # odd: padded
    {"lq": 5, "lkv": 7, "kv_heads": 2},  # grouped queries, less than a block
    {"lq": 130, "lkv": 260, "kv_heads": 1},
    {"lq": 128, "lkv": 77, "k": 40},  # the widths of Stable Diffusion 1's heads
    {"lq": 128, "lkv": 128, "k": 160},
  ],
)
def test_lengths_and_grouped_queries(name, sizes):
  agree(name, *qkv(**sizes), None)


@pytest.mark.newest(all_cases=True)
@pytest.mark.parametrize("name", HERE)
def test_padding(name):
  q, k, v = qkv(lq=140, lkv=90, kv_heads=2)
  agree(name, q, k, v, padding_mask(real(2, 140, (100, 140)), real(2, 90, (60, 33))))


@pytest.mark.parametrize("name", HERE)
def test_packed_documents(name):
  """Three documents in a row and a rest of its own, -1."""
  q, k, v = qkv(lq=200, lkv=200)
  docs = jnp.asarray(np.repeat([[0, 1, 2, -1], [3, 3, 4, -1]], 50, axis=1))
  agree(name, q, k, v, Mask(docs, docs))


def joint_rows(rows, length, seed=0):
  """Documents of random lengths with images in them, and a rest: (doc, end) [rows, length]."""
  rng = np.random.default_rng(seed)
  doc, end = np.full((rows, length), -1), np.tile(np.arange(length), (rows, 1))
  for row in range(rows):
    at = 0
    for number in range(3):
      text, patches, after = rng.integers(1, length // 6, 3)
      image = slice(at + text, at + text + patches)
      doc[row, at : image.stop + after] = number
      end[row, image] = image.stop - 1
      at = image.stop + after
  return jnp.asarray(doc), jnp.asarray(end)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("sizes", [{}, {"lq": 1024, "lkv": 1024, "kv_heads": 2}])
def test_causal_documents_with_pictures(name, sizes, monkeypatch):
  """In blocks of 128, of which most are passed over."""
  monkeypatch.setattr("t2i_jax.models.implementations.BLOCK_Q", 128)
  monkeypatch.setattr("t2i_jax.models.implementations.BLOCK_KV", 128)
  q, k, v = qkv(**sizes)
  doc, end = joint_rows(*q.shape[:2])
  agree(name, q, k, v, Mask(doc, doc, end))


def test_blocks_that_see_nothing_are_passed_over_and_no_others():
  doc, end = joint_rows(4, 1024)
  for row in range(4):
    mask = Mask(doc[row], doc[row], end[row])
    blocks = Blocks.of(*mask, 128, 64)
    allowed = np.asarray(Mask(*(x[None] for x in mask)).allowed())[0]
    seen = allowed.reshape(8, 128, 16, 64).any((1, 3))
    needed = np.asarray(blocks.needed[0], bool)
    assert not (seen & ~needed).any()  # a superset, by ranges
    assert needed.sum() <= seen.sum() + 8 and needed.mean() < 0.5
    for order, found in ((needed, blocks.next_kv[0]), (needed.T, blocks.next_q[0].T)):
      for line, nexts in zip(order, np.asarray(found), strict=True):
        places = np.flatnonzero(line)
        for j, chosen in enumerate(nexts):
          assert chosen == (places[places >= j][0] if (places >= j).any() else places[-1])


@pytest.mark.parametrize("name", ["chunked", "by_head"])
def test_chunks_take_any_mask(name):
  q, k, v = qkv(lq=300, lkv=300)
  docs = jnp.asarray(np.repeat([[0, 1, 2], [3, 3, 4]], 100, axis=1))
  agree(name, q, k, v, Mask(docs, docs, jnp.broadcast_to(jnp.arange(300), (2, 300))))
  agree(name, q, k, v, Alone(None, jnp.array([True, False]), 20, 300))


def test_the_kernel_in_bfloat16_stays_near():
  q, k, v = (x.astype(jnp.bfloat16) for x in qkv(lq=256, lkv=256, k=64))
  exact = attend(*(x.astype(jnp.float32) for x in (q, k, v)))
  for name in HERE:
    out = ATTENTIONS[name](q, k, v, None)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=2e-2)


@pytest.mark.newest
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("rows", [4, 2])  # divided by data x fsdp, or not
def test_a_mesh_of_eight(name, rows):
  """data 2 x fsdp 2 x tensor 2, with padding: what one device gives."""
  q, k, v = qkv(b=rows, lq=150, lkv=90, heads=4, kv_heads=2)
  mask = padding_mask(real(rows, 150, (150, 20, 140, 1)), real(rows, 90, (90, 33, 1, 50)))
  expected = value_and_slopes(attend, q, k, v, mask)
  with jax.set_mesh(make_mesh(2, 2, 2)):
    found = value_and_slopes(ATTENTIONS[name], q, k, v, mask)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", HERE)
def test_causal_documents_on_a_mesh_of_eight(name):
  q, k, v = qkv(b=4, lq=150, lkv=150, heads=4, kv_heads=2)
  doc, end = joint_rows(4, 150)
  expected = value_and_slopes(attend, q, k, v, Mask(doc, doc, end))
  with jax.set_mesh(make_mesh(2, 2, 2)):
    found = value_and_slopes(ATTENTIONS[name], q, k, v, Mask(doc, doc, end))
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("remat", ["none", "full", "attention"])
def test_inside_a_rematerialised_scan(name, remat):
  """Three layers of attention: the gradient of their weights."""
  weights, x = (jax.random.normal(jax.random.key(i), (3, 64, 64)) / 8 for i in (0, 1))

  def slope(attention, remat):
    def body(x, w):
      q = (x @ w).reshape(3, 64, 4, 16)
      return x + attention(q, q, jnp.sin(q), None).reshape(x.shape), None

    total = lambda w: jnp.sum(jnp.square(jax.lax.scan(REMAT[remat](body), x, w)[0]))
    return jax.jit(jax.grad(total))(weights)

  np.testing.assert_allclose(
    slope(ATTENTIONS[name], remat), slope(attend, "none"), rtol=1e-3, atol=1e-2
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", here(FAMILIES, SHARED_CODE))
def test_every_backbone_takes_the_kernel(name):
  params, x, cond = live_params(name, config_of(name)), image(), condition(name)
  expected = forward(name, config_of(name), params, x, cond)
  found = forward(name, config_of(name, attention="splash_interpret"), params, x, cond)
  np.testing.assert_allclose(found, expected, atol=1e-3 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("remat, runs", [("full", 2), ("attention", 1), ("qkv", 1)])
def test_saving_attention_saves_what_its_backward_pass_needs(remat, runs):
  """Forward kernels in the gradient of one block: the log-sum-exp is kept with the output."""
  q, k, v = qkv(lq=128, lkv=128)
  body = REMAT[remat](lambda q, k, v: ATTENTIONS["splash_interpret"](jnp.sin(q), k, v, None))
  slope = jax.grad(lambda *args: jnp.sum(jnp.square(body(*args))))
  # What no result needs is left in until the program is lowered.
  jaxpr, _ = partial_eval.dce_jaxpr(jax.make_jaxpr(slope)(q, k, v).jaxpr, [True])
  assert count_kernels(jaxpr, "fwd") == runs
  assert count_kernels(jaxpr, "dkv") == 1


def count_kernels(jaxpr, name):
  found = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "pallas_call":
      found += f"splash_mha_{name}" in str(eqn.params["name"])
    else:
      inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns"))
      found += sum(count_kernels(sub, name) for sub in inner if hasattr(sub, "eqns"))
  return found


def test_flops_are_those_of_the_scores():
  args = qkv(lq=256, lkv=384, kv_heads=2)
  count = lambda name: matmul_flops(lambda *args: ATTENTIONS[name](*args, None), *args)
  assert {count(name) for name in HERE} == {count("xla")} and count("xla") > 0


def test_memory_of_chunks_grows_with_the_length():
  """Compiled gradient at L, 2 L, 4 L: linear, where the whole scores are quadratic."""

  def temporary(name, length):
    loss = lambda q, k, v: jnp.sum(jnp.square(ATTENTIONS[name](q, k, v, None)))
    args = [jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)] * 3
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  one, two, four = (temporary("chunked", n) for n in (1024, 2048, 4096))
  print(f"chunked: {one}, {two}, {four} bytes; xla: {temporary('xla', 4096)}")
  assert (four - two) < 2.2 * (two - one)
  assert four < temporary("xla", 4096) / 4


@pytest.mark.parametrize(
  "length, limit, block", [(4608, 768, 768), (4608, 1536, 1536), (4480, 768, 640), (128, 768, 128)]
)
def test_blocks_divide(length, limit, block):
  assert _block(length, limit) == block


def test_what_cannot_be_done_is_refused_with_the_way_out():
  q, k, v = qkv(lq=8, lkv=8)
  with pytest.raises(ConfigError, match=r"model\.attention = 'chunked'"):
    ATTENTIONS["splash"](q, k, v, Alone(None, jnp.array(True), 2, 8))
  with pytest.raises(ConfigError, match=r"model\.dtype = 'bfloat16'"):
    ATTENTIONS["cudnn"](q, k, v, None)
