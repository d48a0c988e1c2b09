"""Layouts: how copies of data sets lie on disks. A layout is a function that reads a split of a copy.

``load(root, split, dataset) -> Manifest``: ``root`` is the folder of the copy, ``split`` is ``train`` or ``val``,
``dataset`` is the name for records and tables; ``reproduce.data.kinetics.load`` is one. Another package adds its own by
an entry point of the group ``autotsnet.layouts``.
"""

from autotsnet.plugins import OpenRegistry

LAYOUTS = OpenRegistry("data layout", "layouts")
