"""t2i_jax: text-to-image pretraining in JAX.

Rooms, in the order a batch walks through them: data, parallel, towers, autoencoders, process,
models, training; and back: sampling, evaluation. `cli` is the door.
"""

__version__ = "0.1.0"
