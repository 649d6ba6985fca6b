"""Low-rank adapters of published models beside peft: forward, gradients, merging, files."""

import copy
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import here
from flax import nnx

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from benchmarks.model_cases import (  # noqa: E402
  QUICK,
  channels_first,
  channels_last,
  condition,
  given,
)
from benchmarks.model_parity import (  # noqa: E402
  CALLS,
  CASES,
  build,
  distance,
  probe,
  read,
  tensors,
  theirs,
)
from t2i_jax.models import Adapter, merge_adapters, with_params  # noqa: E402
from t2i_jax.models.adapters import dropped  # noqa: E402
from t2i_jax.models.layers import Dense  # noqa: E402
from t2i_jax.models.lora import Masks  # noqa: E402
from t2i_jax.pretrained.lora import matrices_of, read_adapters  # noqa: E402
from t2i_jax.pretrained.lora_files import write_matrices  # noqa: E402

FORWARD, GRADIENT = 1e-5, 1e-4
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
MORE = {
  "unet": ["ff.net.0.proj", "ff.net.2", "time_emb_proj", "proj_in"],
  "unet_sdxl": ["ff.net.0.proj", "proj_in", "proj_out"],
  "sd3_dual": ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.2", "norm1.linear"],
  "flux_guided": ["add_k_proj", "proj_mlp", "proj_out", "norm.linear", "norm_out.linear"],
  "flux2_references": ["to_qkv_mlp_proj", "linear_in", "add_k_proj"],
  "qwen_image_references": ["add_q_proj", "to_add_out", "img_mod.1", "net.2"],
}

# One layer of theirs is several of ours, each with an A and a B of its own once they are trained.
DIVIDED = [f"single_transformer_blocks.{i}.proj_out" for i in range(2)]
DIVIDED += [f"single_transformer_blocks.{i}.attn.to_qkv_mlp_proj" for i in range(2)]


def adapted(name, **changes):
  """A model of diffusers with random adapters of ranks 2, 3 and 4, and their config."""
  torch.manual_seed(0)
  config = LoraConfig(
    r=4, lora_alpha=6, target_modules=ATTENTION + MORE[name], rank_pattern={"to_k": 2, "to_v": 3},
    alpha_pattern={"to_v": 9, "to_q": 1}, **changes,
  )  # fmt: skip
  model = inject_adapter_in_model(config, copy.deepcopy(build(name)))
  for key, weight in model.named_parameters():
    if "lora_B" in key or "lora_magnitude" in key:
      with torch.no_grad():
        weight += 0.1 * torch.randn_like(weight)
  return model.eval(), config


def folder_of(model, config, to):
  """As peft saves it."""
  to.mkdir()
  state = get_peft_model_state_dict(model)
  save_file({f"base_model.model.{k}": v.contiguous() for k, v in state.items()},
            to / "adapter_model.safetensors")  # fmt: skip
  about = {k: v for k, v in config.to_dict().items() if isinstance(v, str | int | float | dict)}
  (to / "adapter_config.json").write_text(json.dumps(about))
  return to


def networks(name):
  module, config, _ = read(name)
  return {"backbone": (partial(module, config), config)}


def ours(name):
  """(params, adapters) -> the answer, channels first."""
  case, (module, config, _) = CASES[name], read(name)
  g = given(case)
  x, cond = channels_last(g.x)[..., : config.channels], condition(g, config.channels)
  bound = with_params(partial(module, config))
  return lambda params, adapters=None: bound(params, adapters)(x, g.times, cond).value


@pytest.mark.parametrize("name", here(MORE, ("unet", "flux_guided")))
def test_forward_gradient_and_merge_are_peft_s(name, tmp_path):
  model, config = adapted(name)
  found = read_adapters(folder_of(model, config, tmp_path / "peft"), networks(name))["backbone"]
  params, run = read(name)[2], ours(name)
  expected = theirs(CASES[name], model, given(CASES[name]))
  answer = lambda adapters: jnp.moveaxis(run(params, adapters), -1, 1)
  plain = channels_first(jax.jit(run, compiler_options=QUICK)(params))
  assert distance(plain, expected) > 0.01
  # Of some models the rounding alone, without adapters, is half of FORWARD.
  bound = max(FORWARD, 2 * distance(plain, theirs(CASES[name], build(name), given(CASES[name]))))
  assert distance(jax.jit(answer, compiler_options=QUICK)(found), expected) < bound
  merged = merge_adapters(params, found)
  assert distance(channels_first(jax.jit(run, compiler_options=QUICK)(merged)), expected) < bound

  seen = probe(expected.shape)
  loss = lambda adapters: (answer(adapters) * seen).sum()
  grads = jax.jit(jax.grad(loss), compiler_options=QUICK)(found)
  out = CALLS[CASES[name].theirs](model, tensors(given(CASES[name]), torch.float32))
  model.zero_grad()
  (out * torch.from_numpy(np.array(seen))).sum().backward()
  slopes = matrices_of(grads, read(name)[1])
  wanted = {
    k: w.grad.numpy()
    for k, w in model.named_parameters()
    if "lora_" in k and w.grad is not None and w.grad.any()  # or it is used by nothing
  }
  for key, wants in wanted.items():
    layer, _, kind = key.removesuffix(".default.weight").rpartition(".lora_")
    if layer not in DIVIDED:
      got = slopes[layer].stored()["AB".index(kind)]
      assert distance(got, wants) < GRADIENT, key


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("name", here(MORE, ("unet",)))
def test_files_there_and_back(name, form, tmp_path):
  """Bit for bit."""
  model, config = adapted(name)
  found = read_adapters(folder_of(model, config, tmp_path / "in"), networks(name))["backbone"]
  own = matrices_of(found, read(name)[1])
  state = {k: v.numpy() for k, v in get_peft_model_state_dict(model).items()}
  for layer, one in own.items():
    np.testing.assert_array_equal(one.stored()[0], state[f"{layer}.lora_A.weight"])
  back = read_adapters(write_matrices(tmp_path / "out", {"unet": own}, form), networks(name))
  assert back["backbone"].keys() == found.keys()
  for path, one in found.items():
    jax.tree.map(np.testing.assert_array_equal, back["backbone"][path], one)


class Masked(torch.nn.Module):
  def __init__(self, mask):
    super().__init__()
    self.mask = torch.from_numpy(np.array(mask))

  def forward(self, x):
    return x * self.mask


def test_dropout_is_peft_s_where_the_mask_is_the_same():
  """Of one linear layer, forward and gradients; the mask is drawn here."""
  torch.manual_seed(0)
  theirs = torch.nn.Sequential(torch.nn.Linear(12, 7))
  config = LoraConfig(r=3, lora_alpha=6, target_modules=["0"], lora_dropout=0.4)
  theirs = inject_adapter_in_model(config, theirs).train()
  layer = theirs[0]
  torch.nn.init.normal_(layer.lora_B["default"].weight)
  keys = Masks(jax.random.key(5), jnp.arange(4)).keys("0", ())
  mask = dropped(jnp.ones((4, 9, 12)), keys, config.lora_dropout)
  layer.lora_dropout["default"] = Masked(mask)
  x = np.random.default_rng(0).standard_normal((4, 9, 12), np.float32)
  wants = theirs(torch.from_numpy(x))
  wants.square().sum().backward()

  array = lambda weight: jnp.asarray(weight.detach().numpy().T)
  base = {"kernel": array(layer.base_layer.weight), "bias": array(layer.base_layer.bias)}
  bind = with_params(lambda rngs: One(rngs))

  def run(a, b):
    adapter = Adapter(a, b, 2.0, keys=keys, rate=config.lora_dropout)
    return bind({"layer": base}, {"layer": adapter})(x)

  pair = array(layer.lora_A["default"].weight), array(layer.lora_B["default"].weight)
  np.testing.assert_allclose(run(*pair), wants.detach(), rtol=1e-5, atol=1e-5)
  slopes = jax.grad(lambda *pair: jnp.square(run(*pair)).sum(), argnums=(0, 1))(*pair)
  for got, of in zip(slopes, (layer.lora_A, layer.lora_B), strict=True):
    np.testing.assert_allclose(got, of["default"].weight.grad.T, rtol=1e-4, atol=1e-4)


class One(nnx.Module):
  def __init__(self, rngs):
    self.layer = Dense(rngs, 12, 7, ("embed", "mlp"))

  def __call__(self, x):
    return self.layer(x)
