"""Captioned images in shards, their latents and features, edits of them: t2i data build | show |
verify | encode | edits | pairs"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from t2i_jax.cli import pairs
from t2i_jax.cli.flags import Images, Workers, number, parse_size
from t2i_jax.config import load_config
from t2i_jax.errors import DataError
from t2i_jax.ranges import Count, Range, Seed, Share, Whole

Pixels = Annotated[int, Range("[1, 2^16]")]
Placeholders = Annotated[int, Range("[0, 1024]")]

USERS = "folder, webdataset, parquet, tfds"
# Flags that belong to some sources only: argparse settings by field of the source.
SOURCE_FLAGS: dict[str, dict[str, Any]] = {
  "level": {"help": "scenes, edits: easy, counts or full (easy); scenes: planted"},
  "size": {
    "type": number("--size", Pixels),
    "help": "scenes, edits, emoji: pixels a side (the level's least; 64)",
  },
  "count": {
    "type": number("--count", Whole),
    "help": "scenes, edits: records to train on (50,000)",
  },
  "val_count": {
    "type": number("--val-count", Whole),
    "help": "scenes, edits: records of other scenes, same compositions (1,000)",
  },
  "heldout_count": {
    "type": number("--heldout-count", Whole),
    "help": "scenes, edits: records of held-out compositions (1,000)",
  },
  "seed": {"type": number("--seed", Seed), "help": "scenes, edits: other scenes (0)"},
  "without": {
    "help": "scenes --level planted: names to erase, as grum,outl,copies, or all; all other "
    "records are the same"
  },
  "skins": {"action": "store_true", "help": "emoji: with skin tones"},
  "flags": {"action": "store_false", "help": "emoji: without flags"},
  "path": {
    "help": "folder: its path. webdataset, parquet: a file, a folder of them or a quoted glob. "
    "tfds: the folder of a version"
  },
  "image": {"help": "parquet, tfds: the column of images (found by its type)"},
  "caption": {"help": "parquet, tfds: the column of captions (text, caption, captions)"},
  "part": {"help": "tfds: the split that is read, as train[:1%%] (train)"},
  "max_size": {
    "type": number("--max-size", Pixels),
    "help": f"{USERS}: shrink longer sides to these pixels",
  },
  "val_fraction": {
    "type": number("--val-fraction", Share),
    "help": f"{USERS}: share held out, by hash (0.02)",
  },
  "licence": {"help": f"{USERS}: of the images, for the manifest"},
  "attribution": {"help": f"{USERS}: of the images, for the manifest"},
}


def flag_of(field: str) -> str:
  """The command-line flag of a source's field."""
  return "--no-flags" if field == "flags" else "--" + field.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
  verbs = parser.add_subparsers(dest="data_verb", required=True)
  _register_build(verbs)
  show = verbs.add_parser("show", help="draw a contact sheet with captions")
  show.add_argument("dir", help="a built folder")
  show.add_argument("--split", help="the first one unless given")
  show.add_argument("--count", type=number("--count", Images), default=24, help="images (24)")
  columns = number("--columns", Images)
  show.add_argument("--columns", type=columns, default=6, help="images a row (6)")
  show.add_argument(
    "--from",
    dest="folder",
    metavar="FOLDER",
    help="of a published model: lengths of the captions in tokens of its encoders",
  )
  show.add_argument("--out", help="the PNG to write (DIR/sheet-SPLIT.png)")
  show.set_defaults(act=run_show)
  verify = verbs.add_parser("verify", help="check every record against the manifest")
  verify.add_argument("dir", help="a built folder")
  verify.add_argument("--workers", type=number("--workers", Workers), help="processes (one a core)")
  verify.set_defaults(act=run_verify)
  _register_encode(verbs)
  pairs.register(verbs)


def run(args: argparse.Namespace) -> int | None:
  return args.act(args)


def print_lines(lines: Iterable[str]) -> None:
  """Prints lines; where nobody reads them any more, as with `| head -1`, no further ones."""
  try:
    for line in lines:
      print(line)
    sys.stdout.flush()
  except BrokenPipeError:
    # The interpreter flushes stdout again at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _register_build(verbs) -> None:
  build = verbs.add_parser("build", help="write shards, a manifest and a tokenizer")
  build.add_argument(
    "--from",
    dest="source",
    required=True,
    choices=("scenes", "edits", "emoji", "folder", "webdataset", "parquet", "tfds"),
  )
  build.add_argument("--to", required=True, help="the folder to make")
  build.add_argument("--workers", type=number("--workers", Workers), help="processes (one a core)")
  records, vocab = number("--shard-records", Count), number("--vocab", Count)
  build.add_argument("--shard-records", type=records, help="records a shard (8,192)")
  build.add_argument(
    "--vocab", type=vocab, help="BPE tokens (scenes and edits 1,024, others 4,096)"
  )
  share = number("--max-bad", Share)
  build.add_argument(
    "--max-bad", type=share, default=1.0, help="share of the items that may be skipped (1)"
  )
  build.add_argument(
    "--placeholders",
    type=number("--placeholders", Placeholders),
    help="tokens <v0>, <v1>, .. of the BPE that no caption has, for words to be learned later "
    "(16 of scenes --level planted, others 0)",
  )
  build.add_argument(
    "--tokenizer",
    metavar="DIR",
    help="a built folder whose BPE is taken, in place of one that is trained on these captions: "
    "that of a model that is to be trained further",
  )
  build.add_argument("--overwrite", action="store_true", help="replace a folder built before")
  for field, settings in SOURCE_FLAGS.items():
    build.add_argument(flag_of(field), dest=field, default=argparse.SUPPRESS, **settings)
  build.set_defaults(act=run_build)


def _register_encode(verbs) -> None:
  about = (
    "latents of the images of a built folder (--autoencoder), and features of its captions by the "
    "frozen text encoders of a config (--config), in shards"
  )
  encode = verbs.add_parser("encode", help=about, description=about)
  encode.add_argument("--data", required=True, metavar="DIR", help="a built folder")
  encode.add_argument(
    "--to",
    required=True,
    help="the folder to make, or one of latents or features to bring up to date",
  )
  encode.add_argument(
    "--autoencoder",
    metavar="FOLDER",
    help="a published autoencoder, the model that it is of, or the work directory of a run; "
    "without it images stay as they are",
  )
  encode.add_argument(
    "--config",
    metavar="FILE",
    help="of the run to come: its frozen text encoders (parts.NAME.train=none, parts.NAME.start) "
    "encode the captions; --config.KEY=VALUE as for t2i train",
  )
  encode.add_argument(
    "--size", metavar="HxW", help="pixels that images are scaled and cropped to (their own)"
  )
  encode.add_argument("--splits", default="", help="as train,val (all)")
  encode.add_argument(
    "--mode", action="store_true", help="store the mean alone: each epoch has the same latents"
  )
  encode.add_argument("--dtype", default="float32", help="of stored latents: float32, float16")
  encode.add_argument(
    "--text-dtype", default="float32", help="of stored features: float32, float16"
  )
  batch = number("--batch", Images)
  encode.add_argument(
    "--batch", type=batch, default=8, help="images, and captions, at once on a device (8)"
  )
  encode.set_defaults(act=run_encode)


def run_encode(args: argparse.Namespace) -> None:
  from t2i_jax.cli.train import start_distributed

  text = load_config(args.config, args.overrides) if args.config else None
  start_distributed()
  import jax

  from t2i_jax.training.encode import encode

  say = (lambda line: print(line, flush=True)) if jax.process_index() == 0 else lambda line: None
  found = encode(
    args.data,
    args.autoencoder,
    args.to,
    text=text,
    size=parse_size(args.size) if args.size else None,
    splits=[split for split in args.splits.split(",") if split],
    mode=args.mode,
    dtype=args.dtype,
    text_dtype=args.text_dtype,
    batch=args.batch,
    say=say,
  )
  splits = ", ".join(f"{n} {s['records']:,}" for n, s in found.manifest["splits"].items())
  counts = "; ".join(f"{n:,} {what} encoded, {kept:,} unchanged" for what, n, kept in found.counts)
  say(f"{args.to}: {splits} records; {counts}")


def make_source(name: str, given: dict[str, Any]):
  """The source of a name with the fields given. Raises DataError on a field it does not have."""
  from t2i_jax.data.sources import SOURCES

  at_level = f"{name} --level {given.get('level')}"
  name = at_level if at_level in SOURCES else name
  fields = {field.name: field for field in dataclasses.fields(SOURCES[name])}
  for field in given:
    if field not in fields:
      owners = [n for n, s in SOURCES.items() if field in {f.name for f in dataclasses.fields(s)}]
      owners = [n for n in owners if n.partition(" --")[0] not in owners or " --" not in n]
      raise DataError(
        f"{flag_of(field)} belongs to --from {' and '.join(owners)}; --from {name} takes "
        f"{', '.join(map(flag_of, fields))}."
      )
  for field, spec in fields.items():
    if spec.default is dataclasses.MISSING and field not in given:
      raise DataError(f"--from {name} needs {flag_of(field)}.")
  return SOURCES[name](**given)


def bpe_of(args: argparse.Namespace) -> str | None:
  """The BPE of --tokenizer. Raises DataError."""
  from t2i_jax.data.tokenize import Tokenizer

  if args.tokenizer is None:
    return None
  if args.vocab is not None or args.placeholders is not None:
    raise DataError("--tokenizer has its own tokens: leave --vocab and --placeholders out.")
  return json.loads(Tokenizer.load(args.tokenizer, "bpe").to_json())["model"]


def run_build(args: argparse.Namespace) -> None:
  from t2i_jax.data.account import account_lines
  from t2i_jax.data.build import SHARD_RECORDS, build, skip_summary
  from t2i_jax.data.lengths import length_lines

  given = {field: getattr(args, field) for field in SOURCE_FLAGS if hasattr(args, field)}
  source = make_source(args.source, given)
  manifest = build(
    source,
    args.to,
    workers=args.workers,
    shard_records=SHARD_RECORDS if args.shard_records is None else args.shard_records,
    vocab=args.vocab,
    placeholders=args.placeholders,
    max_bad=args.max_bad,
    overwrite=args.overwrite,
    tokenizer=bpe_of(args),
  )
  splits = ", ".join(f"{name} {s['records']:,}" for name, s in manifest["splits"].items())
  tokens = manifest["tokenizer"]["vocab"]
  lines = [f"{args.to}: {splits} records; tokenizer of {tokens} tokens", *length_lines(manifest)]
  skipped = manifest["skipped"]
  if skipped["count"]:
    summary, listed = skip_summary(skipped["reasons"]), Path(args.to) / "skipped.jsonl"
    lines.append(f"skipped {skipped['count']:,}: {summary}; named in {listed}")
  print_lines([*lines, *account_lines(manifest["account"])])


def run_show(args: argparse.Namespace) -> None:
  from t2i_jax.data.contact_sheet import contact_sheet
  from t2i_jax.data.lengths import length_lines
  from t2i_jax.data.source import read_manifest

  manifest = read_manifest(args.dir)
  split = args.split or next(iter(manifest["splits"]))
  sheet = contact_sheet(args.dir, split, args.count, args.columns)
  out = Path(args.out or Path(args.dir) / f"sheet-{split}.png")
  try:
    sheet.save(out, format="PNG")
  except OSError as error:
    raise DataError(f"{out} cannot be written: {error.strerror}. Choose another --out.") from error
  print_lines([*length_lines(manifest), *_tower_lines(args, split), str(out)])


def _tower_lines(args: argparse.Namespace, split: str) -> list[str]:
  """A line for each text encoder of --from: its length, and those of the split's captions."""
  if args.folder is None:
    return []
  from t2i_jax.data.lengths import Limit, of_records, shares
  from t2i_jax.data.source import ShardSource
  from t2i_jax.inference.folder import prepare

  source, lines = ShardSource(args.dir, split), []
  for name, encoder in prepare(args.folder).system.text.items():
    counts = of_records(source, Limit(encoder.tokenizer, encoder.length), None)
    lines.append(
      f"tokens of captions, {split}, {name} (takes {encoder.length}): {shares(counts.summary())}; "
      f"{counts.over(encoder.length):,} of {counts.total():,} are longer"
    )
  return lines


def run_verify(args: argparse.Namespace) -> int:
  """Returns 1 where something is wrong."""
  from t2i_jax.data.source import read_manifest
  from t2i_jax.data.verify import verify

  problems = verify(args.dir, workers=args.workers)
  if problems:
    print_lines([*map(str, problems), f"{args.dir}: {len(problems)} problems"])
    return 1
  records = sum(split["records"] for split in read_manifest(args.dir)["splits"].values())
  print_lines([f"{args.dir}: {records:,} records, all sound"])
  return 0
