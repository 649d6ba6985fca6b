"""A subject taught to a tiny model from the command line: what is drawn, trained, kept, refused."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data.drawn import Drawn, drawn_of
from t2i_jax.data.source import ShardSource, manifest_hash
from t2i_jax.inference import open_model
from t2i_jax.systems.denoising import denoising
from t2i_jax.systems.drawing import DreamBooth
from t2i_jax.systems.system import Draws
from t2i_jax.training.setup import set_up

ROOT = Path(__file__).resolve().parents[2]


def run(base, to, *more):
  return main([
    "personalise", f"--workdir={base / 'base'}", f"--images={base / 'in'}", "--class-word=circle",
    "--word=ki", f"--to={to}", "--priors=4", "--steps=3", *more,
  ])  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_a_subject_is_taught_and_shown(base, easy_data, tmp_path, one_device, method, capsys):
  to = tmp_path / "subject"
  assert run(base, to, f"--method={method}", "--prompt=a red circle") == 0
  said = capsys.readouterr().out
  assert "'a circle': 0 images are there, 12 drawn" in said
  assert Path(said.strip().splitlines()[-1]).read_text().count("<figure>") == 3 + 2 * 3 * 4
  assert Image.open(to / "personalised.png").width > 8 * 128
  manifest = json.loads((to / "data/manifest.json").read_text())
  assert {n: s["records"] for n, s in manifest["splits"].items()} == {
    "instance": 3, "prior": 4, "val": 8,
  }  # fmt: skip
  by = Drawn(("prior", "val"), f"--workdir={base / 'base'}", 4, manifest_hash(easy_data))
  assert drawn_of(to / "data") == by
  before, after = open_model(base / "base"), open_model(to)
  assert before.tokenizer == after.tokenizer
  same = jax.tree.map(np.array_equal, before.params["text"], after.params["text"])
  assert all(jax.tree.leaves(same))
  changed = jax.tree.map(np.array_equal, before.params["backbone"], after.params["backbone"])
  assert not all(jax.tree.leaves(changed))
  assert any(jax.tree.leaves(changed)) == (method == "lora")

  # Run again, it goes on: nothing is drawn or built a second time.
  assert run(base, to, f"--method={method}", "--prompt=a red circle") == 0
  assert "12 images are there, 0 drawn" in capsys.readouterr().out


def test_a_new_word_is_learned_alone(base, tmp_path, one_device):
  """Its row differs from that of the class word; all others are the same bits, in the file, too."""
  to, file = tmp_path / "word", tmp_path / "ki.safetensors"
  assert run(base, to, "--method=textual_inversion", "--word=<ki>") == 0
  before, after = open_model(base / "base"), open_model(to)
  table, longer = (np.asarray(m.params["text"]["embedding"]) for m in (before, after))
  np.testing.assert_array_equal(longer[:-1], table)
  encoder = after.system.text["text"]
  ids, _ = encoder.encode(["a red <ki>", "a red circle"])
  assert ids[0][3] == len(table) and ids[1][3] < len(table)
  np.testing.assert_array_equal(np.delete(ids[0], 3), np.delete(ids[1], 3))
  start = table[ids[1][3]]
  assert 0 < np.abs(longer[-1] - start).max() < 0.1
  for part in ("backbone",):
    jax.tree.map(np.testing.assert_array_equal, before.params[part], after.params[part])
  assert main(["export", f"--workdir={to}", "--part=words_text", f"--to={file}"]) == 0
  np.testing.assert_array_equal(load_file(file)["<ki>"], longer[-1:])
  drawn = [m.draw([p], [3]) for m, p in ((after, "a <ki>"), (before, "a circle"))]
  assert np.any(drawn[0] != drawn[1])


def test_half_of_a_batch_is_weighted_as_the_prior(base, tmp_path, one_device):
  run(base, tmp_path / "subject", "--steps=1")
  config = load_config(f"{ROOT}/configs/dreambooth.py:{base / 'base'}",
                       {"data.dir": str(tmp_path / "subject/data")})  # fmt: skip
  system = set_up(config).system
  params = system.init(jax.random.key(0))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), system.rows(4))
  batch = zeros._replace(role=jnp.array([0, 1, 0, 1]))
  draws = Draws(jnp.full(4, 0.5), jnp.arange(4), jax.random.key(1), {}, 0)
  plain = denoising(system, params, batch, draws)["image"]
  found = DreamBooth(prior=0.25)(system, params, batch, draws)["image"]
  np.testing.assert_allclose(found, plain * np.float32([1, 0.25, 1, 0.25]), rtol=1e-6)


def test_images_of_several_classes_are_captioned_by_their_own(base, tmp_path, one_device, capsys):
  to = tmp_path / "style"
  args = [
    "personalise", f"--workdir={base / 'base'}", f"--images={base / 'in'}", f"--to={to}",
    "--class-word=circle", "--class-word=square", "--class-word=circle", "--word=by ki",
    "--template=a red {class}, {word}", "--method=domain_gallery", "--priors=6", "--steps=2",
  ]  # fmt: skip
  assert main(args) == 0
  assert "'a red circle': 0 images are there" in capsys.readouterr().out
  captions = lambda split: [r.captions[0] for r in ShardSource(str(to / "data"), split).spread(6)]
  assert captions("instance") == [f"a red {c}, by ki" for c in ("circle", "square", "circle")]
  assert captions("prior") == ["a red circle", "a red square"] * 3
  objective = json.loads((to / "config.json").read_text())["train"]["objective"]
  assert "prompt='a red {}, by ki', class_prompt='a red {}'" in objective
  assert "class_words=('circle', 'square')" in objective


@pytest.mark.parametrize(
  "more, words",
  [
    (["--class-word=square"], "there are 3 images and 2 class words"),
    (
      ["--class-word=square"] * 2 + ["--method=textual_inversion", "--word=<ki>"],
      "has one. Several",
    ),
    (["--template=a {class}"], "has no {word}"),
    (["--method=hypernetwork"], "--method=hypernetwork is not one of dreambooth, lora"),
    (["--method=textual_inversion", "--word=circle"], "'circle' exists already"),
    (["--priors=0"], "give --prior=0, too"),
    (["--word="], "give a word for each"),
    (["--rank=0"], "--rank=0 is not in"),
    (["--method=dreambooth", "--rank=2"], "--rank is of adapters"),
    (["--prompt=" + "a red circle and " * 8], "tokens with BOS and EOS, more than text.length"),
  ],
)
def test_what_is_refused_before_anything_is_drawn(base, tmp_path, one_device, more, words, capsys):
  assert run(base, tmp_path / "subject", *more) == 2
  assert words in capsys.readouterr().err
  assert not (tmp_path / "subject").exists()


def test_pictures_of_another_class_are_not_mixed(base, tmp_path, one_device, capsys):
  to = tmp_path / "subject"
  assert run(base, to, "--steps=1") == 0
  assert main([
    "personalise", f"--workdir={base / 'base'}", f"--images={base / 'in'}", "--class-word=square",
    f"--to={to}",
  ]) == 2  # fmt: skip
  assert "has images of another model or prompt" in capsys.readouterr().err
  shutil.rmtree(to / "priors")
  other = tmp_path / "other"
  shutil.copytree(base / "in", other)
  (other / "0.png").unlink()
  assert main([
    "personalise", f"--workdir={base / 'base'}", f"--images={other}", "--class-word=circle",
    "--word=ki", f"--to={to}", "--priors=4",
  ]) == 2  # fmt: skip
  assert "was built of other images" in capsys.readouterr().err
