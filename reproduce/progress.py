"""One line that says how far a long job is and when it will be done."""

from __future__ import annotations

import sys
import time


class Progress:
    """Progress with an ETA: a line that rewrites itself in a terminal, a line every ten seconds elsewhere.

    Args:
        label: what is going on.
        total: number of steps of the whole job; 0: it is not known.
        start: steps done before (a resumed job); the ETA counts only what is done now.

    Example:
        >>> with Progress("decode", 100) as progress:
        ...     for i in range(100):
        ...         progress.step(note="clip.mp4")
    """

    def __init__(self, label: str, total: int, start: int = 0) -> None:
        self.label, self.total, self.done = label, total, start
        self._start, self._from, self._shown = time.monotonic(), start, 0.0
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else 10.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc) -> None:
        self._show("", end=True)

    def step(self, n: int = 1, note: str = "") -> None:
        """Count n more steps and show the line when it is time."""
        self.done += n
        if time.monotonic() - self._shown >= self._every:
            self._show(note)

    def skip(self, n: int) -> None:
        """Count n steps that were done before; the ETA does not."""
        self.done, self._from = self.done + n, self._from + n

    def _show(self, note: str, end: bool = False) -> None:
        now = time.monotonic()
        self._shown = now
        elapsed, done = now - self._start, self.done - self._from
        eta = elapsed / done * (self.total - self.done) if done and self.total else float("nan")
        clock = f"took {duration(elapsed)}" if end else f"ETA {duration(eta)}"
        total = f"/{self.total}" if self.total else ""
        line = f"  {self.label}: {self.done}{total}  {clock}  {note}".rstrip()
        if self._terminal:
            sys.stderr.write(f"\r\033[K{line}" + ("\n" if end else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """``1:02:03``, ``2:03``; ``?`` when unknown."""
    if seconds != seconds:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
