"""What a method of personalisation minimises, as config.train.objective."""

import json
from pathlib import Path
from typing import Any

from t2i_jax.errors import ConfigError
from t2i_jax.systems.domain_gallery import BLANK

# Of a method: the terms of its objective that have weights.
TERMS = {
  "comfusion": ("visual", "textual"),
  "domain_gallery": ("erasure", "disentanglement", "similarity"),
}
SEVERAL = ("dreambooth", "lora", "domain_gallery")  # methods whose images may be of several classes
# Of comfusion, where there is a network that compares, and one that reads.
VISUAL, TEXTUAL = 0.1, 0.01
ERASE_STEPS = 40  # of 240, as 200 of 1200 in the code of DomainGallery


def check_choices(method: str, how: Any) -> None:
  """Raises ConfigError for what another method has, or this one lacks.   how: personalise.How"""
  known = TERMS.get(method, ())
  for term in how.weights:
    if term not in known:
      terms = f"has the terms {', '.join(known)}" if known else "has no terms besides --prior"
      raise ConfigError(f"--weight={term}: --method={method} {terms}.")
  for flag, given in (("--scenes", how.scenes), ("--matching", how.matching)):
    if given and method != "comfusion":
      raise ConfigError(f"{flag} is of --method=comfusion: give that, or leave it out.")
  if how.erase_steps is not None and method != "domain_gallery":
    raise ConfigError("--erase-steps is of --method=domain_gallery: give that, or leave it out.")
  if method not in SEVERAL and len(how.class_words) > 1:
    raise ConfigError(
      f"--class-word: --method={method} has one. Several are of {', '.join(SEVERAL)}."
    )
  if method == "comfusion" and not how.scenes:
    raise ConfigError("--method=comfusion: give --scenes=FILE with a scene a line.")
  if known and not how.priors:
    raise ConfigError(f"--method={method} learns from images of the class: give --priors above 0.")


def objective_of(method: str, how: Any) -> dict[str, str]:
  """Overrides of the method's config.   how: personalise.How. Raises ConfigError."""
  if not how.priors:
    return {"train.objective": "denoising", "data.train_split": "instance"}
  if method not in TERMS:
    return {"train.objective": f"dreambooth(prior={how.prior})"}
  fields: dict[str, Any] = {"prompt": how.prompt, "class_prompt": how.class_prompt}
  fields["prior"] = how.prior
  if method == "comfusion":
    fields |= {"scenes": how.scenes} | _matching(how)
  else:
    if len(how.class_words) > 1:
      fields |= {"prompt": how.prompt_of(BLANK), "class_prompt": how.class_prompt_of(BLANK)}
      fields["class_words"] = how.class_words
    fields["erase_steps"] = ERASE_STEPS if how.erase_steps is None else how.erase_steps
  fields |= how.weights
  given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
  return {"train.objective": f"{method}({given})"}


def _matching(how: Any) -> dict[str, Any]:
  """A classifier compares and reads, another network compares. Raises ConfigError."""
  if not how.matching:
    return {}
  path = Path(how.matching) / "config.json"
  try:
    kind = json.loads(path.read_text()).get("model", {}).get("kind")
  except (OSError, ValueError) as error:
    raise ConfigError(f"--matching={how.matching}: {path} cannot be read ({error}).") from error
  start = f"run:{how.matching}" if kind else f"folder:{how.matching}"
  found = {"features": start, "visual": VISUAL}
  return found | ({"reader": start, "textual": TEXTUAL} if kind == "classifier" else {})
