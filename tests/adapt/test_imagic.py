"""One image edited by a tiny model: what each stage trains, what lies between the encodings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_folders import write_golden
from PIL import Image

from t2i_jax.adapt import imagic
from t2i_jax.adapt.imagic import Drawn, Edit, between, edit, learned
from t2i_jax.adapt.personalise import Base
from t2i_jax.cli.main import main
from t2i_jax.errors import WorkdirError
from t2i_jax.inference import open_model, open_pipeline
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.systems.imagic import shifted, towards
from t2i_jax.training import train

TARGET, SEEDS = "a blue circle", (3, 4)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def moved(a, b):
  """Whether each array of two trees differs."""
  return [not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (a, b)), strict=True)]


def towers(key, rows=3):
  draw = lambda *shape: jax.random.normal(jax.random.fold_in(key, len(shape)), shape)
  return {"text": Tower(draw(rows, 5, 4), jnp.ones((rows, 5), bool), draw(rows, 6))}


def test_between_the_encodings():
  """eta e_target + (1 - eta) e_opt by its definition; at 1 the target's to the bit; under vmap."""
  target, best = (towers(jax.random.key(i))["text"] for i in range(2))
  cond = Conditioning({"text": target}, {})
  shift = {"text": {"tokens": best.tokens[0] - target.tokens[0], "pooled": best.pooled[0]}}
  etas = jnp.array([0.0, 0.6, 1.4])
  found = shifted(cond, towards(shift, etas)).towers["text"]
  for i, eta in enumerate(etas):
    e_opt = target.tokens[i] + shift["text"]["tokens"]
    wants = eta * target.tokens[i] + (1 - eta) * e_opt
    np.testing.assert_allclose(found.tokens[i], wants, rtol=1e-5, atol=1e-5)
    wants = target.pooled[i] + (1 - eta) * best.pooled[0]
    np.testing.assert_allclose(found.pooled[i], wants, rtol=1e-5, atol=1e-5)
  same(shifted(cond, towards(shift, 1.0)), cond)
  many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), shift)
  each = jax.vmap(lambda shift: shifted(cond, towards(shift, 0.0)))(many)
  same(jax.tree.map(lambda leaf: leaf[1], each), shifted(cond, towards(shift, -1.0)))


def run(base, to, *more):
  image = base / "in" / "0.png"
  return main([
    "personalise", "--method=imagic", f"--workdir={base / 'base'}", f"--image={image}",
    f"--prompt={TARGET}", f"--to={to}", "--embedding-steps=3", "--etas=0,1.0", "--seeds=3,4", *more,
  ])  # fmt: skip


@pytest.fixture(scope="module")
def edits(base, tmp_path_factory):
  """edits(weights) -> a run of three steps of each stage. Do not change it."""
  root = tmp_path_factory.mktemp("edits")

  def made(weights):
    to = root / weights
    if not to.exists():
      with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
        assert run(base, to, "--steps=3", f"--weights={weights}") == 0
    return to

  return made


@pytest.mark.parametrize("weights", ["all", "lora"])
def test_what_each_stage_trains_and_draws(base, edits, one_device, weights):
  to = edits(weights)
  assert (to / "eval/report.html").read_text().count("<figure>") == 1 + 2 * 2
  plain, first, second = (open_model(p) for p in (base / "base", to / "embedding", to))
  same(plain.params, first.params)
  shift = learned(to / "embedding")
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(shift))
  same(plain.params["text"], second.params["text"])
  changed = moved(plain.params["backbone"], second.params["backbone"])
  assert all(changed) if weights == "all" else any(changed) and not all(changed)

  # The embedding of the first stage is that of the second; at eta = 1 the text's encoding is left.
  drawn = {eta: between(second, shift, TARGET, eta, SEEDS) for eta in (0.0, 1.0)}
  same(drawn[1.0], second.draw([TARGET] * 2, SEEDS))
  assert np.any(drawn[0.0] != drawn[1.0])
  for eta, images in drawn.items():
    for seed, image in zip(SEEDS, images, strict=True):
      same(np.asarray(Image.open(to / f"drawn/eta{eta:g}_seed{seed}.png")), image)
  assert Image.open(to / "imagic.png").width > 3 * 32
  again = ["personalise", "--method=imagic", f"--to={to}", "--etas=0.5", "--seeds=9"]
  assert main(again) == 0
  assert (to / "drawn/eta0.5_seed9.png").exists()


def test_ended_and_run_again_it_is_the_same_to_the_bit(
  base, edits, tmp_path, one_device, monkeypatch, capsys
):
  """In each of its stages."""
  once, twice = edits("all"), tmp_path / "twice"

  def steps(first, second):
    how = [f"--embedding-steps={first}", f"--steps={second}", "--weights=all", "--etas=0"]
    return run(base, twice, *how)

  def ends(config, to):
    if to.name != "embedding":
      raise WorkdirError("ended")
    train(config, to)

  with monkeypatch.context() as patch:
    patch.setattr(imagic, "train", ends)
    assert steps(2, 1) == 2
  assert steps(3, 1) == 0
  assert steps(3, 3) == 0
  same(*(learned(to / "embedding") for to in (once, twice)))
  same(*(open_model(to).params for to in (once, twice)))
  assert steps(4, 3) == 2
  assert "was begun with the embedding of step 3" in capsys.readouterr().err


proof = lambda name: pytest.param(name, marks=pytest.mark.proof)


@pytest.mark.parametrize("name", ["flux", proof("sd1"), proof("sdxl")])
def test_published_models(name, base, tmp_path, one_device):
  """Flow matching with a pooled vector, and DDPM."""
  write_golden(tmp_path, name)
  where, few = tmp_path / name, {"sampling.steps": "2", "sampling.batch": "4"}
  size = (32, 32)
  model = Base(f"{where}:32x32", lambda: open_pipeline(where, few, size))
  given = few | {
    "train.steps": "2", "train.batch": "4", "model.dtype": "float32", "model.remat": "none",
    "eval.rows": "4", "mesh.fsdp": "1", "text.too_long": "truncate",
  }  # fmt: skip
  how = Edit(str(base / "in/0.png"), "a cat", "lora", given, given)
  page = edit(model, how, tmp_path / "edit", Drawn((0.0, 0.7), (0, 1)))
  assert page.read_text().count("<figure>") == 1 + 2 * 2
  shift = learned(tmp_path / "edit/embedding")["text"]
  assert set(shift) == ({"tokens"} if name == "sd1" else {"tokens", "pooled"})
  assert all(np.abs(leaf).max() > 0 for leaf in shift.values())


@pytest.mark.parametrize(
  "more, words",
  [
    (["--class-word=circle"], "imagic has one --image and a --prompt"),
    (["--prompt=a red circle"], "as one --prompt says: give both"),
    (["--image=nowhere.png"], "nowhere.png is not a file"),
    (["--etas=0,x"], "write numbers with commas"),
    (["--etas=9"], "--etas=9.0 is not in"),
    (["--weights=all", "--rank=2"], "--rank is of adapters"),
    (["--method=lora"], "--image, --etas, --seeds, --embedding-steps: only with --method=imagic"),
  ],
)
def test_what_is_refused_before_anything_is_trained(
  base, tmp_path, one_device, more, words, capsys
):
  assert run(base, tmp_path / "edit", *more) == 2
  assert words in capsys.readouterr().err
  assert not (tmp_path / "edit").exists()


def test_what_another_run_is_not(base, tmp_path, capsys):
  given = ["personalise", "--method=imagic", f"--to={base / 'base'}"]
  assert main(given) == 2
  assert "is no run of --method=imagic" in capsys.readouterr().err
