"""The joint model and its loss against a slow reference in numpy, written from the paper."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import packed
from weights import random_weights

from t2i_jax import pretrained
from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data.documents import Image, Text
from t2i_jax.data.tokenize import BOS, EOS, PAD, Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model
from t2i_jax.models import init_params
from t2i_jax.models.transfusion import Transfusion
from t2i_jax.parallel import batch_sharding, make_mesh
from t2i_jax.systems import Draws, make_system
from t2i_jax.systems.system import DRAW_EPS, row_noise
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.running import new_running
from t2i_jax.training.state import TrainState, abstract_state, create_state
from t2i_jax.training.step import jit_train_step, make_train_step

CONFIG = Path(__file__).parents[1] / "joint_config.py"
SMALL = {
  "data.image_size": "(8, 12)", "text.vocab": "261", "text.length": "16", "text.tokenizer": "bytes",
  "model.width": "32", "model.depth": "2", "model.heads": "4", "model.kv_heads": "2",
  "model.patch": "4", "rows.length": "64", "rows.images": "4",
}  # fmt: skip
FEATURES = {
  "plain": {"model.time": "added", "model.qk_norm": "False", "model.tied": "False"},
  "adaln, qk-norm, tied": {"model.time": "adaln", "model.qk_norm": "True", "model.tied": "True",
                           "model.absolute": "True"},
}  # fmt: skip


def make(**changes):
  return make_system(load_config(CONFIG, SMALL | changes), Tokenizer.bytes())


def live(system):
  return random_weights(system.abstract, 0.2)


def image(seed, **how):
  rng = np.random.default_rng(seed)
  return Image(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8), **how)


def words(*ids, predict=True, hidden=None):
  return Text(np.array(ids, np.int32), predict, hidden)


DOCUMENTS = [
  [words(5, 6, 7), image(0)],
  [image(1, max_t=0.5), words(8, 9, hidden=np.array([True, False]))],
  [words(10), image(2), words(11, 12, predict=False), image(3)],
]


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def silu(x):
  return x / (1 + np.exp(-x))


class Reference:
  """One document through the model, in float64, a position at a time where it can be."""

  def __init__(self, system, params):
    self.c, self.p, self.layout = system.model_config, params["backbone"], system.layout

  def norm(self, x, gain):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.c.norm_eps) * gain

  def vector(self, time):
    half = 128
    angle = time * np.exp(-np.log(1e4) * np.arange(half) / half)
    x = np.concatenate([np.cos(angle), np.sin(angle)])
    t = self.p["time_in"]
    x = silu(x @ t["first"]["kernel"] + t["first"]["bias"])
    return x @ t["second"]["kernel"] + t["second"]["bias"]

  def waves(self, place):
    """Of half the width: sines, then cosines."""
    count = self.c.width // 4
    angles = [place / 10_000 ** (k / count) for k in range(count)]
    return np.array([np.sin(a) for a in angles] + [np.cos(a) for a in angles])

  def turned(self, x, place):
    """Pair (k, k + K/2) by the angle of the row for even k, of the column for odd."""
    half = len(x) // 2
    out = np.array(x)
    for k in range(half):
      angle = place[k % 2] * self.c.rope_theta ** (-2 * k / len(x))
      a, b = x[k], x[k + half]
      out[k] = a * np.cos(angle) - b * np.sin(angle)
      out[k + half] = b * np.cos(angle) + a * np.sin(angle)
    return out

  def positions(self, document, images, times):
    """(input vector, place, number of its image or None) of each position, and the tokens."""
    entries, at, n = [], 0, 0

    def token(i, hidden=False):
      nonlocal at
      entries.append((self.p["table"][PAD if hidden else i], (at, at), None, i))
      at += 1

    token(BOS)
    for part in document:
      if isinstance(part, Text):
        hidden = [False] * len(part.ids) if part.hidden is None else part.hidden
        for i, unseen in zip(part.ids, hidden, strict=True):
          token(int(i), unseen)
        continue
      token(self.layout.ids.boi)
      for row in range(self.layout.rows):
        for col in range(self.layout.cols):
          patch = images[n][4 * row : 4 * row + 4, 4 * col : 4 * col + 4].reshape(-1)
          x = patch @ self.p["patches"]["first"]["kernel"] + self.p["patches"]["first"]["bias"]
          if self.c.time == "added":
            x = x + self.vector(times[n])
          if self.c.absolute:
            x = x + np.concatenate([self.waves(col), self.waves(row)])
          entries.append((x, (at + row, at + col), n, None))
      at += max(self.layout.rows, self.layout.cols)
      token(self.layout.ids.eoi)
      n += 1
    token(EOS)
    return entries

  def block(self, layer, x, entries, times):
    p = jax.tree.map(lambda leaf: leaf[layer], self.p["blocks"])
    which = [entry[2] for entry in entries]
    plain = np.zeros((6, self.c.width))
    told = [plain if n is None or self.c.time == "added" else self.told(layer, times[n])
            for n in which]  # fmt: skip
    told = np.stack(told, axis=1)  # [6, L, D]
    h = self.norm(x, p["attn_gain"]) * (1 + told[1]) + told[0]
    q = np.einsum("ld,dnk->lnk", h, p["attn"]["q"]["kernel"])
    k, v = np.einsum("ld,dink->ilnk", h, p["attn"]["kv"]["kernel"])
    if self.c.qk_norm:
      q, k = self.norm(q, p["attn"]["q_gain"]), self.norm(k, p["attn"]["k_gain"])
    turn = lambda heads: np.array(
      [[self.turned(head, e[1]) for head in at] for at, e in zip(heads, entries, strict=True)]
    )
    q, k = turn(q), turn(k)
    answer = np.zeros_like(q)
    for i in range(len(x)):
      sees = [j for j in range(len(x)) if j <= i or (which[i] is not None and which[i] == which[j])]
      for head in range(self.c.heads):
        group = head // (self.c.heads // self.c.kv_heads)
        scores = k[sees, group] @ q[i, head] / np.sqrt(q.shape[-1])
        answer[i, head] = softmax(scores) @ v[sees, group]
    x = x + np.einsum("lnk,nkd->ld", answer, p["attn"]["out"]["kernel"]) * (1 + told[2])
    h = self.norm(x, p["mlp_gain"]) * (1 + told[4]) + told[3]
    gate, up = np.einsum("ld,dif->ilf", h, p["mlp"]["up"]["kernel"])
    return x + (silu(gate) * up) @ p["mlp"]["down"]["kernel"] * (1 + told[5])

  def told(self, layer, time):
    kernel, bias = self.p["adaln"]["kernel"][layer], self.p["adaln"]["bias"][layer]
    return np.einsum("d,dsk->sk", silu(self.vector(time)), kernel) + bias

  def __call__(self, document, images, times):
    """Answers of the images, and log p of each next token that is to be written."""
    entries = self.positions(document, images, times)
    x = np.stack([entry[0] for entry in entries])
    for layer in range(self.c.depth):
      x = self.block(layer, x, entries, times)
    x = self.norm(x, self.p["gain"])
    out = x @ self.p["patches"]["last"]["kernel"] + self.p["patches"]["last"]["bias"]
    answers = []
    for n in range(len(images)):
      patches = iter(out[[i for i, entry in enumerate(entries) if entry[2] == n]])
      answer = np.zeros((8, 12, 3))
      for row in range(self.layout.rows):
        for col in range(self.layout.cols):
          answer[4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = next(patches).reshape(4, 4, 3)
      answers.append(answer)
    head = self.p["table"].T if self.c.tied else self.p["head"]
    log_p = np.log(softmax(x @ head))
    written = []
    given = {i for part in document if isinstance(part, Text) and not part.predict
             for i in part.ids}  # fmt: skip
    for i, entry in enumerate(entries[1:]):
      token = entry[3]
      if token is not None and token != self.layout.ids.eoi and token not in given:
        written.append(-log_p[i, token])
    return answers, written


@pytest.mark.newest
@pytest.mark.parametrize("features", FEATURES)
def test_losses_of_a_packed_row_are_the_reference_s_of_each_document(features):
  system = make(**FEATURES[features], **{"process.prediction": "velocity"})
  params = live(system)
  made = system.layout.pack(DOCUMENTS, system.image_shape)
  assert made.rows.left_out == 0
  t, rows, key = jnp.array([0.2, 0.4, 0.6, 0.8]), jnp.arange(4), jax.random.key(3)
  terms = system.losses(params, packed(system, [DOCUMENTS]), Draws(t, rows, key, {}, 0))

  as_numpy = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  reference, time = Reference(system, as_numpy), system.process.at(t)
  eps = np.asarray(row_noise(key, rows, DRAW_EPS, system.x_shape), np.float64)
  x0 = np.asarray(made.images, np.float64) / 127.5 - 1
  shape = (4, 1, 1, 1)
  alpha, sigma = (np.asarray(c, np.float64).reshape(shape) for c in (time.alpha, time.sigma))
  x_t, velocity = alpha * x0 + sigma * eps, eps - x0
  first, image, text = 0, [], []
  for document in DOCUMENTS:
    count = sum(isinstance(part, Image) for part in document)
    mine = slice(first, first + count)
    answers, written = reference(document, x_t[mine], np.asarray(time.model_time)[mine])
    image += [np.mean((a - v) ** 2) for a, v in zip(answers, velocity[mine], strict=True)]
    text += written
    first += count
  np.testing.assert_allclose(terms["image"], image, rtol=1e-4)
  learned = np.asarray(made.text_weight) > 0
  np.testing.assert_allclose(np.asarray(terms["text"][0])[learned], text, rtol=1e-4)


def one_step(documents, changes):
  """The metrics of a train step on rows of these documents, and the batch."""
  config = load_config(CONFIG, SMALL | {"train.optimizer": "adamw"} | changes)
  system = make_system(config, Tokenizer.bytes())
  batch = packed(system, documents)
  optimizer, params = make_optimizers(config.train, system), live(system)
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(zero, params, {}, optimizer.init(params), params, new_running())
  return jax.jit(make_train_step(system, optimizer, config))(state, batch)[1], batch


def test_the_loss_is_each_modality_s_mean_and_lambda_times_the_pictures():
  """Over the whole batch, however many micro-batches: a token of a full row counts as any other."""

  documents = [DOCUMENTS, DOCUMENTS[:1], [[words(*range(5, 40))]], DOCUMENTS[1:]]
  found = []
  for accumulate in ("1", "2"):
    changes = {"train.batch": "4", "train.accumulate": accumulate}
    metrics, batch = one_step(documents, changes)
    found.append(metrics)
  for name in ("loss", "loss_image", "loss_text", "grad_norm"):
    np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)
  m = found[0]
  np.testing.assert_allclose(m["loss"], 5 * m["loss_image"] + m["loss_text"], rtol=1e-6)
  empty = np.mean(batch.rows.doc < 0)
  assert float(m["padding"]) == pytest.approx(empty) and float(m["left_out"]) == 0
  a_row = np.sum(batch.image_weight, axis=1)
  assert a_row.tolist() == [4, 1, 0, 3] and float(m["drawn"]) == np.mean(a_row)


def test_a_picture_that_is_only_shown_is_no_part_of_the_loss():
  drawn, shown = [words(5), image(2)], [image(1, max_t=0.0), words(8, 9)]
  found = []
  for documents in ([drawn], [drawn, shown]):
    found.append(one_step([documents], {"train.batch": "1"})[0])
  np.testing.assert_allclose(found[1]["loss_image"], found[0]["loss_image"], rtol=1e-5)
  assert float(found[0]["images"]) == 1 and float(found[1]["images"]) == 2


@pytest.mark.parametrize("change, words", [
  ({"text.vocab": "260"}, "has no ids for BOI and EOI.*text.vocab=261"),
  ({"data.image_size": "(8, 10)"}, "does not divide into patches of model.patch = 4"),
  ({"model.kv_heads": "3"}, "does not divide into model.kv_heads"),
  ({"model.unet": "8", "model.patch": "6", "data.image_size": "(6, 12)"}, "not a power of two"),
  ({"model.time": "told"}, "model.time = 'told' is not one of added, adaln"),
  ({"rows.length": "5"}, "too short for an image"),
  ({"rows.lenght": "5"}, "rows.lenght is not a key of .*Nearest: rows.length"),
])  # fmt: skip
def test_bad_configs_name_the_fix(change, words):
  with pytest.raises(ConfigError, match=words):
    make(**change)


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 devices")
@pytest.mark.parametrize(
  "sizes",
  [
    (2, 2, 2),
    pytest.param((1, 8, 1), marks=pytest.mark.proof),
    pytest.param((4, 1, 2), marks=pytest.mark.proof),
  ],
)
def test_a_mesh_of_eight_gives_the_losses_of_one_device(sizes):
  found = [losses_on(mesh) for mesh in ((1, 1, 1), sizes)]
  np.testing.assert_allclose(found[1], found[0], rtol=2e-4)


@functools.cache
def losses_on(sizes):
  """Losses of the terms and the gradient's norm over three steps."""
  wide = {"model.width": "64", "model.heads": "8", "model.kv_heads": "8", "text.vocab": "264"}
  config = load_config(CONFIG, SMALL | wide | {"train.batch": "8"})
  system = make_system(config, Tokenizer.bytes())
  mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
  optimizer = make_optimizers(config.train, system)
  abstract = abstract_state(system, optimizer, mesh)
  step = jit_train_step(system, optimizer, config, mesh, abstract)
  orders = [np.random.default_rng(i).permutation(3) for i in range(8)]
  batch = packed(system, [[DOCUMENTS[i] for i in order] for order in orders])
  with jax.set_mesh(mesh):
    state = create_state(system, optimizer, abstract, jax.random.key(0))
    found = []
    for _ in range(3):
      state, m = step(state, jax.device_put(batch, batch_sharding(mesh)))
      found.append([float(m[name]) for name in ("loss_image", "loss_text", "grad_norm")])
  return np.array(found)


def test_a_run_starts_from_a_language_model_and_gives_it_back(tmp_path, joint_args):
  """At rate 0 its words stay those of the folder; one of another shape is refused."""
  sizes = {"model.time": "added", "model.qk_norm": "False", "model.tied": "False"}
  c = load_config(CONFIG, {"model.width": "32", "model.depth": "2", "model.heads": "4", **sizes})
  words = dataclasses.replace(make_system(c, Tokenizer.bytes()).model_config, vocab=512)
  params = init_params(lambda rngs: Transfusion(words, rngs), jax.random.key(5))
  pretrained.save_language_model(tmp_path / "words", params, words)
  frozen = {"train.lr": "0.0", "train.vector_lr": "0.0", "train.steps": "2"} | sizes
  start = {"parts.backbone.start": f"folder:{tmp_path / 'words'}"}
  args = joint_args(tmp_path / "run", frozen | start)
  assert main(args) == 0
  learned = open_model(tmp_path / "run").params["backbone"]
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # an average's rounding
  jax.tree.map(close, learned["blocks"], params["blocks"])
  close(learned["table"][:512], params["table"])
  close(learned["table"][512], params["table"].mean(axis=0))
  other = joint_args(tmp_path / "other", start)
  assert main(other) == 2 and not (tmp_path / "other/checkpoints/2").exists()
