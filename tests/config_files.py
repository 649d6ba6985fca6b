"""The config files of the package."""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "t2i_jax/configs"
FILES = sorted(CONFIGS.rglob("*.py"))
# Configs that need no published folder: one whose VARIANT is a folder has tests of its own.
ALONE = [
  p for p in FILES if "def get_config" in p.read_text() and "\nVARIANT =" not in p.read_text()
]
