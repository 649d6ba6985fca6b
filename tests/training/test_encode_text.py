"""Features of text encoders on disk: those of the towers, never stale, and what training reads."""

import dataclasses
import itertools
import json
import shutil
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from weights import random_weights

from t2i_jax import pretrained
from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data import pieces
from t2i_jax.data.build import build
from t2i_jax.data.features import features_of, read_nulls, texts_of
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.loader import Loader
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.verify import verify
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.models import with_params
from t2i_jax.models.params import abstract_of
from t2i_jax.systems import Draws, make_system
from t2i_jax.towers import BertConfig
from t2i_jax.training.cached_text import check_text_weights
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.encode import encode
from t2i_jax.training.loop import on_devices
from t2i_jax.training.restore import load_starts
from t2i_jax.training.setup import set_up
from t2i_jax.training.state import abstract_params, create_state
from t2i_jax.training.step import draw_drops, jit_train_step

CONFIG = Path(__file__).parents[2] / "configs/scenes_dit_flow.py"
DIGITS = "0123456789"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "of", "image", "sketch", *DIGITS)
WORDS += tuple(f"##{digit}" for digit in DIGITS)
BERT = BertConfig(40, 8, 16, 2, 4, 24, masked=True)
LENGTH = 7
WHOLE = """
import sys
from t2i_jax.cli.main import main
from t2i_jax.data import pieces
pieces.PIECE = 4
sys.exit(main(sys.argv[1:]))
"""


def saved_bert(folder, seed=0):
  params = jax.tree.map(
    lambda x: np.asarray(x) * (1 + seed), random_weights(abstract_of(BERT.make))
  )
  pretrained.save(folder, BERT, params)
  about = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "pad_token": "[PAD]"}
  (folder / "tokenizer_config.json").write_text(json.dumps(about))
  (folder / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
  return folder


def images(folder, names):
  folder.mkdir()
  for name in names:
    pixels = np.random.default_rng(name).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name:02d}.png")
    (folder / f"{name:02d}.txt").write_text(f"image {name}\na sketch of {name}")


def data_of(folder, out):
  build(Folder(str(folder), val_fraction=0.2), out, workers=1, progress=False, shard_records=7)
  return out


def config_of(folder, bert, **changes):
  given = settings(folder, bert) | changes
  return load_config(CONFIG, {key: str(value) for key, value in given.items()})


def command(data, bert, out):
  """The arguments of `t2i` that encode the captions."""
  flags = [f"--config.{key}={value}" for key, value in settings(data, bert).items()]
  return ["data", "encode", f"--data={data}", f"--config={CONFIG}", f"--to={out}", *flags]


def settings(folder, bert):
  return {
    "data.dir": folder, "data.image_size": "(8, 8)", "text.tokenizer": "bytes",
    "text.vocab": "264", "text.length": str(LENGTH), "model.patch": "4", "model.width": "16",
    "model.depth": "1", "model.heads": "2", "train.batch": "8", "train.optimizer": "adamw",
    "train.caption_dropout.text": "0.4", "train.schedule": "constant", "eval.rows": "4",
    "sampling.prompts": "('image 1', 'a sketch')", "sampling.batch": "2", "sampling.steps": "2",
    "text.towers.text": f"published(system='sentence_bert', folder='{bert}', length={LENGTH})",
    "parts.text.start": f"folder:{bert}", "parts.text.train": "none",
  }  # fmt: skip


def encoded_text(data, bert, out, **how):
  return encode(data, None, out, text=config_of(data, bert), batch=3, progress=False, **how)


@pytest.fixture(scope="module")
def bert(tmp_path_factory, one_device):
  return saved_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("images")
  images(folder / "in", range(16))
  return data_of(folder / "in", folder / "D")


@pytest.fixture(scope="module")
def encoded(bert, data, tmp_path_factory):
  """In pieces of four, three captions at once on one device."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pieces, "PIECE", 4)
    on_one(patch)
    out = tmp_path_factory.mktemp("encoded") / "E"
    encoded_text(data, bert, out)
  return out


def on_one(patch):
  local = jax.local_devices()[:1]
  patch.setattr(jax, "local_devices", lambda *_: local)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def by_key(folder):
  """Records by their key, of all splits."""
  found = {}
  for split in json.loads((folder / "manifest.json").read_text())["splits"]:
    source = ShardSource(folder, split)
    found |= {source[i].key: source[i] for i in range(len(source))}
  return found


def tower_of(config, params, captions):
  encoder = make_system(config, Tokenizer.bytes()).text["text"]
  ids, mask = encoder.encode(captions)
  run = lambda *given: encoder.after(with_params(encoder.make)(params)(*given))
  return jax.jit(run)(ids, mask)


def test_the_features_are_what_the_encoder_gives(encoded, bert, data):
  texts, plain, found = texts_of(encoded), by_key(data), by_key(encoded)
  stored = texts.encoders["text"]
  assert (stored.limit, stored.length, stored.width, stored.pooled) == (LENGTH, LENGTH, 16, 16)
  assert not verify(encoded, workers=1, progress=False)
  params = pretrained.load(bert)[2]
  assert stored.weights == fingerprint({"text": params})["text"]
  records = list(found.values())[:3]
  captions = [caption for record in records for caption in record.captions]
  tower = tower_of(config_of(data, bert), params, [*captions, ""])
  rows = [features_of(record, i, "text", stored) for record in records for i in range(2)]
  null = jax.tree.map(lambda x: x[0], read_nulls(encoded, texts)["text"])
  for row, tokens, mask, pooled in zip([*rows, null], *tower, strict=True):
    np.testing.assert_array_equal(row.mask, mask)
    np.testing.assert_allclose(row.tokens, tokens * mask[:, None], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(row.pooled, pooled, rtol=1e-5, atol=1e-5)
  for key, record in found.items():
    assert dataclasses.replace(record, features=()) == plain[key]


def test_stopped_and_run_again_it_is_the_same_to_the_bit(encoded, bert, data, tmp_path):
  """On eight devices, the first time in two pieces of four."""
  write, left = pieces.write_piece, [2]

  def and_stop(*piece):
    write(*piece)
    left[0] -= 1
    if not left[0]:
      raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pieces, "PIECE", 4)
    patch.setattr(pieces, "write_piece", and_stop)
    with pytest.raises(KeyboardInterrupt):
      encoded_text(data, bert, tmp_path / "E")
    patch.setattr(pieces, "write_piece", write)
    (count,) = encoded_text(data, bert, tmp_path / "E").counts
  assert count.kept == 16 and count.encoded == 16
  assert contents(tmp_path / "E") == contents(encoded)
  assert [path.name for path in tmp_path.iterdir()] == ["E"]


def test_what_changed_is_encoded_again_and_nothing_else(encoded, bert, data, tmp_path):
  images(tmp_path / "in", range(16))
  Image.new("RGB", (8, 8), "red").save(tmp_path / "in/07.png")
  (tmp_path / "in/03.txt").write_text("image 3\nimage 5\na sketch of 99")
  out = shutil.copytree(encoded, tmp_path / "E")
  changed = data_of(tmp_path / "in", tmp_path / "D")
  assert encoded_text(changed, bert, out).counts == [("captions by 'text'", 1, 32)]
  before, now = by_key(encoded), by_key(out)
  assert now["03.png"].features[:2] == (before["03.png"].features[0], before["05.png"].features[0])
  assert now["07.png"].features == before["07.png"].features
  assert now["07.png"].image != before["07.png"].image
  other = saved_bert(tmp_path / "bert", 1)
  config = config_of(changed, bert, **{"text.towers.text": "published(system='sentence_bert', "
    f"folder='{bert}', length=8)"})  # fmt: skip
  # "image 5" is a caption of two records.
  for how in ({"text": config_of(changed, other)}, {"text": config}, {"text_dtype": "float16"}):
    given = {"text": config_of(changed, bert)} | how
    assert encode(changed, None, out, batch=3, progress=False, **given).counts[0].kept <= 1
  assert len(by_key(out)["07.png"].features[0]["text"]) == 1 + 2 * 16 * 4 + 2 * 16


def test_a_caption_that_repeats_is_encoded_a_few_times(encoded, bert, tmp_path, monkeypatch):
  """Those of the batches that were waiting aside, of pieces of two records, once."""
  images(tmp_path / "in", range(16))
  for i in range(16):
    (tmp_path / f"in/{i:02d}.txt").write_text(f"image {i % 2}")
  monkeypatch.setattr(pieces, "PIECE", 2)
  on_one(monkeypatch)
  out = data_of(tmp_path / "in", tmp_path / "D")
  (count,) = encoded_text(out, bert, tmp_path / "E").counts
  assert count.encoded < 9 and count.encoded + count.kept == 16
  whole, found = by_key(encoded), by_key(tmp_path / "E")
  assert all(found[key].features[0] == whole[f"{int(key[:2]) % 2:02d}.png"].features[0]
             for key in found)  # fmt: skip


def test_what_cannot_be_encoded_is_refused(encoded, bert, data, tmp_path):
  with pytest.raises(ConfigError, match="nothing to encode: give --autoencoder"):
    encode(data, None, tmp_path / "E", progress=False)
  with pytest.raises(DataError, match="holds features of text encoders already"):
    encoded_text(encoded, bert, tmp_path / "E")
  trained = config_of(data, bert, **{"parts.text.train": "all"})
  with pytest.raises(ConfigError, match=r"no text encoder is frozen .*parts.text.train = 'all'"):
    encode(data, None, tmp_path / "E", text=trained, progress=False)
  with pytest.raises(DataError, match=r"features of text encoders, too, .* Add --config"):
    encode(data, tmp_path / "vae", encoded, progress=False)
  with pytest.raises(ConfigError, match="--text-dtype=int8 is not one of"):
    encoded_text(data, bert, tmp_path / "E", text_dtype="int8")


def test_the_command_says_size_and_counts(bert, data, tmp_path, capsys):
  args = command(data, bert, tmp_path / "E")
  assert main([*args, "--splits=val", "--text-dtype=float16"]) == 0
  said = capsys.readouterr().out.splitlines()
  source = ShardSource(data, "val")
  entries = [e for r in by_key(tmp_path / "E").values() for e in pieces.entries_of(r, pieces.TEXT)]
  total, each = sum(map(len, entries)), sum(map(len, entries)) / len(entries)
  assert len(entries) == 2 * len(source)
  assert f"{len(entries)} captions of" in said[0] and f"of {each:,.0f} bytes" in said[0]
  assert said[0].endswith(f"bytes, {total / 1e9:.3g} GB")
  assert said[-1].endswith(f"{len(entries)} captions by 'text' encoded, 0 unchanged")


# -- what training reads


def started(config):
  """A run, and its state with the folder's weights."""
  run = set_up(config)
  starts = load_starts(run.system, abstract_params(run.system, run.mesh))
  return run, create_state(run.system, run.optimizers, run.abstract, jax.random.key(0), starts)


def batches_of(config, run, steps):
  loader = Loader(
    run.source, run.row_maker, seed=0, global_batch=8, rows=run.rows, workers=0, prefetch=1
  )
  return list(on_devices(itertools.islice(loader.batches(0), steps), run.mesh, 8, ahead=0))


def test_losses_are_those_with_the_encoder_inside(encoded, bert, data):
  """Of a batch with dropped captions: the same draws to the bit, the same losses to 1e-5."""
  found = []
  for folder in (data, encoded):
    config = config_of(folder, bert)
    run = set_up(config)
    (rows,) = batches_of(config, run, 1)
    params = random_weights(run.system.abstract) | {"text": pretrained.load(bert)[2]}
    drop = draw_drops(jax.random.key(1), jnp.arange(8), {"text": 0.4})
    draws = Draws(jnp.linspace(0.1, 0.9, 8), jnp.arange(8), jax.random.key(1), drop, 0)
    with jax.set_mesh(run.mesh):
      losses = jax.jit(run.system.losses)(params, rows, draws)["image"]
    found.append((run, rows, losses))
  assert 0 < np.sum(drop["text"]) < 8
  (towers, ids, inside), (cached, features, outside) = found
  np.testing.assert_allclose(outside, inside, rtol=1e-5)
  np.testing.assert_array_equal(ids.images, features.images)
  np.testing.assert_array_equal(ids.text["text"].mask, features.text["text"].mask)
  like = jax.tree.map(lambda x: (x.shape, x.dtype), (cached.system.rows(8), features))
  assert like[0] == like[1]
  assert not towers.system.cached and not towers.notes
  assert cached.notes == [f"text.towers.text: its output for captions is read from {encoded}"]


@pytest.mark.proof
def test_two_processes_give_the_same_bits(encoded, bert, data, tmp_path, start_t2i):
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    shared = {"T2I_COORDINATOR": f"127.0.0.1:{probe.getsockname()[1]}", "T2I_PROCESSES": "2"}
  args, whole = [*command(data, bert, tmp_path / "E"), "--batch=3"], ("-c", WHOLE)
  outs = [start_t2i(args, 4, env=shared | {"T2I_PROCESS": str(i)}, program=whole) for i in range(2)]
  said = [process.communicate(timeout=300)[0] for process in outs]
  assert [process.returncode for process in outs] == [0, 0], said
  assert contents(tmp_path / "E") == contents(encoded)


@pytest.mark.proof
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_steps_are_those_with_the_encoder_inside(bert, data, tmp_path, dtype):
  """Three steps of the compiled train step: losses to 1e-5, or to the rounding of float16."""
  encoded_text(data, bert, tmp_path / "E", text_dtype=dtype)
  found = []
  for folder in (data, tmp_path / "E"):
    config = config_of(folder, bert)
    run, state = started(config)
    check_text_weights(config, run.system, fingerprint(state.frozen))
    step = jit_train_step(run.system, run.optimizers, config, run.mesh, run.abstract)
    losses = []
    with jax.set_mesh(run.mesh):
      for batch in batches_of(config, run, 3):
        state, metrics = step(state, batch)
        losses.append([float(metrics[name]) for name in ("loss", "grad_norm", "param_norm")])
    found.append(losses)
  np.testing.assert_allclose(*found, rtol=1e-5 if dtype == "float32" else 1e-3)


def test_stale_features_are_refused_by_name(encoded, bert, data, tmp_path):
  run = set_up(config_of(encoded, bert))
  weights = texts_of(encoded).encoders["text"].weights
  check_text_weights(config_of(encoded, bert), run.system, {"text": weights})
  with pytest.raises(DataError, match=rf"'text' with the weights {weights} .* has 0123"):
    check_text_weights(config_of(encoded, bert), run.system, {"text": "0123"})
  with pytest.raises(ConfigError, match=r"Use parts.text.train='none', or .*D itself"):
    set_up(config_of(encoded, bert, **{"parts.text.train": "all"}))
  longer = f"published(system='sentence_bert', folder='{bert}', length=8)"
  with pytest.raises(DataError, match=r"of which the length is 7, and text.towers.text .* has 8"):
    set_up(config_of(encoded, bert, **{"text.towers.text": longer}))
  # An encoder with other ids: as large, so that the network is the same.
  other = saved_bert(tmp_path / "bert")
  (other / "vocab.txt").write_text("\n".join(sorted(WORDS)), "utf-8")
  with pytest.raises(DataError, match="of which the hash of its token ids is"):
    set_up(config_of(encoded, other))
  folder, data_of_it = tmp_path / "E", shutil.copytree(data, tmp_path / "D")
  manifest = json.loads((shutil.copytree(encoded, folder) / "manifest.json").read_text())
  manifest["text"]["data"] = str(data_of_it)
  (folder / "manifest.json").write_text(json.dumps(manifest))
  set_up(config_of(folder, bert))
  with (data_of_it / "manifest.json").open("a") as file:
    file.write("\n")
  with pytest.raises(DataError, match=r"features of other captions than .*D has now"):
    set_up(config_of(folder, bert))
  shutil.rmtree(data_of_it)
  set_up(config_of(folder, bert))  # it is elsewhere
