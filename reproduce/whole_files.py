"""Files that are whole or absent: written under another name, flushed, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class OutputError(OSError):
    """A file could not be written; the message names it and the way out."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary sibling of ``path``, then put it in its place.

    Args:
        path: path of the file; parent folders are made.
        write: called with the temporary path.

    Raises:
        OutputError: the folder cannot be written or the disk is full. ``path`` does not change then.
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


def check_writable(folder: Path, way_out: str) -> None:
    """Make a folder and check that files can be made in it.

    Args:
        folder: the folder, which is written to much later.
        way_out: the option that names another folder.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; choose another folder ({way_out})") from error


def write_json(path: Path, data: object) -> None:
    """Write indented JSON atomically; same errors as ``write_atomic``."""
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, lambda p: p.write_text(text))


def save_weights(path: Path, state: Mapping[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically; same errors as ``write_atomic``.

    A tensor of two names is written under both, so that ``load_state_dict`` finds both. Since 0.8 safetensors makes
    its file with mode 0600; this file has the mode of the umask, as the files beside it.

    Args:
        path: path of the file.
        state: of a module.
        header: texts for the file's header.
    """
    import torch
    from safetensors.torch import save_file

    seen: set[int] = set()

    def own(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        shared = storage in seen
        seen.add(storage)
        return tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()

    def write(part: Path) -> None:
        part.touch()
        mode = part.stat().st_mode
        save_file({name: own(tensor) for name, tensor in state.items()}, part, header)
        part.chmod(mode & 0o777)

    write_atomic(path, write)
