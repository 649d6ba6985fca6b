"""Erasure by rewinding: bit for bit the run that never read the records; what is certified."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data.exposures import exposures
from t2i_jax.data.optout import entries_of
from t2i_jax.data.provenance import read_provenance
from t2i_jax.errors import RestoreError
from t2i_jax.evaluation.guard import parts_of
from t2i_jax.inference import open_model
from t2i_jax.inference.guard import text_features
from t2i_jax.training import train
from t2i_jax.training.consent import account_of
from tests.adapt.conftest import SMALL

ROOT = Path(__file__).resolve().parents[2]
RUN = SMALL | {"train.steps": "9", "checkpoint.every": "3", "checkpoint.keep": "9"}


@pytest.fixture(scope="module", autouse=True)
def on_one_device(one_device):
  yield


@pytest.fixture(scope="module")
def configured(easy_data):
  """configured(changes) -> the config of nine steps of eight rows."""
  given = RUN | {"data.dir": str(easy_data)}
  return lambda changes=None: load_config(
    f"{ROOT}/configs/scenes_dit_flow.py", given | (changes or {})
  )


@pytest.fixture(scope="module")
def base(configured, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("erase") / "base"
  train(configured(), workdir)
  return workdir


@pytest.fixture(scope="module")
def listed(base, easy_data):
  """A list of a record that is read first at step 5 or 6, and one that is never read."""
  order = account_of(base, entries_of(["id:" + key_of(easy_data, 0)], "x")).order
  read = exposures(order, {"train": range(200)}, 9)
  inside = next(i for (_, i), steps in read.items() if steps and steps[0] in (5, 6))
  outside = next(i for (_, i), steps in read.items() if not steps)
  path = base.parent / "list"
  path.write_text("".join(f"id:{key_of(easy_data, i)}\n" for i in (inside, outside)))
  return path


def key_of(folder, index):
  return list(read_provenance(folder, "train"))[index].key


def arrays(workdir, step):
  """Every array of a checkpoint: path -> bytes."""
  items = {name: ocp.args.StandardRestore() for name in ("params", "ema", "opt")}
  with ocp.CheckpointManager(workdir / "checkpoints") as manager:
    saved = manager.restore(step, args=ocp.args.Composite(**items))
  trees = {name: saved[name] for name in items}
  leaves = jax.tree.leaves_with_path(trees)
  return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def test_what_was_read_is_said(base, listed, tmp_path, capsys):
  assert main(["consent", f"--workdir={base}", f"--optout={listed}"]) == 0
  out = capsys.readouterr().out
  assert "once; last checkpoint before it: step 3" in out and ": never\n" in out
  key = listed.read_text().split()[0].removeprefix("id:")
  assert main(["consent", f"--workdir={base}", f"--id={key}", "--step=4"]) == 0
  assert f"{key}: never" in capsys.readouterr().out
  assert main(["consent", f"--workdir={base}", f"--id={key}", f"--optout={listed}"]) == 2
  assert "give --optout=LIST, or some of --id" in capsys.readouterr().err
  assert main(["consent", f"--workdir={base}", "--author=Nobody"]) == 2
  assert "none of the 260 records" in capsys.readouterr().err


@pytest.mark.slow
def test_rewinding_is_the_run_that_never_read_them(base, listed, configured, tmp_path, capsys):
  to, anew, file = tmp_path / "to", tmp_path / "anew", tmp_path / "tombstones.json"
  given = [f"--workdir={base}", f"--optout={listed}"]
  assert main(["consent", *given, f"--tombstones={file}"]) == 0
  left_out = configured({"data.tombstones": str(file)})
  with pytest.raises(RestoreError, match="has read 1 records that a run with this list would not"):
    train(left_out, base)  # which has done step 9 with them
  assert main(["erase", *given, f"--to={to}", "--num=2"]) == 0
  assert "from step 3\n" in capsys.readouterr().out
  train(left_out, anew)
  ours, theirs, before = arrays(to, 9), arrays(anew, 9), arrays(base, 9)
  assert ours == theirs and before.keys() == theirs.keys() and before != theirs
  assert arrays(base, 3) == arrays(anew, 3)
  log = [json.loads(line) for line in (to / "metrics.jsonl").read_text().splitlines()]
  other = [json.loads(line) for line in (anew / "metrics.jsonl").read_text().splitlines()]
  plain = lambda lines: [{k: v for k, v in line.items() if k != "perf"} for line in lines]
  assert plain(log) == plain(other)

  found = json.loads((to / "certificate.json").read_text())
  assert found["trained from step"] == 3 and found["account"]["last clean checkpoint"] == 3
  assert found["weights"]["before"] != found["weights"]["after"]
  assert [r["exposures"] for r in found["account"]["records"]] in ([1, 0], [0, 1])
  assert len(found["listed"]) == 2 and found["listed"][0]["before"]["images"] == 2
  assert found["neighbours"] and all(row["moved"] >= 0 for row in found["neighbours"])
  assert "to the bit" in found["guaranteed"]
  assert (to / "certificate.html").read_text().count("<figure>") > 4
  again = account_of(to, entries_of(listed.read_text().split(), "x"))
  assert again.first is None  # and so a second erasure has nothing to do
  capsys.readouterr()
  assert main(["erase", f"--workdir={to}", f"--optout={listed}", f"--to={tmp_path / 'x'}"]) == 0
  assert "left out by data.tombstones" in capsys.readouterr().out
  certificate = json.loads((tmp_path / "x/certificate.json").read_text())
  assert certificate["method"] == "never read" and "trained from step" not in certificate


def test_a_policy_at_the_source(base, tmp_path, capsys):
  policy, out = tmp_path / "policy.json", tmp_path / "out"
  rules = [
    {"name": "no triangles", "concepts": ["triangle"], "paraphrase": 0.99},
    {"name": "plain", "concepts": ["grum circle"], "action": "rename", "anchor": "circle"},
  ]

  def sample(prompt, *more, guard=policy):
    given = [f"--workdir={base}", f"--prompt={prompt}", f"--guard={guard}", f"--out={out}"]
    return main(["sample", *given, *more])

  policy.write_text(json.dumps({"rules": rules}))
  assert sample("a red Triangle") == 2
  assert "rule 'no triangles' refuses 'triangle'" in capsys.readouterr().err and not out.exists()
  assert sample("a red grum circle") == 0
  assert "'a red grum circle' is drawn as 'a red circle'" in capsys.readouterr().err
  image = next(out.glob("0000_*.png"))
  assert Image.open(image).info["prompt"] == "a red circle"

  rules.append({"name": "ours", "images": [str(image)]})
  policy.write_text(json.dumps({"rules": rules}))
  assert sample("a blue square", f"--image={image}") == 2
  assert f"{image}: rule 'ours' refuses it" in capsys.readouterr().err
  image_before = image.read_bytes()
  assert sample("a red circle") == 2  # the same image is drawn again
  assert "what was drawn for 'a red circle', seed 0: rule 'ours'" in capsys.readouterr().err
  assert image.read_bytes() == image_before

  concept, prompt = "a red circle", "the circle is red"
  embed = text_features(open_model(base))
  found = embed([concept, *parts_of(prompt, 3)])
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(embed(["", concept])[1], found[0], atol=1e-6)
  nearest = float((found[1:] @ found[0]).max())
  for threshold, code in ((nearest - 0.01, 2), (min(nearest + 0.01, 1.0), 0)):
    rule = {"name": "red", "concepts": [concept], "paraphrase": threshold}
    policy.write_text(json.dumps({"rules": [rule]}))
    assert sample(prompt) == code
  assert "rule 'red' refuses" in capsys.readouterr().err


@pytest.mark.slow
def test_ablation_says_that_nothing_is_guaranteed(base, listed, tmp_path, monkeypatch, capsys):
  """The objective is tested in test_forget: here a copy of the run stands for what it trains."""
  from t2i_jax.adapt import erase

  def forget(of, method, how, to):
    assert (of.where, method, how.kind) == (str(base), "ablation", "caption")
    assert how.anchors == ("a circle",) * len(how.concepts) and len(how.concepts) == 2
    shutil.copytree(of.where, to)

  monkeypatch.setattr(erase, "forget", forget)
  to, given = tmp_path / "to", [f"--workdir={base}", f"--optout={listed}", "--num=2"]
  assert main(["erase", *given, f"--to={to}", "--anchor=a circle"]) == 2
  assert "--anchor is of --method=ablate" in capsys.readouterr().err
  assert main(["erase", *given, f"--to={to}", "--method=ablate", "--anchor=a circle"]) == 0
  found = json.loads((to / "certificate.json").read_text())
  assert found["method"] == "ablate" and "Nothing is guaranteed" in found["guaranteed"]
  assert found["weights"]["before"] == found["weights"]["after"]
  assert all(row["moved"] == 0 for row in found["listed"] + found["neighbours"])
  assert main(["erase", *given, f"--to={base}", "--method=ablate"]) == 2
  assert "is the work directory itself" in capsys.readouterr().err


@pytest.mark.slow
def test_memorisation_of_a_run(base, capsys):
  assert main(["memorisation", f"--workdir={base}", "--count=3", "--num=2", "--first-steps=2"]) == 0
  found = json.loads((base / "eval/memorisation.json").read_text())
  assert found["training images"] == 200 and len(found["prompts"]) == 3
  for one in found["prompts"]:
    assert len(one["text difference by step"]) == 2 and min(one["text difference by step"]) >= 0
    assert 1 <= one["largest clique"] <= one["images"] == 2
  assert (base / "eval/memorisation.html").read_text().count("<figure>") == 6
