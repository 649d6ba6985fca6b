"""Data made of other data: an opt-out list finds in them what it finds in their source."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
import toys
from PIL import Image
from tiny_published import random_params

from t2i_jax import pretrained
from t2i_jax.adapt.subject import SubjectImages
from t2i_jax.autoencoders import KLConfig
from t2i_jax.cli.main import main
from t2i_jax.data.build import build
from t2i_jax.data.drawn import Drawn, drawn_of
from t2i_jax.data.exposures import Order, exposures
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.optout import entries_of, match
from t2i_jax.data.perceptual import perceptual_hash
from t2i_jax.data.provenance import read_provenance, without_files
from t2i_jax.data.source import MANIFEST, PROVENANCE, manifest_hash, read_manifest
from t2i_jax.data.tombstones import read_tombstones, write_tombstones
from t2i_jax.data.verify import verify
from t2i_jax.errors import DataError
from t2i_jax.training.consent import account_of, lines_of, to_json
from t2i_jax.training.encode import encode

VAE = KLConfig(widths=(8,), layers=1, groups=4, sample_size=8)
COUNT, STEPS = 12, 20
DRAWN = Drawn(("val",), "--from=published", 0)


def image(number):
  small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
  return Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC)


def built(root, name, first=0, drawn=None):
  """A folder of images with authors, number 4 of which was a BMP.   first: number of the first"""
  (root / f"{name}_in").mkdir()
  rows = []
  for i in range(first, first + COUNT):
    file = f"{i:02d}.{'bmp' if i == 4 else 'png'}"
    image(i).save(root / f"{name}_in" / file)
    author = "" if first else ("Ada", "Ben")[i % 2]
    rows.append(json.dumps({"file_name": file, "text": f"image {i}", "author": author}))
  (root / f"{name}_in/metadata.jsonl").write_text("\n".join(rows))
  source = Folder(str(root / f"{name}_in"), val_fraction=0.2)
  build(source, root / name, workers=1, progress=False, drawn=drawn)
  return root / name


def without_provenance(folder, to):
  """A copy as an earlier version wrote it."""
  shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.provenance.jsonl"))
  manifest = read_manifest(folder)
  del manifest[PROVENANCE]
  (to / MANIFEST).write_text(json.dumps(manifest))
  return to


def provenance(folder):
  return {s: list(read_provenance(folder, s)) for s in read_manifest(folder)["splits"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """images, its latents, and old_images, as of an earlier version. Do not change them."""
  root = tmp_path_factory.mktemp("derived")
  pretrained.save(root / "vae", VAE, random_params(VAE, 0))
  built(root, "images", drawn=DRAWN)
  without_provenance(root / "images", root / "old_images")
  with pytest.MonkeyPatch.context() as patch:
    local = jax.local_devices()[:1]
    patch.setattr(jax, "local_devices", lambda *_: local)
    encode(root / "images", root / "vae", root / "latents", batch=4, progress=False)
  return root


@pytest.fixture
def entries(folders):
  bmp = hashlib.sha256((folders / "images_in/04.bmp").read_bytes()).hexdigest()
  copy = perceptual_hash(image(7).resize((40, 40)))
  return {
    "hash": f"sha256:{bmp}", "phash": f"phash:{copy:016x}", "author": "author:ada",
    "id": "id:03.png",
  }  # fmt: skip


@pytest.mark.parametrize("kind", ["hash", "phash", "author", "id"])
def test_a_list_matches_latents_as_it_matches_their_images(folders, entries, kind, tmp_path):
  optout, splits = entries_of([entries[kind]], "x"), ["train", "val"]
  old = without_provenance(folders / "latents", tmp_path / "old")
  own = match(optout, folders / "images", splits)
  assert 1 <= len(own.records) <= COUNT / 2
  for latents in (folders / "latents", old):  # the old ones are read by their images
    found = match(optout, latents, splits)
    assert found.records == own.records and found[3:] == own[3:]
    sizes = tuple((s, n["records"]) for s, n in read_manifest(latents)["splits"].items())
    order = Order(sizes, seed=1, batch=4)
    read, of_images = (exposures(order, m.by_split(), STEPS) for m in (found, own))
    assert read == of_images and any(read.values())
    write_tombstones(tmp_path / "list", latents, found.by_split(), optout.digest)
    stones = read_tombstones(tmp_path / "list", latents)
    assert stones == {split: tuple(indices) for split, indices in own.by_split().items()}


def test_latents_keep_the_provenance_and_what_drew_their_images(folders):
  assert provenance(folders / "latents") == provenance(folders / "images")
  assert drawn_of(folders / "latents") == DRAWN == drawn_of(folders / "images")
  assert verify(folders / "latents", workers=1, progress=False) == []
  assert without_files(folders / "latents") == "" and "drawn" not in read_manifest(
    built(folders, "plain")
  )


def test_data_without_provenance_are_read_and_say_so(folders, entries, tmp_path, monkeypatch):
  local = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda *_: local)
  old, latents = folders / "old_images", tmp_path / "latents"
  stored = {
    s: [o._replace(hashes=o.hashes[:1]) for o in of]
    for s, of in provenance(folders / "images").items()
  }
  assert provenance(old) == stored
  assert f"{old} was built without provenance: hashes are of the image" in without_files(old)
  encode(old, folders / "vae", latents, batch=4, progress=False)
  assert provenance(latents) == stored and PROVENANCE in read_manifest(latents)
  older = without_provenance(latents, tmp_path / "older")
  assert without_files(older) == without_files(old)
  toys.register(monkeypatch)
  account = account_of(run_on(old, tmp_path / "run"), entries_of([entries["author"]], "x"))
  assert without_files(old) in lines_of(account) and account.first is not None


def test_an_image_of_a_subject_is_matched_as_it_was_given(folders, entries, tmp_path):
  files = tuple(str(folders / f"images_in/{name}") for name in ("04.bmp", "05.png", "06.png"))
  given = zip(("instance", "instance", "val"), files, ("a", "b", "c"), strict=True)
  build(SubjectImages(tuple(given)), tmp_path / "data", workers=1, progress=False)
  found = match(entries_of([entries["hash"]], "x"), tmp_path / "data", ["instance", "val"])
  assert [one.provenance.key for one in found.records] == [files[0]]


def test_latents_whose_images_are_elsewhere(folders, entries, tmp_path):
  latents = shutil.copytree(folders / "latents", tmp_path / "latents")
  manifest = read_manifest(latents)
  manifest["latents"]["images"] = str(tmp_path / "gone")
  (latents / MANIFEST).write_text(json.dumps(manifest))
  found = lambda kind, folder: match(entries_of([entries[kind]], "x"), folder, ["train", "val"])
  for kind in ("hash", "author", "id"):
    assert found(kind, latents).records == found(kind, folders / "images").records
  with pytest.raises(DataError, match=r"gone, the folder of their images, .* not on this machine"):
    found("phash", latents)
  with pytest.raises(DataError, match=r"not on this machine\. Put the original there"):
    provenance(without_provenance(latents, tmp_path / "old"))
  shutil.copytree(folders / "images", tmp_path / "gone")
  with (tmp_path / "gone" / MANIFEST).open("a") as file:
    file.write("\n")
  with pytest.raises(DataError, match="is another one than was encoded"):
    found("phash", latents)


# -- what a model drew


def run_on(folder, workdir, steps=STEPS):
  """A work directory as of a run of some steps."""
  given = {"data.dir": str(folder), "train.batch": "4", "train.steps": str(steps)}
  toys.saved(workdir, toys.config_of(given), steps, data=manifest_hash(folder))
  return workdir


@pytest.fixture
def runs(folders, tmp_path, monkeypatch):
  """base, a run on images, and child(drawn by): a run on what a model drew."""
  toys.register(monkeypatch)
  base = run_on(folders / "images", tmp_path / "base")

  def child(drawn):
    name = f"child{len(list(tmp_path.glob('child*_in')))}"
    data = built(tmp_path, name, first=100, drawn=drawn)
    return run_on(data, tmp_path / f"run_{name}", 5)

  by_base = Drawn(("train",), f"--workdir={base}", 15, manifest_hash(folders / "images"))
  return base, by_base, child


def test_the_account_of_a_run_on_latents_is_that_of_one_on_images(folders, entries, runs, tmp_path):
  optout = entries_of(entries.values(), "x")
  own, found = (
    account_of(where, optout)
    for where in (runs[0], run_on(folders / "latents", tmp_path / "on_latents"))
  )
  assert found.records == own.records and found.first == own.first is not None
  of = lambda account: to_json(account) | {"workdir": "", "data": ""}
  assert of(found) == of(own)


def test_what_a_model_drew_is_followed_to_what_it_had_read(runs, tmp_path, capsys):
  base, by_base, child = runs
  listed = entries_of(["author:Ada"], "x")
  workdir, plain = child(by_base), account_of(base, listed, 15)
  account = account_of(workdir, listed)
  assert account.records == () and account.first is None and not account.unknown
  (above,) = account.above
  assert above.records == plain.records and above.step == 15 and above.first == plain.first
  assert above.upstream is None  # val alone was drawn, which is not trained on
  assert to_json(account)["drawn by"]["account"] == to_json(plain)
  flags = [f"--workdir={workdir}", "--author=Ada"]
  assert main(["consent", *flags]) == 0
  said = capsys.readouterr().out.splitlines()
  assert said == lines_of(account)
  start = said.index(next(line for line in said if "drawn by" in line))
  assert f"images of train were drawn by --workdir={base} at step 15; each may" in said[start]
  assert said[start + 1 :] == [f"  {line}" for line in lines_of(plain)]
  assert main(["consent", *flags, f"--tombstones={tmp_path / 'stones'}"]) == 2
  assert "draw the data again" in capsys.readouterr().err and not (tmp_path / "stones").exists()
  (tmp_path / "list").write_text("author:Ada\nid:103.png")
  given = ["erase", f"--workdir={workdir}", f"--optout={tmp_path / 'list'}"]
  assert main([*given, f"--to={tmp_path / 'to'}"]) == 2
  assert f"t2i erase --workdir={base} --optout=LIST --to=RUN" in capsys.readouterr().err
  # What was drawn can be drawn from, and so on; own records count as ever.
  data = account.meta.config.data.dir
  again = child(Drawn(("train",), f"--workdir={workdir}", 5, manifest_hash(data)))
  last = account_of(again, entries_of(["author:Ada", "id:103.png"], "x"))
  assert [one.workdir for one in last.above] == [workdir, base] and len(last.records) == 1
  assert last.above[1].records == plain.records
  with pytest.raises(DataError, match=r"none of the 12 records .*, and none of the 12 records of"):
    account_of(again, entries_of(["author:Nobody"], "x"))


def test_what_cannot_be_followed_is_said(runs, tmp_path, capsys):
  base, _, child = runs
  listed = entries_of(["author:Ada"], "x")
  where = "Where the run is: t2i consent --workdir="
  for by, words in (
    (Drawn(("train",), "--from=published", 0), "a published model was trained on is not known"),
    (
      Drawn(("train",), f"--workdir={tmp_path}/no", 3),
      f"has no checkpoints on this machine. {where}",
    ),
    (Drawn(("train",), f"--workdir={base}", 99), f"has done {STEPS} steps. {where}"),
    (Drawn(("train",), f"--workdir={base}", 15, "0123"), "it was of the data 0123 when it drew"),
  ):
    workdir = child(by)
    account = account_of(workdir, listed)
    assert account.unknown and account.records == account.above == ()
    said = lines_of(account)[-1]
    assert f"drawn by {by.model} at step {by.step}: what that had read of the list cannot" in said
    assert words in said and to_json(account)["drawn by"]["why not"] in said
    (tmp_path / "list").write_text("author:Ada\n")
    to = tmp_path / "to"
    assert main(["erase", f"--workdir={workdir}", f"--optout={tmp_path}/list", f"--to={to}"]) == 2
    assert "is in no single one. Take the list out of that model first" in capsys.readouterr().err
    assert not to.exists()
