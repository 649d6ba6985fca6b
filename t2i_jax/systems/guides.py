"""Other models that guide one that draws: a noisy classifier, or a weaker version of it."""

from typing import TYPE_CHECKING, Any, NamedTuple

from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.systems.tasks import Classify

if TYPE_CHECKING:
  from t2i_jax.systems.system import System


class Guide(NamedTuple):
  """A noisy classifier that guides another model, and how strongly: weight 0 = off.

  system    it has the process and the image size of the model that it guides
  classify  its task
  """

  system: "System"
  classify: Classify
  params: Params
  weight: float


class Weak(NamedTuple):
  """The weaker model of autoguidance [2406.02507]: its system has the task `denoise`."""

  system: Any
  params: Params


class Guides(NamedTuple):
  """The models that guide another one; None where there is none."""

  classifier: Guide | None = None
  weak: Weak | None = None

  def refuse(self, kind: str) -> None:
    """Raises ConfigError if there is one. kind: of the model that none can guide."""
    if any(self):
      raise ConfigError(
        f"model.kind = {kind!r} is not guided by another model: leave out --guidance.classifier, "
        "and use another --guidance than auto."
      )

  def check(self, system: "System") -> None:
    """Raises ConfigError for a model of other images or of another process."""
    for who, model, way_out in (
      ("classifier", self.classifier, "train configs/scenes_classifier.py with its process, data"),
      ("weak model", self.weak, "use an earlier checkpoint or a smaller model of the same data"),
    ):
      if model is None:
        continue
      for what, mine, its in (
        ("process", system.process.name, model.system.process.name),
        ("images [H, W, C]", system.x_shape, model.system.x_shape),
      ):
        if mine != its:
          raise ConfigError(
            f"the {who}'s {what} is {its}, that of the model it guides is {mine}: {way_out}."
          )


NO_GUIDES = Guides()
