"""A policy at the source: prompts and images that are refused, and concepts that are renamed.

A policy is a JSON file with rules. Checked are, before anything is drawn, the prompts, by their
words and by the distance of a text encoder, and the images that a drawing starts from; and what was
drawn, before it is written. A rule is as strong as its list: docs/consent.md says what passes it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from t2i_jax.data.images import decode
from t2i_jax.data.perceptual import RADIUS, distances, perceptual_hash
from t2i_jax.errors import ConfigError, DataError, T2IError
from t2i_jax.evaluation.memorisation import pixel_features
from t2i_jax.ranges import Range

REFUSE, RENAME = "refuse", "rename"
KINDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Texts -> unit features [n, D] float32
EmbedText = Callable[[Sequence[str]], np.ndarray]
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
COSINE, BITS = Range("(-1, 1]"), Range("[0, 64]")


class Refused(T2IError):
  """A prompt or an image that a policy refuses."""


class Listed(NamedTuple):
  """Images of a rule.   names: of them;   hashes: uint64 [n];   features: [n, D] or [0, D]"""

  names: tuple[str, ...] = ()
  hashes: Any = np.zeros(0, np.uint64)
  features: Any = np.zeros((0, 1), np.float32)


class Rule(NamedTuple):
  """One rule of a policy.

  name        for messages
  concepts    words that prompts are not to have, one after the other, whatever their case
  action      "refuse", or "rename": the words are replaced by `anchor`, which may be ""
  paraphrase  cosine of a text encoder's features from which on a part of a prompt counts as a
              concept in other words; None: not compared
  images      files, folders of them, or perceptual hashes as "phash:HEX"
  radius      bits in which perceptual hashes may differ
  similarity  cosine of the features of an image, data of 16 x 16 pixels, from which on it counts as
              a listed one; None: not compared
  """

  name: str
  concepts: tuple[str, ...] = ()
  action: str = REFUSE
  anchor: str = ""
  paraphrase: float | None = None
  images: tuple[str, ...] = ()
  radius: int = RADIUS
  similarity: float | None = None
  listed: Listed = Listed()


class Policy(NamedTuple):
  """Rules, in the order in which they are checked; () allows everything."""

  rules: tuple[Rule, ...] = ()

  @property
  def of_images(self) -> bool:
    return any(rule.images for rule in self.rules)

  @property
  def of_paraphrases(self) -> bool:
    return any(rule.paraphrase is not None for rule in self.rules)


def read_policy(path: str | Path) -> Policy:
  """The policy of a file: {"rules": [{"name": ..., fields of Rule}, ...]}.

  Images are named relative to the file. Raises ConfigError, DataError.
  """
  where = f"--guard={path}"
  try:
    content = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ConfigError(f"{where} cannot be read as JSON: {error}.") from error
  rules = content.get("rules") if isinstance(content, dict) else None
  if not isinstance(rules, list) or not rules:
    raise ConfigError(f'{where}: write {{"rules": [{{"name": "...", "concepts": ["..."]}}]}}.')
  found = tuple(_rule(one, f"{where}, rule {i}", Path(path).parent) for i, one in enumerate(rules))
  names = [rule.name for rule in found]
  if len(set(names)) < len(names):
    raise ConfigError(f"{where}: two rules have one name; it is what messages say.")
  return Policy(found)


_TYPES: dict[str, Any] = {
  "name": str, "concepts": list, "action": str, "anchor": str, "paraphrase": float,
  "images": list, "radius": int, "similarity": float,
}  # fmt: skip


def _rule(fields: Any, where: str, folder: Path) -> Rule:
  if not isinstance(fields, dict):
    raise ConfigError(f"{where} is no map of fields: {', '.join(_TYPES)}.")
  for key, value in fields.items():
    if key not in _TYPES:
      raise ConfigError(f"{where} has no field {key!r}. Its fields: {', '.join(_TYPES)}.")
    value = float(value) if _TYPES[key] is float and type(value) is int else value
    texts = not isinstance(value, list) or all(isinstance(one, str) and one for one in value)
    if type(value) is not _TYPES[key] or not texts:
      kinds = {str: "text", list: "a list of texts", float: "a number", int: "an integer"}
      raise ConfigError(f"{where}: {key} = {value!r:.60} is not {kinds[_TYPES[key]]}.")
    if _TYPES[key] is float:
      COSINE.check(value, f"{where}: {key}")
    if key == "radius":
      BITS.check(value, f"{where}: {key}")
  given: dict[str, Any] = {"name": ""}
  given |= {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
  rule = Rule(**given)
  wrong = _problem(rule, fields)
  if wrong:
    raise ConfigError(f"{where}: {wrong}")
  return rule._replace(listed=_listed(rule, folder, where))


def _problem(rule: Rule, fields: Mapping[str, Any]) -> str:
  if not rule.name:
    return "it has no name, which messages say."
  if rule.action not in (REFUSE, RENAME):
    return f"action = {rule.action!r} is not one of {REFUSE}, {RENAME}."
  if not rule.concepts and not rule.images:
    return "it has neither concepts nor images."
  if rule.action == RENAME and (rule.images or not rule.concepts or "anchor" not in fields):
    return "rename replaces concepts by an anchor: give both, and no images."
  if rule.action == REFUSE and "anchor" in fields:
    return f"anchor is of action = {RENAME!r}."
  if not all(words(concept) for concept in rule.concepts):
    return "a concept has no word."
  if rule.paraphrase is not None and not rule.concepts:
    return "paraphrase is of concepts, and it has none."
  if ("radius" in fields or rule.similarity is not None) and not rule.images:
    return "radius and similarity are of images, and it has none."
  if rule.action == RENAME and any(mentions(rule.anchor, one) for one in rule.concepts):
    return f"the anchor {rule.anchor!r} has the concept itself."
  return ""


def _listed(rule: Rule, folder: Path, where: str) -> Listed:
  """The images of a rule, read. Raises DataError."""
  names: list[str] = []
  hashes: list[int] = []
  pixels: list[np.ndarray] = []
  for text in rule.images:
    if text.startswith("phash:"):
      if not re.fullmatch(r"phash:[0-9a-fA-F]{16}", text):
        raise ConfigError(f"{where}: {text!r}: write 16 hexadecimal digits after phash:.")
      names.append(text)
      hashes.append(int(text[6:], 16))
      continue
    path = folder / text
    files = [path]
    if path.is_dir():
      files = sorted(one for one in path.iterdir() if one.suffix.lower() in KINDS)
    if not files:
      raise DataError(f"{where}: {path} has no image.")
    for file in files:
      try:
        image = decode(file.read_bytes())
      except (OSError, DataError) as error:
        raise DataError(f"{where}: {file} cannot be read: {error}.") from error
      names.append(file.name)
      hashes.append(perceptual_hash(image))
      pixels.append(np.asarray(image))
  found = Listed(tuple(names), np.array(hashes, np.uint64))
  if rule.similarity is None or not pixels:
    return found
  features = np.concatenate([pixel_features(one[None]) for one in pixels])
  return found._replace(features=features)


def words(text: str) -> list[str]:
  """The words of a text, without case and what stands between them."""
  return [word.casefold() for word in WORD.findall(text)]


def mentions(prompt: str, concept: str) -> bool:
  """Whether a prompt has the words of a concept, one after the other."""
  own, wanted = words(prompt), words(concept)
  return any(own[i : i + len(wanted)] == wanted for i in range(len(own) - len(wanted) + 1))


def renamed(prompt: str, concept: str, anchor: str) -> str:
  """A prompt with each occurrence of a concept's words replaced by another text."""
  spans = [(found.group().casefold(), found.span()) for found in WORD.finditer(prompt)]
  wanted, i, made, last = words(concept), 0, "", 0
  while i <= len(spans) - len(wanted):
    if [word for word, _ in spans[i : i + len(wanted)]] == wanted:
      made += prompt[last : spans[i][1][0]] + anchor
      last = spans[i + len(wanted) - 1][1][1]
      i += len(wanted)
    else:
      i += 1
  text = re.sub(r"\s+([,.;])", r"\1", " ".join((made + prompt[last:]).split()))
  return text.strip(" ,;")


def allowed(policy: Policy, prompt: str) -> str:
  """The prompt as it may be drawn: concepts renamed. Raises Refused, which says by which rule."""
  for rule in policy.rules:
    for concept in rule.concepts:
      if not mentions(prompt, concept):
        continue
      if rule.action == REFUSE:
        raise Refused(f"{prompt!r}: rule {rule.name!r} refuses {concept!r}.")
      prompt = renamed(prompt, concept, rule.anchor)
      if not prompt:
        raise Refused(f"rule {rule.name!r} leaves nothing of the prompt {concept!r}.")
  return prompt


def parts_of(prompt: str, length: int) -> list[str]:
  """The prompt, and its parts of about as many words as a concept has."""
  own = prompt.split()
  sizes = [n for n in (length - 1, length, length + 1) if 1 <= n < len(own)]
  parts = [" ".join(own[i : i + n]) for n in sizes for i in range(len(own) - n + 1)]
  return list(dict.fromkeys([prompt, *parts]))


class Nearest(NamedTuple):
  """The part of a prompt that is nearest to a concept.   cosine: of a text encoder's features"""

  cosine: float
  part: str
  concept: str


def nearest_part(rule: Rule, prompt: str, embed: EmbedText) -> Nearest:
  """Of a prompt and its parts, to the concepts of a rule."""
  length = max(len(words(concept)) for concept in rule.concepts)
  parts = parts_of(prompt, length)
  cosines = embed(parts) @ embed(rule.concepts).T  # [parts, concepts]
  part, concept = (int(i) for i in np.unravel_index(np.argmax(cosines), cosines.shape))
  return Nearest(float(cosines[part, concept]), parts[part], rule.concepts[concept])


def check_paraphrases(policy: Policy, prompts: Sequence[str], embed: EmbedText) -> None:
  """Raises Refused for a prompt of which a part is near to a concept in a text encoder."""
  for rule in policy.rules:
    if rule.paraphrase is None:
      continue
    for prompt in dict.fromkeys(prompts):
      found = nearest_part(rule, prompt, embed)
      if found.cosine >= rule.paraphrase:
        raise Refused(
          f"{prompt!r}: rule {rule.name!r} refuses {found.part!r}, which is near to "
          f"{found.concept!r} ({found.cosine:.3f}, from {rule.paraphrase:g} on)."
        )


def check_image(policy: Policy, image: np.ndarray, what: str) -> None:
  """Raises Refused for an image, uint8 [H, W, 3], that is near to a listed one.   what: it is"""
  own = np.array([perceptual_hash(Image.fromarray(image))], np.uint64)
  features: np.ndarray | None = None
  for rule in policy.rules:
    if not len(rule.listed.hashes):
      continue
    bits = distances(own, rule.listed.hashes)[0]
    nearest = int(np.argmin(bits))
    if bits[nearest] <= rule.radius:
      raise Refused(
        f"{what}: rule {rule.name!r} refuses it: its perceptual hash differs from that of "
        f"{rule.listed.names[nearest]} in {bits[nearest]} bits of 64 (up to {rule.radius})."
      )
    if len(rule.listed.features):
      features = pixel_features(image[None]) if features is None else features
      cosines = (features @ rule.listed.features.T)[0]
      if cosines.max() >= (rule.similarity or 1.0):
        files = [name for name in rule.listed.names if not name.startswith("phash:")]
        raise Refused(
          f"{what}: rule {rule.name!r} refuses it: it is near to {files[int(cosines.argmax())]} "
          f"({cosines.max():.3f}, from {rule.similarity:g} on)."
        )
