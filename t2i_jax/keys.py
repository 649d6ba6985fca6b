"""The keys of a config: what is filled in where a config does not list them, and their ranges.

The keys of `model` and `rows` are fields, and have their ranges there: models.BACKBONES,
systems.make.MODELS, data.documents.Packed. Those of text such as "dpmpp(order=3)" are in the
signature of the function of that name.
"""

from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, Literal

from t2i_jax.ranges import Count, Range, Seed, Share, Weight, Whole

# Keys that a config need not list -> their values, filled in by load_config where the section
# exists. A * is any name.
DEFAULTS: dict[str, Any] = {
  "seed": 0,
  "autoencoder": "identity",
  "data.train_split": "train",
  "data.val_split": "val",
  "data.crop": "centre",  # of an image that is scaled to cover image_size; or "random"
  "data.tombstones": "",  # a file of records that are not read: t2i consent --tombstones
  "data.workers": 0,  # processes that decode; 0 = threads
  # The data's own byte-level BPE; or "bytes", "folder:PATH", "labels:N", or with PATH's id2label
  # "labels:N:PATH".
  "text.tokenizer": "bpe",
  "text.join": "each",  # encoder to tower of the backbone by name; "one", "features", "tokens"
  "text.too_long": "error",  # a caption of more than text.length tokens; or "truncate", "skip"
  # data.documents.Packed says what these are.
  "rows.length": 256,
  "rows.images": 4,
  "rows.window": 4,
  "rows.positions": "grid",
  "rows.image_first": 0.2,
  "rows.text_only": 0.0,
  "rows.interleaved": 0.0,
  "rows.edited": 0.0,
  "rows.drop": 0.1,
  "rows.max_t": 0.5,
  "rows.prompt_loss": True,
  "rows.word_dropout": 0.0,
  "parts.*.start": "",  # random weights; or "folder:PATH", "file:PATH", "run:PATH", "base"
  "parts.*.train": "all",  # or "none", "only(pattern='blocks/*')"
  "process.penalty": "squared",
  "process.shift": "static(factor=1.0)",
  "process.t_sampling": (),  # over a batch: "stratified", "importance"
  "process.noise": "gaussian",  # or "gaussian(offset=0.1, perturbation=0.1)"
  "train.accumulate": 1,
  "train.clip": 1.0,  # of the gradient's global norm
  "train.objective": "denoising",
  "train.as_published": True,  # refuses another process or null than a backbone's folder is for
  "mesh.data": -1,  # the devices that are left
  "mesh.fsdp": 1,
  "mesh.tensor": 1,
  "mesh.context": 1,
  "mesh.expert": 1,
  "mesh.rules": (),
  "checkpoint.frozen": "start",
  "sampling.negative": "",  # prompt of the null
}
# Keys of DEFAULTS that not every config with their section has -> the key that those list.
LISTED_WITH: dict[str, str] = {
  "text.join": "text.towers",
  "process.penalty": "process.prediction",
  "train.objective": "text.towers",
}

Side = Annotated[int, Range("[1, 2^16]")]
Devices = Annotated[int, Range("[1, 2^20]", (-1,))]  # -1: those that are left
Rows = Annotated[int, Range("[1, 2^24]")]
# Every key with a number, and those whose text is one of a few -> what ranges.checked holds it to.
VALUES: dict[str, Any] = {
  "name": str,
  "seed": Seed,
  "autoencoder": str,
  "data.dir": str,
  "data.image_size": tuple[Side, Side],
  "data.train_split": str,
  "data.val_split": str,
  "data.tombstones": str,
  "data.crop": Literal["centre", "random"],
  "data.workers": Annotated[int, Range("[0, 1024]")],
  "text.tokenizer": str,
  "text.vocab": Count,
  "text.join": str,
  "text.too_long": Literal["error", "truncate", "skip"],
  "text.length": Annotated[int, Range("[1, 2^20]")],
  "text.towers.*": str,
  "controlnets.*": str,
  "adapters.*": str,
  "parts.*.start": str,
  "parts.*.train": str,
  "process.t_sampling": tuple[str, ...],
  "process.*": str,
  "train.steps": Count,
  "train.batch": Rows,
  "train.accumulate": Rows,
  "train.optimizer": str,
  "train.schedule": str,
  "train.objective": str,
  "train.views": str,
  "train.as_published": bool,
  "train.lr": Weight,
  "train.vector_lr": Weight,
  "train.balance": Weight,
  "train.clip": Annotated[float, Range("(0, inf)")],
  "train.ema": Annotated[float, Range("[0, 1)")],
  "train.caption_dropout.*": Share,
  "mesh.rules": tuple[str, ...],
  "mesh.*": Devices,
  "log.every": Whole,
  "eval.every": Whole,
  "eval.rows": Rows,
  "checkpoint.every": Whole,
  "checkpoint.keep": Count,
  "checkpoint.frozen": Literal["start", "copy"],
  "sampling.every": Whole,
  "sampling.steps": Annotated[int, Range("[1, 10000]")],
  "sampling.cfg": Weight,
  "sampling.batch": Rows,
  # They are drawn at the last step, whatever `every` is.
  "sampling.prompts": Annotated[tuple[str, ...], Range("[1, 2^16]")],
  "sampling.*": str,
  "score.level": Literal["", "easy", "counts", "full"],
}


@cache
def value_of(key: str) -> Any:
  """What a dotted key is held to; Any for one that is not of these."""
  return next((VALUES[pattern] for pattern in VALUES if fnmatchcase(key, pattern)), Any)
