"""What an edit leaves behind: an image of each seed before and after, a grid, and a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2i_jax.data.sheet import grid
from t2i_jax.edit.request import Edited, Request
from t2i_jax.errors import WorkdirError
from t2i_jax.evaluation.report import Section, write_images_report
from t2i_jax.inference.save import save_png


def write(
  out: Path, request: Request, edited: Edited, config: Any, how: str, commands: Sequence[str] = ()
) -> list[Path]:
  """before_seedN.png and after_seedN.png, or after_STRENGTH_seedN.png of several strengths;
  grid.png, a row a seed: the image that was given, before, and after by rising strength; what the
  method adds; report.html.

  config  of the model;   how: the method and its settings, for the page
  Returns the paths, the page last. Raises WorkdirError.
  """
  strengths = sorted(edited.after)
  about = {"method": how, "prompt": request.prompt, "target": request.target}
  about |= {"config": json.dumps(config.to_dict())}
  name = lambda strength: "after" if len(strengths) == 1 else f"after_{strength:g}"
  columns = [("before", edited.before), *((name(s), edited.after[s]) for s in strengths)]
  paths = []
  try:
    out.mkdir(parents=True, exist_ok=True)
    for stem, images in columns:
      for seed, image in zip(request.seeds, images, strict=True):
        paths.append(out / f"{stem}_seed{seed}.png")
        save_png(paths[-1], image, about | {"seed": str(seed)})
    given = [] if request.image is None else [request.image]
    rows = [[*given, *(images[i] for _, images in columns)] for i in range(len(request.seeds))]
    sheets = {"grid.png": grid(rows, max(1, 128 // rows[0][0].shape[0])), **edited.sheets}
    for file, sheet in sheets.items():
      paths.append(out / file)
      sheet.save(paths[-1])
  except OSError as error:
    raise WorkdirError(f"--out={out} cannot be written: {error}.") from error
  named = lambda images: [(f"seed {s}", x) for s, x in zip(request.seeds, images, strict=True)]
  sections: list[Section] = [(f"Before: {request.prompt}", "", named(edited.before))]
  if request.image is not None:
    sections.insert(0, ("The image", "As it was given.", [("", request.image)]))
  for strength in strengths:
    title = f"After: {request.target}"
    sections.append((title, f"strength {strength:g}", named(edited.after[strength])))
  context = {"run": out.resolve().name, "method": how, "commands": list(commands)}
  page = write_images_report(out / "report.html", [*sections, *edited.sections], context)
  return [*paths, page]
