#!/usr/bin/env bash
# GPUs under Slurm, one process per GPU: jax reads rank, size and coordinator from Slurm's variables.
#
#   sbatch --nodes=32 launch/slurm.sh configs/latents_dit_xl2_flow.py /mnt/runs/xl2
#
# --workdir and data.dir must be on a shared file system. The product of the config's mesh must be
# the number of GPUs: 32 nodes x 8 = 256. Submit the same command again to continue.
#SBATCH --job-name=t2i
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
# --signal: five minutes before the end every process receives SIGTERM, saves and exits.
# Not --gpus-per-task: it hides the other GPUs, and jax selects one by SLURM_LOCALID.
set -euo pipefail

config=$1 workdir=$2
shift 2
export T2I_COORDINATOR=auto
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92
# --kill-on-bad-exit: otherwise the others would wait in a collective when one process fails.
exec srun --kill-on-bad-exit=1 t2i train --config="$config" --workdir="$workdir" "$@"
