"""From a config to a trained model: the state, the one step, the one loop, checkpoints and logs."""

from t2i_jax.training.loop import train
from t2i_jax.training.state import TrainState, create_state

__all__ = ["TrainState", "create_state", "train"]
