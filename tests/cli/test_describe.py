"""What `t2i describe` says, against what is counted another way."""

import jax
import pytest

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.models.params import REMAT
from t2i_jax.plan.describe import activation_bytes, describe, system_of

SMALL = {
  "model.kind": "dit", "model.width": "32", "model.heads": "2", "model.depth": "5",
  "model.patch": "4", "text.towers.text": "transformer(width=16, depth=1, heads=2)",
}  # fmt: skip
CONFIG = "configs/scenes_dit_flow.py"


@pytest.mark.newest
def test_parameters_flops_and_activations(capsys, monkeypatch):
  counted = []
  monkeypatch.setattr(
    "t2i_jax.plan.describe.describe", lambda c: counted.append(describe(c)) or counted[-1]
  )
  flags = [f"--config.{key}={value}" for key, value in SMALL.items()]
  assert main(["describe", f"--config={CONFIG}", *flags]) == 0
  said = capsys.readouterr().out
  config = load_config(CONFIG, SMALL)
  (found,), system = counted, system_of(config)
  params = system.abstract
  for part, count in found["parameters"].items():
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params[part]))
    assert f"{count:,} parameters" in said
  assert found["step"] == 3 * config.train.batch * found["forward"]
  kept = found["activations"]
  assert list(kept) == list(REMAT) and all(policy in said for policy in REMAT)
  assert kept["none"] > kept["dots"] > kept["qkv"] > kept["attention"] > kept["full"] > 0
  assert kept["offload"] == kept["qkv"]


def test_activations_grow_by_a_block_of_what_a_policy_names():
  """Two blocks more: x of each and, by name, q, k, v and the attention's answer of both kinds."""
  kept = {}
  for policy in ("full", "attention", "qkv"):
    by_depth = [
      activation_bytes(
        system_of(load_config(CONFIG, SMALL | {"model.depth": depth, "model.remat": policy}))
      )
      for depth in ("5", "7")
    ]
    kept[policy] = by_depth[1] - by_depth[0]
  image, words, width = 64, 12, 32
  attention = 2 * 2 * image * width * 4  # self and cross, two blocks, float32
  qkv = 2 * (3 * image + image + 2 * words) * width * 4
  assert kept["attention"] - kept["full"] == attention
  assert kept["qkv"] - kept["attention"] == qkv


def test_a_wrong_key_or_variant_is_named(capsys):
  assert main(["describe", f"--config={CONFIG}", "--config.model.dept=3"]) == 2
  assert "model.depth" in capsys.readouterr().err
  assert main(["describe", "--config=configs/flux1.py:pro"]) == 2
  assert "'pro' is not a variant. There are dev, schnell." in capsys.readouterr().err
  assert main(["describe", f"--config={CONFIG}:big"]) == 2
  assert "It has none" in capsys.readouterr().err


@pytest.mark.parametrize(
  "config", ["dit.py:S/8", pytest.param("pixart.py:alpha-512", marks=pytest.mark.proof)]
)
def test_published_configs_need_no_data(config, capsys):
  assert main(["describe", f"--config=configs/{config}"]) == 0
  assert "parameters" in capsys.readouterr().out


def test_flags_without_effect_are_not_taken(capsys):
  for flag in ("--embedded-cfg=3", "--too-long=error", "--offload"):
    with pytest.raises(SystemExit):
      main(["describe", "--from=nowhere", flag])
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err
