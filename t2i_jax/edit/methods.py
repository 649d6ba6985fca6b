"""Editors by name: --method of t2i edit. An editor is one function, or a dataclass of
its settings, whose fields flags of the verb set."""

from collections.abc import Callable

from t2i_jax.edit.instructed import Instruct
from t2i_jax.edit.inversions import (
  Edict,
  FlowEdit,
  Ilvr,
  NegativePrompt,
  NullText,
  RFInversion,
)
from t2i_jax.edit.prompt_to_prompt import PromptToPrompt
from t2i_jax.edit.request import Method
from t2i_jax.edit.sdedit import SDEdit
from t2i_jax.edit.structure import Pix2PixZero, PlugAndPlay

# "name" or "name(argument=value)" -> (model, request) -> Edited: config.build reads it.
METHODS: dict[str, Callable[..., Method]] = {
  "p2p": PromptToPrompt,
  "sdedit": SDEdit,
  "instruct": Instruct,
  "null_text": NullText,
  "negative_prompt": NegativePrompt,
  "edict": Edict,
  "rf_inversion": RFInversion,
  "flow_edit": FlowEdit,
  "ilvr": Ilvr,
  "pnp": PlugAndPlay,
  "pix2pix_zero": Pix2PixZero,
}
