"""Members of the Space protocol."""

from autotsnet.spaces.two_stream import PRESETS, STAGES, SearchSpace, preset

__all__ = ["PRESETS", "STAGES", "SearchSpace", "preset"]
