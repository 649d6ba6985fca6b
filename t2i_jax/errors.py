"""Errors meant for a person: what failed, where it was set, both numbers, the way out.

The command line prints the message alone and exits with 2; a library caller catches the class.
"""


class T2IError(Exception):
  """Base of every error a user can cause and mend."""


class ConfigError(T2IError):
  """A config file, key or value that cannot be used."""


class MeshError(T2IError):
  """A mesh that does not divide the devices, the batch or a parameter."""


class DataError(T2IError):
  """A missing, truncated or corrupt shard, record, image or manifest."""


class PromptError(T2IError):
  """A prompt the text tower cannot take."""


class RestoreError(T2IError):
  """A checkpoint that is missing or belongs to another model."""


class WorkdirError(T2IError):
  """A work directory that cannot be written."""
