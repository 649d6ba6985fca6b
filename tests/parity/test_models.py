"""Every row of docs/parity_models.md: our transformers beside those of diffusers."""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import here

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[2]

from benchmarks.make_golden import GOLDEN, made  # noqa: E402
from benchmarks.model_calls import grid_ids, pack, unpack  # noqa: E402
from benchmarks.model_cases import (  # noqa: E402
  QUICK,
  channels_first,
  channels_last,
  condition,
  given,
)
from benchmarks.model_parity import (  # noqa: E402
  CASES,
  FORWARD,
  GRADIENT,
  RATIO,
  SIZES,
  bfloat16_errors,
  build,
  distance,
  float32_errors,
  read,
  tensors,
)
from t2i_jax.models import with_params  # noqa: E402
from t2i_jax.models.streams import Both  # noqa: E402
from t2i_jax.pretrained import load  # noqa: E402
from t2i_jax.pretrained.spec import make_of  # noqa: E402

logging.getLogger("diffusers").setLevel(logging.ERROR)


# One of each class; of the U-Net the smaller one, which compiles in half the time.
LIVE = (*(name for name in GOLDEN if name != "unet_odd"), "unet")


# With what they leave out: no sizes, no norm of q and k, no guidance.
@pytest.mark.parametrize("name", here(CASES, (*LIVE, "pixart", "sd3", "flux", "flux2_unguided")))
def test_answer_and_gradients_are_theirs(name):
  """By x_t and by every weight."""
  found = float32_errors(name)
  assert found.forward < FORWARD
  over = {path: off for path, off in found.by_weight.items() if not off < GRADIENT}
  assert found.by_x < GRADIENT and not over


# One of each class but the ControlNets, whose layers are their models'; `make proof` has the
# others, and the page.
@pytest.mark.parametrize("name", here(CASES, [n for n in LIVE if "controlnet" not in n]))
def test_bfloat16_loses_no_more_than_theirs(name):
  ours, theirs = bfloat16_errors(name)
  assert 0 < ours <= RATIO * theirs


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_what_diffusers_answers(name):
  kept, now = np.load(ROOT / "tests" / "golden" / f"{name}.npz"), made(name)
  assert set(kept.files) == now.keys()
  assert str(kept["config"]) == str(now["config"])
  for key in now.keys() - {"config", "answer"}:
    np.testing.assert_array_equal(kept[key], now[key])
  assert distance(now["answer"], kept["answer"]) < 1e-5  # another processor, other roundings


def test_residuals_of_a_u_net_are_added_where_theirs_are():
  """To every skip connection and after the middle, as a ControlNet gives them."""
  case, model, (module, config, params) = CASES["unet"], build("unet"), read("unet")
  g, rng = given(case), np.random.default_rng(5)
  sides = [(8, 12), (8, 12), (4, 6), (4, 6)]
  skips = [
    rng.standard_normal((2, c, *side), np.float32)
    for c, side in zip((32, 32, 32, 64), sides, strict=True)
  ]
  middle = rng.standard_normal((2, 64, 4, 6), np.float32)
  told = tensors(g, torch.float32)
  with torch.no_grad():
    expected = model(
      told.x, told.times, told.text, encoder_attention_mask=told.mask,
      down_block_additional_residuals=tuple(map(torch.tensor, skips)),
      mid_block_additional_residual=torch.tensor(middle),
    ).sample.numpy()  # fmt: skip
  bind = with_params(make_of(module, config))
  residuals = {"skips": list(map(channels_last, skips)), "after_middle": channels_last(middle)}
  run = lambda *args: bind(params)(*args, None, residuals).value
  ours = jax.jit(run, compiler_options=QUICK)(
    channels_last(g.x), g.times, condition(g, config.channels)
  )
  assert distance(channels_first(ours), expected) < FORWARD


def test_freeu_is_theirs():
  case, model, (module, config, params) = CASES["unet"], build("unet"), read("unet")
  g = given(case)
  told = tensors(g, torch.float32)
  model.enable_freeu(s1=0.6, s2=0.2, b1=1.3, b2=1.6)
  try:
    with torch.no_grad():
      expected = model(told.x, told.times, told.text, encoder_attention_mask=told.mask)
  finally:
    model.disable_freeu()
  bind = with_params(make_of(module, dataclasses.replace(config, freeu=(1.3, 1.6, 0.6, 0.2))))
  run = lambda *args: bind(params)(*args).value
  ours = jax.jit(run, compiler_options=QUICK)(
    channels_last(g.x), g.times, condition(g, config.channels)
  )
  assert distance(channels_first(ours), expected.sample.numpy()) < FORWARD


@pytest.mark.parametrize(
  "name, changes, counts",
  [
    ("sd3_dual", {"num_layers": 6, "dual_attention_layers": (0, 1)}, {"blocks": 4}),
    ("flux", {"num_layers": 3, "num_single_layers": 5}, {"double": 2, "single": 3}),
  ],
)
def test_residuals_of_blocks_are_added_where_theirs_are(name, changes, counts, tmp_path):
  """As a ControlNet of fewer blocks gives them, whose number does not divide the model's."""
  case = CASES[name]
  torch.manual_seed(0)
  model = getattr(diffusers, case.theirs)(**case.config | changes).eval()
  model.save_pretrained(tmp_path)
  module, config, params = load(tmp_path)
  g, rng = given(case), np.random.default_rng(5)
  tokens = g.x.shape[2] * g.x.shape[3] // 4
  draw = lambda count: rng.standard_normal((count, 2, tokens, config.width), np.float32)
  drawn = {stack: draw(count) for stack, count in counts.items()}
  found = {stack: list(torch.tensor(leaf)) for stack, leaf in drawn.items()}
  told = tensors(g, torch.float32)
  with torch.no_grad():
    if name == "flux":
      ids, words = grid_ids(told.x, 2, 3), torch.zeros(g.text.shape[1], 3)
      out = model(
        pack(told.x, 2), told.text, told.pooled, told.times / 1000, ids, words,
        controlnet_block_samples=found["double"], controlnet_single_block_samples=found["single"],
      ).sample  # fmt: skip
      expected = unpack(out, 2, told.x).numpy()
      drawn["double"] = Both(None, drawn["double"])
    else:
      expected = model(
        told.x, told.text, told.pooled, told.times, block_controlnet_hidden_states=found["blocks"]
      ).sample.numpy()
  bind = with_params(make_of(module, config))
  run = lambda *args: bind(params)(*args[:3], None, args[3]).value
  ours = jax.jit(run, compiler_options=QUICK)(
    channels_last(g.x), g.times, condition(g, config.channels), drawn
  )
  assert distance(channels_first(ours), expected) < FORWARD


def test_page_has_every_row():
  page = (ROOT / "docs" / "parity_models.md").read_text()
  for name in (*CASES, *SIZES):
    assert f"| {name} |" in page
