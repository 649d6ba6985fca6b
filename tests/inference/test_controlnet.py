"""ControlNets of published pipelines: what is refused before a weight is read, when they act."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks.golden_pipelines import SIDE, conditions, load, write_folder
from t2i_jax.cli.main import main
from t2i_jax.config import build
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.inference import folder_config, open_pipeline
from t2i_jax.inference.folder import prepare
from t2i_jax.models import Conditioning
from t2i_jax.process import PROCESSES
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan
from t2i_jax.systems.controlnet import HINTS, Hint, progress_of, scales_at, settled, with_progress
from t2i_jax.systems.tasks import ControlImages

GOLDEN = Path(__file__).with_name("pipelines")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Folders by the name of a stored pipeline. Do not change them."""
  root, made = tmp_path_factory.mktemp("controlnet"), {}

  def folder(name):
    if name not in made:
      made[name] = write_folder(load(GOLDEN / f"{name}.npz"), root / name)
    return made[name]

  return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
  """A condition image of `height` x `width`, as a file."""
  root = tmp_path_factory.mktemp("images")

  def file(height=SIDE, width=SIDE):
    path = root / f"{height}x{width}.png"
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return path

  return file


ONE, TWO, NONE = "sd_controlnet", "sd_controlnet_two", "sd1"
SD3, FLUX = "sd3_controlnet", "flux_controlnet"
GOOD = "--control={good}"
REFUSED = {
  "no image": (ONE, [], "has 1 ControlNet and is given no condition images: give --control"),
  "one image of two": (TWO, [GOOD], "has 2 ControlNets and is given 1 condition image"),
  "no net": (NONE, [GOOD], "this model has no ControlNet. Add one with --controlnet=FOLDER"),
  "no image for FLUX's": (FLUX, [], "has 1 ControlNet and is given no condition images"),
  "too many images": (SD3, [GOOD, GOOD], "has 1 ControlNet and is given 2 condition images"),
  "another size of SD3": (SD3, [GOOD, "--size=32x48"], "is 32 x 32, and 32 x 48 is drawn"),
  "another size": (ONE, [GOOD, "--size=32x48"], "is 32 x 32, and 32 x 48 is drawn"),
  "an odd size": (ONE, ["--control={odd}"], "is 33 x 32, and 32 x 32 is drawn"),
  "two sizes": (TWO, [GOOD, "--control={wide}"], "is 32 x 64, and 32 x 32 is drawn"),
  "no file": (ONE, ["--control=/nowhere.png"], "/nowhere.png cannot be read"),
  "scale": (ONE, [GOOD, "--control-scale=-1"], "--control-scale=-1.0 is not in [0, inf)"),
  "start": (ONE, [GOOD, "--control-start=1.5"], "--control-start=1.5 is not in [0, 1]"),
  "end": (ONE, [GOOD, "--control-end=nan"], "--control-end=nan is not in [0, 1]"),
  "start after end": (
    ONE, [GOOD, "--control-start=0.5", "--control-end=0.5"],
    "--control-start=0.5 is not below --control-end=0.5",
  ),
  "scales": (
    ONE, [GOOD, "--control-scale=1", "--control-scale=2"],
    "--control-scale is given 2 times for 1 ControlNet",
  ),
  "scale alone": (NONE, ["--control-scale=1"], "--control-scale belongs to --control"),
  "guess alone": (ONE, ["--guess"], "--guess belongs to --control"),
}  # fmt: skip


@pytest.mark.parametrize("name, flags, words", REFUSED.values(), ids=[*REFUSED])
def test_what_is_refused_before_a_weight_is_read(name, flags, words, folders, image, capsys):
  files = {"good": image(), "odd": image(33), "wide": image(32, 64)}
  flags = [flag.format(**files) for flag in flags]
  assert main(["sample", f"--from={folders(name)}", "--prompt=a cat", *flags]) == 2
  assert words in capsys.readouterr().err


def test_a_controlnet_folder_belongs_to_a_published_model(capsys):
  flags = ["--controlnet=/nowhere", "--control=/nowhere.png"]
  assert main(["sample", "--workdir=/nowhere", "--prompt=a", *flags]) == 2
  assert "--controlnet: only with --from=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
  "name, keys, words",
  [
    ("flux", {"num_attention_heads": 4}, "width of the blocks: 64, and 32 there"),
    ("flux", {"joint_attention_dim": 48}, r"\(joint_attention_dim\): 48, and 32 there"),
    ("flux", {"in_channels": 32}, "channels of x_t: 8, and 4 there"),
    ("flux", {"num_layers": 2}, "double_blocks, at most: 2, and 1 there"),
    ("sd3", {"pooled_projection_dim": 24}, "width of the pooled text: 24, and 32 there"),
    ("sd3", {"extra_conditioning_channels": 1}, r"\(extra_conditioning_channels\): 1, and 0"),
    (NONE, {"cross_attention_dim": 48}, r"width of the text \(cross_attention_dim\): 48, and 32"),
    (NONE, {"layers_per_block": 2}, "number of skip connections: 6, and 4 there"),
    (NONE, {"block_out_channels": [64, 64]}, r"widths of skip connections: \(64, 64, 64, 64\)"),
    (NONE, {"in_channels": 9}, "channels of x_t: 9, and 4 there"),
    (NONE, {"conditioning_embedding_out_channels": [8, 8, 16]}, "side of a latent: 4, and 2 there"),
    ("sdxl", {"projection_class_embeddings_input_dim": 72}, "pooled text: 24, and 16 there"),
    (FLUX, {}, "is the ControlNet of a UNetConfig, and this model's backbone is a FluxConfig"),
  ],
)
def test_a_controlnet_of_another_base_is_refused(name, keys, words, folders, tmp_path):
  of = {"sdxl": "sdxl_controlnet", "flux": FLUX, "sd3": SD3}
  source = folders(of.get(name, ONE)) / "controlnet"
  config = json.loads((source / "config.json").read_text()) | keys
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ConfigError, match=words):
    prepare(folders(name), controlnets=[tmp_path])


def test_a_folder_of_no_controlnet_is_refused(folders, tmp_path):
  with pytest.raises(ConfigError, match="holds a UNetConfig, which is no ControlNet"):
    prepare(folders(NONE), controlnets=[folders(NONE) / "unet"])
  with pytest.raises(RestoreError, match="is not a folder"):
    prepare(folders(NONE), controlnets=[tmp_path / "nowhere"])


def test_numbers_of_blocks_are_those_of_the_first(folders, tmp_path):
  """Of several, whose residuals are added up."""
  source = folders(FLUX) / "controlnet"
  config = json.loads((source / "config.json").read_text()) | {"num_single_layers": 0}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ConfigError, match=r"controlnet_1 gives residuals {'double': 1}"):
    prepare(folders(FLUX), controlnets=[tmp_path])


def test_one_scale_is_given_to_both_embeddings_of_it(folders):
  """That of the pipeline's class, or of the command line."""
  own = lambda overrides: {
    name: prepare(folders(FLUX), overrides).system.parts[name].config.guidance
    for name in ("backbone", "controlnet")
  }
  assert own({}) == dict.fromkeys(own({}), 7.0)
  assert own({"model.guidance": "2.5"}) == dict.fromkeys(own({}), 2.5)


def test_parts_are_named_as_their_folders(folders):
  config = folder_config(folders(TWO), controlnets=[folders(ONE) / "controlnet"])
  assert [*config.controlnets] == ["controlnet", "controlnet_1", "controlnet_2"]
  assert config.parts.controlnet_1.start == f"folder:{folders(TWO) / 'controlnet_1'}"
  assert [*prepare(folders(TWO)).system.controlnets] == ["controlnet", "controlnet_1"]


def test_values_are_for_all_or_for_each():
  given = settled(ControlImages((), scales=(0.5,), starts=(0, 0.25)), 2)
  assert (given.scales, given.starts, given.ends) == ((0.5, 0.5), (0.0, 0.25), (1.0, 1.0))


# Of the calls of a step, those besides the first, as diffusers lists timesteps.
@pytest.mark.parametrize("solver, further", [("ddim", 0), ("pndm", 1), ("heun(frame='sigma')", 3)])
def test_calls_are_counted_as_timesteps_are_listed(solver, further):
  steps, start, end = 4, 0.3, 0.75
  process = build(PROCESSES, "ddpm_scaled_linear", "kind")
  solver = build(SOLVERS, solver, "solver")
  plan = make_plan(solver, process, build(GRIDS, "trailing", "grid", process, steps))
  progress, calls = progress_of(solver, plan), steps + further
  hint = Hint(None, jnp.ones((1, 5)), jnp.full(1, start), jnp.full(1, end))
  cond, found = Conditioning({}, {HINTS: (hint,)}), []
  for i in range(steps):
    here = with_progress(cond, progress, i).extras["progress"]
    for k in range(1 + (i < further)):
      time = (plan.to if k else plan.now).model_time[i]
      found.append(float(scales_at(hint, here, jnp.full(1, time))[0, 0]))
  expected = [1 - float(i / calls < start or (i + 1) / calls > end) for i in range(calls)]
  assert found == expected and 0 < sum(found) < calls


@pytest.mark.proof
@pytest.mark.parametrize("own, plain_model", [(ONE, NONE), (SD3, "sd3")])
def test_a_controlnet_of_its_own_folder_is_the_pipelines(
  own, plain_model, folders, image, tmp_path, one_device, capsys
):
  """Added to Stable Diffusion, from noise and from an image; parts in turn draw the same."""
  how = {"sampling.solver": "ddim", "sampling.grid": "trailing", "sampling.steps": "2"}
  whole = open_pipeline(folders(own), how, (SIDE, SIDE))
  added = [folders(own) / "controlnet"]
  other = open_pipeline(folders(plain_model), how, (SIDE, SIDE), controlnets=added, in_turn=True)
  controls = ControlImages([conditions(1)[0][None]])
  one, two = (m.draw(["a cat"], [0], controls=controls) for m in (whole, other))
  np.testing.assert_array_equal(one, two)
  plain = whole.draw(["a cat"], [0], controls=controls._replace(scales=(0.0,)))
  assert np.abs(one.astype(int) - plain).max() > 10
  net = added[0]
  args = ["sample", f"--from={folders(plain_model)}", f"--controlnet={net}", f"--control={image()}"]
  args += ["--prompt=a cat", "--steps=2", "--cfg=1", f"--image={image()}", "--solver=ddim"]
  args += ["--strength=1"]
  drawn = {}
  for scale in ("0", "1"):
    out = tmp_path / scale
    assert main([*args, f"--control-scale={scale}", f"--out={out}"]) == 0
    drawn[scale] = np.asarray(Image.open(next(out.glob("*seed0.png"))))
  assert np.abs(drawn["0"].astype(int) - drawn["1"]).max() > 10
  described = {}
  added = [f"--from={folders(plain_model)}", f"--controlnet={net}"]
  for flags in ([f"--from={folders(own)}"], added):
    capsys.readouterr()
    assert main(["describe", "--size=32x32", *flags]) == 0
    described[flags[0]] = capsys.readouterr().out.partition("weights")[2]
  assert len(set(described.values())) == 1 and "controlnet " in described.popitem()[1]


def test_the_sampler_takes_condition_images_of_rows(folders):
  """Without a program: the shapes of two rows, one net's own scale."""
  from t2i_jax.systems.controlnet import rows_of

  system = prepare(folders(TWO), size=(SIDE, SIDE)).system
  images = [np.zeros((2, SIDE, SIDE, 3), np.uint8)] * 2
  one, two = rows_of(system, ControlImages(images, scales=(1.0, 0.5), guess=True), 2)
  np.testing.assert_allclose(one.scale[0], np.logspace(-1, 0, 5), rtol=1e-6)
  np.testing.assert_allclose(two.scale, 0.5 * one.scale)
  assert not one.null.any() and jax.tree.leaves(one)[0].shape == (2, SIDE, SIDE, 3)
  with pytest.raises(ConfigError, match="2 of 32 x 32 x 3 are needed"):
    rows_of(system, ControlImages([images[0][:, :16]] * 2), 2)
