"""Prompt-to-Prompt [2208.01626]: two prompts are drawn side by side from one noise, and the second
one's attention is edited by the first one's.

With an image, both start from its inversion, one of edit.pair_inversions, which leads the source
back to the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np

from t2i_jax.config import build
from t2i_jax.edit.pair_inversions import PAIR_INVERSIONS
from t2i_jax.edit.pairs import Given, How, Pairs
from t2i_jax.edit.request import Edited, Request
from t2i_jax.edit.towers import Texts, aligned, places_of, read
from t2i_jax.edit.words import KINDS
from t2i_jax.edit.words_page import pages
from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.inference.start import repeated
from t2i_jax.models.edit_control import EditRows
from t2i_jax.parallel import overridden
from t2i_jax.ranges import Range, Share, checked

Factor = Annotated[float, Range("[-100, 100]")]
INVERTER = "ddim_inverse"  # of an image
JOINT = ("image", "whole")
LATER = 0.2  # share of the steps before blending begins, as in later versions of the code


@dataclass(frozen=True)
class PromptToPrompt:
  """The settings.

  kind       "replace", "refine", or "": by whether the prompts have equally many words
  cross      share of the steps, from the first, in which attention to the text is edited
  inside     the same of the image's self-attention
  reweight   "word=2.0,other=0": the target's words whose attention is scaled
  blend      "word", or "source's word,target's word": only their region changes
  threshold  of the region: attention over its maximum
  largest    image tokens up to which self-attention is edited; 0: everywhere
  joint      of a joint map of text and image "image": rows of the image, at their own totals on
             text and image; "whole": at the source's, and rows of the text besides
  inverter   of an image: one of pair_inversions, ddim_inverse where it is ""
  maps       whether the attention to each word is shown
  A request's strengths are values of `cross`; maps are those of the last.
  """

  kind: str = ""
  cross: Share = 0.8
  inside: Share = 0.4
  reweight: str = ""
  blend: str = ""
  threshold: Annotated[float, Range("[0, 1)")] = 0.3
  largest: Annotated[int, Range("[0, 2^20]")] = 0
  joint: str = "image"
  inverter: str = ""
  maps: bool = False

  def __post_init__(self) -> None:
    if self.kind and self.kind not in KINDS:
      raise ConfigError(f"--kind={self.kind} is not one of {', '.join(KINDS)}.")
    if self.joint not in JOINT:
      raise ConfigError(f"--joint={self.joint} is not one of {', '.join(JOINT)}.")
    build(PAIR_INVERSIONS, self.inverter or INVERTER, "--inverter")
    self.scales()

  def scales(self) -> dict[str, float]:
    """By word. Raises ConfigError."""
    found = {}
    for text in filter(None, self.reweight.split(",")):
      word, _, value = text.rpartition("=")
      try:
        found[word] = checked(float(value), Annotated[float, Range("[-100, 100]")], "--reweight")
      except ValueError as error:
        raise ConfigError(f"--reweight={text}: write WORD=NUMBER, as circle=2.0.") from error
    return found

  def __call__(self, model: Any, request: Request) -> Edited:
    if request.mask is not None:
      raise ConfigError("--mask: p2p finds its region by words. Use --blend=WORD.")
    if self.inverter and request.image is None:
      raise ConfigError("--inverter belongs to --image: give that, too, or leave it out.")
    strengths = request.strengths or (self.cross,)
    for strength in strengths:
      checked(strength, Share, "--strengths")
    with overridden(model.config.mesh.rules):
      steps = model.config.sampling.steps
      first = int(LATER * steps)
      inverter = "" if request.image is None else self.inverter or INVERTER
      whole = self.joint == "whole"
      how = How(self.largest, inverter, bool(self.blend), first, self.maps, whole)
      pairs = Pairs(model, how)
      texts = self._texts(model.system, request)
      given = [self._given(model, request, texts, pairs.steps, cross) for cross in strengths]
      drawn = [pairs.draw(one, self.threshold) for one in given]
    after = {cross: one.after for cross, one in zip(strengths, drawn, strict=True)}
    before, last, recorded = drawn[-1]
    if recorded is None:
      return Edited(before, after)
    of_words = jax.tree.map(lambda leaf: leaf[..., bool(self.blend) :], recorded)
    words = (texts[0].words, texts[1].words)
    return Edited(before, after, *pages((before, last), words, of_words, request.seeds))

  def _texts(self, system: Any, request: Request) -> tuple[Texts, Texts]:
    place = places_of(system)
    source, target = (read(system, place, text) for text in (request.prompt, request.target))
    return source, target

  def _given(
    self, model: Any, request: Request, texts: tuple[Texts, Texts], steps: int, cross: float
  ) -> Given:
    """Raises PromptError."""
    system, n = model.system, len(request.seeds)
    tokens = lambda text: {name: one.encode([text] * n) for name, one in system.text.items()}
    edit = self.rows(*texts, steps, cross)
    return Given(
      tokens(request.prompt),
      tokens(request.target),
      tokens(model.config.sampling.negative),
      np.asarray(request.seeds, np.uint32),
      EditRows(*(None if leaf is None else repeated(leaf, n) for leaf in edit)),
      None if request.image is None else repeated(request.image, n),
    )

  def rows(self, source: Texts, target: Texts, steps: int, cross: float) -> EditRows:
    """How source and target are edited.   # leaves [2, ...]     Raises PromptError."""
    mapper, own = aligned(source, target, self.kind)
    length = len(own)
    until = lambda share: int(np.ceil(share * steps - 1e-6))
    words = [self._columns(text, side) for side, text in enumerate((source, target))]
    count = max(one.shape[1] for one in words)
    words = [np.pad(one, ((0, 0), (0, count - one.shape[1]))) for one in words]
    return EditRows(
      mapper=np.stack([np.eye(length, dtype=np.float32), mapper]),
      own=np.stack([np.ones(length, np.float32), own]),
      scale=np.stack([np.ones(length, np.float32), target.equalizer(self.scales())]),
      cross=np.stack([np.zeros(length, np.int32), np.full(length, until(cross), np.int32)]),
      inside=np.array([0, until(self.inside)], np.int32),
      step=None,
      words=np.stack(words) if count else None,
    )

  def _columns(self, text: Texts, side: int) -> np.ndarray:
    """The tokens of the words that are recorded, the blend's first.   # [T, K]"""
    found: Sequence[np.ndarray] = [np.zeros((len(text.place.token), 0), np.float32)]
    if self.blend:
      words = self.blend.split(",")
      if len(words) > 2:
        raise PromptError(f"--blend={self.blend}: give a word, or one of each prompt.")
      found = [*found, text.columns([words[side if len(words) == 2 else 0]])]
    if self.maps:
      found = [*found, text.columns(text.words)]
    return np.concatenate(found, axis=1)
