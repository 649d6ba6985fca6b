"""A folder that diffusers opens, from a published folder or a run that started from one.

What was neither trained nor converted is copied byte for byte. The weights of an untrained network
are converted as they are stored, without a model of ours; trained ones are written from parameters.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from t2i_jax.autoencoders.measured import as_folder, settled
from t2i_jax.data.files import free_bytes
from t2i_jax.errors import ConfigError, WorkdirError
from t2i_jax.inference.card import CARD, Licence, card, licence_of
from t2i_jax.inference.convert import DTYPE_KEYS, File, files_of
from t2i_jax.inference.open import open_model
from t2i_jax.inference.save import check_out
from t2i_jax.models.params import Params
from t2i_jax.pretrained import save
from t2i_jax.pretrained.folder import config_json, open_folder
from t2i_jax.pretrained.known import LEGACY_CLASS, spec_for, spec_of
from t2i_jax.pretrained.pipelines import INDEX, Index, editor_of, read_index
from t2i_jax.pretrained.spec import DIFFUSERS_VERSION, Spec, write_config
from t2i_jax.pretrained.tensors import DTYPES
from t2i_jax.systems import System, for_inference, make_system
from t2i_jax.systems.adapters import without
from t2i_jax.systems.folder import folder_config
from t2i_jax.systems.parts import Part, split_start
from t2i_jax.towers.published import PUBLISHED
from t2i_jax.training.checkpoint import open_checkpoints
from t2i_jax.training.processes import of_first

# Files beside model_index.json that are copied, by the beginning of their name.
NOTICES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
TRAINED = "float32"  # dtype of trained weights unless another is given


@dataclass(frozen=True)
class Written:
  """A network that is written from parameters.

  to      its subfolder; "" = the folder itself
  config  ours;   spec: of its published class
  size    number of its parameters
  source  a folder of the same class, whose keys that change nothing are kept; or None
  """

  to: str
  config: Any
  spec: Spec
  size: int
  source: Path | None


@dataclass(frozen=True)
class Plan:
  """What a folder will hold, all of it checked.

  files   that are copied or converted;   written: by part of the system
  rows    of the model card: subfolder, class, origin of the weights
  texts   further files: path -> content
  """

  dtype: str
  files: list[File]
  rows: list[tuple[str, str, str]]
  licence: Licence
  written: Mapping[str, Written] = field(default_factory=dict)
  texts: Mapping[str, str] = field(default_factory=dict)

  @property
  def size(self) -> int:
    """Bytes."""
    width = jnp.dtype(self.dtype or TRAINED).itemsize
    return sum(f.size for f in self.files) + width * sum(w.size for w in self.written.values())


def export_folder(folder: str | Path, to: str | Path, dtype: str = "", licence: str = "") -> None:
  """Writes a published model to a new folder.

  dtype    of the floating weights: "float32", "bfloat16", "float16"; "" = as they are stored
  licence  where the source's README.md states none
  The folder appears only when it is complete. Raises RestoreError for a source that is damaged or
  that cannot be converted, ConfigError, WorkdirError where `to` is not empty or too small.
  """
  root, to = Path(folder), Path(to)
  check_target(to, dtype, [root])
  index, config = read_index(root), folder_config(root)
  files, rows = list[File](), list[tuple[str, str, str]]()
  for name, kind in index.parts.items():
    found = files_of(root / name, name, dtype)
    files += found
    rows.append(_row(name, kind, found, dtype))
  texts, top = _top(index)
  plan = Plan(dtype, [*files, *top], rows, licence_of(root, licence), texts=texts)
  made = f"a published {index.name}, {'in ' + dtype if dtype else 'unchanged'}."
  write_plan(to, plan, {}, card(config, plan.licence, rows, made))


def export_run(
  workdir: str | Path,
  to: str | Path,
  dtype: str = "",
  licence: str = "",
  part: str = "",
  overrides: Mapping[str, str] | None = None,
) -> None:
  """Writes a run with the averaged weights of its newest whole checkpoint, as a published model.

  dtype      as for export_folder; "" = trained weights float32, others as they are stored
  part       the one part of the system that is written, without scheduler, tokenizers and index
  overrides  of config.mesh, as for open_model
  Tokenizers, scheduler and all that was not trained are those of the folder that the parts started
  from. Raises ConfigError naming a part without a published layout; else as export_folder.
  """
  to = Path(to)
  with closing(open_checkpoints(workdir)) as checkpoints:
    _, meta = checkpoints.newest(checkpoints.meta)
  system = without(for_inference(make_system(meta.config, meta.tokenizer)))
  starts = {name: _start(name, one) for name, one in system.parts.items()}
  check_target(to, dtype, [path for path in starts.values() if path is not None])
  plan = (
    _part_plan(system, part, starts, dtype, licence)
    if part
    else run_plan(system, meta.config, starts, dtype, licence)
  )
  _check_space(to, plan.size)
  params: Params = {}
  step = 0
  if plan.written:
    model = open_model(workdir, dict(overrides or {}))
    params, step = model.params, model.step
  with closing(open_checkpoints(workdir)) as checkpoints:
    step, meta = checkpoints.newest(checkpoints.meta, step or None)
  made = f"a run of {meta.config.name}, the averaged weights after {step} steps."
  write_plan(to, plan, params, card(meta.config, plan.licence, plan.rows, made, meta.data))


def _start(name: str, part: Part) -> Path | None:
  """The published folder from which a part started."""
  kind, path = split_start(part.start, f"parts.{name}.start")
  return Path(path) if kind == "folder" else None


def _unchanged(part: Part, start: Path | None) -> Path | None:
  """The folder that holds what a part is after training, too."""
  return start if part.train == "none" else None


def run_plan(
  system: System, config: ConfigDict, starts: Mapping[str, Path | None], dtype: str, licence: str
) -> Plan:
  """Of a whole model: where each part goes, and what else comes from the source."""
  able = _writable(system, starts)
  for name, problem in able.items():
    if problem:
      raise ConfigError(f"part {name!r} cannot be written: {problem}{_alone(able)}")
  index = _source(system, starts, able)
  _check_process(config, index)
  subs, files, written, rows = {}, list[File](), dict[str, Written](), list[tuple[str, str, str]]()
  for name, part in system.parts.items():
    start = starts[name]
    sub = index.published.backbone if name == "backbone" else name
    if start is not None and _same(start.parent, index.folder):
      sub = start.name
    folder, kind = _unchanged(part, start), index.parts.get(sub)
    if folder is None or kind is None or not _same(folder, index.folder / sub):
      own = (open_folder(folder)[0] if folder else spec_for(part.config)).hf_class
      if kind not in (own, LEGACY_CLASS):
        raise ConfigError(
          f"part {name!r} is a {own}, and {index.folder / INDEX} names {kind or 'nothing'} as "
          f"{sub}.{_alone(able)}"
        )
      kind = own
    subs[sub] = kind
    if folder:
      found = files_of(folder, sub, dtype)
      files += found
      rows.append(_row(sub, kind, found, dtype))
    else:
      written[name] = _written(system, name, sub, start)
      rows.append((sub, kind, f"trained, {dtype or TRAINED}"))
  networks = {index.published.backbone, "vae"}
  if index.published.text in PUBLISHED:
    networks |= {one.weights for one in PUBLISHED[index.published.text].parts}
  for sub, kind in index.parts.items():
    if sub in subs:
      continue
    if sub in networks:
      raise ConfigError(
        f"this run has no part for {sub}, which a {index.name} draws with.{_alone(able)}"
      )
    found = files_of(index.folder / sub, sub, dtype)
    files += found
    rows.append(_row(sub, kind, found, dtype))
  changed = {name: kind for name, kind in subs.items() if kind != index.parts[name]}
  pipeline = editor_of(index.name) if getattr(system, "edits", False) else index.name
  texts, top = _top(index, changed, pipeline)
  stated = licence_of(index.folder, licence)
  return Plan(dtype, [*files, *top], rows, stated, written, texts)


def _part_plan(
  system: System, name: str, starts: Mapping[str, Path | None], dtype: str, licence: str
) -> Plan:
  """Of one part, into the folder itself."""
  if name not in system.parts:
    raise ConfigError(f"--part={name} is not one of {', '.join(system.parts)}.")
  part, start = system.parts[name], starts[name]
  stated = licence_of(None if start is None else start.parent, licence)
  folder = _unchanged(part, start)
  if folder:
    kind, files = open_folder(folder)[0].hf_class, files_of(folder, "", dtype)
    files = [file for file in files if file.to != CARD]
    return Plan(dtype, files, [_row(name, kind, files, dtype)], stated)
  able = _writable(system, starts)
  if able[name]:
    raise ConfigError(f"part {name!r} cannot be written: {able[name]}{_alone(able)}")
  written = _written(system, name, "", start)
  row = (name, written.spec.hf_class, f"trained, {dtype or TRAINED}")
  return Plan(dtype, [], [row], stated, {name: written})


def _writable(system: System, starts: Mapping[str, Path | None]) -> dict[str, str]:
  """By part: why it cannot be written, "" where it can."""

  def problem(name: str, part: Part) -> str:
    if _unchanged(part, starts[name]):
      return ""
    try:
      spec = spec_for(part.config)
      if spec.unwritten:
        return f"a {spec.hf_class} cannot be written: {spec.unwritten}"
      write_config(spec, as_folder(part.config))
    except ConfigError as error:
      return str(error)
    return ""

  return {name: problem(name, part) for name, part in system.parts.items()}


def _alone(able: Mapping[str, str]) -> str:
  """The end of a message: what can be written in place of the whole."""
  flags = [f"--part={name}" for name, problem in able.items() if not problem]
  return f" Parts that can be written alone: {', '.join(flags) or 'none'}."


def _source(system: System, starts: Mapping[str, Path | None], able: Mapping[str, str]) -> Index:
  """The folder of the published model that the parts of a run started from."""
  roots: dict[Path, list[str]] = {}
  for name, start in starts.items():
    if start is not None and (start.parent / INDEX).is_file():
      roots.setdefault(start.parent.resolve(), []).append(name)
  if not roots:
    raise ConfigError(
      f"no part of this run starts in a folder with {INDEX}, which scheduler and tokenizers are "
      f"taken from.{_alone(able)}"
    )
  if len(roots) > 1:
    said = "; ".join(f"{', '.join(names)} in {root}" for root, names in roots.items())
    raise ConfigError(f"the parts of this run start in several models: {said}.{_alone(able)}")
  root = next(iter(roots))
  return read_index(next(s.parent for s in starts.values() if s and _same(s.parent, root)))


def _check_process(config: ConfigDict, index: Index) -> None:
  """Raises ConfigError where the source's scheduler is of another process or prediction."""
  size = tuple(config.data.image_size)
  source = folder_config(index.folder, size)
  for key in ("kind", "prediction"):
    now, there = (c.process[key].partition("(")[0] for c in (config, source))
    if now != there:
      raise ConfigError(
        f"process.{key} = {config.process[key]!r}, and {index.scheduler_file} has "
        f"{source.process[key]!r}: diffusers would sample with the latter. Write a scheduler of "
        "this process there, or export --part=backbone."
      )


def _written(system: System, name: str, to: str, start: Path | None) -> Written:
  config = system.parts[name].config
  size = sum(leaf.size for leaf in jax.tree.leaves(system.abstract[name]))
  return Written(to, config, spec_for(config), size, start)


def _row(name: str, kind: str, files: Sequence[File], dtype: str) -> tuple[str, str, str]:
  """A line of the model card: a part whose files are copied or converted."""
  converted = any(file.write is not shutil.copyfile for file in files)
  return name, kind, f"those of the source, as {dtype}" if converted else "those of the source"


def _top(
  index: Index, classes: Mapping[str, str] | None = None, pipeline: str = ""
) -> tuple[dict[str, str], list[File]]:
  """model_index.json and the notices beside it: texts, and files that are copied.

  classes   subfolder -> class, where it is no longer that of the source
  pipeline  class of the whole; "": that of the source
  """
  found = [
    File(path, path.name, path.stat().st_size)
    for path in sorted(index.folder.iterdir())
    if path.is_file() and path.name.upper().startswith(NOTICES)
  ]
  same = pipeline in ("", index.name)
  if not classes and same and "_diffusers_version" in index.content:
    path = index.folder / INDEX
    return {}, [*found, File(path, INDEX, path.stat().st_size)]
  content = {"_diffusers_version": DIFFUSERS_VERSION} | index.content
  content |= {name: [index.content[name][0], kind] for name, kind in (classes or {}).items()}
  content |= {} if same else {"_class_name": pipeline}
  return {INDEX: json.dumps(content, indent=2) + "\n"}, found


def _same(a: Path, b: Path) -> bool:
  return a.resolve() == b.resolve()


def check_target(to: Path, dtype: str, sources: Sequence[Path]) -> None:
  """Raises ConfigError or WorkdirError before anything is read."""
  if dtype and dtype not in DTYPES.values():
    raise ConfigError(f"--dtype={dtype} is not one of {', '.join(DTYPES.values())}.")
  if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
    raise WorkdirError(f"--to={to} is not empty. Choose another folder, or remove it first.")
  for source in sources:
    if source.resolve() in (to.resolve(), *to.resolve().parents):
      raise WorkdirError(f"--to={to} is inside the source {source}. Choose a folder outside.")
  check_out(to, "--to")


def _check_space(to: Path, size: int) -> None:
  free = free_bytes(to)
  if free < 1.01 * size:
    raise WorkdirError(
      f"--to={to} has {free / 1e9:.3f} GB free and {size / 1e9:.3f} GB are needed. Free some "
      "space, use another disk, or --dtype=bfloat16."
    )


def write_plan(to: Path, plan: Plan, params: Params, readme: str) -> None:
  """The folder, which has its name once it is complete. Every process takes part."""
  _check_space(to, plan.size)
  to = to.absolute()
  part = to.parent / f".{to.name}.part-{of_first(os.getpid())}"
  writes = jax.process_index() == 0
  try:
    if writes:
      part.mkdir(parents=True)
    for name, one in plan.written.items():
      config, weights = one.config, params[name]
      if as_folder(config) is not config:
        config, weights = settled(config, weights)
      save(part / one.to, config, weights, dtype=plan.dtype or TRAINED)
      if writes and one.source is not None:
        _keep_keys(part / one.to, one)
    if writes:
      for file in plan.files:
        path = part / file.to
        path.parent.mkdir(parents=True, exist_ok=True)
        file.write(file.source, path)
      for name, text in {**plan.texts, CARD: readme}.items():
        (part / name).write_text(text, "utf-8")
      if to.exists():
        to.rmdir()
      part.rename(to)
  except OSError as error:
    raise WorkdirError(f"--to={to} cannot be written: {error}.") from error
  finally:
    if writes:
      shutil.rmtree(part, ignore_errors=True)


def _keep_keys(folder: Path, one: Written) -> None:
  """Gives config.json the source's values of keys that change nothing of what is computed."""
  content, before = config_json(folder), config_json(one.source or folder)
  if spec_of(before, str(one.source)) is not one.spec:
    return
  kept = {k: before[k] for k in one.spec.ignored if k in before and k not in DTYPE_KEYS}
  (folder / "config.json").write_text(json.dumps(content | kept, indent=2, sort_keys=True) + "\n")
