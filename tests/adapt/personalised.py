"""The tiny model of conftest.py personalised: data, its system with weights, runs of the verb."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from weights import random_weights

from t2i_jax.adapt.subject import SubjectImages
from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.loader import Loader
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.systems.system import Draws
from t2i_jax.training import train
from t2i_jax.training.setup import set_up

ROOT = Path(__file__).resolve().parents[2]
PROMPT, CLASS = "a ki circle", "a circle"


def build_data(to, easy_data, side=32, scenes=("",)):
  """to/data of three images of a subject, six and eight of its class, at random.

  easy_data  folder with the tokenizer
  """
  rng, files = np.random.default_rng(0), []
  for split, count in (("instance", 3), ("prior", 6), ("val", 8)):
    for i in range(count):
      path, small = to / f"{split}{i}.png", rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
      Image.fromarray(small).resize((side, side)).save(path)
      scene = scenes[i % len(scenes)]
      caption = PROMPT if split == "instance" else f"{CLASS} {scene}".strip()
      files.append((split, str(path), caption))
  own = json.loads(Tokenizer.load(easy_data, "bpe").to_json())["model"]
  build(SubjectImages(tuple(files)), to / "data", workers=1, progress=False, tokenizer=own)
  return to / "data"


def train_classifier(to, easy_data):
  """The run of a classifier, of a step."""
  small = {
    "data.dir": str(easy_data), "model.width": "16", "model.heads": "2", "model.depth": "2",
    "train.steps": "1", "train.batch": "8", "train.optimizer": "adamw",
    "train.schedule": "constant", "eval.every": "0", "eval.rows": "8",
  }  # fmt: skip
  train(load_config(f"{ROOT}/configs/scenes_classifier.py", small), to)
  return to


def config_of(where, method, data, **changes):
  given = {"data.dir": str(data)} | changes
  return load_config(f"{ROOT}/configs/{method}.py:{where}", given)


def made_of(config, rows=8):
  """A config's system, random weights, a batch and what a step draws."""
  run = set_up(config)
  how = {"seed": 0, "global_batch": rows, "rows": np.arange(rows), "workers": 0, "prefetch": 1}
  batch = next(Loader(run.source, run.row_maker, **how).batches(0))
  params = random_weights(run.system.abstract, 0.1)
  t = jnp.linspace(0.3, 0.9, rows)
  return run.system, params, batch, Draws(t, jnp.arange(rows), jax.random.key(0), {}, 0)


def run_verb(base, to, method, *more, steps=4):
  return main([
    "personalise", f"--workdir={base / 'base'}", f"--images={base / 'in'}", "--class-word=circle",
    "--word=ki", f"--to={to}", "--priors=6", f"--steps={steps}", f"--method={method}", *more,
  ])  # fmt: skip
