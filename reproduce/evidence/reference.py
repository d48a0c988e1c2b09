"""The reference, ``results/``: what is committed there, and how everything else stays out of it.

Runs of a user are recorded apart, in ``my-results``; ``reproduce.evidence.update`` writes the reference.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

from reproduce.records import RecordError, load_all, predictions
from reproduce.suites import CONFIGS
from reproduce.whole_files import write_atomic

REFERENCE = CONFIGS.parent / "results"
OWN = Path("my-results")
HEADER = "# Changes of the reference\n\nWritten by `make update-reference` and `make accept-results` only.\n\n"


class ReferenceError(ValueError):
    """Something may not go into the reference, or into an archive; the message says what and the way out."""


def apart(results: Path) -> Path:
    """A folder for results of one's own, found to be no part of the reference.

    Raises:
        ReferenceError: it is the reference, or lies inside.
    """
    if REFERENCE.resolve() in (results.resolve(), *results.resolve().parents):
        raise ReferenceError(
            f"{results} is in the reference, to which only `make update-reference REASON='why'` writes; "
            f"choose another folder, such as {OWN} (RESULTS=)"
        )
    return results


def own_option(parser: ArgumentParser, option: str, file: str = "") -> Path:
    """Give a study's command an option for what it writes, which may not be in the reference.

    Args:
        parser: of the study.
        option: ``--out``, ``--results``.
        file: below ``RESULTS``.

    Returns:
        The default.
    """

    def checked(text: str) -> Path:
        try:
            return apart(Path(text))
        except ReferenceError as error:
            raise ArgumentTypeError(str(error)) from None

    default = Path(os.environ.get("RESULTS") or OWN) / file
    parser.add_argument(option, type=checked, default=str(default), help=f"default, by RESULTS: {OWN / file}")
    return default


def check_reference(suite_name: str) -> None:
    """Find out before the first step whether what a suite's runs will be set beside can be read.

    Raises:
        ReferenceError: a record of the reference cannot, or its predictions.
    """
    folder = REFERENCE / "records" / suite_name
    try:
        for record in load_all(folder):
            predictions(record, folder)
    except RecordError as error:
        raise ReferenceError(f"{error}; restore the reference (git checkout results), or update the code") from error


def note(changes: Path, line: str) -> None:
    """Add a line to the changes of the reference and of what is expected of the recipes."""
    text = (changes.read_text() if changes.exists() else HEADER) + line + "\n"
    write_atomic(changes, lambda path: path.write_text(text))


def has_records(results: Path, suite_name: str) -> bool:
    """Whether a folder of results has any of a suite."""
    return bool(load_all(results / "records" / suite_name))
