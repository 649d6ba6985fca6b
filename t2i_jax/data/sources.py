"""The sources of `t2i data build --from`, by name."""

from t2i_jax.data.from_edits import Edits
from t2i_jax.data.from_emoji import Emoji
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.from_parquet import Parquet
from t2i_jax.data.from_planted import Planted
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.from_tfds import Tfds
from t2i_jax.data.from_webdataset import WebDataset

SOURCES = {
  "scenes": Scenes,
  "scenes --level planted": Planted,
  "edits": Edits,
  "emoji": Emoji,
  "folder": Folder,
  "webdataset": WebDataset,
  "parquet": Parquet,
  "tfds": Tfds,
}
