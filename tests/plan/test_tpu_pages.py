"""What the pages of programs for TPUs are written of, and what their commands refuse to write."""

import copy
import json

import pytest

from benchmarks import flux_on_tpu, joint_on_tpu, pipelines_on_tpu, pod_on_tpu, sdxl_on_tpu

FLUX = json.loads(flux_on_tpu.FOUND.read_text())
SMALL = FLUX[flux_on_tpu.SMALL.name]
POD = json.loads(pod_on_tpu.FOUND.read_text())[pod_on_tpu.CHECKED]


def changed(of, path, value):
  """A copy of recorded figures with one of them another."""
  of = copy.deepcopy(of)
  *outer, last = path
  inside = of
  for key in outer:
    inside = inside[key]
  inside[last] = value
  return of


def test_recorded_figures_are_those_of_the_pages():
  """The pages hold what the JSON files do: each is written from its file alone."""
  assert flux_on_tpu.page(FLUX).rstrip() in flux_on_tpu.PAGE.read_text()
  assert pod_on_tpu.page(json.loads(pod_on_tpu.FOUND.read_text())).rstrip() in (
    pod_on_tpu.PAGE.read_text()
  )
  pipelines = json.loads(pipelines_on_tpu.FOUND.read_text())
  assert pipelines_on_tpu.page(pipelines).rstrip() in pipelines_on_tpu.PAGE.read_text()
  assert sdxl_on_tpu.page(FLUX, pipelines).rstrip() in sdxl_on_tpu.PAGE.read_text()


def test_what_is_recorded_is_accepted():
  assert flux_on_tpu.differences(SMALL, FLUX) == []
  assert pod_on_tpu.differences(POD, POD) == []


@pytest.mark.parametrize(
  "path, value, words",
  [
    (("sent", "all-to-all"), [9, 9, 0.1, 1], "all-to-all in the loops over blocks: 1"),
    (("sent", "all-gather"), [51, 999, 32.1, 12], flux_on_tpu.WHOLE.name),
    (("forward",), 4, "forward and backward: (4, 2)"),
    (("backward",), 4, "forward and backward: (2, 4)"),
    (("peak",), SMALL["peak"] * 1.06, "peak"),
    (("temporary",), SMALL["temporary"] * 0.94, "temporary"),
    (("traffic",), SMALL["traffic"] * 1.06, "traffic"),
  ],
)
def test_a_figure_of_flux_that_is_off_is_named(path, value, words):
  assert any(words in one for one in flux_on_tpu.differences(changed(SMALL, path, value), FLUX))


@pytest.mark.parametrize(
  "path, value",
  [
    (("state a chip",), POD["state"] / POD["fsdp"] * 1.11),
    (("arguments",), POD["state"] / POD["fsdp"] * 1.36),
    (("peak",), 16.1e9),
    (("peak",), POD["peak"] * 0.94),
    (("temporary",), POD["temporary"] * 1.06),
    (("parameters",), 674_000_000),
    (("collectives", "reduce-scatter"), 0),
  ],
)
def test_a_figure_of_the_pod_that_is_off_is_named(path, value):
  found = pod_on_tpu.differences(changed(POD, path, value), POD)
  assert any(one.startswith(path[-1]) for one in found)


KERNEL = "  %splash_mha_{name}.1 = bf16[8,128]{{1,0}} custom-call(%x)\n"
JOINT = """HloModule step

%body (p: s32[]) -> s32[] {{
{kernels}  %lse = f32[4,128,4096]{{2,1,0}} custom-call(%x)
{scores}  ROOT %p = s32[] parameter(0)
}}

%condition (p: s32[]) -> pred[] {{
  %n = s32[] constant(2)
  ROOT %lt = pred[] compare(%p, %n), direction=LT
}}

ENTRY %main (x: s32[]) -> s32[] {{
  ROOT %loop = s32[] while(%x), condition=%condition, body=%body
}}
"""


@pytest.mark.parametrize(
  "kernels, scores, words",
  [
    (("fwd", "fwd_again", "dkv"), "", []),
    (("fwd", "dkv"), "", ["kernels, static and run: (2, 4)"]),
    (("fwd", "fwd_again", "dkv"), "  %s = f32[4,4096,4096]{2,1,0} add(%a, %b)\n", ["4096 long"]),
  ],
)
def test_scores_or_other_kernels_of_the_joint_model_are_named(kernels, scores, words):
  text = "".join(KERNEL.format(name=name) for name in kernels)
  found = joint_on_tpu.differences(JOINT.format(kernels=text, scores=scores))
  assert len(found) == len(words)
  for one, word in zip(found, words, strict=True):
    assert word in one
