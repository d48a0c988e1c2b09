"""Files that are whole or absent: written under another name, flushed, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path


class OutputError(OSError):
    """A file could not be written; the message names it and the way out."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary sibling of ``path``, then put it in its place.

    Args:
        path: where the file shall stand; parents are made.
        write: called with the temporary path.

    Raises:
        OutputError: the folder cannot be written or the disk is full. ``path`` is then what it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder (--runs, --results)"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a folder that is gone or read-only: the error above says so
            temporary.unlink(missing_ok=True)


def write_json(path: Path, data: object) -> None:
    """Write indented JSON atomically; same errors as ``write_atomic``."""
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, lambda p: p.write_text(text))
