"""Elements of a report's page: HTML with embedded style and images."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2i_jax.errors import WorkdirError

EMBEDDED = 256  # pixels; larger images are downscaled before they are embedded

CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1c1f24;--soft:#5d6470;
--line:#e1e4e9;--track:#e8ebf0;--seen:#2a78d6;--held:#e0662b;--good:#17815d;--bad:#c23b4b}
@media(prefers-color-scheme:dark){:root{--page:#14161a;--card:#1d2026;--ink:#eceef2;--soft:#a2a9b5;
--line:#31353d;--track:#31353d;--seen:#4c93ec;--held:#ee7c43;--good:#3dbb8c;--bad:#f0707e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 56px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px}h2{font-size:19px;margin:0 0 4px}
h3{font-size:14px;margin:20px 0 8px;color:var(--soft);font-weight:600}
p{margin:0 0 12px;max-width:78ch}.soft{color:var(--soft)}
.missing{color:var(--soft);font-style:italic;margin:8px 0 0}
section,.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px}
section{padding:20px 24px;margin-top:20px}.scroll{overflow-x:auto}.scroll+.cards{margin-top:20px}
dl{display:flex;flex-wrap:wrap;gap:14px 40px;margin:20px 0 0}dt{font-size:12px;color:var(--soft)}
dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:24px 0}
.tiles div{padding:12px 16px;font-size:13px;color:var(--soft);line-height:1.45}
.tiles b{display:block;font-size:30px;line-height:1.15;color:var(--ink)}
img{display:block;border-radius:3px}img.px{image-rendering:pixelated}
.strip{border-spacing:8px;margin:0 -8px;table-layout:fixed;width:100%}
.strip th{font-weight:400;font-size:13px;line-height:1.3;vertical-align:bottom;text-align:left}
.strip tr>th:first-child{width:92px;vertical-align:middle}
figure:has(.good) img{box-shadow:0 0 0 2px var(--good)}
figure:has(.bad) img{box-shadow:0 0 0 2px var(--bad)}.charts{display:flex;flex-wrap:wrap;gap:20px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:20px 16px}
.cards.long{grid-template-columns:repeat(auto-fill,minmax(440px,1fr))}
figure{margin:0;font-size:13px;line-height:1.35}figcaption{margin-top:6px}
.long figure{display:flex;gap:14px;align-items:flex-start}.long img{flex:none}
.long figcaption{margin:0}figcaption div{color:var(--soft);margin-top:2px}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.score{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.score th{font-size:12px;color:var(--soft);text-align:left;font-weight:600;padding:6px 16px 6px 0}
.score td{padding:9px 16px 9px 0;border-top:1px solid var(--line);vertical-align:top}
.score tr.detail td{border:0;padding-top:0;font-size:13px;color:var(--soft)}
.score small{color:var(--soft);font-size:12px;white-space:nowrap}.two{font-size:14px}
.bar{position:relative;width:200px;height:10px;border-radius:3px;background:var(--track);
margin-top:5px}.bar i{position:absolute;inset:0 auto 0 0;border-radius:3px}
.bar u{position:absolute;top:4px;height:2px;background:var(--ink)}
.bar b{position:absolute;top:-3px;width:2px;height:16px;background:var(--soft)}
.seen i{background:var(--seen)}.held i{background:var(--held)}
.detail .bar{height:5px;margin:3px 0 0}.detail .bar i{opacity:.55}.detail .bar u{top:1.5px}
pre{background:var(--page);border:1px solid var(--line);border-radius:6px;padding:12px 16px;
overflow-x:auto;font:13px/1.6 ui-monospace,Menlo,Consolas,monospace;margin:12px 0 0}
footer{color:var(--soft);font-size:13px;margin-top:24px;white-space:pre-line}
"""


def document(title: str, body: str, footer: str = "") -> str:
  """A whole page.   body: HTML;   footer: text"""
  below = f"<footer>{escape(footer)}</footer>" if footer else ""
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>{escape(title)}</title><style>{CSS}</style></head>"
    f"<body><main>{body}{below}</main></body></html>\n"
  )


def heading(title: str, about: str, facts: Mapping[str, Any]) -> str:
  """What is at the top of a page: its title, a line below, and facts by name."""
  rows = "".join(
    f"<div><dt>{escape(name)}</dt><dd>{escape(plain(value))}</dd></div>"
    for name, value in facts.items()
  )
  return (
    f'<header><h1>{escape(title)}</h1><div class="soft">{escape(about)}</div>'
    f"<dl>{rows}</dl></header>"
  )


def write(path: Path, text: str) -> Path:
  """Writes a file, or leaves the old one as it is. Raises WorkdirError."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".part")  # on a full disk the old file is unchanged
    whole.write_text(text, encoding="utf-8")
    whole.replace(path)
  except OSError as error:
    raise WorkdirError(f"{path} cannot be written: {error.strerror}.") from error
  return path


def section(title: str, note: str, body: str) -> str:
  note = f'<p class="soft">{escape(note)}</p>' if note else ""
  return f"<section><h2>{escape(title)}</h2>{note}{body}</section>"


def card_grid(cards: Sequence[tuple[str, np.ndarray, str]]) -> str:
  """A grid of (caption, image, HTML below the caption); long captions are beside the image."""
  long = any(len(caption) > 160 for caption, _, _ in cards)
  figures = "".join(
    f"<figure>{image_tag(image, caption, 128)}"
    f"<figcaption>{escape(caption)}{below}</figcaption></figure>"
    for caption, image, below in cards
  )
  return f'<div class="cards{" long" if long else ""}">{figures}</div>'


def image_tag(pixels: np.ndarray, alt: str, width: int) -> str:
  """An <img> of `width` CSS pixels with embedded data, pixelated at integer multiples."""
  image = Image.fromarray(np.asarray(pixels, np.uint8))
  if max(image.size) > EMBEDDED:
    image.thumbnail((EMBEDDED, EMBEDDED))
  buffer = io.BytesIO()
  image.save(buffer, "PNG", optimize=True)
  data = base64.b64encode(buffer.getvalue()).decode("ascii")
  kind = ' class="px"' if width % image.width == 0 else ""
  return f'<img{kind} width="{width}" src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def missing(text: str) -> str:
  return f'<p class="missing">{escape(text)}</p>'


def plain(value: Any) -> str:
  if isinstance(value, float) and isfinite(value):
    return f"{value:,.1f}"
  return f"{value:,}" if isinstance(value, int) else str(value)
