"""Scenes of level planted, and their twins without what is to be erased."""

import dataclasses
from typing import ClassVar

from PIL import Image

from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.images import encode
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import facts_to_json, planted
from t2i_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Planted(Scenes):
  """Scenes of level easy with individuals, artists and copied images; fields as of Scenes.

  without  names to erase, as "grum,outl,copies", or "all": the same data, in which a record that
           has one shows something else

  A record's meta also has the objects' marks among its facts, its rendering, and what it has:
  individual, artist or copy (an id); where that is erased, the same below "erased".
  """

  level: str = planted.LEVEL
  without: str = ""

  placeholders: ClassVar = 16

  def total(self) -> int:
    planted.parse_without(self.without)
    count, copied = self.count, planted.copied_records()
    if 0 < count < 2 * copied:
      raise DataError(
        f"--count={count} is too small for level {self.level}: {copied:,} records are copied "
        f"images. Use {2 * copied} or more."
      )
    return Scenes("easy", self.size, count, self.val_count, self.heldout_count).total()

  def corpus(self) -> list[str]:
    """Captions for the tokenizer, which is the same whatever is erased."""
    return planted.corpus()

  def _record(self, split: str, index: int) -> Record:
    whole = shown = planted.make_planted(index, split, self.seed)
    if self.without:
      shown = planted.make_planted(index, split, self.seed, planted.parse_without(self.without))
    image = planted.draw(shown.objects, self.size or planted.FLOOR, shown.rendering)
    meta = {
      "facts": facts_to_json(shown.facts),
      "category": shown.category,
      "level": shown.level,
      "heldout": shown.heldout,
      "rendering": shown.rendering,
      **shown.planted,
      **({} if shown == whole else {"erased": whole.planted}),
    }
    data = encode(Image.fromarray(image), format="PNG")
    return Record(data, shown.captions, self._key(split, index), meta)
