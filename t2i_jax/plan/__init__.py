"""What a config costs, before it is run: parameters, FLOPs, memory and traffic of its step on TPUs.

`describe` counts, `pod` compiles the train step for a topology, `program` reads what was compiled.
"""

from t2i_jax.plan.program import Memory, Program, memory_of

__all__ = ["Memory", "Program", "memory_of"]
