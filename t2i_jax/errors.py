"""Errors of users: what is wrong, the value found, the value to write.

The command line prints only the message and exits with 2; callers of the library catch the class.
"""


class T2IError(Exception):
  """Base of every error that a user can cause and correct."""


class ConfigError(T2IError):
  """An invalid config file, key or value."""


class MeshError(T2IError):
  """A mesh that does not divide the devices, the batch or a parameter."""


class DataError(T2IError):
  """A missing, truncated or corrupt shard, record, image or manifest."""


class PromptError(T2IError):
  """A prompt that a text encoder cannot encode."""


class RestoreError(T2IError):
  """A checkpoint that is missing or belongs to another model."""


class WorkdirError(T2IError):
  """A work directory that cannot be written."""


class NotFinite(T2IError):
  """Weights, a loss or an image that became NaN or infinite."""
