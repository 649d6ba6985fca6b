"""The pages of docs/: their tables, and the line that says what made each.

    python -m benchmarks.pages                 which pages are older than their sources
    python -m benchmarks.pages --make [PAGE..] makes those again, or the named ones
    python -m benchmarks.pages --stamp PAGE..  the figures were found to be as before: says so

A page that is the same on every run ends in

    <!-- made by: COMMAND; sources: FILE ..; sha256: .. -->

with a hash over these files and all that they import of this repository, as syntax trees: comments,
docstrings and layout do not count. A test fails while the hash is another. A page of a trained run
or of times ends in <!-- run: commit ..; command: ..; config sha256: .. --> and is not held.
"""

import argparse
import ast
import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("t2i_jax", "benchmarks")
SELF = Path(__file__).resolve().relative_to(ROOT).as_posix()  # makes no figure
DIGITS = 16  # of a hash
MADE = re.compile(r"<!-- made by: (.*); sources: (.*); sha256: (\w+) -->")
RUN = re.compile(r"<!-- run: commit (.*?); command: (.*); config (sha256: .*|not recorded) -->")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """A table in Markdown, without a newline at its end."""
  first, *rest = (f"| {' | '.join(map(str, row))} |" for row in (head, *rows))
  return "\n".join([first, "|" + "---|" * len(head), *rest])


def write(path: Path, text: str, line: str) -> None:
  """Writes a page that ends in a line of `made_by` or `run_of`."""
  path.write_text(f"{text.rstrip()}\n\n{line}\n", encoding="utf-8")


def made_by(command: str, *sources: str) -> str:
  """The line of a page that is the same on every run.

  sources  files below the root; what Python files import is counted without being named
  """
  return f"<!-- made by: {command}; sources: {' '.join(sources)}; sha256: {hash_of(sources)} -->"


def run_of(command: str, *configs: Path) -> str:
  """The line of a page of trained runs or of times: the commit that is checked out, the command,
  and a hash over the runs' config.json.
  """
  commit = git("rev-parse", "--short", "HEAD") or "not recorded"
  commit += " with changes" if git("status", "--porcelain", "--", *PACKAGES) else ""
  read = [json.loads(path.read_text(encoding="utf-8")) for path in configs]
  config = f"sha256: {config_hash(*read)}" if read else "not recorded"
  return f"<!-- run: commit {commit}; command: {command}; config {config} -->"


def git(*arguments: str) -> str:
  """What git says of this folder; nothing where it is no clone."""
  done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
  return done.stdout.strip() if done.returncode == 0 else ""


def line_of(path: Path) -> str:
  """The line that a page ends in now: for a page whose text is written anew from kept figures."""
  return path.read_text(encoding="utf-8").rstrip().splitlines()[-1]


def config_hash(*configs: dict[str, Any]) -> str:
  text = json.dumps(configs, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def hash_of(sources: Sequence[str]) -> str:
  """Over the files and all that they import. FileNotFoundError where one is not there."""
  found = hashlib.sha256()
  for file in closure(sources):
    found.update(f"{file} {content(file)}\n".encode())
  return found.hexdigest()[:DIGITS]


def closure(sources: Sequence[str]) -> list[str]:
  """The files, and the files of this repository that they import, at any depth; sorted."""
  seen, todo = set[str](), list(sources)
  while todo:
    file = todo.pop()
    if file not in seen and file != SELF:
      seen.add(file)
      todo += imported(file) if file.endswith(".py") else []
  return sorted(seen)


@cache
def parsed(file: str) -> ast.Module:
  return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@cache
def imported(file: str) -> list[str]:
  """Files of the modules that a file imports, anywhere in it, and of the packages around them."""
  names = set[str]()
  for node in ast.walk(parsed(file)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  files = []
  for parts in (name.split(".") for name in names):
    if parts[0] in PACKAGES:
      stems = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
      files += [name for stem in stems for name in (f"{stem}.py", f"{stem}/__init__.py")]
  return [name for name in dict.fromkeys(files) if (ROOT / name).is_file()]


@cache
def content(file: str) -> str:
  """A hash of a file; of Python, of what it does: without comments, docstrings and layout."""
  if file.endswith(".py"):
    data = "".join(tokens(parsed(file))).encode()
  else:
    data = (ROOT / file).read_bytes()
  return hashlib.sha256(data).hexdigest()


def tokens(node: Any) -> Iterator[str]:
  """A syntax tree as text. ast.dump says the same in words that each version of Python changes."""
  if isinstance(node, ast.AST):
    yield f"{type(node).__name__}("
    for name, value in ast.iter_fields(node):
      if name == "body" and has_docstring(node):
        value = value[1:]
      if value is not None and value != []:
        yield f"{name}="
        yield from tokens(value)
    yield ")"
  elif isinstance(node, list):
    yield "["
    for one in node:
      yield from tokens(one)
    yield "]"
  else:
    yield f"{node!r},"


def has_docstring(node: ast.AST) -> bool:
  documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None


class Page(NamedTuple):
  """A page that is held to its sources."""

  path: Path
  command: str
  sources: tuple[str, ...]
  sha256: str

  @property
  def absent(self) -> list[str]:
    """Sources that are not there."""
    return [file for file in self.sources if not (ROOT / file).is_file()]

  @property
  def stale(self) -> bool:
    return bool(self.absent) or hash_of(self.sources) != self.sha256


def held() -> list[Page]:
  """The pages that are held to their sources, sorted by name."""
  found = []
  for path in sorted(DOCS.glob("*.md")):
    for command, sources, sha256 in MADE.findall(path.read_text(encoding="utf-8")):
      found.append(Page(path, command, tuple(sources.split()), sha256))
  return found


def complaint(page: Page) -> str:
  """What is wrong with a stale page, and what to run."""
  name = page.path.name
  if page.absent:
    return (
      f"docs/{name} names sources that do not exist: {', '.join(page.absent)}. Name the new ones."
    )
  return (
    f"docs/{name} was made from other sources. Run: {page.command}\n"
    f"  or, where its figures cannot have changed: python -m benchmarks.pages --stamp {name}"
  )


def stamp(page: Page) -> None:
  """Puts the hash of today's sources into a page."""
  line = made_by(page.command, *page.sources)
  text = page.path.read_text(encoding="utf-8")
  page.path.write_text(MADE.sub(lambda _: line, text), encoding="utf-8")


def main() -> None:
  parser = argparse.ArgumentParser(description="Pages of docs/ that are older than their sources.")
  parser.add_argument("--make", nargs="*", metavar="PAGE", help="make stale or named pages again")
  parser.add_argument("--stamp", nargs="+", metavar="PAGE", help="keep a page's figures")
  args = parser.parse_args()
  pages = held()
  named = {Path(name).name for name in [*(args.make or []), *(args.stamp or [])]}
  if unknown := named - {page.path.name for page in pages}:
    sys.exit(f"{', '.join(sorted(unknown))}: no page of docs/ that is held to its sources.")
  chosen = [page for page in pages if (page.path.name in named if named else page.stale)]
  if args.stamp:
    for page in chosen:
      stamp(page)
  elif args.make is not None:
    for command in dict.fromkeys(page.command for page in chosen):
      print(f"$ {command}", flush=True)
      program, *rest = shlex.split(command)
      assert program == "python", command
      subprocess.run([sys.executable, *rest], cwd=ROOT, check=True)
  wrong = [complaint(page) for page in held() if page.stale]
  print("\n".join(wrong) or f"{len(pages)} pages are as their sources make them.")
  sys.exit(bool(wrong))


if __name__ == "__main__":
  main()
