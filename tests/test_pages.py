"""Pages of docs/ say what made them, and those that are the same on every run are not stale."""

import re

import pytest

from benchmarks import pages

MADE = "Made by"  # what a page says that a program writes
COMPARED = {"equations.md"}  # tests/test_equations.py compares every line of it
# Of nearly the whole package, which every change of it would make stale: minutes to hours of
# compiled programs, and comparisons whose cases tests/parity runs.
OF_THE_WHOLE_PACKAGE = {
  *("attention_memory.md", "joint_on_tpu.md", "pod.md", "tpu_programs.md"),
  *("parity_autoencoders.md", "parity_towers.md", "pipelines.md", "pipelines_on_tpu.md"),
  "sdxl_on_tpu.md",
}


@pytest.mark.parametrize(
  "page",
  [
    pytest.param(page, marks=pytest.mark.proof) if page.path.name in OF_THE_WHOLE_PACKAGE else page
    for page in pages.held()
  ],
  ids=lambda page: page.path.name,
)
def test_a_page_is_as_its_sources_make_it(page):
  assert not page.stale, pages.complaint(page)


def test_every_page_that_a_program_writes_says_what_made_it():
  for path in pages.DOCS.glob("*.md"):
    text = path.read_text(encoding="utf-8")
    lines = [*pages.MADE.finditer(text), *pages.RUN.finditer(text)]
    expected = MADE in text and path.name not in COMPARED
    assert len(lines) <= 1 and (lines or not expected), path.name
    assert all(f"{line.group()}\n" == text[line.start() :] for line in lines), path.name


def test_every_command_is_of_a_module_that_there_is():
  for path in pages.DOCS.glob("*.md"):
    for module in re.findall(r"python -m ([\w.]+)", path.read_text(encoding="utf-8")):
      assert (pages.ROOT / f"{module.replace('.', '/')}.py").is_file(), (path.name, module)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A repository of one page and the sources that it names."""
  files = {
    "benchmarks/made.py": "from t2i_jax.a.b import f\n\nprint(f(1))\n",
    "t2i_jax/__init__.py": "",
    "t2i_jax/a/__init__.py": "",
    "t2i_jax/a/b.py": "def f(x):\n  return x\n",
    "t2i_jax/a/unused.py": "x = 1\n",
  }
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  (tmp_path / "docs").mkdir()
  monkeypatch.setattr(pages, "ROOT", tmp_path)
  monkeypatch.setattr(pages, "DOCS", tmp_path / "docs")
  line = fresh(lambda: pages.made_by("python -m benchmarks.made", "benchmarks/made.py"))
  pages.write(tmp_path / "docs/page.md", "# Page\n", line)
  yield tmp_path
  fresh(lambda: None)


def fresh(call):
  """As a new process would."""
  for kept in (pages.parsed, pages.imported, pages.content):
    kept.cache_clear()
  return call()


def stale():
  (page,) = pages.held()
  return fresh(lambda: page.stale)


def test_what_a_page_depends_on(folder):
  files = ["benchmarks/made.py", "t2i_jax/__init__.py", "t2i_jax/a/__init__.py", "t2i_jax/a/b.py"]
  assert pages.closure(["benchmarks/made.py"]) == files
  assert not stale()


@pytest.mark.parametrize(
  "text, is_stale",
  [
    ('"""A module."""\n\n\ndef f(x):\n  """x."""\n  return (x)  # itself\n', False),
    ("def f(x):\n  return x + 1\n", True),
    ("def f(y):\n  return y\n", True),
  ],
)
def test_comments_docstrings_and_layout_do_not_count(folder, text, is_stale):
  (folder / "t2i_jax/a/b.py").write_text(text)
  assert stale() == is_stale


def test_a_stale_page_says_what_to_run_and_can_be_stamped(folder):
  (folder / "t2i_jax/a/b.py").write_text("def f(x):\n  return 2 * x\n")
  (page,) = pages.held()
  assert stale() and "Run: python -m benchmarks.made\n" in pages.complaint(page)
  fresh(lambda: pages.stamp(page))
  assert not stale()
  (folder / "benchmarks/made.py").unlink()
  assert stale() and "do not exist: benchmarks/made.py" in pages.complaint(page)


def test_a_run_says_commit_command_and_config(tmp_path):
  (tmp_path / "config.json").write_text('{"b": 1, "a": [2]}')
  line = pages.run_of("python -m x --y", tmp_path / "config.json")
  commit, command, config = pages.RUN.fullmatch(line).groups()
  assert commit and command == "python -m x --y"
  assert config == f"sha256: {pages.config_hash({'a': [2], 'b': 1})}"
  assert pages.run_of("x").endswith("config not recorded -->")


def test_a_table():
  assert pages.table(["a", "b"], [[1, "x"], [2, "y"]]).splitlines() == [
    "| a | b |", "|---|---|", "| 1 | x |", "| 2 | y |",
  ]  # fmt: skip
