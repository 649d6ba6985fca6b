"""Training of an autoencoder: players, codebook, statistics; then a model on its latents."""

import functools
import json
import re
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import make_batch
from toys import CONFIGS, config_of, random_like, system_of

from t2i_jax.autoencoders import losses
from t2i_jax.config import load_config, to_json
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model
from t2i_jax.parallel import make_mesh
from t2i_jax.systems import Draws
from t2i_jax.systems.system import unit_range
from t2i_jax.training.checkpoint import Meta
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.encode_images import Encoder
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.restore import load_starts, restore_state
from t2i_jax.training.save import Saver
from t2i_jax.training.state import abstract_params, abstract_state
from t2i_jax.training.step import jit_train_step

SIZES = "widths=(4,), layers=1, groups=2, mid_attention=False, measured=True"
TINY = {
  "data.image_size": "(12, 12)", "text.tokenizer": "bytes", "text.vocab": "264",
  "autoencoder": f"vq(codes=6, {SIZES})", "model.channels": "3",
  "model.discriminator": "patch(width=4, layers=1, groups=2)",
  "train.objective": "reconstruction(commitment=0.25, adversarial=0.5, start=1)",
  "train.batch": "4", "train.steps": "9", "train.schedule": "constant", "train.clip": "1e9",
}  # fmt: skip
BATCHES = [make_batch(4, (12, 12, 3), seed=i, encoders=()) for i in range(4)]


def tiny(changes=None):
  return config_of(changes, CONFIGS / "vq.py", TINY)


@functools.cache
def made():
  """The system, its optimisers, the compiled step, and a state of random weights."""
  config, mesh = tiny(), make_mesh(devices=jax.devices()[:1])
  system = system_of(config)
  optimizers = make_optimizers(config.train, system)
  abstract = abstract_state(system, optimizers, mesh)
  step = jit_train_step(system, optimizers, config, mesh, abstract)
  return config, system, abstract, step


def begun():
  _, _, abstract, _ = made()
  zeros = lambda tree: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
  state = random_like(abstract)
  for tree in (state.trainable, state.ema):
    tree["vae"]["latents"]["var"] = jnp.ones(3)
  return state._replace(opt=zeros(abstract.opt), running=zeros(abstract.running))


def copied(tree):
  return jax.tree.map(jnp.copy, tree)  # a step is given its state


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def moved(a, b):
  """Of two trees: whether each leaf differs."""
  return [bool(np.any(x != y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]


def test_each_player_begins_when_it_should():
  _, _, _, step = made()
  first = begun()
  second, metrics = step(copied(first), BATCHES[0])
  same(first.trainable["discriminator"], second.trainable["discriminator"])
  assert metrics["loss_discriminator"] == metrics["loss_adversarial"] == 0
  assert all(moved(first.trainable["vae"]["decoder"], second.trainable["vae"]["decoder"]))
  third, metrics = step(copied(second), BATCHES[1])
  assert all(moved(second.trainable["discriminator"], third.trainable["discriminator"]))
  assert metrics["loss_discriminator"] > 0
  names = {"psnr", "ssim", "codes_used", "perplexity", "latent_mean_2", "latent_std_0"}
  assert names <= set(metrics) and "loss_bin_0" not in metrics


@pytest.mark.proof
def test_gradients_and_adaptive_weight_are_those_of_the_losses_alone():
  """Each part of the loss by every weight, through the whole autoencoder at once."""
  _, system, _, step = made()
  params = begun().trainable
  image = unit_range(BATCHES[0].images[:, 0])

  @jax.jit
  def separately(params, weights):
    def of_vae(vae):
      model = system.module({"vae": vae}, "vae")
      x = model.to_latents(image)
      image_hat = model.decode(model.normalise(x))
      scores = system.module(params, "discriminator")(image_hat)
      held = losses.commitment(x, model.vectors(model.nearest(x)))
      terms = (jnp.mean(jnp.abs(image_hat - image)), -jnp.mean(scores), jnp.mean(held))
      return sum(w * term for w, term in zip(weights, terms, strict=True)), image_hat

    grads, image_hat = jax.grad(of_vae, has_aux=True)(params["vae"])

    def of_patch(own):
      patch = system.module({"discriminator": own}, "discriminator")
      return jnp.mean(losses.hinge(patch(image), patch(image_hat)))

    return grads, jax.grad(of_patch)(params["discriminator"])

  state = begun()._replace(step=jnp.int32(1))
  after, metrics = step(copied(state), BATCHES[0])
  norm = lambda weights: np.linalg.norm(
    separately(params, weights)[0]["decoder"]["conv_out"]["kernel"]
  )
  error, deceived = norm((1.0, 0.0, 0.0)), norm((0.0, 1.0, 0.0))
  ratio = metrics["adaptive_weight"]
  np.testing.assert_allclose(ratio, error / (deceived + 1e-4), rtol=1e-3)
  by_vae, by_patch = separately(params, (1.0, 0.5 * ratio, 0.25))
  for player, part, expected in (
    ("autoencoder", "vae", by_vae),
    ("discriminator", "discriminator", by_patch),
  ):
    # Adam's first moment after one step from 0 is half the gradient (b1 = 0.5).
    moments = dict(jax.tree_util.tree_leaves_with_path(after.opt[player]))
    flat = {jax.tree_util.keystr(p): g for p, g in jax.tree_util.tree_leaves_with_path(expected)}
    for path, leaf in moments.items():
      text = jax.tree_util.keystr(path)
      if ".mu" in text and part in text:
        own = text[text.index(f"['{part}']") + len(f"['{part}']") :]
        np.testing.assert_allclose(2 * leaf, flat.pop(own), rtol=2e-3, atol=2e-5)
    assert not flat


def test_codebook_and_statistics_move_with_the_latents():
  _, system, _, step = made()
  state = begun()
  sizes = jnp.array([20.0, 50, 0.5, 100, 100, 100])  # of 4 x 144 / 6 = 96: the third is dead
  state = state._replace(running=state.running | {"sizes": sizes}, step=jnp.int32(3))
  after, _ = step(copied(state), BATCHES[0])
  model = system.module(state.trainable, "vae")
  image = unit_range(BATCHES[0].images[:, 0])
  x, indices = jax.jit(
    lambda image: (model.to_latents(image), model.nearest(model.to_latents(image)))
  )(image)
  x, used = np.asarray(x).reshape(-1, 3), np.eye(6)[np.asarray(indices).reshape(-1)]
  n = 0.99 * np.asarray(sizes) + 0.01 * used.sum(0)
  old, new = state.trainable["vae"], after.trainable["vae"]
  m = 0.99 * np.asarray(sizes)[:, None] * np.asarray(old["codebook"]) + 0.01 * used.T @ x
  alive = n >= 9.6
  assert list(np.flatnonzero(~alive)) == [2] or used.sum(0)[2] > 900
  book = np.asarray(new["codebook"])
  np.testing.assert_allclose(book[alive], (m / n[:, None])[alive], rtol=1e-4, atol=1e-5)
  dead = np.flatnonzero(~alive)
  assert all(np.min(np.abs(x - book[i]).sum(-1)) < 1e-5 for i in dead)
  np.testing.assert_allclose(after.running["sizes"][alive], n[alive], rtol=1e-5)
  keep = 3 / 4
  mean = keep * np.asarray(old["latents"]["mean"]) + (1 - keep) * x.mean(0)
  np.testing.assert_allclose(new["latents"]["mean"], mean, rtol=1e-4, atol=1e-5)
  var = keep * np.asarray(old["latents"]["var"]) + (1 - keep) * x.var(0)
  np.testing.assert_allclose(new["latents"]["var"], var, rtol=1e-3, atol=1e-5)
  same(after.ema["vae"]["codebook"], new["codebook"])  # no average of averages


@pytest.mark.proof
def test_a_mesh_of_eight_moves_codebook_and_players_alike():
  """One step of data 4 x fsdp 2 against one device: sums in another order, nothing else."""
  config = tiny({"train.batch": "8"})
  system, batch = system_of(config), make_batch(8, (12, 12, 3), encoders=())
  optimizers = make_optimizers(config.train, system)
  found = []
  for sizes, devices in (((4, 2, 1), jax.devices()), ((1, 1, 1), jax.devices()[:1])):
    mesh = make_mesh(*sizes, devices=devices)
    abstract = abstract_state(system, optimizers, mesh)
    state = random_like(abstract)
    zeros = lambda tree: jax.tree.map(
      lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), tree
    )
    step = jax.device_put(np.int32(1), abstract.step.sharding)
    state = state._replace(opt=zeros(abstract.opt), running=zeros(abstract.running), step=step)
    state.trainable["vae"]["latents"]["var"] = jax.device_put(
      np.ones(3, np.float32), abstract.trainable["vae"]["latents"]["var"].sharding
    )
    with jax.set_mesh(mesh):
      after, _ = jit_train_step(system, optimizers, config, mesh, abstract)(state, batch)
    found.append(jax.tree.map(np.asarray, (after.trainable["vae"]["codebook"], after.running)))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  jax.tree.map(close, *found)


def test_saved_and_restored_both_players_go_on_bit_for_bit(tmp_path):
  config, system, abstract, step = made()
  state = begun()
  for batch in BATCHES[:2]:
    state, _ = step(state, batch)
  meta = Meta(config, Tokenizer.bytes(), 8, {}, ())
  with closing(Saver(tmp_path, keep=1)) as saver:
    saver.save(state, meta)
    saver.wait()
    again = restore_state(saver, 2, saver.meta(2), system, abstract)
  same(state, again)
  assert np.any(again.running["sizes"]) and np.any(again.running["codes"])
  for batch in BATCHES[2:]:
    state, metrics = step(state, batch)
    again, repeated = step(again, batch)
    same(metrics, repeated)
  same(state, again)


def test_a_model_on_the_latents_of_a_run(tmp_path, monkeypatch):
  """autoencoder="run(...)" and the part's start: sizes, weights, scale and shift come along."""
  workdir, (config, system, _, _), state = tmp_path / "vae", made(), begun()
  with closing(Saver(workdir, keep=1)) as saver:
    saver.save(state._replace(step=jnp.int32(1)), Meta(config, Tokenizer.bytes(), 4, {}, ()))
  (workdir / "config.json").write_text(to_json(config))
  opened = open_model(workdir)
  images = BATCHES[0].images[:, 0]
  back = opened.need("reconstruct")(opened.params, images)
  assert back.shape == images.shape and back.dtype == np.uint8
  with pytest.raises(ConfigError, match=r"cannot draw: .*an autoencoder draws nothing, train a mo"):
    opened.draw(["a"], [0])

  frozen = {"start": f"run:{workdir}", "train": "none"}
  plain = {"start": "", "train": "all"}
  changes = {"data.image_size": "(12, 12)", "model.channels": "3", "model.patch": "4",
             "model.width": "16", "model.heads": "2", "model.depth": "1", "text.vocab": "264",
             "text.tokenizer": "bytes", "autoencoder": f"run(path='{workdir}')"}  # fmt: skip
  parts = {"backbone": plain, "text": plain, "vae": frozen}
  above = system_of(config_of(changes, CONFIGS / "scenes_dit_flow.py", {}, parts=parts))
  assert above.autoencoder == system.autoencoder and above.x_shape == (12, 12, 3)
  started = load_starts(above, abstract_params(above, make_mesh()))
  same(started["vae"], state.ema["vae"])
  latents = system.encode({"vae": state.ema["vae"]}, images)
  same(above.encode(started, images), latents)
  encoder = Encoder(workdir, len(images), mode=True)  # of `t2i data encode`
  np.testing.assert_allclose(encoder(images)[: len(images)], latents, rtol=1e-5, atol=1e-6)
  assert encoder.weights == fingerprint({"vae": started["vae"]})["vae"]

  for path, wrong, message in (
    ("nowhere", {}, "nowhere/config.json cannot be read"),
    (workdir, {"model.channels": "5"}, "model.channels = 5: latents of autoencoder"),
  ):
    other = changes | {"autoencoder": f"run(path='{path}')"} | wrong
    with pytest.raises(ConfigError, match=message):
      system_of(config_of(other, CONFIGS / "scenes_dit_flow.py", {}, parts=parts))


@pytest.mark.parametrize(
  "config, part, shapes",
  [
    ("scenes_classifier.py", "classifier", [(4, 9, 128)] * 3),
    ("emoji_contrastive.py", "encoder", [(4, 8, 8, 64), (4, 4, 4, 128)]),
    (
      {"architecture": "vgg16"},
      "vgg",
      [(4, 16, 16, 64), (4, 8, 8, 128), (4, 4, 4, 256), (4, 2, 2, 512), (4, 1, 1, 512)],
    ),
  ],
  ids=["classifier", "encoder", "folder"],
)
def test_features_of_another_network_compare_images(tmp_path, config, part, shapes):
  """Built of config.json alone, traced with the whole loss; frozen, or refused."""
  if of_run := isinstance(config, str):
    own = {"model.patch": "4"} if part == "classifier" else {}
    config = json.loads(to_json(load_config(CONFIGS / config, own)))
  (tmp_path / "config.json").write_text(json.dumps(config))
  changes = {
    "model.perceptual": f"{'run' if of_run else 'folder'}(path='{tmp_path}')",
    "train.objective": "reconstruction(perceptual=0.5, commitment=1, adversarial=0.5)",
  }
  parts = {name: {"start": "", "train": "all"} for name in ("vae", "discriminator")}
  frozen = {part: {"start": f"run:{tmp_path}", "train": "none"}}
  of = lambda parts: system_of(config_of(changes, CONFIGS / "vq.py", TINY, parts=parts))
  if not of_run:
    with pytest.raises(ConfigError, match="needs sides of 16 pixels at least"):
      of(parts | frozen)
    changes["data.image_size"] = "(16, 16)"
  system = of(parts | frozen)
  assert system.terms["perceptual"].weight == 0.5 and part not in sum(system.players.values(), ())
  draws = Draws(jnp.zeros(4), jnp.arange(4), jax.random.key(0), {}, 0)
  found = jax.eval_shape(system.losses, system.abstract, system.rows(4), draws)
  assert found["perceptual"].shape == (4,)
  image = jax.ShapeDtypeStruct((4, *system.image_shape), jnp.float32)
  layers = jax.eval_shape(
    lambda p, x: system.features.layers(system.module(p, part), x), system.abstract, image
  )
  assert [layer.shape for layer in layers] == shapes
  with pytest.raises(ConfigError, match=rf"parts.{part}.train: features are frozen"):
    of(parts | {part: {"start": "", "train": "all"}})


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"train.steps": "1"}, "the discriminator starts at step 1, after the last of train.steps = 1"),
    ({"model.discriminator": "none"}, "has adversarial = 0.5, and model.discriminator = 'none'"),
    ({"train.objective": "reconstruction"}, "has adversarial = 0, and model.discriminator"),
    ({"model.discriminator": "patch(layers=3)"}, "halves (12, 12) pixels 3 times"),
    ({"model.perceptual": "run(path='nowhere')"}, "nowhere/config.json cannot be read"),
    ({"train.objective": "reconstruction(kl=1, adversarial=1)"}, "kl is a term of kl;"),
    (
      {"train.objective": "reconstruction(entropy=1, adversarial=1)"},
      "entropy is a term of fsq or lfq;",
    ),
    (
      {
        "autoencoder": f"fsq(levels=(32, 32, 32), {SIZES})",
        "train.objective": "reconstruction(entropy=1, adversarial=1)",
      },
      "has 32768; 16384 is the most",
    ),
    ({"train.objective": "reconstruction(l1=0, adversarial=1)"}, "nothing compares pixels"),
    ({"train.objective": "denoising"}, "'denoising' is not one of reconstruction"),
    ({"autoencoder": "identity"}, "autoencoder = 'identity' cannot be trained here"),
    ({"autoencoder": f"fsq(levels=(8, 8), {SIZES})"}, "has 2 channels, and z has 3"),
    ({"data.image_size": "(8, 8)"}, "SSIM is over windows of 11 pixels"),
  ],
)
def test_what_is_refused(changes, message):
  with pytest.raises(ConfigError, match=re.escape(message)):
    system_of(tiny(changes))
