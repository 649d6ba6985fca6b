"""Train, or go on training: t2i train --config=configs/X.py --workdir=D [--config.a.b=value ...]"""

import argparse
import os

from t2i_jax.cli.flags import number
from t2i_jax.config import changed_lines, compared_with, load_config
from t2i_jax.ranges import Count, Whole


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--config", required=True, help="a file with get_config()")
  parser.add_argument("--workdir", required=True, help="logs, images and checkpoints")
  parser.add_argument(
    "--new-data",
    action="store_true",
    help="go on though data.dir is not the folder that the checkpoint was trained on",
  )


def run(args: argparse.Namespace) -> None:
  config = load_config(args.config, args.overrides)
  start_distributed()
  import jax

  from t2i_jax.training import train  # imports jax models only once the config is known good

  if jax.process_index() == 0:
    for line in changed_lines(*compared_with(args.config), config):
      print(line, flush=True)
  train(config, args.workdir, args.new_data)


def start_distributed() -> None:
  """Joins the other processes of a run, where the launcher says that there are some.

  T2I_COORDINATOR=host:port, T2I_PROCESSES=n, T2I_PROCESS=i name them by hand; "auto" as the
  coordinator leaves it to jax's cluster detection (Slurm, GKE, TPU pods).
  """
  coordinator = os.environ.get("T2I_COORDINATOR")
  if not coordinator:
    return
  import jax

  if os.environ.get("JAX_PLATFORMS") == "cpu":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
  if coordinator == "auto":
    jax.distributed.initialize()
  else:
    given = os.environ.get
    processes = number("T2I_PROCESSES", Count)(given("T2I_PROCESSES", ""))
    process = number("T2I_PROCESS", Whole)(given("T2I_PROCESS", ""))
    jax.distributed.initialize(coordinator, processes, process)
