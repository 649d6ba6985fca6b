"""What an experiment drew and read, kept beside its page: docs/NAME.tar.xz.

A page is made of the cells in RUNS alone. Packed with the page, they let it be made again, and
parts that were not run be added, where RUNS is no more; the same cells give the same bytes.
"""

import io
import json
import lzma
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t2i_jax.models.params import Params
from t2i_jax.training.checksum import fingerprint

BASE = "base_params.json"  # hashes of the base's weights, by part


def record(runs: Path, files: Iterable[Path], archive: Path) -> None:
  """Packs files of RUNS, those of an older archive that are not among them left as they are."""
  held = _read(archive) | {str(f.relative_to(runs)): f.read_bytes() for f in files}
  packed = io.BytesIO()
  with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
    for name, content in sorted(held.items()):
      entry = tarfile.TarInfo(name)
      entry.size = len(content)
      tar.addfile(entry, io.BytesIO(content))
  archive.write_bytes(lzma.compress(packed.getvalue(), preset=9))


def restore(runs: Path, archive: Path) -> None:
  """Writes to RUNS what an archive holds and RUNS does not; nothing where there is no archive."""
  for name, content in _read(archive).items():
    file = runs / name
    if not file.exists():
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(content)


def agree(runs: Path, settings: dict[str, Any]) -> None:
  """Exits where a folder has drawings of other settings, so that none are mixed."""
  runs.mkdir(parents=True, exist_ok=True)
  path = runs / "settings.json"
  text = json.dumps(settings, indent=1) + "\n"
  if not path.is_file():
    path.write_text(text)
  elif path.read_text() != text:
    sys.exit(f"{path} has other settings than these: {settings}. Use another --runs.")


def check_base(runs: Path, params: dict[str, Any]) -> None:
  """Exits where RUNS has drawings of a base with other weights, as a base has that was trained on
  another kind of processor; where it has none, it is that of `params` from then on."""
  runs.mkdir(parents=True, exist_ok=True)
  path, own = runs / BASE, fingerprint(params)
  if not path.is_file():
    path.write_text(json.dumps(own, indent=1) + "\n")
  elif json.loads(path.read_text()) != own:
    sys.exit(f"{path}: what was drawn here is of a base with other weights. Use another --runs, "
             "without --restore.")  # fmt: skip


def save_params(path: Path, params: Params) -> None:
  """Parameters by part, as one file of arrays."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(".part.npz")
  np.savez(part, **{k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()})
  part.replace(path)


def load_params(path: Path) -> Params:
  with np.load(path) as arrays:
    return unflatten_dict({name: arrays[name] for name in arrays.files}, sep="/")


def _read(archive: Path) -> dict[str, bytes]:
  if not archive.is_file():
    return {}
  with tarfile.open(archive, "r:xz") as tar:
    return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
