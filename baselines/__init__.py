"""The video models that Auto-TSNet is compared with; importing this package registers families and transforms.

``VARIANTS`` names the members that their authors published: ``name -> (build, arguments)``, the arguments with the
classes, frames and training crop of the original: ``build(**arguments)`` is the network.
"""

from baselines import (
    assemblenet,
    e3d,
    evanet,
    glore,
    movinet,
    mvit,
    pvnas,
    slowfast,
    tiny_video_net,
    transforms,
    tsm,
    x3d,
)

VARIANTS = {**slowfast.VARIANTS, **x3d.VARIANTS, **tsm.VARIANTS, **mvit.VARIANTS, **movinet.VARIANTS}
VARIANTS |= {**tiny_video_net.VARIANTS, **e3d.VARIANTS}

__all__ = [
    "VARIANTS",
    "assemblenet",
    "e3d",
    "evanet",
    "glore",
    "movinet",
    "mvit",
    "pvnas",
    "slowfast",
    "tiny_video_net",
    "transforms",
    "tsm",
    "x3d",
]
