"""Every row of docs/parity.md: our solvers beside diffusers' schedulers, after every step."""

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
  """The first row of each scheduler with each solver; the others, on other tables, for proof."""
  seen = set()
  for row in rows:
    pair = (str(row).partition("(")[0], str(row.solver))
    marks = [pytest.mark.proof] if pair in seen else []
    seen.add(pair)
    yield pytest.param(row, marks=marks, id=f"{row}-{row.solver}-{'-'.join(row.tables)}")


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
