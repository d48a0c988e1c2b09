"""Plug-ins: members that other packages add by entry points."""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points
from typing import Any

from mmengine.registry import DefaultScope, Registry

SCOPE = "autotsnet"
_asked: set[str] = set()  # groups of entry points that were loaded


def plug_ins(group: str) -> None:
    """Import the modules that installed packages name in a group of entry points, once; the import registers members.

    A warning names each module that does not load; the others are loaded.

    Args:
        group: after ``autotsnet.``: ``families``, ``spaces``, ``judges``, ``constraints``, ``transforms``, ``layouts``
            or ``searches``.
    """
    if group in _asked:
        return
    _asked.add(group)
    for point in entry_points(group=f"{SCOPE}.{group}"):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist else "an unknown package"
            warnings.warn(
                f"{package}: {point.group} {point.name!r} is left out, {point.value} does not load "
                f"({type(error).__name__}: {error})",
                stacklevel=2,
            )


class OpenRegistry(Registry):
    """mmengine's registry, open to other packages.

    Args:
        name: what its members are.
        group: of entry points, see ``plug_ins``.
        parent: mmengine's registry.
    """

    def __init__(self, name: str, group: str, parent: Registry | None = None) -> None:
        super().__init__(name, parent=parent, scope=SCOPE)
        self.group = group

    def build(self, cfg: dict, *args, **kwargs) -> object:
        """Build as mmengine does, but look up a name without a scope in this package first."""
        with DefaultScope.overwrite_default_scope(SCOPE):
            return super().build(cfg, *args, **kwargs)

    def named(self, name: str) -> Any:
        """The member of that name.

        Raises:
            ValueError: no such member; the message lists the known ones.
        """
        self.import_from_location()
        if name not in self.module_dict:
            raise ValueError(f"unknown {self.name} {name!r}; known: {', '.join(sorted(self.module_dict))}")
        return self.module_dict[name]

    def import_from_location(self) -> None:
        """Import all members, before the first look-up."""
        super().import_from_location()
        plug_ins(self.group)
