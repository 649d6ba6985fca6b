"""The tables and charts of docs/forgetting.md on erasure and recovery, from what was read."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.few_step import cell as percent
from benchmarks.forgetting_efficacy import (
  NAMES,
  Results,
  chosen,
  looks_in,
  places_in,
  rate,
  tried,
)
from benchmarks.forgetting_methods import METHOD_OF
from benchmarks.forgetting_prefixes import LEVELS
from benchmarks.forgetting_prefixes import about as about_search
from benchmarks.forgetting_recovery import ATTACKS, curve, prompt_groups, steps_to, success
from benchmarks.forgetting_recovery import LEVELS as SDEDIT_LEVELS
from benchmarks.forgetting_world import COUNTS, IN_TWIN, KINDS, Concept
from benchmarks.pages import table
from benchmarks.personalisation_tables import change
from benchmarks.personalisation_world import load_cell
from t2i_jax.evaluation.chart import Series, line_chart, panels
from t2i_jax.evaluation.stats import Rate

NOT_RUN = "not run yet"
CHARTED = ("base", "twin", "ablation_kv_reg", "ablation_all_reg", "ablation_row", "noise", "esd",
           "clipped")  # fmt: skip
PANELS = 2  # of charts, beside each other


def efficacy_table(results: Results, kind: str) -> str:
  rows = []
  for name in NAMES:
    ones = results.of(name, kind)
    if name == "twin" and kind in IN_TWIN:
      continue
    if not ones or not results.base:
      rows.append([NAMES[name], NOT_RUN, *[""] * 8])
      continue
    # Of the same model and prompt with other noise: how far two samples are.
    group = "anchor" if name == "base_again" else "target"
    drift = "" if name in ("base", "base_again") else change(results.drift(ones))
    rows.append([
      NAMES[name],
      *(percent(rate(ones, lambda one, g=group: one.drawn(g))) for group in ("target", "contexts")),
      percent(rate(ones, lambda one: one.valid())),
      *(percent(rate(ones, lambda one, g=g: one.right(g))) for g in ("anchor", "near", "far")),
      drift,
      *(apart(results.distance(ones, of, group)) for of in (looks_in, places_in)),
    ])  # fmt: skip
  head = ["", "concept drawn", "in other words", "anchor in its place", "anchor right"]
  head += ["near neighbours right", "far neighbours right", "own prompts right: change, points"]
  return table([*head, "identities: distance", "places: distance"], rows)


def apart(distance: float) -> str:
  return "nothing drawn" if isnan(distance) else f"{distance:.2f}"


def settings_table(results: Results) -> str:
  rows = []
  for name, method in METHOD_OF.items():
    cells: list[Any] = []
    for kind in KINDS:
      try:
        best = chosen(results.folder, name, kind)
      except FileNotFoundError:
        cells.append(NOT_RUN)
        continue
      cells.append(f"{best.rate:g}: {100 * best.score:.0f}%")
    ones = [one for kind in KINDS for one in results.of(name, kind)]
    seconds = f"{fmean(one.cell.about['seconds'] for one in ones):.0f}" if ones else ""
    rows.append([method.title, *cells, seconds])
  return table(["method", *KINDS, "seconds a run"], rows)


def ascent_table(results: Results, kind: str) -> str:
  """Loss maximisation at every rate, on a development concept."""
  rows = []
  for setting in tried(results.folder, "maximise", kind):
    one = setting.one
    share = lambda values: percent(Rate.of(values))
    rights = [share(one.right(group)) for group in ("anchor", "near", "own")]
    finite = "no" if one.cell.about.get("diverged") else "yes"
    rows.append(
      [f"{setting.rate:g}", share(one.drawn("target")), share(one.valid()), *rights, finite]
    )
  head = ["rate", "concept drawn", "anchor in its place", "anchor right"]
  return table([*head, "near neighbours right", "own prompts right", "finite"], rows)


def concept_list(concepts: Sequence[Concept]) -> str:
  anchor = lambda c: f'"{c.anchor}"' if c.anchor else "nothing"
  return "; ".join(f'"{c.concept}" -> {anchor(c)}' for c in concepts)


def steps_table(runs: Path) -> str:
  """Steps to 80% of every attack, and in how many of the twin's."""
  rows = []
  to = {(a, m): _reached(runs, a, m) for a in ATTACKS for m in NAMES}
  for name in (n for n in NAMES if n not in ("base_again", "rename")):
    cells = []
    for attack in ATTACKS:
      found, twin = to[attack, name], to[attack, "twin"]
      cells.append(ratio(found, twin) if found else NOT_RUN)
    rows.append([NAMES[name], *cells])
  return table(["", *(attack.title for attack in ATTACKS.values())], rows)


class Reached(NamedTuple):
  """Steps to 80%, None where they do not suffice; the last that was drawn, and its success."""

  steps: float | None
  last: int
  success: float

  def __str__(self) -> str:
    if self.steps is not None:
      return f"{self.steps:.0f}"
    return f"> {self.last}, {100 * self.success:.0f}%"


def _reached(runs: Path, attack: str, model: str) -> Reached | None:
  """None where the attack was not run."""
  found = curve(runs, attack, model)
  if not found:
    return None
  last = max(found)
  return Reached(steps_to({s: r.rate for s, r in found.items()}), last, found[last].rate)


def ratio(found: Reached, twin: Reached | None) -> str:
  """ "40; 0.50", steps and their share of the twin's, with bounds where 80% is not reached."""
  if twin is None or found.steps == 0:
    return str(found)
  if twin.steps is not None and found.steps is not None:
    return f"{found}; {found.steps / twin.steps:.2f}" if twin.steps else str(found)
  if found.steps is not None:
    return f"{found}; < {found.steps / twin.last:.2f}"
  return f"{found}; > {found.last / twin.steps:.2f}" if twin.steps else str(found)


def recovery_chart(runs: Path) -> str:
  charts = []
  for name, attack in ATTACKS.items():
    lines = []
    for model in CHARTED:
      found = curve(runs, name, model)
      if found:
        rates = list(found.values())
        at = [max(step, 1) for step in found]
        lines.append(Series(NAMES[model], at, [r.rate for r in rates],
                            [r.lower for r in rates], [r.upper for r in rates]))  # fmt: skip
    if lines:
      charts.append(line_chart(lines, title=attack.title, x_label="steps (0 at 1)",
                               y_label="individual drawn", percent=True, log_x=True,
                               y_limits=(0.0, 1.0)))  # fmt: skip
  return panels(charts, PANELS) if charts else ""


def prompts_table(runs: Path) -> str:
  groups = list(prompt_groups(1))
  return _by_group(runs, "prompts", groups, [n for n in NAMES if n != "base_again"])


def sdedit_table(runs: Path) -> str:
  levels = [f"{level:g}" for level in SDEDIT_LEVELS]
  names = [n for n in NAMES if n not in ("base_again", "rename")]
  return _by_group(runs, "sdedit", levels, names)


def _by_group(runs: Path, what: str, groups: Sequence[str], names: Sequence[str]) -> str:
  rows = []
  for name in names:
    path = runs / "recovery" / f"{what}_{name}.json"
    found = [success(path, group) for group in groups] if path.is_file() else []
    cells = [percent(one) for one in found if one] or [NOT_RUN, *[""] * (len(groups) - 1)]
    rows.append([NAMES[name], *cells])
  return table(["", *groups], rows)


def prefix_table(runs: Path) -> str:
  rows = []
  for name in NAMES:
    path = runs / "prefixes" / f"{name}.json"
    if not path.is_file():
      continue
    found, texts = about_search(path), list(load_cell(path).readings)
    rates = {text: one for text in texts if (one := success(path, text)) is not None}
    best = max(rates, key=lambda text: rates[text].rate)
    several = fmean(one.rate for one in rates.values())
    rows.append([NAMES[name], f"{found['pairs']:,} of {found['all']:,}", f"{found['calls']:,}",
                 f"`{best}`", percent(rates[best]), f"{100 * several:.1f}%"])  # fmt: skip
  head = ["", "pairs", "network calls", "best prompt", "individual drawn", "mean of the best"]
  return table(head, rows) if rows else NOT_RUN


def counts_text() -> str:
  return ", ".join(f"{n} {group}" for group, n in COUNTS.items())


def levels_text() -> str:
  return ", ".join(f"{level:g}" for level in LEVELS)
