"""The options that the commands of several studies share."""

from __future__ import annotations

import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from reproduce.evidence.reference import own_option


def study_parser(doc: str, out: str, *folders: str) -> ArgumentParser:
    """The parser of a study's command, with ``--out``, which may not be in the reference.

    Args:
        doc: what ``--help`` says.
        out: the default of ``--out``, below ``RESULTS``.
        folders: of ``runs`` and ``cache``, those that the study takes, by default from RUNS and CACHE.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    own_option(parser, "--out", out)
    for folder in folders:
        default = dict(runs="runs", cache=".cache")[folder]
        parser.add_argument(f"--{folder}", type=Path, default=Path(os.environ.get(folder.upper()) or default))
    return parser
