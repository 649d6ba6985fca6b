"""t2i train --config=configs/X.py --workdir=D [--config.a.b=value ...]"""

import argparse
import ctypes
import os
import sys

from t2i_jax.config import load_config


def register(verbs) -> None:
  parser = verbs.add_parser("train", help="train, or go on training", description=__doc__)
  parser.add_argument("--config", required=True, help="a file with get_config()")
  parser.add_argument("--workdir", required=True, help="logs, pictures and checkpoints")
  parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
  config = load_config(args.config, args.overrides)
  keep_host_memory()
  start_distributed()
  from t2i_jax.training import train  # imports jax models only once the config is known good

  train(config, args.workdir)


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
    jax.distributed.initialize(
      coordinator, int(os.environ["T2I_PROCESSES"]), int(os.environ["T2I_PROCESS"])
    )


def keep_host_memory() -> None:
  """Has glibc keep freed memory, for steps that run on the CPU.

  XLA allocates a step's buffers anew each time; given back to the kernel in between, they cost
  the quickstart 73,000 page faults and 0.13 s of system time a step (measured, 2 cores).
  """
  if not sys.platform.startswith("linux"):
    return
  libc = ctypes.CDLL(None)
  if hasattr(libc, "mallopt"):
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    libc.mallopt(m_arena_max, 1)
