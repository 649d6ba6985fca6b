"""Concepts are forgotten: what each objective holds to what, and runs of the verb."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from t2i_jax.adapt.forget import How, filled
from t2i_jax.adapt.subject import AnchorImages
from t2i_jax.cli.main import main
from t2i_jax.data.build import build
from t2i_jax.data.roles import open_split
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model
from t2i_jax.process import convert
from t2i_jax.process.matching import partly_denoised
from t2i_jax.sampling.guidance import Guided, guide
from t2i_jax.sampling.guidance_methods import GUIDANCE
from t2i_jax.systems.ablation import Ablation, Esd, Maximise
from t2i_jax.systems.denoising import denoising
from t2i_jax.systems.roles import before
from t2i_jax.systems.system import DRAW_END, row_keys
from t2i_jax.training.setup import set_up
from tests.adapt.personalised import config_of, made_of

ANCHOR, CONCEPT = "a circle", "a ki circle"
DDPM = {
  "process.kind": "ddpm_cosine", "process.prediction": "eps", "process.weighting": "eps",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, easy_data):
  """A folder of three pairs, and of four images that are held out."""
  to, rng, files = tmp_path_factory.mktemp("forget"), np.random.default_rng(0), []
  for i in range(7):
    path, small = to / f"{i}.png", rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((32, 32)).save(path)
    files.append(str(path))
  splits = [
    ("anchor", files[:3], ANCHOR),
    ("target", files[:3], CONCEPT),
    ("val", files[3:], ANCHOR),
  ]
  source = AnchorImages(tuple((s, path, text) for s, paths, text in splits for path in paths))
  own = json.loads(Tokenizer.load(easy_data, "bpe").to_json())["model"]
  build(source, to / "data", workers=1, progress=False, tokenizer=own)
  return to / "data"


@pytest.fixture(scope="module", params=["flow", "ddpm"])
def made(request, base, data, one_device):
  """A backbone with adapters that are not 0: system, parameters, a batch, draws."""
  changes = DDPM if request.param == "ddpm" else {}
  return made_of(config_of(base / "base", "ablation_lora", data, **changes))


def rows(tree, role):
  return jax.tree.map(lambda x: x[role::2], tree)


OBJECTIVES = {
  "current": Ablation(),
  "frozen": Ablation("frozen"),
  "noise": Ablation("noise", regularisation=0.25),
  "esd": Esd(eta=0.7, guidance=2.0, denoise_steps=3),
  "maximise": Maximise(),
  "ceiling": Maximise(ceiling=1e-3, regularisation=0.5),
}


@pytest.fixture(scope="module")
def found(made):
  """(the values of all objectives, what they should be), in one program."""
  system, params, batch, draws = made
  kind = "eps" if system.output.prediction == "eps" else "velocity"
  mean = lambda x: jnp.mean(x**2, (1, 2, 3))

  def losses(params):
    given = {name: one(system, params, batch, draws) for name, one in OBJECTIVES.items()}
    plain = batch._replace(role=None)
    return given | {"validation": OBJECTIVES["current"](system, params, plain, draws)}

  def expected(params):
    m = rows(system.mix(system.encode(params, batch.images[:, 0], draws.key, draws.rows), draws), 0)
    bare = {name: tree for name, tree in params.items() if name != "lora"}
    tokens = lambda prompt: {"text": system.text["text"].encode([prompt] * 4)}
    concept, anchor, null = (
      system.encode_text(params, tokens(prompt)) for prompt in (CONCEPT, ANCHOR, "")
    )

    def under(params, cond, x_t):
      return convert(system.denoise(params, x_t, m.time, cond), kind, x_t, m.time).value

    own = under(params, concept, m.x_t)
    guided = guide(before(system, params), GUIDANCE["cfg"](), 2.0)
    prior = system.process.prior(row_keys(draws.key, draws.rows[1::2], DRAW_END), system.x_shape)
    denoise = lambda x, time: guided(x, time, Guided(concept, null))
    x_t = partly_denoised(denoise, system.process, prior, m.time.t, 3)
    away = under(bare, anchor, x_t) - 0.7 * (under(bare, concept, x_t) - under(bare, null, x_t))
    relabelled = batch._replace(images=jnp.repeat(batch.images[::2], 2, 0))
    same = draws._replace(t=jnp.repeat(draws.t[::2], 2), rows=jnp.repeat(draws.rows[::2], 2))
    return {
      "current": mean(own - under(params, anchor, m.x_t)),
      "frozen": mean(own - under(bare, anchor, m.x_t)),
      "esd": mean(under(params, concept, x_t) - away),
      "denoising": denoising(system, params, batch, draws)["image"],
      "noise": denoising(system, params, relabelled, same)["image"][1::2],
    }

  return jax.jit(lambda params: (losses(params), expected(params)))(params)


@pytest.mark.parametrize("name, term", [("current", "ablation"), ("frozen", "ablation"),
                                        ("esd", "esd"), ("noise", "ablation")])  # fmt: skip
def test_what_the_concept_is_held_to(found, name, term):
  """Squared differences of velocities, of noises in DDPM: at the anchor's images with noise, or on
  the trajectory of ESD; the noise-based variant has the denoising loss of the anchor's images."""
  value, wanted = found[0][name], found[1][name]
  np.testing.assert_allclose(value[term][1::2], wanted, rtol=5e-3)
  assert np.all(wanted > 0) and not np.any(value[term][::2])
  assert (name == "noise") == bool(np.any(value["image"]))


def test_denoising_of_anchors_and_of_concepts(found):
  given, plain = found[0], found[1]["denoising"]
  for name, weight in (("noise", 0.25), ("ceiling", 0.5)):
    np.testing.assert_allclose(given[name]["image"][::2], weight * plain[::2], rtol=1e-3)
    assert not np.any(given[name]["image"][1::2])
  np.testing.assert_allclose(given["maximise"]["maximise"][1::2], -plain[1::2], rtol=1e-3)
  np.testing.assert_allclose(given["ceiling"]["maximise"][1::2], -1e-3, rtol=1e-6)
  np.testing.assert_allclose(given["validation"]["image"], plain, rtol=1e-3)
  assert not np.any(given["validation"]["ablation"])


def test_the_anchor_has_no_gradient(made):
  """Where the concept is the anchor the slope is 0; else it is that of the concept's side."""
  system, params, batch, draws = made
  text = jax.tree.map(lambda x: jnp.repeat(x[::2], 2, 0), batch.text)

  def total(lora, batch):
    return jnp.sum(Ablation()(system, params | {"lora": lora}, batch, draws)["ablation"])

  slope = jax.jit(jax.grad(total))
  largest = lambda tree: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
  assert largest(slope(params["lora"], batch._replace(text=text))) < 1e-5
  assert largest(slope(params["lora"], batch)) > 1e-4


def test_a_trajectory_ends_where_the_exact_one_does():
  """Gaussian data of variance s^2: x_t = x_1 sqrt(var_t / var_1), of each row at its own time."""
  from t2i_jax.process import Prediction
  from t2i_jax.process.schedules import flow
  from t2i_jax.process.time import like

  process, s2 = flow(), 0.3**2

  def denoise(x, time):
    alpha, sigma = like(time.alpha, x), like(time.sigma, x)
    return Prediction(alpha * s2 * x / (alpha**2 * s2 + sigma**2), "x0")

  t = jnp.array([0.2, 0.5, 0.9, 0.99])
  x = jax.random.normal(jax.random.key(0), (4, 3))
  exact = x * jnp.sqrt((1 - t) ** 2 * s2 + t**2)[:, None]
  error = [
    float(jnp.max(jnp.abs(partly_denoised(denoise, process, x, t, n) - exact))) for n in (20, 40)
  ]
  assert error[1] < 0.02 and 1.7 < error[0] / error[1] < 2.3  # of first order


def run(base, to, *more, concept="red circle", anchor="circle", steps=4, workdir="base"):
  given = [f"--concept={concept}"] + ([] if anchor is None else [f"--anchor={anchor}"])
  return main([
    "forget", f"--workdir={base / workdir}", *given, f"--to={to}", "--priors=6",
    *([f"--steps={steps}"] if steps else []), *more,
  ])  # fmt: skip


def moved(one, other):
  """Paths of the leaves that differ."""
  from flax import traverse_util

  a, b = (traverse_util.flatten_dict(model.params, sep="/") for model in (one, other))
  return {path for path in a if not np.array_equal(a[path], b[path])}


def test_keys_and_values_forget_and_go_on_bit_for_bit(base, tmp_path, one_device, capsys):
  assert run(base, tmp_path / "whole", "--keep=a blue square", "--regularisation=0.2") == 0
  said = capsys.readouterr().out
  assert "'a circle': 0 images are there, 14 drawn" in said
  page = Path(said.strip().splitlines()[-1]).read_text()
  assert page.count("<figure>") == 2 * 3 * 4 and "kept: a blue square" in page
  before, after = open_model(base / "base"), open_model(tmp_path / "whole")
  assert moved(before, after) == {"backbone/blocks/cross/kv/kernel"}
  pair = open_split(tmp_path / "whole/data", "anchor+target")
  for i in range(0, 12, 2):
    (one, first), (two, second) = (pair.record(i + k, 0) for k in range(2))
    assert (first, second) == (0, 1) and one.image == two.image
    assert (one.captions, two.captions) == (("a circle",), ("a red circle",))
  part = (base, tmp_path / "part", "--keep=a blue square", "--regularisation=0.2")
  assert run(*part, steps=2) == 0 and run(*part) == 0
  jax.tree.map(np.testing.assert_array_equal, after.params, open_model(tmp_path / "part").params)


def test_adapters_by_esd_and_then_another_concept(base, tmp_path, one_device):
  """The second run starts from the merged weights of the first."""
  assert run(base, tmp_path / "one", "--method=esd", "--what=lora", "--rank=2", anchor=None) == 0
  one = open_model(tmp_path / "one")
  assert all(path.startswith("backbone/") for path in moved(open_model(base / "base"), one))
  more = ("--method=noise", "--what=embedding", "--steps=1")
  assert run(tmp_path, tmp_path / "two", *more, concept="blue square", anchor="square",
             workdir="one") == 0  # fmt: skip
  two = open_model(tmp_path / "two")
  assert moved(one, two) == {"text/embedding"}
  table = one.params["text"]["embedding"], two.params["text"]["embedding"]
  ids = two.system.text["text"].encode(["a blue square", "a square"])[0]
  assert set(np.flatnonzero(np.any(table[0] != table[1], 1))) == set(ids[0]) - set(ids[1])
  # And a third one: embeddings are merged, too.
  given = {"data.train_split": "anchor"}
  third = set_up(config_of(tmp_path / "two", "lora", tmp_path / "two/data", **given))
  assert set(third.system.adapters) == {"lora"}


def test_all_weights_held_to_a_frozen_copy(base, data, one_device):
  changes = {"parts.backbone.train": "all", "train.objective": "ablation(target='frozen')"}
  system, params, batch, draws = made_of(config_of(base / "base", "esd", data, **changes))
  assert set(system.parts) == {"backbone", "text", "teacher"}
  call = jax.jit(lambda params: system.losses(params, batch, draws)["ablation"])
  same = params | {"teacher": params["backbone"]}
  of_current = jax.jit(lambda p: Ablation()(system, p, batch, draws)["ablation"])(params)
  np.testing.assert_allclose(call(same), of_current, rtol=1e-4)
  assert np.all(np.abs(call(params) - of_current)[1::2] > 1e-6)


def test_templates():
  assert filled("a painting, {}", "") == "a painting"
  assert filled("a {} left of a square", "red circle") == "a red circle left of a square"
  how = How(("by outl", "by ki"), ("", "by me"), kind="style")
  assert how.pairs[0] == ("an image", "an image by outl") and len(how.pairs) == 8
  assert how.shown == ("an image by outl", "an image", "an image by ki", "an image by me")


@pytest.mark.parametrize(
  "more, words",
  [
    ({"anchor": "red circle"}, "have the same tokens"),
    ({"anchor": None}, "there are 1 concepts and 0 anchors"),
    ({"concept": " "}, "say what is to be forgotten"),
    ({"more": ["--method=hypnosis"]}, "--method=hypnosis is not one of ablation"),
    ({"more": ["--what=bias"]}, "--what=bias is not one of kv"),
    ({"more": ["--frozen", "--method=noise"]}, "--frozen is of --method=ablation"),
    ({"more": ["--frozen", "--what=embedding"]}, "reads the same text encoders"),
    ({"more": ["--rank=2"]}, "--rank is of adapters"),
    ({"more": ["--priors=1", "--kind=style"]}, "there are 4 pairs of prompts"),
    ({"more": ["--method=uce"]}, "without training: leave out"),
    ({"more": ["--method=uce"], "steps": 0}, "gives the same for both"),
    ({"concept": "red circle and " * 8}, "more than text.length"),
    ({"concept": "circle", "anchor": "circle red", "more": ["--what=embedding"]}, "no token in"),
  ],
)
def test_what_is_refused(base, tmp_path, one_device, more, words, capsys):
  more = dict(more)
  extra = more.pop("more", [])
  assert run(base, tmp_path / "run", *extra, **more) == 2
  assert words in capsys.readouterr().err


def test_dropped_captions_are_refused(made):
  system, params, batch, draws = made
  dropping = draws._replace(drop={"text": jnp.zeros(8, bool)})
  with pytest.raises(ConfigError, match="the null would be ablated"):
    jax.eval_shape(lambda params: Ablation()(system, params, batch, dropping), params)
