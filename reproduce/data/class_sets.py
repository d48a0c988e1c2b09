"""Classes that need time, and classes that do not: the sets of Only Time Can Tell, and those of the embedded videos.

Only Time Can Tell (Sevilla-Lara et al., arXiv 1907.08340) had people watch clips whose frames were shuffled: classes
that they did not recognise any more are temporal, those that they did are static; random ones are for comparison.
"""

from __future__ import annotations

from reproduce.data import kinetics, ssv2
from reproduce.data.synthetic import class_names, keeps_itself

# Ids of kiyoon/video_datasets_api, onlytimecantell/definitions.py. Those of Kinetics are by alphabet. The paper's
# others are of Something-Something-V1: these are the same templates in V2, our mapping, and not the paper's set.
_KINETICS = dict(
    temporal=(
        *(30, 34, 41, 45, 63, 75, 105, 147, 148, 152, 173, 177, 206, 222, 228, 230, 235, 277, 295, 301, 302, 307, 308),
        *(309, 310, 322, 325, 349, 357, 358, 376, 395),
    ),
    static=(
        *(18, 20, 23, 26, 53, 57, 80, 88, 91, 95, 99, 113, 126, 139, 181, 182, 183, 186, 200, 201, 210, 218, 226, 227),
        *(255, 268, 298, 354, 366, 388, 397, 398),
    ),
    random=(
        *(7, 8, 27, 30, 41, 44, 65, 73, 80, 86, 112, 113, 118, 125, 137, 146, 158, 189, 203, 204, 205, 206, 208, 210),
        *(228, 231, 254, 355, 362, 377, 385, 399),
    ),
)
_SSV2 = dict(
    temporal=(164, 0, 41, 32, 44, 29, 40, 42, 171, 84, 6, 31, 27, 37, 36, 28, 145, 38),
    static=(14, 168, 19, 59, 83, 143, 31, 18, 160, 30, 126, 57, 173, 123, 23, 142, 97, 169),
    random=(16, 166, 46, 45, 124, 134, 150, 83, 1, 35, 11, 34, 89, 95, 63, 132, 113, 78),
)
PUBLISHED = {kinetics.NAME: _KINETICS, ssv2.NAME: _SSV2}
"""Data set -> name of a set -> labels, as the public lists have them."""


def class_sets(dataset: str, layout: str = "", size: str = "") -> dict[str, tuple[int, ...]]:
    """The sets of a data set, labels by name; empty where none are known.

    A defect of the public lists is mended: a class of Something-Something (31 of V2) is in the temporal and in the
    static set. It needs time, and is taken out of the static one, which has 17 classes then.

    Sets of embedded videos follow from reversal: a class is temporal if its videos, played backwards, are none of its
    own any more, and static if they are.

    Args:
        dataset: name of the real one.
        layout: of embedded videos.
        size: of embedded videos; empty: real ones.
    """
    if size:
        itself = keeps_itself(f"synthetic-{layout}", size)
        labels = range(len(class_names(f"synthetic-{layout}", size)))
        return {name: tuple(c for c in labels if itself[c] == (name == "static")) for name in ("temporal", "static")}
    found = PUBLISHED.get(dataset, {})
    return {name: tuple(c for c in of if name != "static" or c not in found["temporal"]) for name, of in found.items()}
