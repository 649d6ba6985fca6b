"""Edits as text by a language model [2211.09800 sec. 3.1.1]: a few examples, and a caption to go on
from.

    Caption: a photograph of a girl riding a horse
    Instruction: have her ride a dragon
    Edited caption: a photograph of a girl riding a dragon

    Caption: ...
    Instruction:

The paper fine-tunes GPT-3 on 700 examples written by hand; here any model of transformers' folders
continues the text of a few. What it writes is parsed strictly, and what does not parse is counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from t2i_jax.data.edit_texts import EditTriple
from t2i_jax.data.user_images import needed
from t2i_jax.errors import DataError

NAMES = ("Caption:", "Instruction:", "Edited caption:")
LONGEST = 300  # characters of a text
MOST = 96  # tokens that are generated
EXAMPLES = (
  EditTriple(
    "a photograph of a girl riding a horse",
    "have her ride a dragon",
    "a photograph of a girl riding a dragon",
  ),
  EditTriple(
    "a wooden boat on a calm lake",
    "make it winter",
    "a wooden boat on a frozen lake covered in snow",
  ),
  EditTriple(
    "a bowl of green apples on a table",
    "turn the apples red",
    "a bowl of red apples on a table",
  ),
  EditTriple(
    "portrait of a man with a hat",
    "remove the hat",
    "portrait of a man",
  ),
)
# (prompt, seed) -> the text that follows it
Generate = Callable[[str, int], str]


def prompt_of(caption: str, examples: Sequence[EditTriple] = EXAMPLES) -> str:
  """What the model goes on from."""
  shown = [
    "".join(f"{name} {text}\n" for name, text in zip(NAMES, _texts(one), strict=True))
    for one in examples
  ]
  return "\n".join([*shown, f"{NAMES[0]} {caption}\n{NAMES[1]}"])


def _texts(one: EditTriple) -> tuple[str, str, str]:
  return one.caption, one.instruction, one.edited


def parse(caption: str, completion: str) -> EditTriple:
  """The edit that a model wrote. Raises DataError with a reason, "kind" or "kind: detail"."""
  lines = completion.split("\n")
  instruction = lines[0].strip()
  if len(lines) < 2 or not lines[1].startswith(NAMES[2]):
    raise DataError(f"no line that begins with {NAMES[2]!r}")
  edited = lines[1].removeprefix(NAMES[2]).strip()
  if not instruction or not edited:
    raise DataError("an empty text")
  if max(len(instruction), len(edited)) > LONGEST:
    raise DataError(f"a text of more than {LONGEST} characters")
  if any(name in text for name in NAMES for text in (instruction, edited)):
    raise DataError("the name of a line inside of a text")
  if " ".join(edited.lower().split()) == " ".join(caption.lower().split()):
    raise DataError("the caption itself")
  if len(lines) > 2 and lines[2].strip():
    raise DataError("a line that follows the edited caption")
  return EditTriple(caption, instruction, edited)


def written(
  captions: Sequence[str],
  generate: Generate,
  examples: Sequence[EditTriple] = EXAMPLES,
  seed: int = 0,
) -> tuple[list[EditTriple], Counter[str], list[tuple[str, str]]]:
  """The edits of captions, how many were malformed by reason, and (caption, reason) of each."""
  found: list[EditTriple] = []
  reasons: Counter[str] = Counter()
  skipped: list[tuple[str, str]] = []
  for i, caption in enumerate(captions):
    try:
      found.append(parse(caption, generate(prompt_of(caption, examples), seed + i)))
    except DataError as error:
      reasons[str(error)] += 1
      skipped.append((caption, str(error)))
  return found, reasons, skipped


def generator_of(folder: str | Path, temperature: float = 0.7) -> Generate:
  """The text generation of a causal language model in a folder of transformers.

  temperature  0: the likeliest tokens
  Raises DataError where torch or transformers is missing, or the folder cannot be read.
  """
  torch = needed("torch", "parity")
  transformers = needed("transformers", "parity")
  if not Path(folder).is_dir():
    raise DataError(f"--from={folder} is neither 'scenes' nor the folder of a language model.")
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
  except (OSError, ValueError, KeyError) as error:
    raise DataError(f"--from={folder} cannot be read as a language model: {error}") from error
  model.eval()
  sampled: dict[str, Any] = {"do_sample": False}
  if temperature:
    sampled = {"do_sample": True, "temperature": temperature}

  def generate(prompt: str, seed: int) -> str:
    torch.manual_seed(seed)
    given = tokenizer(prompt, return_tensors="pt")
    length = given["input_ids"].shape[1]
    with torch.no_grad():
      ids = model.generate(
        **given, max_new_tokens=MOST, pad_token_id=tokenizer.eos_token_id, **sampled
      )
    # The examples end with an empty line, and so does what the model adds of its own after it.
    return tokenizer.decode(ids[0, length:], skip_special_tokens=True).split("\n\n")[0].rstrip("\n")

  return generate


def captions_in(path: str | Path) -> Iterator[str]:
  """The lines of a text file that are not empty. Raises DataError."""
  try:
    text = Path(path).read_bytes().decode("utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"--captions={path} cannot be read as UTF-8: {error}.") from error
  yield from (line.strip() for line in text.split("\n") if line.strip())
