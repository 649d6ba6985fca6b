"""The log of a run: a line on the console, a line in metrics.jsonl, TensorBoard events.

Only process 0 writes. Values that depend on time are under "perf", separate from the metrics, which
a resumed run reproduces bit for bit.
"""

import io
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

# Dense bfloat16 peak of one chip in FLOP/s, by jax's device_kind. Source: the vendors' data sheets.
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU7x": 2307e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
}


def memory_bytes() -> int:
  """Largest peak memory of a local device; of the process where devices report none (CPU)."""
  stats = [d.memory_stats() for d in jax.local_devices()]
  known = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
  return max(known) if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def duration(seconds: float) -> str:
  """90 -> 1m30s."""
  minutes, s = divmod(int(seconds), 60)
  hours, m = divmod(minutes, 60)
  return f"{hours}h{m:02d}m" if hours else f"{m}m{s:02d}s"


class Log:
  """Logs of a run. On resuming they have each step once: those after `start` are taken out.

  steps  optimiser steps of the whole run
  batch  rows per step; images per step is this times the metric "images" (default 1)
  flops  FLOPs per step, over all devices
  """

  def __init__(self, workdir: Path, start: int, *, steps: int, batch: int, flops: float):
    self.steps, self.batch, self.flops = steps, batch, flops
    self.path = workdir / "metrics.jsonl"
    self.first, self.last = start, start
    self.began = self.since = time.perf_counter()
    self.excluded = 0.0  # seconds since the last line that were not training
    self.writes = jax.process_index() == 0
    self.before = self.cpu_before = 0.0  # seconds of the earlier sessions
    if not self.writes:
      return
    self._truncate(start)
    folder = workdir / "tensorboard"
    resumed = any(folder.glob("*tfevents*"))
    self.events = EventFileWriter(str(folder))
    if resumed:  # TensorBoard then drops what earlier files have from this step on
      session = SessionLog(status=SessionLog.START)
      self.events.add_event(Event(session_log=session, step=start + 1, wall_time=time.time()))

  def _truncate(self, start: int) -> None:
    """Moves the lines of steps that are done again from metrics.jsonl to metrics.redone.jsonl."""
    kept: list[str] = []
    redone: list[str] = []
    text = self.path.read_text() if self.path.exists() else ""
    for line in text.split("\n"):
      try:
        entry = json.loads(line)
      except ValueError:  # a line truncated when the process was killed
        continue
      if entry["step"] > start:
        redone.append(line)
        continue
      kept.append(line)
      self.before = entry["perf"]["elapsed_s"]
      self.cpu_before = entry["perf"].get("cpu_s", 0.0)  # added in November 2026
    whole = "".join(line + "\n" for line in kept)
    if whole == text:
      return
    if redone:
      with self.path.with_suffix(".redone.jsonl").open("a") as file:
        file.writelines(line + "\n" for line in redone)
    part = self.path.with_suffix(".part")
    part.write_text(whole)
    part.replace(self.path)

  def elapsed(self) -> float:
    """Seconds of this run in all its sessions, including compilation and evaluation."""
    return self.before + time.perf_counter() - self.began

  def cpu(self) -> float:
    """Seconds of processors that this process used, in all its sessions, imports included."""
    return self.cpu_before + time.process_time()

  def pause(self, seconds: float) -> None:
    """Seconds spent on evaluation, sampling or saving: not counted in images/s."""
    self.excluded += seconds

  def compiled(self, step: int, seconds: float) -> None:
    """The first step of a session, which compiled: not counted in images/s."""
    self.say(f"compiled and made step {step} in {duration(seconds)}")
    self.since, self.last = time.perf_counter(), step

  def train(self, step: int, metrics: dict[str, Any]) -> None:
    """One progress line; `metrics` are scalars."""
    now = time.perf_counter()
    taken = max(now - self.since - self.excluded, 1e-9) / max(step - self.last, 1)
    rate = self.flops / taken
    device = jax.devices()[0].device_kind
    perf = {
      "images_per_s": self.batch * float(metrics.get("images", 1)) / taken,
      "flops_per_s": rate,
      "memory_gb": memory_bytes() / 1e9,
      "eta_s": (self.steps - step) * taken,
    }
    if device in PEAK_FLOPS:
      perf["mfu"] = rate / (PEAK_FLOPS[device] * jax.device_count())
    self.since, self.excluded, self.last = now, 0.0, step
    self.write(step, "train", metrics, perf)
    mfu = f"  mfu {perf['mfu']:.1%}" if "mfu" in perf else ""
    self.say(
      f"step {step}/{self.steps}  loss {metrics['loss']:.4f}  {perf['images_per_s']:.0f} images/s  "
      f"{rate / 1e9:.0f} GFLOP/s{mfu}  {perf['memory_gb']:.2f} GB  "
      f"{duration(self.elapsed())} elapsed  {duration(perf['eta_s'])} left"
    )

  def write(self, step: int, kind: str, metrics: dict[str, Any], perf: dict[str, float]) -> None:
    """One entry in metrics.jsonl and TensorBoard."""
    if not self.writes:
      return
    entry = {"step": step, "kind": kind} | {k: float(v) for k, v in metrics.items()}
    taken = {"elapsed_s": round(self.elapsed(), 2), "cpu_s": round(self.cpu(), 2)}
    entry["perf"] = taken | perf
    with self.path.open("a") as file:
      file.write(json.dumps(entry) + "\n")
    for name, value in {**metrics, **{f"perf/{k}": v for k, v in perf.items()}}.items():
      self._event(step, Summary.Value(tag=f"{kind}/{name}", simple_value=float(value)))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """An image [H, W, 3] uint8 for TensorBoard."""
    if not self.writes:
      return
    png = io.BytesIO()
    Image.fromarray(image).save(png, "png")
    height, width = image.shape[:2]
    content = Summary.Image(
      height=height, width=width, colorspace=3, encoded_image_string=png.getvalue()
    )
    self._event(step, Summary.Value(tag=name, image=content))

  def _event(self, step: int, value: Summary.Value) -> None:
    self.events.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=[value])))

  def say(self, text: str) -> None:
    if self.writes:
      print(text, flush=True, file=sys.stdout)

  def close(self) -> None:
    if self.writes:
      self.events.close()
