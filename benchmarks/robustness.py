"""What is promised of bad input, damage and interruption, with counts: docs/robustness.md.

python -m benchmarks.robustness

Runs every attack of ATTACKS that docs/robustness.json has no result of, about half an hour of two
cores in all, and writes the page. --again=flips,readers makes those again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pages import run_of, table, write

ATTACKS: dict[str, tuple[str, ...]] = {
  "data": ("fuzz_data", "--count=20000"),
  "config": ("fuzz_config", "--count=20000"),
  "flips": ("fuzz_runs", "flips", "--count=200"),
  "readers": ("fuzz_runs", "readers", "--readers=20", "--seconds=120"),
  "speed": ("fuzz_runs", "speed", "--mib=512"),
}
# Rule, what is promised, the tests of `make test`.
RULES = (
  (
    "One bad item is its own failure",
    "Whatever goes wrong with one file, row or member of a build is a line of `skipped.jsonl` with "
    "its name and reason. Only regular files are read, up to 256 MiB, and only PNG, JPEG, WEBP, "
    "BMP, GIF, TIFF and NPY are opened. With two workers or more an item that kills its worker, or "
    "takes ten minutes, is named as well. `--max-bad` is the share that ends a build.",
    "`test_data_items.py`, `test_data_fuzz.py`",
  ),
  (
    "Found is used and rejected",
    "Every file, row, member and caption is counted, and the sums are checked, printed last and "
    "kept in the manifest. A tar has ended at its own end mark alone; what was read of a damaged "
    "one is kept, and the tar is named.",
    "`test_data_account.py`",
  ),
  (
    "What is kept is what was meant",
    "Captions are visible UTF-8 text without control characters; only LF, CRLF and CR end one. "
    "Colours are converted to sRGB, transparent is white at every depth, and files that need no "
    "change keep their bytes.",
    "`test_data_meaning.py`",
  ),
  (
    "What is there stays there",
    "A build claims its target until it ends: a second one is refused with the host and process of "
    "the first, or takes over from a dead one. What anybody puts into the target meanwhile stays.",
    "`test_data_target.py`",
  ),
  (
    "What a run will meet is known before it starts",
    "The manifest has the lengths of captions in tokens. Captions of more than `text.length` "
    "tokens are counted before the first step, and `text.too_long` decides: `error`, `truncate` or "
    "`skip`. Odd manifests, unreadable shards and closed pipes end in a message.",
    "`test_data_before.py`",
  ),
  (
    "Readers never write",
    "Opening a run creates, renames and removes nothing. One trainer has a work directory: a "
    "second is refused with the host and process of the first; it takes over when that is dead, at "
    "once on the same host and after 30 s on another.",
    "`test_runs.py`",
  ),
  (
    "What is saved is good, and known to be",
    "Weights that are not finite are never saved, images that are not are an error. A checkpoint "
    "holds a checksum of each array, which every reading compares: the newest step that is whole "
    "is used, with a warning that names a damaged one, and `--step` of a damaged one is an error. "
    "A damaged step is moved to `damaged/`, never deleted.",
    "`test_runs.py`",
  ),
  (
    "A run is of its data",
    "A checkpoint holds the hash of its data's manifest. Other data under the same path are "
    "refused on resuming, or taken by `--new-data` with the checkpoint's tokenizer.",
    "`test_runs.py`, `test_data_before.py`",
  ),
  (
    "Every value has a range",
    "A number, or an argument in a text such as `dpmpp(order=9)`, outside its declared range ends "
    "before anything is compiled, with key, value and range. Numbers that are not finite are "
    "refused unless declared; schedules, grids and plans of solvers are finite.",
    "`test_config_values.py`, `tests/test_ranges.py`: every numeric key and argument has a range",
  ),
  (
    "Outside of the repository",
    "All configs and the `t2i` lines of the README work from an installed wheel, in an empty "
    "folder.",
    "`tests/test_wheel.py`",
  ),
  (
    "Logs tell the truth",
    "TensorBoard and `metrics.jsonl` show each step once after any restart; lines that were done "
    "again are kept aside. Resuming with fewer steps than were done changes nothing. `--out` is "
    "checked before anything is drawn.",
    "`test_runs.py`",
  ),
)


def attack(name: str) -> dict[str, Any]:
  """Runs an attack; its counts. Exits where a promise did not hold."""
  program, *flags = ATTACKS[name]
  with tempfile.TemporaryDirectory() as folder:
    to = Path(folder, "counts.json")
    command = [sys.executable, "-m", f"benchmarks.proofs.{program}", *flags, f"--to={to}"]
    print("$", *command[1:-1], flush=True)
    if code := subprocess.run(command).returncode:
      sys.exit(code)
    return json.loads(to.read_text(encoding="utf-8"))


def command_of(name: str) -> str:
  return f"`python -m benchmarks.proofs.{' '.join(ATTACKS[name])}`"


def of_data(found: dict[str, Any]) -> list[str]:
  kinds = table(["changed", "files"], [(kind, f"{n:,}") for kind, n in found["kinds"].items()])
  ends = sorted(found["outcomes"].items(), key=lambda pair: -pair[1])
  return [
    f"{command_of('data')}: {found['count']:,} changed files, none without a place, no traceback, "
    f"no hang, in {found['seconds']} s; the largest process took {found['peak_mib']} MiB: images "
    "of up to 89 million pixels are decoded. A tar or a file of rows holds several items.",
    "",
    kinds,
    "",
    table(["outcome", "items"], [(what, f"{n:,}") for what, n in ends]),
  ]


def of_config(found: dict[str, Any]) -> list[str]:
  return [
    f"{command_of('config')}: {found['count']:,} random values and texts: {found['built']:,} were "
    f"built, every number in them finite; {found['refused']:,} were refused by a message that "
    f"names the key; {found.get('failed', 0)} ended otherwise."
  ]


def of_runs(done: dict[str, Any]) -> list[str]:
  lines = []
  if "flips" in done:
    rows = sorted(done["flips"].items())
    lines += [
      f"{command_of('flips')}: one bit of a checkpoint changed, anywhere, then read by inference "
      "and by training.",
      "",
      table(["what was read", "flips"], rows),
      "",
    ]
  if "readers" in done:
    r = done["readers"]
    lines += [
      f"{command_of('readers')}: {r['readers']} readers for {r['seconds']:.0f} s beside a run that "
      f"saved {r['saved']} times: opened {r['opened']} times, at least "
      f"{r['fewest opened by a reader']} times each; saves lost {len(r['saves lost'])}, problems "
      f"of readers {len(r['problems of readers'])}; kept at the end as undisturbed: "
      f"{'yes' if r['as expected'] else 'no'}.",
      "",
    ]
  if "speed" in done:
    s = done["speed"]
    rate = s["mib"] / 1024 / s["seconds"]
    lines += [
      f"{command_of('speed')}: the checksums of {s['mib']} MiB of weights take "
      f"{s['seconds']:.2f} s, {rate:.1f} GiB/s, once compiled: on the devices, in each save and "
      "each reading."
    ]
  return lines


def page(done: dict[str, Any]) -> str:
  lines = [
    "# Robustness",
    "",
    "What is promised of bad input, damage and interruption. Tests without a folder are in",
    "`tests/faults`, a log of small inputs with the right value of each.",
    "",
    table(["rule", "promise", "tests"], RULES),
    "",
  ]
  if "data" in done:
    lines += ["## Data", "", *of_data(done["data"]), ""]
  if "config" in done:
    lines += ["## Configs", "", *of_config(done["config"]), ""]
  return "\n".join([*lines, "## Runs", "", *of_runs(done)])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--again", default="", help="names of ATTACKS, with commas between them")
  parser.add_argument("--page", action="store_true", help="only write the page")
  args = parser.parse_args()
  kept = Path("docs/robustness.json")
  done = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
  again = args.again.split(",") if args.again else []
  for name in [] if args.page else ATTACKS:
    if name not in done or name in again:
      done[name] = attack(name)
      kept.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
  line = run_of("python -m benchmarks.robustness")
  write(Path("docs/robustness.md"), page(done), line)
  print("docs/robustness.md")


if __name__ == "__main__":
  main()
