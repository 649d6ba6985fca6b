"""Data whose images a model drew: which model, so that it can be found what that had read.

A drawn image is of no single record. It may depend on each one that the model was trained on, and
so an opt-out list is compared with all of these: training.consent.
"""

import dataclasses
from pathlib import Path

from t2i_jax.data.source import DRAWN, read_manifest


@dataclasses.dataclass(frozen=True)
class Drawn:
  """What drew images of a folder: the entry "drawn" of its manifest.

  splits  whose images it drew
  model   "--workdir=RUN", or "--from=FOLDER" of a published one
  step    optimiser steps that the run had done
  data    data.source.manifest_hash of what it was trained on; "" where that is not known
  """

  splits: tuple[str, ...]
  model: str
  step: int
  data: str = ""

  @property
  def workdir(self) -> str:
    """Of the run that drew; "" of a published model."""
    flag, _, path = self.model.partition("=")
    return path if flag == "--workdir" else ""


def drawn_of(folder: str | Path) -> Drawn | None:
  """What drew images of a folder; None where none of its splits has such, or it does not say so.

  Raises DataError.
  """
  manifest = read_manifest(folder)
  entry = manifest.get(DRAWN)
  if entry is None:
    return None
  splits = tuple(split for split in entry["splits"] if split in manifest["splits"])
  return Drawn(**entry | {"splits": splits}) if splits else None
