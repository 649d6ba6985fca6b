"""Progress of a long pass: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 5.0


class Meter:
  """Context manager; call `advance(n)` after n more items.   enabled: False prints nothing

  total  items in all, None if unknown
  """

  def __init__(self, label: str, total: int | None, enabled: bool = True):
    self.label, self.total, self.enabled = label, total, enabled
    self.done, self._began = 0, time.monotonic()
    self._last = self._began
    self._bar: Progress | None = None

  def __enter__(self) -> "Meter":
    if self.enabled and sys.stdout.isatty():
      columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
      self._bar = Progress(*columns, TimeRemainingColumn())
      self._bar.start()
      self._task = self._bar.add_task(self.label, total=self.total)
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
  ) -> None:
    if self._bar is not None:
      self._bar.stop()

  def advance(self, n: int) -> None:
    """Counts n more items."""
    self.done += n
    if self._bar is not None:
      self._bar.advance(self._task, n)
    elif self.enabled and time.monotonic() - self._last >= LINE_SECONDS:
      self._last = time.monotonic()
      of = f" of {self.total:,}" if self.total else ""
      rate = self.done / (self._last - self._began)
      try:
        print(f"{self.label}: {self.done:,}{of}, {rate:,.0f}/s", flush=True)
      except BrokenPipeError:  # `| head` has ended; the work goes on
        self.enabled = False
