"""t2i_jax: text-to-image pretraining in JAX.

Packages, in the order in which a batch passes through them: data, parallel, towers, autoencoders,
process, models, systems, training. Sampling: sampling, inference, evaluation. `cli` has the verbs.
"""

__version__ = "0.1.0"
