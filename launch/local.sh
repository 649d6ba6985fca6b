#!/usr/bin/env bash
# N processes on one machine as one run: to test multiple hosts on a laptop, or one process per GPU.
#
#   launch/local.sh 2 --config=configs/scenes_dit_flow.py --workdir=runs/two
#
# On CPU each process has DEVICES virtual devices (default 1); on GPUs, process i uses GPU i.
set -euo pipefail

processes=$1
shift
port=${PORT:-$((20000 + RANDOM % 10000))}
export T2I_COORDINATOR=localhost:$port T2I_PROCESSES=$processes
if [ "${JAX_PLATFORMS:-}" = cpu ]; then
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"
  # Threads: a program of a device waits in its collectives on several, and too few are a deadlock.
  export NPROC="${NPROC:-$((4 * ${DEVICES:-1} + 8))}"
fi

pids=()
# However this script ends, every process receives SIGTERM, saves and exits.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true; wait' EXIT
trap exit TERM INT
for ((i = 0; i < processes; i++)); do
  T2I_PROCESS=$i CUDA_VISIBLE_DEVICES=$i t2i train "$@" &
  pids+=($!)
done
for ((i = 0; i < processes; i++)); do wait -n; done # fails with the first process that fails
