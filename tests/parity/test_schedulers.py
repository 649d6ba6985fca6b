"""Every row of docs/parity.md: our solvers beside diffusers' schedulers, after every step."""

import dataclasses
import logging
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[2]

from benchmarks.solver_parity import BOUND, ROWS, TABLES, held  # noqa: E402
from t2i_jax.process.tables import alpha_bar_of, cosine_betas, linear_betas, scaled_linear_betas  # noqa: E402

logging.getLogger("diffusers").setLevel(logging.ERROR)


def once(rows):
  """The first row of each scheduler whole; of each other solver of it, with one prediction and up
  to 20 steps. For proof all rows whole."""
  seen = set()
  for row in rows:
    scheduler = row.scheduler
    name = f"{row}-{row.solver}-{'-'.join(row.tables)}"
    if scheduler in seen:
      if (scheduler, row.solver) not in seen:
        short = tuple(n for n in row.steps if n <= 20)
        yield pytest.param(dataclasses.replace(row, kinds=row.kinds[:1], steps=short), id=name)
      yield pytest.param(row, marks=pytest.mark.proof, id=f"{name}-whole")
    else:
      yield pytest.param(row, id=name)
    seen |= {scheduler, (scheduler, row.solver)}


@pytest.mark.parametrize("row", once(ROWS))
def test_every_step_is_the_schedulers(row):
  worst = {case: held(row, case) for case in row.cases(row.tables)}
  over = {case: error for case, error in worst.items() if not error < BOUND}
  assert not over


@pytest.mark.parametrize(
  "name, betas",
  [("SD", scaled_linear_betas), ("linear", linear_betas), ("cosine", cosine_betas)],
)
def test_published_table_is_the_schedulers_to_the_last_bit(name, betas):
  from diffusers import DDPMScheduler

  theirs = DDPMScheduler(**TABLES[name].config).alphas_cumprod.numpy()
  assert (alpha_bar_of(betas(published=True)) == theirs).all()


def test_page_has_every_row():
  page = (ROOT / "docs" / "parity.md").read_text()
  for row in ROWS:
    assert f"| `{row}` | `{row.solver}`" in page
