"""The video models that Auto-TSNet is compared with; importing this package registers them as families."""

import warnings

with warnings.catch_warnings():
    # mmcv-lite has no compiled operators and says so once, on import; none of these models needs them.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    from baselines import assemblenet, pvnas, slowfast, tsm, x3d

__all__ = ["assemblenet", "pvnas", "slowfast", "tsm", "x3d"]
