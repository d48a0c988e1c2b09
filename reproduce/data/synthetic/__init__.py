"""Procedural stand-ins for Kinetics-400 and Something-Something-V2, written as real video files.

- `synthetic-kinetics`: the class is what the object is *and* what it does; neither alone suffices.
- `synthetic-ssv2`: the classes come in pairs; each is the other one played backwards. Only the order
  of frames separates them.

Results on them say nothing about the data sets whose layout they use.
"""

from .presets import SIZES, Difficulty, Preset, changed, short
from .video import (
    NAMES,
    VideoSpec,
    class_names,
    classes,
    contact_sheet,
    keeps_itself,
    partner,
    render,
    render_spec,
    templates,
)
from .writer import GENERATOR_VERSION, generate, load_manifest

__all__ = [
    "GENERATOR_VERSION",
    "NAMES",
    "SIZES",
    "Difficulty",
    "Preset",
    "VideoSpec",
    "changed",
    "class_names",
    "classes",
    "contact_sheet",
    "generate",
    "keeps_itself",
    "load_manifest",
    "partner",
    "render",
    "render_spec",
    "short",
    "templates",
]
