"""A subject taught to tiny published models, and files of new words drawn with."""

from pathlib import Path

import jax
import numpy as np
import pytest
from golden_folders import build_images, write_golden
from safetensors.numpy import load_file, save_file

from t2i_jax.adapt.personalise import Base, How, personalise
from t2i_jax.adapt.subject import SubjectImages
from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.images import read_latent
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.inference import open_model, open_pipeline
from t2i_jax.training.setup import set_up

ROOT = Path(__file__).resolve().parents[2]
SIZE = (32, 32)
FEW = {"sampling.steps": "2", "sampling.batch": "4"}
TRAINED = FEW | {
  "train.steps": "2", "train.batch": "4", "model.dtype": "float32", "model.remat": "none",
  "eval.rows": "4", "mesh.fsdp": "1", "text.too_long": "truncate",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Folders of Stable Diffusion, SDXL and FLUX.1, and images. Do not change them."""
  root = tmp_path_factory.mktemp("published")
  write_golden(root, "sd1", "sdxl", "flux")
  build_images(root)
  return root


def opened(root, name, **how):
  return open_pipeline(root / name, FEW, SIZE, **how)


def taught(root, name, method, to, word="ki"):
  base = Base(f"{root / name}:32x32", lambda: opened(root, name))
  how = How(str(root / "in"), "cat", word, priors=4, overrides=TRAINED)
  return personalise(base, method, how, to)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


proof = lambda *values: pytest.param(*values, marks=pytest.mark.proof)


@pytest.mark.parametrize("name", ["flux", proof("sd1"), proof("sdxl")])
def test_adapters_of_a_subject(root, name, tmp_path, one_device):
  page = taught(root, name, "lora", tmp_path / "run")
  assert page.read_text().count("<figure>") == 8 + 2 * 2 * 4
  before, after = opened(root, name), open_model(tmp_path / "run")
  for part in before.params:
    if part != "backbone":
      same(before.params[part], after.params[part])
  changed = jax.tree.map(np.array_equal, before.params["backbone"], after.params["backbone"])
  assert not all(jax.tree.leaves(changed)) and any(jax.tree.leaves(changed))


def test_latents_of_both_roles(root, tmp_path, one_device):
  """The splits that data.train_split joins are those that must have been encoded."""
  encode = ["data", "encode", f"--data={root / 'roles'}", f"--autoencoder={root / 'flux'}"]
  files = [str(path) for path in sorted((root / "in").glob("*.png"))[:6]]
  splits = zip(["instance", "prior", "val"] * 2, files, strict=True)
  subject = SubjectImages(tuple((split, file, "a cat") for split, file in splits))
  build(subject, root / "roles", workers=1, progress=False)
  assert main([*encode, f"--to={tmp_path / 'latents'}", "--size=32x32"]) == 0
  given = TRAINED | {"data.dir": str(tmp_path / "latents")}
  config = lambda given: load_config(
    f"{ROOT}/configs/dreambooth_lora.py:{root / 'flux'}:32x32", given
  )
  run = set_up(config(given))
  record, role = run.source.record(1, 0)
  assert role == 1 and run.system.latents is not None
  assert read_latent(record.image).shape == run.system.row_shape
  of_vae = {"adapters.lora": "lora(of='vae', targets=('*',))"}
  with pytest.raises(ConfigError, match="adapts vae, whose output is read from"):
    set_up(config(given | of_vae))
  assert main([*encode, f"--to={tmp_path / 'few'}", "--size=32x32", "--splits=instance,val"]) == 0
  with pytest.raises(DataError, match="holds no latents of the split 'prior'"):
    set_up(config(given | {"data.dir": str(tmp_path / "few")}))


CLIPS, T5 = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}, {"text_encoder_2": "t5"}


@pytest.mark.parametrize(
  "name, encoders",
  [("sdxl", CLIPS), proof("sd1", {"text_encoder": "clip_l"}), proof("flux", CLIPS | T5)],
)
def test_a_new_word_is_learned_written_and_read(root, name, encoders, tmp_path, one_device):
  """In every encoder; with its file the folder draws what the run draws."""
  taught(root, name, "textual_inversion", tmp_path / "run", word="<ki>")
  before, after = opened(root, name), open_model(tmp_path / "run", FEW)
  same(before.params["backbone"], after.params["backbone"])
  given = {}
  for encoder, kind in encoders.items():
    table, longer = (np.asarray(m.params[encoder]["embedding"]) for m in (before, after))
    np.testing.assert_array_equal(longer[:-1], table)
    file = tmp_path / f"{encoder}.safetensors"
    part = f"--part=words_{encoder}"
    assert main(["export", f"--workdir={tmp_path / 'run'}", part, f"--to={file}"]) == 0
    given[kind] = load_file(file)["<ki>"]
  save_file(given, tmp_path / "ki.safetensors")
  model = opened(root, name, embeddings=[(str(tmp_path / "ki.safetensors"), "<ki>")])
  drawn = [m.draw(["a <ki>"], [3], decode=False) for m in (model, after)]
  np.testing.assert_array_equal(*drawn)
  assert np.any(drawn[0] != before.draw(["a cat"], [3], decode=False))


def words(path, **rows):
  rng = np.random.default_rng(0)
  save_file({k: rng.standard_normal(n, np.float32) for k, n in rows.items()}, path)
  return str(path)


def test_files_of_words_in_all_layouts(root, tmp_path):
  """Of one word of several tokens, by itself, by its file's name, and of both encoders."""
  model = opened(root, "sd1")
  table = model.params["text_encoder"]["embedding"]
  length, width = table.shape
  layouts = [
    (words(tmp_path / "a.safetensors", **{"<ki>": (3, width)}), ""),
    (words(tmp_path / "<ki>.safetensors", emb_params=(3, width)), ""),
    (words(tmp_path / "c.safetensors", clip_l=(3, width)), "<ki>"),
    (words(tmp_path / "d.safetensors", other=(3, width)), "<ki>"),
  ]
  for given in layouts:
    found = opened(root, "sd1", embeddings=[given])
    (rows,) = load_file(given[0]).values()
    longer = found.params["text_encoder"]["embedding"]
    np.testing.assert_array_equal(longer, np.concatenate([table, rows]))
    encoder, plain = found.system.text["text_encoder"], model.system.text["text_encoder"]
    ids, mask = (x[0] for x in encoder.encode(["a <ki> cat"]))
    at, (before, _) = list(ids).index(length), plain.encode(["a cat"])
    assert list(ids[at : at + 3]) == [length, length + 1, length + 2]
    kept = np.delete(ids[mask], range(at, at + 3))
    np.testing.assert_array_equal(kept, before[0][: len(kept)])
  two = words(tmp_path / "two.safetensors", **{"<a>": (width,), "<ab>": (2, width)})
  encoder = opened(root, "sd1", embeddings=[(two, "")]).system.text["text_encoder"]
  ids = encoder.encode(["<ab> <a>"])[0][0]
  assert list(ids[ids >= length]) == [length + 1, length + 2, length]


@pytest.mark.parametrize(
  "name, file, rows, words_",
  [
    ("sd1", "ki.pt", {}, "ki.pt is a pickle"),
    ("sd1", "ki.safetensors", {"<ki>": (5,)}, "text_encoder of width"),
    ("sd1", "ki.safetensors", {"clip_g": (2, 32)}, "clip_g of width 32, and the text encoders"),
    ("sd1", "ki.safetensors", {"<ki>": (2, 2, 2)}, "no embeddings of words"),
    ("flux", "ki.safetensors", {"<ki>": (2, 32)}, "Name its tensor clip_l, clip_g or t5"),
  ],
)
def test_files_that_are_no_words_of_a_model(root, name, file, rows, words_, tmp_path, capsys):
  words(tmp_path / file, **rows) if rows else (tmp_path / file).write_bytes(b"0")
  given = ["sample", f"--from={root / name}", "--prompt=a", f"--embedding={tmp_path / file}"]
  assert main(given) == 2
  assert words_ in capsys.readouterr().err
