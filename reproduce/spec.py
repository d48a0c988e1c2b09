"""The frozen specification of one run, as data: equal hashes mean the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from pydantic import BaseModel, ConfigDict, ValidationError

import baselines  # noqa: F401  (registers its families)
from autotsnet.registry import family
from reproduce.numerics import numerics

if TYPE_CHECKING:
    from reproduce.data.manifest import Manifest
    from reproduce.suites import Entry, Suite

PACKAGES = ("autotsnet", "baselines")  # that families live in; what a user registers, too: its scope is the first
PASSING = ("workers", "checkpoint", "log")  # of a recipe: cannot change a result


class SpecError(ValueError):
    """A specification cannot be read; the message names the file and the way out."""


def run_id(entry: str, variant: int, seed: int) -> str:
    """``x3d-s0``, ``auto_tsnet_random-a2-s0``: names the record."""
    return f"{entry}-a{variant}-s{seed}" if variant else f"{entry}-s{seed}"


def plain(config: Config) -> dict[str, Any]:
    """A config as JSON has it: what is registered by its dotted name, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


def lasting(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what cannot change a result."""
    return {key: value for key, value in recipe.items() if key not in PASSING}


def digest(data: object) -> str:
    """Eight hex digits of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


class RunSpec(BaseModel):
    """One training and test, complete.

    Attributes:
        suite: name of the suite.
        entry: name of the entry.
        variant: which of several architectures of the entry.
        seed: of initialisation, order and augmentation.
        net: the network's config after solving; ``type`` is a registered family.
        gmacs: its exact cost, so that a change of the code that builds it is another run.
        params: the same of its parameters.
        recipe: the rest of the config.
        protocol: sampling and crops.
        train_manifest: hash of the training split.
        test_manifest: hash of the test split.
        ranks: processes that share a step, where a result depends on it: in recipes without ``sub_batch``.
        numerics: version of the arithmetic, see ``reproduce.numerics``.
        source: of a user's model, the text that defines it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    entry: str
    variant: int
    seed: int
    net: dict[str, Any]
    gmacs: float
    params: int
    recipe: dict[str, Any]
    protocol: dict[str, Any]
    train_manifest: str
    test_manifest: str
    ranks: int = 1
    numerics: str = ""
    source: str = ""

    @property
    def hash(self) -> str:
        """Eight hex digits, of everything that can change the result."""
        return digest(self.model_dump() | {"recipe": lasting(self.recipe)})

    @property
    def id(self) -> str:
        """See ``run_id``."""
        return run_id(self.entry, self.variant, self.seed)

    @property
    def config(self) -> Config:
        """The recipe, with the network as ``net``."""
        return Config({**self.recipe, "net": self.net})

    @property
    def family(self) -> str:
        """Name of the network's family.

        Raises:
            SpecError: its type is none: what is built from a file must be a family, not any function of that name.
        """
        name = str(self.net.get("type"))
        short = name.rpartition(".")[2]
        if not family(short) or name.partition(".")[0] not in PACKAGES:
            raise SpecError(f"net.type is {name!r}, no model family of {' or '.join(PACKAGES)}")
        return short

    def folder(self, runs: Path) -> Path:
        """Where the run's artefacts live."""
        return runs / self.suite / f"{self.id}-{self.hash}"

    @classmethod
    def of(
        cls, suite: Suite, entry: Entry, seed: int, train: Manifest | str, test: Manifest | str, variant: int = 0
    ) -> RunSpec:
        """The specification of one run of a suite; the entry's architecture must be known where it needs one."""
        recipe = plain(suite.config(entry))
        net, solution, control = recipe.pop("net"), suite.solution(entry), suite.control(entry)
        if net["type"].partition(".")[0] not in PACKAGES:  # of another package: as it is registered
            net["type"] = f"{PACKAGES[0]}.{net['type'].rpartition('.')[2]}"
        return cls(
            suite=suite.name,
            entry=entry.name,
            variant=variant,
            seed=seed,
            net=net,
            gmacs=solution.gmacs,
            params=solution.params,
            recipe=recipe,
            protocol=suite.protocol.to_dict(),
            train_manifest=train if isinstance(train, str) else train.hash,
            test_manifest=test if isinstance(test, str) else test.hash,
            ranks=1 if recipe.get("sub_batch") else get_world_size(),
            numerics="" if entry.source else numerics(entry.name, control.name if control and entry.search else None),
            source=entry.source,
        )

    @classmethod
    def load(cls, folder: Path, trust: bool = False) -> RunSpec:
        """Of a run folder.

        Args:
            folder: of the run.
            trust: run the text of a user's model that lies in it.

        Raises:
            SpecError: none, of another version, edited by hand, or with a text that is not trusted.
        """
        path = folder / "spec.json"
        try:
            spec = cls.model_validate_json(path.read_text())
        except FileNotFoundError as error:
            raise SpecError(
                f"{folder} has no spec.json, it is no run folder; run folders are runs/<suite>/<entry>-s<seed>-<hash>"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            raise SpecError(
                f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}; it is of another version or "
                "edited: issue the run again"
            ) from error
        if not folder.resolve().name.endswith(spec.hash):
            raise SpecError(f"{path}: its hash is {spec.hash}, the folder's name says another; it was edited by hand")
        if spec.source and not trust:
            raise SpecError(
                f"{path} holds the text of a model of somebody's own, which would be run; read it, and if you trust "
                "it: --trust"
            )
        return spec
