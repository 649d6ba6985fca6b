"""Our text encoders beside those of transformers, with the same weights: docs/parity_towers.md.

python -m benchmarks.tower_parity --to docs

Every case of tower_cases goes through a folder that transformers writes and we read. tests/parity
runs the same cases. Needs torch and transformers, which the package itself does not.
"""

import argparse
import copy
import functools
import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks.model_cases import QUICK
from benchmarks.pages import made_by, table, write
from benchmarks.published_towers import LANGUAGE_MODELS, PUBLISHED
from benchmarks.tower_cases import (
  CASES,
  END,
  FORWARD,
  GRADIENT,
  LANGUAGE_CASES,
  RATIO,
  Case,
  captions,
  distance,
  text,
)
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import with_params
from t2i_jax.pretrained import load, save
from t2i_jax.pretrained.known import spec_of
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.spec import abstract_params, flat, make_of, read_config, shapes_of

DRAWS = 6  # of captions, in bfloat16
Arrays = tuple[np.ndarray, np.ndarray]
ALL = CASES | LANGUAGE_CASES


def model_of(case: Case) -> Any:
  """The model of transformers at its initial values."""
  config = getattr(transformers, case.config_kind)(**copy.deepcopy(case.config))
  return getattr(transformers, case.kind)(config).eval()


@functools.cache
def build(name: str) -> Any:
  """The model of transformers, every weight off its initial value."""
  torch.manual_seed(0)
  model = model_of(ALL[name])
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model


def theirs(model: Any, given: Arrays, masked: bool = False) -> tuple[Any, Any, Any]:
  """(tokens, pooled or None, hidden states) of CLIP, T5 and BERT, tensors."""
  ids, mask = (torch.tensor(x.astype(np.int64)) for x in given)
  how = {"attention_mask": mask} if masked else {}
  out = model(input_ids=ids, output_hidden_states=True, **how)
  pooled = out.get("text_embeds", out.get("pooler_output"))
  return out.last_hidden_state, pooled, out.hidden_states


@torch.no_grad()
def states(model: Any, given: Arrays) -> list[np.ndarray]:
  """Hidden states of a language model, from the embedding on.   # [B, T, D] each"""
  ids, mask = (torch.tensor(x.astype(np.int64)) for x in given)
  found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
  return [state.float().numpy() for state in found.hidden_states]


@functools.cache
def compiled(module: Any, config: Any, dtype: Any) -> Any:
  """(params, ids, mask) -> our Tower."""
  bind = with_params(make_of(module, config))
  return jax.jit(lambda p, ids, mask: bind(p)(ids, mask, dtype), compiler_options=QUICK)


def ours(where: Path, given: Arrays, dtype: Any = jnp.float32, **changes: Any) -> Any:
  """Our Tower of a folder.   changes: fields of its config"""
  module, config, params = load(where, **changes)
  return compiled(module, config, dtype)(params, *given)


def slopes(name: str, where: Path) -> dict[str, float]:
  """Of a scalar of tokens and pooled, by every weight: theirs go through a folder too."""
  model = copy.deepcopy(build(name))
  tokens, pooled, between = theirs(model, captions())
  projected = ALL[name].kind.endswith("Projection")
  taken = between[-2] if projected else tokens
  (taken.sin().sum() + (0 if pooled is None else pooled.cos().sum())).backward()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(parameter.grad)
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    want = load(folder)[2]
  module, config, params = load(where, **({"layer": -2} if projected else {}))

  def scalar(params: Any) -> jax.Array:
    tower = with_params(make_of(module, config))(params)(*captions())
    of_pooled = 0 if pooled is None else jnp.cos(tower.pooled).sum()
    return jnp.sin(tower.tokens).sum() + of_pooled

  found = jax.jit(jax.grad(scalar), compiler_options=QUICK)(params)
  return flat(jax.tree.map(distance, found, want))


class Errors(NamedTuple):
  """In bfloat16, of ours and of theirs: the root mean square over that of the output."""

  ours: float
  theirs: float

  @property
  def ratio(self) -> float:
    return self.ours / self.theirs


def bfloat16_errors(name: str, where: Path) -> list[Errors]:
  """Of tokens, and of pooled where there is one, against theirs in float32.

  Of a language model, tokens are all its hidden states after the embedding.
  """
  whole, half = build(name), copy.deepcopy(build(name)).to(torch.bfloat16)
  found: list[list[np.ndarray]] = []
  for seed in range(DRAWS):
    if name in CASES:
      given = captions(seed)
      with torch.no_grad():
        pairs = [[x.float().numpy() for x in theirs(m, given)[:2] if x is not None]
                 for m in (whole, half)]  # fmt: skip
      tower = ours(where, given, jnp.bfloat16)
      own = [np.float32(x) for x in (tower.tokens, tower.pooled) if x is not None]
    else:
      given = text(seed)
      pairs = [[np.concatenate(states(m, given)[1:], -1)] for m in (whole, half)]
      layers = tuple(range(1, whole.config.get_text_config().num_hidden_layers + 1))
      own = [np.float32(ours(where, given, jnp.bfloat16, layers=layers).tokens)]
    exact, rounded = pairs
    rms = lambda x: np.sqrt(np.mean(np.square(x)))
    found.append(
      [
        np.array([rms(o - e), rms(t - e)]) / rms(e)
        for o, t, e in zip(own, rounded, exact, strict=True)
      ]
    )
  draws = zip(*found, strict=True)  # of tokens, and of pooled
  return [Errors(*map(float, np.sqrt(np.mean(np.square(rows), axis=0)))) for rows in draws]


class Trip(NamedTuple):
  """A folder of transformers, read here, written here, and read there."""

  config: Any
  params: Any
  model: Any
  back: Any
  problems: dict[str, Any]  # tensors that are missing, or not expected, where it is read there

  @property
  def equal(self) -> bool:
    """Every tensor is there, bit for bit."""
    before, after = self.model.state_dict(), self.back.state_dict()
    same = before.keys() == after.keys() and not any(self.problems.values())
    return same and all(torch.equal(before[key], after[key]) for key in before)


def trip(name: str, to: Path, dtype: str = "float32") -> Trip:
  """Through to/"theirs", of several files, and to/"ours"."""
  model = copy.deepcopy(build(name)).to(getattr(torch, dtype))
  model.save_pretrained(to / "theirs", max_shard_size="20KB")
  _, config, params = load(to / "theirs")
  save(to / "ours", config, params, dtype=dtype)
  back, problems = type(model).from_pretrained(to / "ours", output_loading_info=True)
  return Trip(config, params, model, back, problems)


def folder_cell(name: str) -> str:
  """Raises ValueError where the folder does not come back equal."""
  with tempfile.TemporaryDirectory() as folder:
    for dtype in ("float32", "bfloat16"):
      try:
        found = trip(name, Path(folder) / dtype, dtype)
      except ConfigError:
        if name in CASES:
          raise
        return "read only"
      if not found.equal:
        raise ValueError(f"{name}: the folder in {dtype} does not come back equal.")
  return "equal"


def clip_distances(name: str, where: Path) -> tuple[float, float]:
  """The largest of tokens and of pooled, with and without a mask, and of the layers that pipelines
  take: the last, and the one before it without the final norm (SDXL, SD3) and with it (clip_skip).
  """
  model, given, tokens, pooled = build(name), captions(), [], []
  ends = np.argmax(given[0] == END, axis=1)
  with torch.no_grad():
    for masked in (False, True):
      last, vector, _ = theirs(model, given, masked)
      own = ours(where, given, masked=masked)
      tokens.append(distance(own.tokens, last))
      pooled.append(distance(own.pooled, vector))
    between = theirs(model, given)[2]
    inner = getattr(model, "text_model", model)
    normed, at_end = (inner.final_layer_norm(between[layer]) for layer in (-2, -1))
    for how, want in ((False, between[-2]), (True, normed)):
      own = ours(where, given, layer=-2, normed=how, pooled="eos")
      tokens.append(distance(own.tokens, want))
      pooled.append(distance(own.pooled, at_end[np.arange(len(ends)), ends]))
  return max(tokens), max(pooled)


def float32_distances(name: str, where: Path) -> tuple[float, float | None]:
  """The largest of tokens and of pooled, of all layers that a pipeline takes."""
  if name in LANGUAGE_CASES:
    want = states(build(name), text())
    own = np.asarray(ours(where, text(), layers=tuple(range(len(want)))).tokens)
    parts = np.split(own, len(want), axis=-1)
    return max(distance(a, b) for a, b in zip(parts, want, strict=True)), None
  if name.startswith("CLIP"):
    return clip_distances(name, where)
  tokens, pooled = [], []
  for masked in (False, True):
    with torch.no_grad():
      last, vector, _ = theirs(build(name), captions(), masked)
    own = ours(where, captions(), masked=masked)
    tokens.append(distance(own.tokens, last))
    if vector is not None:
      pooled.append(distance(own.pooled, vector))
  return max(tokens), max(pooled) if pooled else None


@functools.cache
def cells(name: str) -> list[str]:
  """What is compared of one case. Raises ValueError where a bound does not hold."""
  with tempfile.TemporaryDirectory() as folder:
    where = Path(folder)
    build(name).save_pretrained(where)
    tokens, pooled = float32_distances(name, where)
    by = slopes(name, where) if name in CASES else {}
    narrow = bfloat16_errors(name, where)
  worst = max(by, key=lambda key: by[key]) if by else ""
  held = max(tokens, pooled or 0) < FORWARD and all(off < GRADIENT for off in by.values())
  if not (held and all(0 < pair.ours <= RATIO * pair.theirs for pair in narrow)):
    raise ValueError(f"{name}: {tokens}, {pooled}, {by}, bfloat16 {narrow}")
  return [
    f"{tokens:.1e}",
    "" if pooled is None else f"{pooled:.1e}",
    f"{by[worst]:.1e} `{worst}`" if by else "",
    *(
      ", ".join(f"{getattr(pair, of):{how}}" for pair in narrow)
      for of, how in (("ours", ".4f"), ("theirs", ".4f"), ("ratio", ".2f"))
    ),
    folder_cell(name),
  ]


def count(name: str) -> tuple[int, int, int]:
  """Parameters of a published folder, those of them that are read, and ours.

  By the class of transformers built without memory, the names of its tensors, and abstract shapes.
  Raises ValueError where names or shapes differ from ours.
  """
  content = (LANGUAGE_MODELS.get(name) or PUBLISHED[name])[0]
  spec = spec_of(content, name)
  with torch.device("meta"):
    model = model_of(Case(spec.hf_class, content))
  config = read_config(spec, content, name)
  stored = {spec.renamed(key): tuple(leaf.shape) for key, leaf in model.state_dict().items()}
  stored.pop(None, None)
  shapes = shapes_of(abstract_params(spec.module, config))
  if stored_shapes(spec.entries(config), shapes) != stored:
    raise ValueError(f"{name}: other tensors are stored")
  size = lambda shapes: sum(int(np.prod(shape)) for shape in shapes.values())
  return sum(p.numel() for p in model.parameters()), size(stored), size(shapes)


class Row(NamedTuple):
  """A published text encoder.   of: in `published_towers`;   case: its tiny one;   used: where"""

  name: str
  of: str
  case: str
  used: str


ENCODERS = (
  Row("CLIP-L", "Stable Diffusion 1.5", "CLIP of SD 1", "Stable Diffusion 1.5"),
  Row("CLIP-L", "SDXL, FLUX.1 text_encoder", "CLIP of SD 1", "SDXL, FLUX.1"),
  Row("CLIP-L", "SD3 text_encoder", "CLIP of SD 3", "SD3"),
  Row("OpenCLIP-H", "Stable Diffusion 2.1", "CLIP of SD 2", "Stable Diffusion 2.1"),
  Row("OpenCLIP-bigG", "SDXL, SD3 text_encoder_2", "CLIP of SDXL", "SDXL, SD3"),
  Row("T5-v1.1-XXL", "T5-v1.1-XXL", "T5 1.1", "PixArt"),
  Row("T5-v1.1-XXL", "SD3 text_encoder_3, FLUX.1 text_encoder_2", "T5 1.1", "SD3, FLUX.1"),
  Row("T5-base", "T5-base", "T5", "the first version of T5"),
  Row("all-MiniLM-L6-v2", "all-MiniLM-L6-v2", "BERT", "sentence encoders"),
  Row("Qwen2.5-VL-7B, its text", "Qwen2.5-VL-7B", "qwen2.5-vl", "Qwen-Image"),
  Row("Qwen3-4B", "Qwen3-4B", "qwen3, tied", "Z-Image, FLUX.2 klein 4B"),
  Row("Qwen3-8B", "Qwen3-8B", "qwen3", "FLUX.2 klein 9B"),
  Row("Mistral-Small-3, its text", "Mistral-Small-3", "mistral3", "FLUX.2 dev"),
)
# What is left of the cases: `qwen3, no head` is the class of folders without one.
OTHERS = tuple(name for name in ALL if name not in {row.case for row in ENCODERS})

HEAD = """# Our text encoders beside those of transformers

Made by `python -m benchmarks.tower_parity --to docs` with transformers {transformers}, torch
{torch} and jax {jax}, on one CPU; `tests/parity/test_towers.py` and `test_text_models.py` run the
same cases. Compared is a tiny model of the same class and options: every weight is moved off its
initial value, written by transformers into a folder and read here by `t2i_jax.pretrained.load`.
Counted is the model of published size.

- **published**: parameters of the class of transformers at the published config.json, built
  without memory. **read**: those of the tensors that a text encoder needs: not heads and vision
  towers. **ours**: ours, by `jax.eval_shape`, all layers taken. Names and shapes of all tensors
  that are read are compared, too.
- **tokens**, **pooled**: max|ours - theirs| / max|theirs| in float32, the largest of all layers
  that a pipeline takes. CLIP: with and without a mask, the last layer, and the one before it with
  and without the final norm; the vector at the end, projected where there is a projection. T5,
  BERT: with and without a mask. Language models: every hidden state from the embedding on, padded
  on the left and on the right, the padding's rows included. Bound {forward:.0e}.
- **gradient**: of sum(sin(tokens)) + sum(cos(pooled)) by **every** weight, theirs brought into our
  layout by the tables that read the folder; max|ours - theirs| / max|theirs| of each, the largest
  shown with where it is. Bound {gradient:.0e}. Of CLIP, T5 and BERT alone; the blocks of the
  language models are those of the joint models, whose gradients are in
  `tests/parity/test_language_models.py`.
- **bf16**: root mean square of the error over that of the output, against theirs in float32: ours
  with bfloat16 activations, and theirs `.to(torch.bfloat16)`, of {draws} draws of captions. First
  tokens, then pooled; of the language models all hidden states after the embedding. **ratio** is
  ours over theirs. Bound {ratio}.
- **folder**: written there in several files, read here, written here, read there: all tensors
  equal bit for bit, in float32 and in bfloat16. "read only": `save` refuses, because heads, vision
  towers and the layers after the last one taken were not read. Copy such a folder.

"""
FOUND = ["tokens", "pooled", "gradient", "bf16 ours", "bf16 theirs", "ratio", "folder"]
COLUMNS = ["text encoder", "used by", "class", "published", "read", "ours", *FOUND]
OTHERS_HEAD = """
## Other classes and options

"""


def line(row: Row) -> list[str]:
  """One published encoder. Raises ValueError where counts differ or a bound does not hold."""
  whole, read, own = count(row.of)
  expected = LANGUAGE_MODELS[row.of][1:] if row.of in LANGUAGE_MODELS else (PUBLISHED[row.of][1],)
  if (whole, read) != (expected[0], expected[-1]) or own != read:
    raise ValueError(f"{row.of}: {whole}, {read}, {own} parameters; {expected} are published.")
  sizes = [f"{number:,}" for number in (whole, read, own)]
  return [row.name, row.used, f"`{ALL[row.case].kind}`", *sizes, *cells(row.case)]


def page() -> str:
  """docs/parity_towers.md."""
  missing = (PUBLISHED.keys() | LANGUAGE_MODELS.keys()) - {row.of for row in ENCODERS}
  if missing:
    raise ValueError(f"published text encoders without a row: {', '.join(sorted(missing))}")
  head = HEAD.format(
    transformers=transformers.__version__, torch=torch.__version__, jax=jax.__version__,
    forward=FORWARD, gradient=GRADIENT, ratio=RATIO, draws=DRAWS,
  )  # fmt: skip
  rows = []
  for row in ENCODERS:
    rows.append(line(row))
    print(*rows[-1], flush=True)
  others = [[name, f"`{ALL[name].kind}`", *cells(name)] for name in OTHERS]
  rest = table(["case", "class", *FOUND], others)
  return f"{head}{table(COLUMNS, rows)}\n{OTHERS_HEAD}{rest}\n"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", default="docs", help="folder of parity_towers.md")
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  logging.disable(logging.WARNING)
  content = page()
  made = made_by("python -m benchmarks.tower_parity --to docs", "benchmarks/tower_parity.py")
  write(Path(args.to) / "parity_towers.md", content, made)


if __name__ == "__main__":
  main()
