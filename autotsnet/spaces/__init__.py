"""Members of the Space protocol."""

from autotsnet.spaces.two_stream import PRESETS, STAGES, SearchSpace, preset
from autotsnet.spaces.x3d import X3D_PRESETS, X3DSpace

__all__ = ["PRESETS", "STAGES", "X3D_PRESETS", "SearchSpace", "X3DSpace", "preset"]
