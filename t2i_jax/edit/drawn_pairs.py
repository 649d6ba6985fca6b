"""Pairs of images that a model draws of edits as text, for training an instruction model.

[2211.09800 sec. 3.1.2]: of each edit several candidates are drawn, those that agree with it are
kept. A candidate is a function of the model, the edit and its number, so that a build that was
killed goes on with what it has drawn, and ends with the same bytes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import numpy as np
from PIL import Image

from t2i_jax.data.build import build
from t2i_jax.data.claim import check_target
from t2i_jax.data.drawn import Drawn
from t2i_jax.data.edit_texts import EditTriple, read_edit_texts
from t2i_jax.data.images import encode
from t2i_jax.data.items import Made, Result, Skipped, made
from t2i_jax.data.record import Record
from t2i_jax.data.scenes.edit_captions import drawn_edit, edit_text
from t2i_jax.data.user_images import split_of
from t2i_jax.edit.image_encoders import ImageEncoder
from t2i_jax.edit.pair_drawing import DRAWS, EXACT, P2P, Candidates, DrawPairs, How, candidates_of
from t2i_jax.errors import ConfigError, DataError, WorkdirError
from t2i_jax.evaluation.agreement import (
  NOT_BEST,
  Agreement,
  agreement,
  best,
  reason_against,
)
from t2i_jax.evaluation.edit_judge import judge_edit
from t2i_jax.evaluation.judge import read
from t2i_jax.inference import Model
from t2i_jax.training.checksum import fingerprint

ABOUT = "about.json"
AT_ONCE = 64  # pairs whose results are written together
WRONG_SOURCE, WRONG_EDIT = "the image is not its caption", "the edit is not right"


@dataclasses.dataclass(frozen=True)
class Pairs:
  """A source of t2i_jax.data.build: what was drawn and kept.

  drawn    the folder of files that `pairs` writes
  about    what they are of, for the manifest
  """

  drawn: str
  about: dict[str, Any]

  splits: ClassVar = ("train", "val")
  vocab: ClassVar = 4096
  holds_out: ClassVar = True
  licence: ClassVar = "not stated: images drawn by the model named in made_by"
  attribution: ClassVar = ""

  def total(self) -> int:
    return self.about["edits"] * self.about["candidates"]

  def tasks(self) -> Iterator[str]:
    yield from map(str, sorted(Path(self.drawn).glob("*.msgpack")))

  def make(self, task: str) -> list[Result]:
    found: list[Result] = []
    for item in msgpack.unpackb(Path(task).read_bytes()):
      if "reason" in item:
        found.append(Skipped(**item))
      else:
        found.append(Made(**{**item, "captions": tuple(item["captions"])}))
    return found


def pairs(
  model: Model,
  edits: str | Path,
  to: str | Path,
  how: How,
  encoder: ImageEncoder | None = None,
  count: int | None = None,
) -> dict[str, Any]:
  """Draws pairs of the edits in a file and writes a folder of data. Returns its manifest.

  to     the folder, with the tokenizer of the model; beside it TO.drawn, which a later call goes on
         from, and which is removed at the end
  count  edits that are used, the first ones; None: all
  Raises ConfigError, DataError, PromptError, WorkdirError.
  """
  check_target(Path(to).resolve(), False)
  _, triples = read_edit_texts(edits)
  triples = triples[: len(triples) if count is None else count]
  check(model, triples, how, encoder)
  about = about_of(model, edits, triples, how, encoder)
  folder = Path(f"{to}.drawn")
  _begin(folder, about)
  step = max(1, AT_ONCE // how.candidates)
  starts = range(0, len(triples), step)
  draw = DRAWS[how.kind](model)
  for number, start in enumerate(starts):
    path = folder / f"{number:06d}.msgpack"
    if path.exists():
      continue
    items = _chunk(draw, triples[start : start + step], start, how, encoder)
    _write(path, msgpack.packb(items))
    print(f"{min(start + step, len(triples)):,} of {len(triples):,} edits drawn", flush=True)
  own = json.loads(model.tokenizer.to_json())
  given: Any = Pairs(str(folder), about)
  bpe = own["model"] if own["kind"] == "bpe" else None
  by = None if how.kind == EXACT else Drawn(Pairs.splits, model.where, model.step, model.data)
  manifest = build(given, to, workers=1, progress=False, tokenizer=bpe, drawn=by)
  for path in (*map(Path, given.tasks()), folder / ABOUT):
    path.unlink()
  folder.rmdir()
  return manifest


def check(
  model: Model, triples: Sequence[EditTriple], how: How, encoder: ImageEncoder | None
) -> None:
  """Raises ConfigError or PromptError for what cannot be drawn, or filtered."""
  if how.kind not in DRAWS:
    raise ConfigError(f"--kind={how.kind} is not one of {', '.join(DRAWS)}.")
  if how.kind == EXACT and how.candidates > 1:
    raise ConfigError(f"--candidates={how.candidates}: of a scene there is one exact render.")
  low, high = how.fractions
  if low > high:
    raise ConfigError(f"--fractions={low:g},{high:g}: write the lower one first.")
  plain = [triple.instruction for triple in triples if triple.scene is None]
  if plain and (how.judge or how.kind == EXACT):
    flag = "--judge" if how.judge else f"--kind={EXACT}"
    raise ConfigError(
      f"{flag} needs edits of scenes, as t2i data edits --from=scenes writes them, and "
      f"{plain[0]!r} is none."
    )
  if how.keep < how.candidates and (encoder is None or encoder.texts is None):
    raise ConfigError(
      f"--keep={how.keep} of --candidates={how.candidates}: the best ones are those of the highest "
      "directional similarity. Give an --encoder of images and texts, or keep all."
    )
  model.need("draw")
  if how.kind != EXACT:
    model.system.check_captions([text for t in triples for text in (t.caption, t.edited)])


def about_of(
  model: Model,
  edits: str | Path,
  triples: Sequence[EditTriple],
  how: How,
  encoder: ImageEncoder | None,
) -> dict[str, Any]:
  """What pairs are of, as JSON: the same gives the same pairs."""
  c, exact = model.config, how.kind == EXACT
  found: dict[str, Any] = {
    "model": model.where,
    "step": model.step,
    "weights": None if exact else fingerprint(dict(model.params)),
    "sampling": None if exact else {k: c.sampling[k] for k in SETTINGS},
    "size": list(c.data.image_size),
    "file": str(edits),
    "sha256": hashlib.sha256(Path(edits).read_bytes()).hexdigest(),
    "edits": len(triples),
    **how._asdict(),
    "fractions": list(how.fractions) if how.kind == P2P else None,
    "thresholds": None if encoder is None else how.thresholds._asdict(),
    "encoder": None if encoder is None else encoder.about,
  }
  return json.loads(json.dumps(found))


SETTINGS = ("solver", "grid", "steps", "guidance", "cfg", "negative", "batch")


def _begin(folder: Path, about: dict[str, Any]) -> None:
  """Raises WorkdirError where a folder has drawings of something else."""
  said = folder / ABOUT
  if said.exists():
    before = json.loads(said.read_text("utf-8"))
    changed = [key for key in about if before.get(key) != about[key]]
    if changed:
      raise WorkdirError(
        f"{folder} has pairs of another {changed[0]}: {before.get(changed[0])!r} there, "
        f"{about[changed[0]]!r} here. Use another --to, or remove it."
      )
    return
  try:
    folder.mkdir(parents=True)
  except OSError as error:
    raise WorkdirError(f"{folder} cannot be made: {error.strerror}. Remove it.") from error
  _write(said, (json.dumps(about, indent=1) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
  part = path.with_suffix(".part")
  try:
    part.write_bytes(data)
    part.replace(path)
  except OSError as error:
    raise WorkdirError(f"{path} cannot be written: {error.strerror}.") from error


def _chunk(
  draw: DrawPairs,
  triples: Sequence[EditTriple],
  start: int,
  how: How,
  encoder: ImageEncoder | None,
) -> list[dict[str, Any]]:
  """The records of some edits' candidates that are kept, and why others are not."""
  given = candidates_of(triples, start, how)
  before, after = draw(given)
  found = None if encoder is None else _agreement(encoder, given, before, after)
  reasons: list[str | None] = []
  metas: list[dict[str, Any]] = []
  for i, triple in enumerate(given.triples):
    similar = {} if found is None else found.of(i)
    wrong = judged(triple, before[i], after[i])
    metas.append(_meta(triple, given, i, how, similar, wrong))
    reason = reason_against(similar, how.thresholds)
    reasons.append(reason or (wrong if how.judge else None))
  _keep_best(reasons, [meta.get("directional", 0.0) for meta in metas], how)
  items: list[dict[str, Any]] = []
  for i, triple in enumerate(given.triples):
    if reasons[i] is not None:
      items.append({"item": given.keys[i], "reason": reasons[i]})
      continue
    record = Record(
      _png(before[i]),
      (triple.caption,),
      given.keys[i],
      metas[i],
      ((triple.instruction, _png(after[i])),),
    )
    split = split_of(given.keys[i].partition("/")[0], how.val_fraction)
    items.append(dataclasses.asdict(made(split, record)))
  return items


def _agreement(
  encoder: ImageEncoder, given: Candidates, before: np.ndarray, after: np.ndarray
) -> Agreement:
  images = encoder.images(before), encoder.images(after)
  if encoder.texts is None:
    return agreement(*images)
  return agreement(*images, encoder.texts(given.captions), encoder.texts(given.edited))


def _keep_best(reasons: list[str | None], scores: Sequence[float], how: How) -> None:
  """Rejects, of each edit's candidates that are left, all but the best."""
  for start in range(0, len(reasons), how.candidates):
    left = [i for i in range(start, start + how.candidates) if reasons[i] is None]
    kept = {left[i] for i in best([scores[i] for i in left], how.keep)}
    for i in left:
      reasons[i] = None if i in kept else NOT_BEST


def judged(triple: EditTriple, before: np.ndarray, after: np.ndarray) -> str | None:
  """What the exact judge finds wrong with a pair; None also for an edit of no scene.

  before, after  uint8 [H, W, 3]. The objects that are to stay are those read in `before`.
  """
  turn = triple.turn
  text = None if turn is None else edit_text(turn)
  if turn is None or text is None or isinstance(text, str):
    return None
  edit = drawn_edit(turn, text, read(before))
  if edit is None:
    return WRONG_SOURCE
  return None if judge_edit(before, after, edit).correct else WRONG_EDIT


def _meta(
  triple: EditTriple,
  given: Candidates,
  i: int,
  how: How,
  similar: Mapping[str, float],
  wrong: str | None,
) -> dict[str, Any]:
  """What a record says of how it was made."""
  meta: dict[str, Any] = {"edited": triple.edited, "pair": how.kind}
  meta |= {} if how.kind == EXACT else {"seed": given.seeds[i]}
  meta |= {"fraction": given.fractions[i]} if how.kind == P2P else {}
  meta |= {"kind": triple.kind} if triple.kind else {}
  if triple.scene is not None:
    meta |= {"scene": dict(triple.scene), "correct": wrong is None}
    meta |= {"wrong": wrong} if wrong else {}
  return meta | dict(similar)


def _png(image: np.ndarray) -> bytes:
  if image.shape[-1] != 3:
    raise DataError("the model draws latents: open it with its autoencoder.")
  return encode(Image.fromarray(image), format="PNG")
