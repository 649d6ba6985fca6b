"""Converse with a joint model: t2i chat --workdir=D [--say="a red circle" --say="make it blue"]

A line is a caption, or an instruction once there is an image. Besides:
  /new            start another conversation
  /open FILE      start with an image
  /describe       caption the last image
  /on             generate text and images until the document ends
  /seed N         of the next image
  /quit
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2i_jax.cli.caption import add_words_flag, open_image
from t2i_jax.cli.flags import FirstSeed, number
from t2i_jax.cli.sample import add_sampling_flags, opened_with
from t2i_jax.errors import PromptError, T2IError


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--workdir", required=True, help="of a joint model's training run")
  parser.add_argument("--say", action="append", help="a line; without any they come from stdin")
  parser.add_argument("--out", help="folder for the images; default WORKDIR/chat")
  parser.add_argument(
    "--seed", type=number("--seed", FirstSeed), default=0, help="of the first image"
  )
  add_words_flag(parser)
  add_sampling_flags(parser)


def lines(args: argparse.Namespace) -> Iterator[str]:
  if args.say:
    for line in args.say:
      print(f"> {line}")
      yield line
    return
  while True:
    try:
      yield input("> " if sys.stdin.isatty() else "")
    except EOFError:
      return


def run(args: argparse.Namespace) -> None:
  from t2i_jax.inference import open_model
  from t2i_jax.inference.save import check_out

  out = Path(args.out or Path(args.workdir) / "chat")
  check_out(out)
  model = open_model(args.workdir, opened_with(args, ["words"]), args.step)
  chat = model.chat(args.seed)
  out.mkdir(parents=True, exist_ok=True)
  talk = Talk(chat, model.config.data.image_size, out)
  for line in lines(args):
    if line.strip() == "/quit":
      return
    try:
      talk.turn(line.strip())
    except T2IError as error:
      print(f"{type(error).__name__}: {error}")


class Talk:
  """The lines of a conversation; images are saved and their paths shown."""

  def __init__(self, chat: Any, image_size: tuple[int, int], out: Path):
    self.chat, self.image_size, self.out, self.count = chat, image_size, out, 0
    self.last: Any = None

  def turn(self, line: str) -> None:
    """Raises T2IError for a line that cannot be done; the conversation stays as it was."""
    command, _, rest = line.partition(" ")
    if not line:
      return
    if command == "/new":
      self.chat.begin()
      self.last = None
    elif command == "/open":
      self.last = open_image(rest, self.image_size)
      self.chat.open(self.last)
    elif command == "/describe":
      if self.last is None:
        raise PromptError("there is no image yet to describe.")
      print(self.chat.describe(self.last))
    elif command == "/on":
      for part in self.chat.generate():
        print(part) if isinstance(part, str) else self.show(part)
    elif command == "/seed":
      if not rest.isdecimal():
        raise PromptError("write /seed and a number.")
      self.chat.seed = number("/seed", FirstSeed)(rest)
    elif command.startswith("/"):
      raise PromptError(f"{command} is not one of /new, /open, /describe, /on, /seed, /quit.")
    else:
      self.show(self.chat.draw(line))

  def show(self, image: Any) -> None:
    from PIL import Image

    path = self.out / f"{self.count:03d}.png"
    Image.fromarray(image).save(path)
    self.last, self.count = image, self.count + 1
    print(path)
