"""From a config to a trained model: the system, the state, the one step, the one loop."""

from t2i_jax.training.loop import train
from t2i_jax.training.make_system import make_system
from t2i_jax.training.state import TrainState, create_state
from t2i_jax.training.system import System

__all__ = ["System", "TrainState", "create_state", "make_system", "train"]
