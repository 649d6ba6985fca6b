"""The report parsed back: what a reader would find in it."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from t2i_jax.errors import WorkdirError
from t2i_jax.evaluation.report import read_metrics, write_gallery_report, write_report
from t2i_jax.evaluation.score import Cell, Sample, Score
from t2i_jax.evaluation.stats import Rate

PROMPTS = ["a red circle", "a <b>bold</b> & blue square"]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
  """Text, images and element balance of a page."""

  def __init__(self, path):
    super().__init__()
    self.words, self.images, self.open, self.tags = [], [], [], []
    self.feed(path.read_text(encoding="utf-8"))
    self.text = " ".join("".join(self.words).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == "img":
      self.images.append(dict(attrs))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ["style"]:
      self.words.append(data)


def pixels(image):
  raw = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
  return np.asarray(Image.open(io.BytesIO(raw)))


def tile(value, size=32):
  return np.full((size, size, 3), value, np.uint8)


def sample(heldout, correct, caption="a red circle"):
  failed = () if correct else ("a red <circle>",)
  return Sample("single", heldout, caption, tile(90), correct, failed, ("large blue square",))


@pytest.fixture
def score():
  cells = tuple(
    Cell(
      "single",
      heldout,
      Rate(right, 250),
      Rate(5, 250),
      Rate(250, 250),
      {"shape right": Rate(right, 250), "never tried": Rate(0, 0)},
      (sample(heldout, True), sample(heldout, False)),
    )
    for heldout, right in ((False, 230), (True, 190))
  )
  return Score("easy", 32, 0, cells)


@pytest.fixture
def workdir(tmp_path):
  folder = tmp_path / "run <1>"
  (folder / "samples").mkdir(parents=True)
  (folder / "samples/prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
  for step in (100, 200):
    row = np.concatenate([tile(step), tile(step + 1)], 1)
    Image.fromarray(row).save(folder / f"samples/step_{step:08}.png")
  lines = [
    {"step": s, "kind": "train", "loss": 100 / s, "perf": {"elapsed_s": 0.6 * s}}
    for s in range(10, 210, 10)
  ]
  lines += [
    {"step": s, "kind": "val", "loss": 90 / s, "loss_bin_0": 40 / s, "loss_bin_10": 9 / s}
    for s in (100, 200)
  ]
  text = "\n".join(json.dumps(line) for line in lines)
  (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
  return folder


def test_report_stands_alone(workdir, score):
  path = write_report(workdir, score, score.samples, {})
  assert path == workdir / "eval/report.html"
  page = Page(path)
  assert page.open == []  # every element is closed
  assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
  assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
  assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", path.read_text("utf-8"))


def test_heading_joins_context_and_metrics(workdir, score):
  context = {"run": "first", "parameters": 1_854_321, "machine": "2 cores", "lab": "north"}
  page = write_report(workdir, score, (), context).read_text("utf-8")
  facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
  assert facts == {
    "parameters": "1,854,321",
    "steps": "200",
    "minutes of training": "2.0",
    "machine": "2 cores",
    "lab": "north",
  }
  assert "<h1>first</h1>" in page
  early = Page(write_report(workdir, score, (), {"steps": 100})).text
  assert "minutes of training1.0" in early  # of the scored checkpoint, not of the whole run
  overruled = Page(write_report(workdir, score, (), {"steps": 777, "minutes": 9.5})).text
  assert "777" in overruled and "9.5" in overruled


def test_strip_shows_each_step_and_prompt_in_place(workdir, score):
  page = Page(write_report(workdir, score, (), {}))
  assert [pixels(image)[0, 0, 0] for image in page.images] == [100, 101, 200, 201]
  assert all(image["class"] == "px" and image["width"] == "96" for image in page.images)
  for label in ("step 100", "1.0 min", "step 200", "2.0 min", *PROMPTS):
    assert label in page.text


def test_strip_of_a_long_run_keeps_first_and_last(workdir, score):
  for step in range(300, 5000, 100):
    Image.fromarray(tile(7)).save(workdir / f"samples/step_{step:08}.png")
  page = Page(write_report(workdir, score, (), {}))
  assert len([tag for tag, _ in page.tags if tag == "th"]) == 1 + len(PROMPTS) + 10 + 5
  for label in ("step 100", "step 4,900", "10 of 49 are shown"):
    assert label in page.text


def test_losses_and_bins_are_drawn_in_order(workdir, score):
  page = Page(write_report(workdir, score, (), {}))
  assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2
  assert page.text.index("training") < page.text.index("bin 0") < page.text.index("bin 10")


def test_samples_stand_beside_their_verdicts(workdir, score):
  page = Page(write_report(workdir, score, score.samples, {}))
  assert page.text.count("✓ correct") == 2
  assert page.text.count("✗ wrong: a red <circle>") == 2
  assert page.text.count("seen: large blue square") == 2
  assert (pixels(page.images[-1]) == 90).all()


def test_score_table_has_rates_intervals_and_baselines(workdir, score):
  path = write_report(workdir, score, (), {})
  text = Page(path).text
  for cell in score.cells:
    for rate in (cell.model, cell.shuffled, cell.ceiling):
      assert f"{rate.percent()} {rate.interval()}" in text
  assert "width:92.0%" in path.read_text("utf-8") and "width:76.0%" in path.read_text("utf-8")
  saved = json.loads((workdir / "eval/score.json").read_text("utf-8"))
  assert saved == score.to_json()


def test_commands_and_attribution_are_escaped(workdir, score):
  context = {"commands": ["t2i train --x='<y>'", "t2i eval"], "attribution": "by A & B <c>"}
  page = Page(write_report(workdir, score, (), context))
  assert "t2i train --x='<y>' t2i eval" in page.text
  assert page.text.endswith("by A & B <c>")


def test_empty_workdir_says_what_is_missing(tmp_path, score):
  text = Page(write_report(tmp_path / "none", score, (), {})).text
  assert "metrics.jsonl is missing" in text
  assert "prompts.json is missing" in text
  assert "commands were not recorded" in text
  assert "No images were kept" in text


def test_damaged_samples_and_metrics_are_named(workdir, score):
  (workdir / "samples/step_00000200.png").write_bytes(b"\x89PNG half")
  with (workdir / "metrics.jsonl").open("a", encoding="utf-8") as file:
    file.write('\n[1]\n{"step": 210, "kind": "tr')
  page = Page(write_report(workdir, score, (), {}))
  assert "step_00000200.png cannot be read" in page.text
  assert "2 lines of metrics.jsonl could not be read" in page.text
  assert len(page.images) == 2


def test_losses_that_are_not_numbers_do_not_stop_the_report(workdir, score):
  rows = [{"step": 1, "kind": "train", "loss": float("nan")}, {"step": 2, "kind": "train"}]
  text = "\n".join(json.dumps(row) for row in rows)
  (workdir / "metrics.jsonl").write_text(text, encoding="utf-8")
  assert len(read_metrics(workdir / "metrics.jsonl")[0]) == 2
  assert "holds no loss" in Page(write_report(workdir, score, (), {})).text


def test_unwritable_folder_is_a_workdir_error(tmp_path, score):
  (tmp_path / "eval").write_text("a file in the way")
  with pytest.raises(WorkdirError, match="eval"):
    write_report(tmp_path, score, (), {})


def test_failed_write_keeps_the_old_report(workdir, score):
  old = write_report(workdir, score, (), {"run": "old"})
  (workdir / "eval/report.html.part").mkdir()
  with pytest.raises(WorkdirError, match=r"report\.html"):
    write_report(workdir, score, (), {"run": "new"})
  assert "<h1>old</h1>" in old.read_text("utf-8")


def test_gallery_shares_the_page(workdir):
  sections = [
    ("Trained prompts", "seen in training", [("cat", tile(1)), ("dog", tile(2, size=512))]),
    ("Unseen concept", "", []),
  ]
  page = Page(write_gallery_report(workdir, sections, {"attribution": "OpenMoji, CC BY-SA 4.0"}))
  assert [pixels(image).shape[0] for image in page.images] == [32, 32, 32, 32, 32, 256]
  assert page.images[-1]["width"] == "128" and "class" not in page.images[-1]
  for part in ("Trained prompts", "seen in training", "No images were drawn", "OpenMoji"):
    assert part in page.text
  assert not (workdir / "eval/score.json").exists()
