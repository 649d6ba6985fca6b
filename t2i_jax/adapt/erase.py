"""A model without what an opt-out list names: what it has read of it, retrained, and certified.

Rewind: training goes on from the last checkpoint that has read none of the listed records, with
others in their places (data.tombstones). What comes out is, to the bit, the run that never had
them, on the same machine and mesh: the noise of a row is a function of its position, which stays.

Ablate: the weights are trained on, so that captions of the records give other images: adapt.forget.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from t2i_jax.adapt.forget import How as Forget
from t2i_jax.adapt.forget import forget
from t2i_jax.adapt.personalise import of_workdir
from t2i_jax.config import apply_overrides, differences
from t2i_jax.data.optout import OptOut
from t2i_jax.data.perceptual import RADIUS
from t2i_jax.data.tombstones import joined, write_tombstones
from t2i_jax.errors import ConfigError, WorkdirError
from t2i_jax.evaluation.page import card_grid, document, heading, section, write
from t2i_jax.inference import Model, open_model
from t2i_jax.inference.memorisation import Measured, TrainImages, measure
from t2i_jax.training import train
from t2i_jax.training.checkpoint import open_checkpoints
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.consent import Account, account_of, check_above, lines_of, to_json

REWIND, ABLATE, UNREAD = "rewind", "ablate", "never read"
TOMBSTONES, CERTIFICATE, PAGE = "tombstones.json", "certificate.json", "certificate.html"
PROMPTS = 16  # captions of listed records, and of others beside them, that are measured
SEARCHED = 4096  # training images among whose captions the neighbours are
SHOWN = 4  # images of a prompt on the page
# By method, what the certificate says.
GUARANTEED = {
  REWIND: "The run was trained from the checkpoint of the step named below, or from step 0, with "
  "other records in the places of those listed. On the same machine, mesh and version its weights "
  "are, to the bit, those of a run that never read them. Nothing is said of parts that start from "
  "weights elsewhere, of models that drew its data where the account does not have them, of copies "
  "that the list does not match, and of the work directory before, whose checkpoints have read "
  "them and are still there.",
  ABLATE: "The weights were trained on the listed records, and then so that their captions give "
  "other images. Nothing is guaranteed: measured is what these captions give now. Other prompts, "
  "images to start from and further training may bring the records back.",
  UNREAD: "No step of the run has read a listed record, nor had a model that drew its data, where "
  "the account has it. Nothing is said of parts that start from weights elsewhere.",
}


class How(NamedTuple):
  """How it is done, and measured.

  method   "rewind" or "ablate";   anchor: of ablate, what captions of the records are to give, as
           "a circle"; "" guides away from them to nothing
  num, seed  images a prompt;   radius: of perceptual hashes
  """

  method: str = REWIND
  anchor: str = ""
  num: int = 4
  seed: int = 2**20
  radius: int = RADIUS


def erase(workdir: str | Path, optout: OptOut, to: str | Path, how: How) -> Path:
  """Trains a work directory `to` without the records of a list; returns the certificate's page.

  Where none of them was read, nothing is trained and the certificate says so. An erasure that was
  ended goes on when it is called again. Ablation is of the first PROMPTS captions of the records.
  Raises ConfigError, DataError, RestoreError, WorkdirError.
  """
  to = Path(to)
  if how.method not in (REWIND, ABLATE):
    raise ConfigError(f"--method={how.method} is not one of {REWIND}, {ABLATE}.")
  if how.anchor and how.method != ABLATE:
    raise ConfigError(f"--anchor is of --method={ABLATE}: give that, or leave it out.")
  if to.resolve() == Path(workdir).resolve():
    raise ConfigError(f"--to={to} is the work directory itself: name another one.")
  account = account_of(workdir, optout, None, how.radius)
  for line in lines_of(account):
    print(line)
  check_above(account)
  if account.first is None:
    return _certify(to, optout, account, UNREAD, {}, {})
  notes = check_rewind(account) if how.method == REWIND else []
  before = open_model(workdir)
  images = TrainImages(before)
  listed = [
    images.number(read.match.split, read.match.number) for read in account.records if read.trained
  ]
  captions = list(dict.fromkeys(images.record(i).captions[0] for i in listed))
  prompts = {
    "listed": captions[:PROMPTS],
    "neighbours": neighbours(images, set(listed), captions),
  }
  if len(captions) > PROMPTS:
    notes.append(f"of {len(captions)} captions of listed records the first {PROMPTS} are drawn")
  found = {"before": _measured(before, prompts, images, how)}
  weights = {"before": fingerprint(dict(before.params))}
  del before
  if how.method == REWIND:
    rewind(account, optout, to)
    facts: dict[str, Any] = {"trained from step": account.clean or 0}
  else:
    facts = {"trained from step": account.step, "anchor": how.anchor}
    ablate(account, prompts, how, to)
  after = open_model(to)
  found["after"] = _measured(after, prompts, images, how)
  weights["after"] = fingerprint(dict(after.params))
  facts |= {"weights": weights, "notes": notes, "seeds": [how.seed, how.num]}
  facts |= _compared(found, set(listed))
  shown = {name: _cards(found, name, images) for name in prompts}
  return _certify(to, optout, account, how.method, facts, shown)


def check_rewind(account: Account) -> list[str]:
  """Raises ConfigError where a run cannot be rewound. Returns what the certificate has to say."""
  config, clean = account.meta.config, account.clean
  if account.step < config.train.steps:
    raise ConfigError(
      f"{account.workdir} has done {account.step} of train.steps = {config.train.steps}: end it "
      "first, so that both runs are of the same length."
    )
  if (clean or 0) < account.order.since:
    raise ConfigError(
      f"{account.workdir} read other data up to step {account.order.since}, and no checkpoint "
      f"after it is from before step {account.first}, the first that read a listed record: these "
      "data alone do not give it again. Train anew with data.tombstones: t2i consent."
    )
  if clean is None:
    return ["no checkpoint before the first exposure is kept: trained from step 0"]
  with closing(open_checkpoints(account.workdir)) as checkpoints:
    old = checkpoints.meta(clean).config
  return [
    f"{key} was {a!r} at step {clean} and {b!r} at the end, which is used"
    for key, (a, b) in differences(old, config).items()
  ]


def rewind(account: Account, optout: OptOut, to: Path) -> None:
  """Trains `to` from the last clean checkpoint. Raises as training.train."""
  config, clean = account.meta.config.copy_and_resolve_references(), account.clean
  left_out = joined(account.meta.without, account.matches.by_split())
  write_tombstones(to / TOMBSTONES, config.data.dir, left_out, optout.digest)
  apply_overrides(config, {"data.tombstones": str(to / TOMBSTONES)}, str(account.workdir))
  steps = to / "checkpoints"
  try:
    if clean is not None and not steps.exists():
      part = to / "checkpoints.part"
      shutil.rmtree(part, ignore_errors=True)
      shutil.copytree(account.workdir / "checkpoints" / str(clean), part / str(clean))
      log = account.workdir / "metrics.jsonl"
      if log.is_file():
        shutil.copyfile(log, to / log.name)
      part.rename(steps)
  except OSError as error:
    raise WorkdirError(f"--to={to} cannot be written: {error}.") from error
  train(config, to)


def ablate(account: Account, prompts: dict[str, list[str]], how: How, to: Path) -> None:
  """Trains `to` so that captions give others' images. Raises as adapt.forget.forget."""
  captions = tuple(prompts["listed"])
  given = Forget(
    concepts=captions,
    anchors=(how.anchor,) * len(captions) if how.anchor else (),
    keep=tuple(prompts["neighbours"]),
    kind="caption",
  )
  forget(of_workdir(str(account.workdir)), "ablation" if how.anchor else "esd", given, to)


def neighbours(images: TrainImages, listed: set[int], captions: Sequence[str]) -> list[str]:
  """Captions that share most words with some, of training images that are not listed.

  Of at most SEARCHED images, evenly spaced; none of the captions themselves.
  """
  words = [frozenset(text.casefold().split()) for text in captions]
  found: dict[str, float] = {}
  for i in np.unique(
    np.linspace(0, len(images) - 1, min(SEARCHED, len(images))).astype(int)
  ).tolist():
    text = images.record(i).captions[0]
    if i not in listed and text not in captions:
      own = frozenset(text.casefold().split())
      found[text] = max(len(own & one) / len(own | one) for one in words)
  return sorted(found, key=lambda text: -found[text])[:PROMPTS]


def _measured(
  model: Model, prompts: dict[str, list[str]], images: TrainImages, how: How
) -> dict[str, list[Measured]]:
  seeds = range(how.seed, how.seed + how.num)
  flat = [text for texts in prompts.values() for text in texts]
  found = iter(measure(model, flat, seeds, images)[0])
  return {name: [next(found) for _ in texts] for name, texts in prompts.items()}


def _compared(found: dict[str, dict[str, list[Measured]]], listed: set[int]) -> dict[str, Any]:
  """What is drawn before and after, by prompt.

  reproduced  images that are copies of a listed one
  moved       of images of the same seed, |before - after|_2 / sqrt(dimensions), values in [0, 1]
  """
  content: dict[str, Any] = {}
  for name in found["before"]:
    rows = []
    for old, new in zip(found["before"][name], found["after"][name], strict=True):
      moved = (old.images.astype(float) - new.images) / 255
      row: dict[str, Any] = {"prompt": old.prompt, "moved": float(np.sqrt(np.mean(moved**2)))}
      for when, one in (("before", old), ("after", new)):
        hits = sum(c and i in listed for c, i in zip(one.copied, one.nearest.tolist(), strict=True))
        row[when] = one.to_json() | {"reproduced": int(hits)}
        del row[when]["prompt"]
      rows.append(row)
    content[name] = rows
  return content


def _cards(found: Any, name: str, images: TrainImages) -> list[tuple[str, list[Any]]]:
  """Of each prompt its cards: drawn before, drawn after, the training image nearest before."""
  sections = []
  for old, new in zip(found["before"][name], found["after"][name], strict=True):
    cards = []
    for i in range(min(SHOWN, len(old.images))):
      nearest = images.image(int(old.nearest[i]))
      row = np.concatenate([old.images[i], new.images[i], nearest], axis=1)
      said = (
        f"similarity to it {old.similarity[i]:.3f}, then to its nearest {new.similarity[i]:.3f}"
      )
      cards.append(("before, after, nearest", row, f"<div>{escape(said)}</div>"))
    sections.append((old.prompt, cards))
  return sections


def _certify(
  to: Path, optout: OptOut, account: Account, method: str, facts: dict[str, Any], shown: Any
) -> Path:
  """Writes certificate.json and the page. Raises WorkdirError."""
  entries = {kind: sorted(found.values()) for kind, found in optout.entries.items()}
  content: dict[str, Any] = {
    "list": {"sha256": optout.digest, "entries": entries},
    "method": method,
    "guaranteed": GUARANTEED[method],
    "account": to_json(account),
    **facts,
  }
  if jax.process_index() == 0:
    write(to / CERTIFICATE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
  about: dict[str, Any] = {
    "list": optout.digest[:12],
    "method": method,
    "records": len(account.records),
  }
  about |= {"first step that read one": account.first or "none"}
  if facts:
    about |= {"trained from step": facts["trained from step"]}
    for name in shown:
      for when in ("before", "after"):
        about[f"{name}: copies of listed images, {when}"] = sum(
          row[when]["reproduced"] for row in facts[name]
        )
  body = [heading(f"Erasure from {account.workdir}", content["guaranteed"], about)]
  listed = "".join(f"<li>{escape(line)}</li>" for line in lines_of(account))
  body.append(section("What was read", "", f"<ul>{listed}</ul>"))
  for name, prompts in shown.items():
    title = {"listed": "Captions of what is listed", "neighbours": "Captions beside them"}[name]
    for prompt, cards in prompts:
      body.append(section(f"{title}: {prompt}", "", card_grid(cards)))
  return write(to / PAGE, document("Erasure", "".join(body)))
