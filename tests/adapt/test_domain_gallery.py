"""DomainGallery: what each term holds to what, and a run of the verb that goes on bit for bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model
from t2i_jax.process import convert
from t2i_jax.systems.denoising import denoising
from t2i_jax.systems.domain_gallery import DomainGallery
from t2i_jax.systems.roles import before
from t2i_jax.training.setup import set_up
from tests.adapt.personalised import CLASS, PROMPT, build_data, config_of, made_of, run_verb


@pytest.fixture(scope="module")
def data(tmp_path_factory, easy_data):
  return build_data(tmp_path_factory.mktemp("gallery"), easy_data)


@pytest.fixture(scope="module")
def made(base, data, one_device):
  return made_of(config_of(base / "base", "domain_gallery", data))


def values(made, step, **changes):
  """The objective's values at a step: before step 3 the word is erased."""
  system, params, batch, draws = made
  objective = DomainGallery(PROMPT, CLASS, **{"erase_steps": 3} | changes)
  call = jax.jit(lambda params, step: objective(system, params, batch, draws._replace(step=step)))
  return call(params, step)


def test_the_terms_of_the_two_stages(made):
  """First the class alone, then the domain; a term is of the class's rows."""
  system, params, batch, draws = made
  plain = jax.jit(lambda params: denoising(system, params, batch, draws)["image"])(params)
  first, second = values(made, 2), values(made, 3)
  np.testing.assert_allclose(first["image"], plain * np.array([0, 1] * 4), rtol=1e-4)
  np.testing.assert_allclose(second["image"], plain, rtol=1e-4)
  assert set(first) == {"image", "erasure", "disentanglement", "similarity"}
  for name, one, other in (("erasure", first, second), ("similarity", second, first)):
    assert np.all(one[name][1::2] > 0) and not np.any(one[name][::2]) and not np.any(other[name])
  np.testing.assert_allclose(first["disentanglement"], second["disentanglement"], rtol=1e-5)
  half = values(made, 2, erasure=0.0, disentanglement=0.0, similarity=0.0, prior=0.5)
  assert set(half) == {"image"}  # without erasure there is no first stage
  np.testing.assert_allclose(half["image"], plain * np.array([1, 0.5] * 4), rtol=1e-4)


def test_erasure_and_disentanglement_are_squared_differences_of_velocities(made):
  """Of the word from the class; and of the class from what it was without adapters."""
  system, params, batch, draws = made
  found = values(made, 0)
  x0 = system.encode(params, batch.images[:, 0])

  @jax.jit
  def expected(params):
    m = jax.tree.map(lambda x: x[1::2], system.mix(x0, draws))
    x_t, time = m.x_t, m.time
    bare = {name: tree for name, tree in params.items() if name != "lora"}

    def velocity(params, prompt):
      cond = system.encode_text(params, {"text": system.text["text"].encode([prompt] * 4)})
      return convert(system.denoise(params, x_t, time, cond), "velocity", x_t, time).value

    mean = lambda a, b: jnp.mean((a - b) ** 2, (1, 2, 3))
    own = velocity(params, CLASS)
    return mean(velocity(params, PROMPT), own), mean(own, velocity(bare, CLASS))

  erasure, disentanglement = expected(params)
  np.testing.assert_allclose(found["erasure"][1::2], erasure, rtol=2e-3)
  np.testing.assert_allclose(found["disentanglement"][1::2], disentanglement, rtol=2e-3)


def test_the_class_is_a_target_without_gradient(made):
  """Where the word is the class, erasure and similarity are 0, and so are their gradients; and the
  model before has none."""
  system, params, batch, draws = made
  objective = DomainGallery(CLASS, CLASS, erase_steps=3)

  def sums(lora, step):
    found = objective(system, params | {"lora": lora}, batch, draws._replace(step=step))
    return jnp.sum(found["erasure"] + found["similarity"])

  slopes = jax.jit(jax.grad(sums))
  for step in (0, 3):
    tree = slopes(params["lora"], step)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree)) < 1e-5

  def held(params):
    x0 = system.encode(params, batch.images[:, 0])
    m, cond = system.mix(x0, draws), system.conditioning(params, batch, draws)
    return jnp.sum(before(system, params)(m.x_t, m.time, cond).value ** 2)

  of_backbone = jax.jit(jax.grad(held))(params)["backbone"]
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_backbone))


def test_it_is_taught_and_goes_on(base, tmp_path, one_device, capsys):
  """Both stages; ended after two steps and begun again, it is the run that was not, bit for bit."""
  how = (base, tmp_path / "whole", "domain_gallery", "--erase-steps=1")
  assert run_verb(*how) == 0
  lines = (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
  last = [json.loads(line) for line in lines if '"train"' in line][-1]
  assert last["loss_similarity"] >= 0 and last["loss_disentanglement"] > 0
  part = (base, tmp_path / "part", "domain_gallery", "--erase-steps=1")
  assert run_verb(*part, steps=2) == 0 and run_verb(*part) == 0
  one, two = (open_model(tmp_path / name) for name in ("whole", "part"))
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  args = ["sample", f"--workdir={tmp_path / 'whole'}", "--prompt=a ki square", "--cfg=2"]
  enhanced = "--guidance=enhance(word='ki',scale=0.5)"
  assert main([*args, enhanced, f"--out={tmp_path / 'drawn'}"]) == 0
  joined = "--guidance=compose(weights=(1.0,0.5))"
  prompt = "--prompt=a ki square AND ki"
  assert main([*args[:2], prompt, "--cfg=2", joined, f"--out={tmp_path / 'joined'}"]) == 0
  drawn, same = (next((tmp_path / d).glob("*.png")).read_bytes() for d in ("drawn", "joined"))
  assert drawn == same


def test_of_several_classes_each_has_its_own_prompts(made):
  """The terms of a row are those of its own caption, as if it were the only class."""
  system, params, batch, draws = made
  encode = system.text["text"].encode
  ids, mask = (np.array(x) for x in batch.text["text"])
  ids[3::4], mask[3::4] = (x[0] for x in encode(["a square"]))  # half of the class's rows
  text = {"text": batch.text["text"]._replace(ids=jnp.asarray(ids), mask=jnp.asarray(mask))}

  def found(**fields):
    objective = DomainGallery(**fields, erase_steps=3, similarity=0.0)
    return jax.jit(lambda p: objective(system, p, batch._replace(text=text), draws))(params)

  several = found(prompt="a ki {}", class_prompt="a {}", class_words=("square", "circle"))
  for rows, word in ((slice(1, None, 4), "circle"), (slice(3, None, 4), "square")):
    alone = found(prompt=f"a ki {word}", class_prompt=f"a {word}")
    np.testing.assert_allclose(several["erasure"][rows], alone["erasure"][rows], rtol=1e-5)
    other = found(prompt="a ki triangle", class_prompt="a triangle")
    assert np.all(np.abs(several["erasure"][rows] / other["erasure"][rows] - 1) > 1e-3)


FULL = """
from t2i_jax.configs import dreambooth as parent

def get_config():
  c = parent.get_config({base!r})
  c.name = "full"
  c.parts.teacher = {{"start": "run:" + {base!r}, "train": "none"}}
  c.train.objective = {objective!r}
  return c
"""
OBJECTIVE = f"domain_gallery(prompt={PROMPT!r}, class_prompt={CLASS!r})"


def test_a_frozen_copy_in_place_of_adapters(base, data, tmp_path, one_device):
  """Where all weights are trained, the model before is the part "teacher"."""
  file = tmp_path / "full.py"
  file.write_text(FULL.format(base=str(base / "base"), objective=OBJECTIVE))
  system, params, batch, draws = made_of(load_config(file, {"data.dir": str(data)}))
  assert set(system.parts) == {"backbone", "text", "teacher"}
  same = params | {"teacher": params["backbone"]}
  call = jax.jit(lambda p: system.losses(p, batch, draws)["disentanglement"])
  np.testing.assert_allclose(call(same), 0, atol=1e-8)
  assert np.all(call(params)[1::2] > 0)


@pytest.mark.parametrize(
  "method, changes, words",
  [
    ("dreambooth", {"train.objective": OBJECTIVE}, r"list the part parts\.teacher"),
    ("domain_gallery", {"train.batch": "4"}, "micro-batch|Use 6 or more, or similarity=0"),
    ("domain_gallery", {"parts.text.train": "all"}, r"parts\.text is to be frozen"),
  ],
)
def test_refusals(base, data, one_device, method, changes, words):
  with pytest.raises(ConfigError, match=words):
    set_up(config_of(base / "base", method, data, **changes))


@pytest.mark.parametrize(
  "more, words",
  [
    (["--weight=visual=1"], "--method=domain_gallery has the terms erasure"),
    (["--weight=erasure=-1"], "--weight=erasure=-1.0 is not in"),
    (["--priors=0", "--prior=0"], "learns from images of the class: give --priors above 0"),
    (["--scenes=nowhere.txt"], "cannot be read as UTF-8"),
  ],
)
def test_what_the_verb_refuses(base, tmp_path, one_device, more, words, capsys):
  assert run_verb(base, tmp_path / "run", "domain_gallery", *more) == 2
  assert words in capsys.readouterr().err
  assert not (tmp_path / "run").exists()
