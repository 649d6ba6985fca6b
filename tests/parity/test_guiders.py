"""Guidance against diffusers' guiders and pipelines, on the same random predictions in float32.

The reference works on whatever the network predicts, so each comparison is made in the kind of
prediction that our method works in. Tolerances are float32's rounding at scale 7.5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.process import PROCESSES, Prediction, Time
from t2i_jax.sampling import (
  GRIDS,
  SOLVERS,
  Guided,
  autoguide,
  dual,
  guide,
  make_plan,
  remember,
  sample,
)
from t2i_jax.sampling.guidance_methods import apg, cfg, cfg_norm, cfg_zero, pag, slg

torch = pytest.importorskip("torch")
guiders = pytest.importorskip("diffusers.guiders")

FLOW = PROCESSES["flow"]()
SHAPE = (3, 8, 8, 4)  # B, H, W, C
SCALE = 7.5


def views(seed, n=3):
  """n predictions, the first ones alike as those of a network are."""
  rng = np.random.default_rng(seed)
  base = rng.normal(size=SHAPE)
  return [np.float32(base + 0.4 * rng.normal(size=SHAPE)) for _ in range(n)]


def to_torch(x):
  return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_torch(x):
  return x.numpy().transpose(0, 2, 3, 1)


def ours(method, kind, predictions, scale=SCALE, memory=None, others=0):
  """The method on given predictions: the condition of a row is which of them it gets."""
  stack = jnp.asarray(np.stack(predictions))  # [n, B, H, W, C]
  rows = jnp.tile(jnp.arange(SHAPE[0]), (len(predictions), 1))

  def denoise(x_t, time, cond):
    which, row = cond
    return Prediction(stack[which, row], kind)

  of = lambda i: (jnp.full(SHAPE[0], i), rows[i])
  cond = Guided(of(0), of(1), tuple(of(2 + i) for i in range(others)), memory)
  time = Time(*(jnp.asarray(f) for f in FLOW.at(np.asarray(0.4))))
  return guide(denoise, method, scale)(jnp.zeros(SHAPE), time, cond)


def theirs(guider, *predictions, step=0, steps=10):
  guider.set_state(step, steps, torch.tensor(500))
  guider._count_prepared = 1
  return from_torch(guider.forward(*map(to_torch, predictions)).pred)


def close(found, wanted):
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0, SCALE])
def test_classifier_free_guidance(scale):
  cond, null = views(0, 2)
  guider = guiders.ClassifierFreeGuidance(guidance_scale=scale)
  close(ours(cfg(), "eps", [cond, null], scale).value, theirs(guider, cond, null))


def test_the_papers_scale_is_one_less():
  cond, null = views(0, 2)
  guider = guiders.ClassifierFreeGuidance(guidance_scale=SCALE - 1, use_original_formulation=True)
  close(ours(cfg(), "eps", [cond, null]).value, theirs(guider, cond, null))


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
@pytest.mark.parametrize("mix", [0.3, 0.7, 1.0])
def test_rescale(kind, mix):
  cond, null = views(1, 2)
  guider = guiders.ClassifierFreeGuidance(guidance_scale=SCALE, guidance_rescale=mix)
  found = ours(cfg(rescale=mix, on=kind), kind, [cond, null])
  close(found.value, theirs(guider, cond, null))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("norm", [0.0, 2.0, 15.0])
def test_adaptive_projected_guidance(eta, norm):
  """The paper's form: the reference library's own starts at null, with the update projected."""
  cond, null = views(2, 2)
  guider = guiders.AdaptiveProjectedGuidance(
    guidance_scale=SCALE - 1,
    eta=eta,
    adaptive_projected_guidance_rescale=norm,
    use_original_formulation=True,
  )
  found = ours(apg(eta=eta, norm=norm, momentum=0.0), "x0", [cond, null])
  close(found.value, theirs(guider, cond, null))


def test_adaptive_projected_guidance_with_momentum():
  """Five steps, each with predictions of its own."""
  guider = guiders.AdaptiveProjectedGuidance(
    guidance_scale=SCALE - 1,
    eta=0.0,
    adaptive_projected_guidance_rescale=5.0,
    adaptive_projected_guidance_momentum=-0.5,
    use_original_formulation=True,
  )
  guider.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(-0.5)
  method = apg(eta=0.0, norm=5.0, momentum=-0.5)
  memory = method.starts(jnp.zeros(SHAPE))
  for step in range(5):
    cond, null = views(10 + step, 2)
    found = ours(method, "x0", [cond, null], memory=memory)
    memory = found.memory
    close(found.value, theirs(guider, cond, null, step=step))


@pytest.mark.parametrize("zero_steps", [0, 1, 2])
def test_cfg_zero_star(zero_steps):
  guider = guiders.ClassifierFreeZeroStarGuidance(guidance_scale=SCALE, zero_init_steps=zero_steps)
  method = cfg_zero(zero_steps=zero_steps)
  memory = None if method.starts is None else method.starts(jnp.zeros(SHAPE))
  for step in range(4):
    cond, null = views(20 + step, 2)
    found = ours(method, "velocity", [cond, null], memory=memory)
    memory = found.memory
    wanted = theirs(guider, cond, null, step=step)
    close(found.value, wanted)
    assert np.any(wanted) == (step >= zero_steps)


@pytest.mark.parametrize(
  "method, guider, scale",
  [
    (pag, guiders.PerturbedAttentionGuidance, {"perturbed_guidance_scale": 3.0}),
    (slg, guiders.SkipLayerGuidance, {"skip_layer_guidance_scale": 2.8}),
  ],
)
def test_perturbed_and_skip_layer_guidance(method, guider, scale):
  cond, null, perturbed = views(3)
  (own,) = scale.values()
  prefix = next(iter(scale)).removesuffix("_scale")
  layers = {f"{prefix}_layers": [0], f"{prefix}_start": 0.0, f"{prefix}_stop": 1.0}
  reference = guider(guidance_scale=SCALE, **scale, **layers)
  found = ours(method(layers=(0,), scale=own), "eps", [cond, null, perturbed], others=1)
  close(found.value, theirs(reference, cond, null, perturbed, step=5))


def test_auto_guidance():
  cond, worse = views(4, 2)
  guider = guiders.AutoGuidance(guidance_scale=SCALE, auto_guidance_layers=[0], dropout=1.0)
  denoise, bad = (
    lambda x, time, cond, p=p: Prediction(jnp.asarray(p), "x0") for p in (cond, worse)
  )
  found = autoguide(denoise, bad, cfg(), SCALE)(jnp.zeros(SHAPE), None, Guided(None))
  close(found.value, theirs(guider, cond, worse))


def test_qwen_images_norm():
  """As its pipeline does: on packed latents, a token of 2 x 2 x C values, the norm over each."""
  cond, null = views(5, 2)
  b, h, w, c = SHAPE

  def pack(x):
    x = to_torch(x).view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // 2) * (w // 2), c * 4)

  def unpack(x):
    x = x.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return from_torch(x.reshape(b, c, h, w))

  positive, negative = pack(cond), pack(null)
  combined = negative + SCALE * (positive - negative)
  norms = [torch.norm(x, dim=-1, keepdim=True) for x in (positive, combined)]
  wanted = unpack(combined * (norms[0] / norms[1]))
  close(ours(cfg_norm(patch=2), "velocity", [cond, null]).value, wanted)


@pytest.mark.parametrize("percentile", [0.8, 0.995])
def test_dynamic_thresholding(percentile):
  diffusers = pytest.importorskip("diffusers")
  cond, null = views(6, 2)
  scheduler = diffusers.DDIMScheduler(
    thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=1e9
  )
  guided = null + np.float32(SCALE) * (cond - null)
  wanted = from_torch(scheduler._threshold_sample(to_torch(guided)))
  close(ours(cfg(threshold=percentile), "x0", [cond, null]).value, wanted)


def test_instruct_pix2pix():
  """Its pipeline's line: null + s_T (text - image) + s_I (image - null)."""
  both, null, image = views(7)
  wanted = null + SCALE * (both - image) + 1.5 * (image - null)
  close(ours(dual(image_scale=1.5), "eps", [both, null, image], others=1).value, wanted)


def test_a_trajectory_under_momentum():
  """Twenty Euler steps on x itself, with a nonlinear network: the memory goes the whole way."""
  scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(shift=1.0)
  steps, rng = 20, np.random.default_rng(0)
  start = np.float32(rng.normal(size=SHAPE))
  method = apg(eta=0.3, norm=4.0, momentum=-0.5)
  plan = make_plan(SOLVERS["euler"](), FLOW, GRIDS["trailing"](FLOW, steps))

  def denoise(x, time, cond):
    return Prediction(jnp.tanh(1.5 * x + cond[:, None, None, None]), "x0")

  cond = Guided(jnp.full(3, 0.7), jnp.zeros(3))
  x = jnp.asarray(start)
  found, _ = jax.jit(
    lambda x: sample(
      guide(denoise, method, SCALE), SOLVERS["euler"](), plan, x, cond, **remember(method, x)
    )
  )(x)
  guider = guiders.AdaptiveProjectedGuidance(
    guidance_scale=SCALE - 1,
    eta=0.3,
    adaptive_projected_guidance_rescale=4.0,
    adaptive_projected_guidance_momentum=-0.5,
    use_original_formulation=True,
  )
  guider.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(-0.5)
  scheduler.set_timesteps(sigmas=list(np.linspace(1, 1 / steps, steps)))
  x = to_torch(start)
  for i, t in enumerate(scheduler.timesteps):
    guider.set_state(i, steps, t)
    x0_hat = guider.forward(torch.tanh(1.5 * x + 0.7), torch.tanh(1.5 * x)).pred
    sigma = scheduler.sigmas[i]
    x = scheduler.step((x - x0_hat) / sigma, t, x, return_dict=False)[0]
  close(found, from_torch(x))
