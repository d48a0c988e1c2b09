"""A layout: the lines of train.txt and val.txt are a class and a file."""

from pathlib import Path

from reproduce.data.layouts import LAYOUTS
from reproduce.data.manifest import Manifest, Video


@LAYOUTS.register_module(name="flat")
def load(root, split, dataset):
    rows = [line.split(maxsplit=1) for line in (Path(root) / f"{split}.txt").read_text().splitlines()]
    classes = sorted({name for name, _ in rows})
    videos = tuple(Video(Path(path).stem, path, classes.index(name)) for name, path in rows)
    return Manifest(dataset, split, Path(root), tuple(classes), videos)
