"""Train, sample, score in one process, as a user does: what is written, and that it is right."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from t2i_jax.cli.main import main
from t2i_jax.config import leaves, load_config
from t2i_jax.inference import open_model
from t2i_jax.training import create_state
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.state import abstract_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

CONFIG = Path(__file__).parents[2] / "configs/scenes_dit_flow.py"
SHORT = {"train.steps": 4, "checkpoint.every": 0, "sampling.every": 0, "eval.every": 0}
SHORT |= {"train.optimizer": "adamw"}  # compiles faster than Muon
PROMPTS = ["a red circle", "a blue square", "a green triangle", "a cyan circle", "a red square"]


@pytest.fixture(scope="module")
def trained(train_args, tmp_path_factory):
  """The work directory of four steps of flow matching."""
  workdir = tmp_path_factory.mktemp("runs") / "flow"
  assert main(train_args(workdir, SHORT)) == 0
  return workdir


def draw_with_noisy_weights(workdir, sampling, prompts, seeds):
  """Images of weights far from their zero initial values, so that prompt and seed matter."""
  at = open_model(workdir, {f"sampling.{key}": value for key, value in sampling.items()})
  rng = np.random.default_rng(0)
  noisy = jax.tree.map(lambda w: w + 0.05 * rng.standard_normal(w.shape, np.float32), at.params)
  return at.need("draw")(noisy, prompts, seeds)


def agreement(a, b):
  """Share of the values that agree within 1/255."""
  return np.mean(np.abs(a.astype(int) - b.astype(int)) <= 1)


def test_train_leaves_what_the_readme_says(trained):
  left = {str(path.relative_to(trained)) for path in trained.rglob("*")}
  assert {"config.json", "metrics.jsonl", "checkpoints/4", "samples/prompts.json"} <= left
  assert "samples/step_00000004.png" in left and any("tfevents" in name for name in left)
  entries = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
  assert [(e["step"], e["kind"]) for e in entries] == [(2, "train"), (4, "train"), (4, "val")]
  assert {"loss", "grad_norm", "update_norm", "param_norm"} < set(entries[0])
  assert {"images_per_s", "flops_per_s", "memory_gb", "eta_s"} < set(entries[0]["perf"])
  assert {"loss", *(f"loss_bin_{k}" for k in range(4))} < set(entries[2])
  strip = Image.open(trained / "samples" / "step_00000004.png")
  assert strip.size == (2 * 34, 34)  # two prompts of 32 pixels with a border


@pytest.mark.newest
def test_sample_writes_pictures_that_say_what_they_are(trained, tmp_path, capsys):
  flags = ["--prompt=a red circle", "--prompt=ein blåes Quadrat", "--num=2", "--seed=7"]
  assert main(["sample", f"--workdir={trained}", *flags, f"--out={tmp_path}"]) == 0
  paths = capsys.readouterr().out.split("\n")[:-1]
  assert paths == [str(path) for path in sorted(tmp_path.iterdir())]
  assert [path.split("/")[-1] for path in paths[-2:]] == ["0003_seed8.png", "grid.png"]
  for i, path in enumerate(paths[:4]):
    image = Image.open(path)
    assert image.size == (32, 32) and image.mode == "RGB"
    assert image.text["prompt"] == ["a red circle", "ein blåes Quadrat"][i // 2]
    assert image.text["seed"] == str(7 + i % 2)
    assert json.loads(image.text["config"])["model"]["width"] == 32
  grid = np.asarray(Image.open(tmp_path / "grid.png"))
  assert grid.shape == (2 * 34, 2 * 34, 3)  # a row a prompt
  assert np.array_equal(grid[35:67, 1:33], np.asarray(Image.open(paths[2])))


def test_sample_fills_a_mask_and_score_gives_bits(trained, tmp_path, capsys):
  shown = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
  fill = np.zeros((32, 32), bool)
  fill[16:] = True
  Image.fromarray(shown).save(tmp_path / "shown.png")
  Image.fromarray(fill).save(tmp_path / "fill.png")
  base = ["sample", f"--workdir={trained}", "--prompt=a red circle", f"--out={tmp_path}"]
  start = [f"--image={tmp_path / 'shown.png'}", f"--mask={tmp_path / 'fill.png'}", "--repeats=2"]
  assert main([*base, *start]) == 0
  found = np.asarray(Image.open(tmp_path / "0000_seed0.png"))
  assert np.array_equal(found[~fill], shown[~fill]) and np.any(found[fill] != shown[fill])
  flags = ["--likelihood", "--count=3", "--steps=2"]
  assert main(["score", f"--workdir={trained}", *flags]) == 0
  assert "standard error" in capsys.readouterr().out
  score = json.loads((trained / "eval" / "likelihood_val.json").read_text())
  assert score["n"] == len(score["bits"]) == 3 and "8-bit pixels" in score["unit"]
  np.testing.assert_allclose(score["mean"], np.mean(score["bits"]))
  np.testing.assert_allclose(score["standard_error"], np.std(score["bits"], ddof=1) / 3**0.5)


def test_sample_reads_prompts_from_a_file(trained, tmp_path):
  (tmp_path / "prompts.txt").write_text("\ufeffa red circle\n\n  a blue square \r\n", "utf-8")
  args = ["sample", f"--workdir={trained}", f"--prompts={tmp_path / 'prompts.txt'}"]
  assert main(args) == 0
  images = sorted((trained / "drawn").glob("0*.png"))
  assert [Image.open(p).text["prompt"] for p in images] == ["a red circle", "a blue square"]


@pytest.mark.parametrize("solver", ["euler", pytest.param("heun", marks=pytest.mark.proof)])
def test_a_picture_does_not_depend_on_its_batch(trained, solver):
  """Within 1/255 on 99.9% of the values: alone, among others, and in batches of another size."""
  sampling = {"solver": solver, "steps": "6"}
  seeds = [3, 3, 4, 5, 6]
  many = draw_with_noisy_weights(trained, sampling | {"batch": "16"}, PROMPTS, seeds)
  for i in (0, 4):
    small = sampling | {"batch": "8"}
    alone = draw_with_noisy_weights(trained, small, PROMPTS[i : i + 1], seeds[i : i + 1])
    assert agreement(alone[0], many[i]) >= 0.999
  for other in (1, 4):  # another prompt with the same seed; the same words with another seed
    assert agreement(many[0], many[other]) < 0.2
  again = draw_with_noisy_weights(trained, sampling | {"batch": "16"}, PROMPTS, seeds)
  assert np.array_equal(again, many)


def test_guidance_changes_the_picture(trained):
  off, on = (
    draw_with_noisy_weights(trained, {"cfg": cfg}, PROMPTS[:2], [0, 1]) for cfg in ("1", "4")
  )
  assert agreement(off, on) < 0.9


@pytest.mark.newest
def test_eval_scores_and_reports(trained, capsys):
  assert main(["eval", f"--workdir={trained}", "--per-cell=4", "--steps=2"]) == 0
  score = json.loads((trained / "eval" / "score.json").read_text())
  assert score
  report = (trained / "eval" / "report.html").read_text()
  assert "data:image/png;base64," in report and "scenes_dit_flow" in report
  assert str(trained / "eval" / "report.html") in capsys.readouterr().out.replace("\n", "")


def test_ddpm_of_bytes_in_bfloat16_with_a_frozen_transformer(train_args, tmp_path):
  changes = {
    "process.kind": "ddpm_linear",
    "process.prediction": "eps",
    "process.weighting": "eps",
    "process.timesteps": "uniform",
    "sampling.solver": "ddim",
    "text.tokenizer": "bytes",
    "text.length": 64,
    "text.towers.text": "transformer(width=32, depth=1, heads=8)",
    "parts.text.train": "none",
    "model.dtype": "bfloat16",
  }
  assert main(train_args(tmp_path, SHORT | changes)) == 0
  at = open_model(tmp_path)
  assert at.tokenizer.kind == "bytes"
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(at.params)} == {"float32"}
  optimizer = make_optimizers(at.config.train, at.system)
  abstract = abstract_state(at.system, optimizer, at.mesh)
  born = create_state(at.system, optimizer, abstract, jax.random.key(at.config.seed))
  same = jax.tree.map(np.array_equal, at.params["text"], born.frozen["text"])
  assert all(jax.tree.leaves(same))
  assert not np.array_equal(
    at.params["backbone"]["patch_in"]["kernel"], born.trainable["backbone"]["patch_in"]["kernel"]
  )
  out = tmp_path / "drawn"
  prompts = ["--prompt=a red circle", "--prompt=\N{SNOWMAN}"]
  assert main(["sample", f"--workdir={tmp_path}", *prompts, "--steps=5"]) == 0
  for name, prompt in (("0000_seed0.png", "a red circle"), ("0001_seed0.png", "\N{SNOWMAN}")):
    image = Image.open(out / name)
    assert image.text["prompt"] == prompt and image.size == (32, 32)


def test_a_classifier_guides(train_args, trained, tmp_path, capsys):
  """Trained by the same loop; draws other images with it, the same at weight 0."""
  config = CONFIG.with_stem("scenes_classifier")
  keys = leaves(load_config(config))
  _, _, workdir, *rest = train_args(tmp_path / "classifier", SHORT | {"model.kind": "classifier"})
  kept = [flag for flag in rest if flag.removeprefix("--config.").split("=")[0] in keys]
  assert main(["train", f"--config={config}", workdir, *kept]) == 0
  assert not (tmp_path / "classifier" / "samples").exists()

  def draw(name, *more):
    out = tmp_path / name
    base = ["sample", f"--workdir={trained}", "--prompt=a red circle", f"--out={out}"]
    assert main([*base, *more]) == 0
    return np.asarray(Image.open(out / "0000_seed0.png"), int)

  plain = draw("plain")
  guided = f"--guidance.classifier={tmp_path / 'classifier'}"
  assert np.abs(draw("off", guided, "--guidance.weight=0") - plain).max() <= 1
  assert np.abs(draw("on", guided, "--guidance.weight=500") - plain).max() > 1
  capsys.readouterr()
  assert main(["sample", f"--workdir={tmp_path / 'classifier'}", "--prompt=a red circle"]) == 2
  assert "draws nothing" in capsys.readouterr().err
  same = f"--guidance.classifier={trained}"
  assert main(["sample", f"--workdir={trained}", "--prompt=a red circle", same]) == 2
  assert "is no classifier" in capsys.readouterr().err


def test_a_model_that_only_draws_has_no_image_input(trained, capsys):
  image = trained / "samples" / "step_00000004.png"
  assert main(["caption", f"--workdir={trained}", str(image)]) == 2
  assert "has no image input" in capsys.readouterr().err


def test_a_negative_prompt_is_the_null(trained):
  draw = lambda **keys: draw_with_noisy_weights(trained, keys, ["a red circle"], [3])
  default = draw(cfg="4")
  np.testing.assert_array_equal(default, draw(cfg="4", negative=""))
  assert not np.array_equal(default, draw(cfg="4", negative="a blue square"))
  alone, of_no_weight = draw(cfg="1"), draw(cfg="1", negative="a blue square")
  np.testing.assert_array_equal(alone, of_no_weight)
