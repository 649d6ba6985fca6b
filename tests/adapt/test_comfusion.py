"""ComFusion: its streams, what compares and reads coarse images, and a run of the verb."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model
from t2i_jax.process.matching import textual_distance, visual_distance
from t2i_jax.process.timesteps import inside
from t2i_jax.systems.denoising import denoising
from t2i_jax.training.setup import set_up
from tests.adapt.personalised import (
  CLASS,
  PROMPT,
  build_data,
  config_of,
  made_of,
  run_verb,
  train_classifier,
)

SCENES = ("left of a blue square", "above a red square")


def objective(classifier=None, **more):
  given = {"prompt": PROMPT, "class_prompt": CLASS, "scenes": SCENES}
  if classifier is not None:
    start = f"run:{classifier}"
    given |= {"visual": 0.5, "textual": 0.25, "features": start, "reader": start}
  given |= more
  return f"comfusion({', '.join(f'{k}={v!r}' for k, v in given.items())})"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, easy_data, one_device):
  return train_classifier(tmp_path_factory.mktemp("classifier") / "run", easy_data)


@pytest.fixture(scope="module")
def data(tmp_path_factory, easy_data):
  return build_data(tmp_path_factory.mktemp("fused"), easy_data, scenes=SCENES)


@pytest.fixture(scope="module")
def made(base, data, classifier):
  config = config_of(
    base / "base", "comfusion", data, **{"train.objective": objective(classifier, prior=0.5)}
  )
  return made_of(config)


def test_the_streams(made, classifier):
  """The composite one is DreamBooth's; coarse images are of the subject's rows, and the network of
  both distances is one frozen part."""
  system, params, batch, draws = made
  assert set(system.parts) == {"backbone", "text", "lora", "features"}
  part = system.parts["features"]
  assert (part.train, part.of, part.training_only) == ("none", "classifier", True)
  weights = {name: term.weight for name, term in system.terms.items()}
  assert weights == {"image": 1.0, "visual": 0.25, "textual": 0.125}

  @jax.jit
  def both(params):
    return system.losses(params, batch, draws), denoising(system, params, batch, draws)["image"]

  found, plain = both(params)
  np.testing.assert_allclose(found["image"], plain * np.array([1, 0.5] * 4), rtol=1e-4)
  for name in ("visual", "textual"):
    assert np.all(found[name][::2] > 0) and not np.any(found[name][1::2])
  checked = system.losses(params, batch._replace(role=None), draws)
  np.testing.assert_allclose(checked["image"], plain, rtol=1e-4)
  assert not np.any(checked["visual"]) and not np.any(checked["textual"])


def test_what_a_scene_names_is_read(made):
  """Its words without those of the class; another class's scene has other words."""
  objective = made[0].objective
  tokens = objective.read.tokens
  words = lambda row: {int(i) for i in np.flatnonzero(row)}
  square = words(tokens(["a blue square"])[0]) - words(tokens([CLASS])[0])
  left, above = map(words, objective.named)
  assert square <= left and not words(tokens([CLASS])[0]) & left and left != above


def test_distances_of_one_step_from_pure_noise(made):
  """low = high = 1 in one step: x0_hat of noise under "a ki circle" in the scene of a row."""
  system, params, batch, draws = made
  changes = {"low": 1.0, "high": 1.0, "denoise_steps": 1, "scenes": SCENES[:1]}
  alone = type(system.objective)(**vars_of(system.objective) | changes)

  @jax.jit
  def both(params):
    rows = lambda tree: jax.tree.map(lambda x: x[::2], tree)
    m = rows(system.mix(system.encode(params, batch.images[:, 0]), draws))
    cond = system.encode_text(
      params, {"text": system.text["text"].encode([f"{PROMPT} {SCENES[0]}"] * 4)}
    )
    t = inside(jnp.ones(4))
    time = system.process.at(t)
    x_t = time.alpha[0] * m.x0 + time.sigma[0] * m.eps
    coarse = system.denoise(params, x_t, time, cond).value
    network = system.module(params, "features")
    layers = [alone.seen.layers(network, image) for image in (coarse, m.x0)]
    logits = alone.read.logits(network, coarse)
    y = jnp.asarray(alone.named)[jnp.zeros(4, int)]
    expected = visual_distance(*layers), textual_distance(logits, y)
    found = alone(system, params, batch, draws)
    return [found[name][::2] for name in ("visual", "textual")], expected

  found, expected = both(params)
  assert system.output.prediction == "x0"
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-3)


def vars_of(objective):
  return {name: getattr(objective, name) for name in objective.__dataclass_fields__}


def test_adapters_alone_learn_from_coarse_images(made):
  system, params, batch, draws = made

  @jax.jit
  def slopes(params):
    return jax.grad(lambda lora: jnp.sum(
      system.losses(params | {"lora": lora}, batch, draws)["textual"]
    ))(params["lora"])  # fmt: skip

  assert all(np.any(leaf) for leaf in jax.tree.leaves(slopes(params)))


def test_it_is_taught_and_goes_on(base, classifier, tmp_path, one_device, capsys):
  """Images of the class in the scenes in turn; ended and begun again, bit for bit the same."""
  scenes = tmp_path / "scenes.txt"
  scenes.write_text("\n".join((*SCENES, "")))
  more = (f"--scenes={scenes}", f"--matching={classifier}", "--weight=visual=0.2")
  assert run_verb(base, tmp_path / "whole", "comfusion", *more) == 0
  said = capsys.readouterr().out
  assert "14 drawn" in said
  manifest = json.loads((tmp_path / "whole/data/manifest.json").read_text())
  captions = [caption for split, _, caption in manifest["made_by"]["arguments"]["files"]
              if split == "prior"]  # fmt: skip
  assert captions == [f"{CLASS} {SCENES[i % 2]}" for i in range(6)]
  config = json.loads((tmp_path / "whole/config.json").read_text())
  assert "visual=0.2" in config["train"]["objective"]
  assert run_verb(base, tmp_path / "part", "comfusion", *more, steps=2) == 0
  assert run_verb(base, tmp_path / "part", "comfusion", *more) == 0
  one, two = (open_model(tmp_path / name) for name in ("whole", "part"))
  assert set(one.params) == {"backbone", "text"}
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


@pytest.mark.parametrize(
  "more, words",
  [
    ({"textual": 0.1}, "'run:WORKDIR' of a noisy classifier, or textual=0"),
    ({"visual": 0.1}, "or 'folder:PATH' of VGG16; or visual=0"),
    ({"low": 0.9, "high": 0.1}, "needs low <= high"),
    ({"textual": 0.1, "reader": "run:{base}"}, "reads no captions off pixels"),
    ({"scenes": ()}, "has length 0"),
  ],
)
def test_refusals(base, data, one_device, more, words):
  more = {k: v.format(base=base / "base") if k == "reader" else v for k, v in more.items()}
  with pytest.raises(ConfigError, match=words):
    set_up(config_of(base / "base", "comfusion", data, **{"train.objective": objective(**more)}))


@pytest.mark.parametrize(
  "more, words",
  [
    ([], "give --scenes=FILE with a scene a line"),
    (["--scenes={empty}"], "has no scene"),
    (["--scenes={good}", "--matching={empty}"], "config.json cannot be read"),
    (["--scenes={good}", "--weight=erasure=0"], "has the terms visual, textual"),
    (["--scenes={good}", "--weight=textual"], "write TERM=NUMBER"),
    (["--scenes={good}", "--erase-steps=1"], "--erase-steps is of --method=domain_gallery"),
  ],
)
def test_what_the_verb_refuses(base, tmp_path, one_device, more, words, capsys):
  files = {"good": tmp_path / "good.txt", "empty": tmp_path / "empty.txt"}
  files["good"].write_text("left of a blue square")
  files["empty"].write_text("\n")
  more = [one.format(**files) for one in more]
  assert run_verb(base, tmp_path / "run", "comfusion", *more) == 2
  assert words in capsys.readouterr().err
  assert not (tmp_path / "run").exists()
