"""Counting collectives in a program's text."""

from t2i_jax.parallel import collectives

HLO = """
%all-reduce-scatter.5.clone.1 (input: bf16[64,16]) -> bf16[64,1] {
  %all-reduce.3 = bf16[64,16]{0,1} all-reduce(%pad), channel_id=38, to_apply=%add
}

%all-reduce-scatter.5.clone (input: bf16[64,16]) -> bf16[64,1] {
  %all-reduce.2 = bf16[64,16]{0,1} all-reduce(%pad), channel_id=38, to_apply=%add
}

%piece.1 (p: bf16[4,16]) -> bf16[64,16] {
  %all-gather.1 = bf16[64,16]{1,0} all-gather(%p), channel_id=7, dimensions={0}
}

ENTRY %main (p: bf16[4,16]) -> bf16[64,16] {
  %all-gather.2 = bf16[64,16]{1,0:S(1)} all-gather(%p), channel_id=7, dimensions={0}
  %all-gather.3 = bf16[32,16]{1,0} all-gather(%q), channel_id=8, dimensions={0}
  %all-reduce.9 = (f32[], f32[8]{0}) all-reduce(%a, %b), channel_id=9, to_apply=%add
  %collective-permute-start.1 = (f32[8], f32[8]) collective-permute-start(%a), channel_id=1
  %done = f32[8] collective-permute-done(%collective-permute-start.1)
}
"""


def test_collectives_are_counted_once_each():
  counts = {"all-gather": 2, "all-reduce": 1, "reduce-scatter": 1, "collective-permute": 1}
  assert collectives(HLO) == counts
