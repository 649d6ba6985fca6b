"""One process of two with four devices each: `one_of_two.py port index from to`."""

import sys

import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, index, source, target = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))

from t2i_jax.parallel import make_mesh  # noqa: E402
from t2i_jax.pretrained import load, save  # noqa: E402
from t2i_jax.pretrained.tensors import Tensors  # noqa: E402

sizes, read = [], Tensors.read


def counting(self, name, slices):
  found = read(self, name, slices)
  sizes.append(found.nbytes)
  return found


Tensors.read = counting  # type: ignore[method-assign]
_, config, params = load(source, make_mesh(1, 8, 1))
print("read", sum(sizes) / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
save(target, config, params, shard_bytes=50_000)
