"""The video models that Auto-TSNet is compared with; importing this package registers them as families.

``VARIANTS`` names the members that their authors published: ``name -> (build, arguments)``, the arguments with the
classes, frames and training crop of the original: ``build(**arguments)`` is the network.
"""

import warnings

with warnings.catch_warnings():
    # mmcv-lite has no compiled operators and says so once, on import; none of these models needs them.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    from baselines import assemblenet, mvit, pvnas, slowfast, tsm, x3d

VARIANTS = {**slowfast.VARIANTS, **x3d.VARIANTS, **tsm.VARIANTS, **mvit.VARIANTS}

__all__ = ["VARIANTS", "assemblenet", "mvit", "pvnas", "slowfast", "tsm", "x3d"]
