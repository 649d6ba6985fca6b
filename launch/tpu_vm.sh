#!/usr/bin/env bash
# A TPU slice of Compute Engine VMs: the same command on every host; jax detects the other hosts.
#
#   launch/tpu_vm.sh NAME ZONE configs/latents_dit_xl2_flow.py gs-bucket [--config.a.b=value ...]
#
# NAME is a slice created with, for example, `gcloud compute tpus tpu-vm create NAME --zone=ZONE
# --accelerator-type=v5litepod-256 --version=v2-alpha-tpuv5-lite`. The bucket has data/ and runs/ and
# is mounted with Cloud Storage FUSE, since a run reads and writes folders.
# `t2i plan --config=... --topology=v5e:16x16` prints the memory per chip beforehand.
set -euo pipefail

name=$1 zone=$2 config=$3 bucket=$4
shift 4
run=$(basename "$config" .py)
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)

on_all() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

git -C "$repository" archive --format=tar.gz -o /tmp/t2i_jax.tar.gz HEAD
gcloud compute tpus tpu-vm scp /tmp/t2i_jax.tar.gz "$name": --zone="$zone" --worker=all
on_all "mkdir -p t2i_jax && tar xzf t2i_jax.tar.gz -C t2i_jax
  python3 -m venv venv && venv/bin/pip install -q -e './t2i_jax' 'jax[tpu]'
  mkdir -p bucket && { mountpoint -q bucket || gcsfuse --implicit-dirs $bucket bucket; }"
# All hosts must start within jax's limit of five minutes. SIGTERM (a preemption) saves; the same
# command continues.
on_all "cd t2i_jax && T2I_COORDINATOR=auto ../venv/bin/t2i train --config=$config \
  --workdir=\$HOME/bucket/runs/$run --config.data.dir=\$HOME/bucket/data/$run $*"
