"""Frames that are decoded once are those of the files, or they are not used."""

import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest

from reproduce.data import frames
from reproduce.data.datasets import TestVideos, TrainClips
from reproduce.data.decode import decode_distinct
from reproduce.lease import held


@pytest.fixture
def copied(tiny, tmp_path):
    """The tiny suite and its training manifest, on a copy of the videos."""
    suite, train, _ = tiny
    shutil.copytree(train.root, tmp_path / "copy", ignore=shutil.ignore_patterns(frames.FOLDER))
    return suite, replace(train, root=tmp_path / "copy")


@pytest.fixture
def decoded(monkeypatch):
    """Paths of the videos that were decoded for a data set."""
    paths = []

    def spy(path, pick, decoder=""):
        paths.append(path)
        return decode_distinct(path, pick, decoder)

    monkeypatch.setattr(frames, "decode_distinct", spy)
    return paths


def content(suite, manifest) -> list[np.ndarray]:
    training, tested = TrainClips(manifest, suite.protocol, 0), TestVideos(manifest, suite.protocol)
    return [training[i]["clips"].numpy() for i in range(20)] + [tested[i]["clips"].numpy() for i in range(4)]


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_they_are_the_files_frames(copied, decoded):
    suite, manifest = copied
    expected = content(suite, manifest)
    assert decoded
    frames.cache(manifest)
    decoded.clear()
    assert equal(content(suite, manifest), expected)
    half = manifest.subset(manifest.videos[::2])
    assert [v["frames"] for v in map(TestVideos(half, suite.protocol).__getitem__, range(3))]
    assert not decoded, "also for a part of the videos"


def test_they_are_made_once(copied, capsys):
    _, manifest = copied
    frames.cache(manifest)
    assert "frames" in capsys.readouterr().err
    frames.cache(manifest.subset(manifest.videos[1:]))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("what", ["a byte", "the end", "the index"])
def test_damage_is_named_and_mended(copied, decoded, caplog, what):
    suite, manifest = copied
    expected = content(suite, manifest)
    frames.cache(manifest)
    data, index = frames._files(manifest)
    path = index if what == "the index" else data
    whole = bytearray(path.read_bytes())
    if what == "a byte":  # in each frame
        whole[::500] = bytes(255 - b for b in whole[::500])
    path.write_bytes(whole if what == "a byte" else whole[:-10])
    decoded.clear()
    assert equal(content(suite, manifest), expected)
    assert decoded
    assert f"{data} is damaged" in caplog.text
    frames.cache(manifest)
    decoded.clear()
    assert equal(content(suite, manifest), expected)
    assert not decoded


def test_other_videos_and_other_decoders_are_read(copied, decoded):
    suite, manifest = copied
    frames.cache(manifest)
    other = manifest.subset(tuple(replace(v, content="another") for v in manifest.videos))
    decoded.clear()
    content(suite, other)
    assert len(decoded) == 24
    decoded.clear()
    TrainClips(manifest, suite.protocol, 0, decoder="decord")[0]
    assert len(decoded) == 1
    frames.cache(other)  # the videos were made anew
    decoded.clear()
    content(suite, other)
    assert not decoded


def test_a_full_disk_costs_time_only(copied, monkeypatch, caplog):
    _, manifest = copied
    usage = namedtuple("usage", "free")(frames.ROOM + 1000)
    monkeypatch.setattr(frames.shutil, "disk_usage", lambda _: usage)
    frames.cache(manifest)
    assert "has no room for 0.0 GB beside 1 GB that stays free; videos are read each time" in caplog.text
    assert not [path for path in frames._files(manifest)[0].parent.iterdir() if "train" in path.name]


def test_a_cache_that_another_process_makes_is_not_made_twice(copied, caplog):
    _, manifest = copied
    folder = frames._files(manifest)[0].parent
    with held(folder):
        frames.cache(manifest)
    assert "another process is at work" in caplog.text
    assert not frames._files(manifest)[1].exists()
    (folder / ".train.bin.1.part").touch()  # of a process that was killed
    frames.cache(manifest)
    assert not (folder / ".train.bin.1.part").exists()


def test_a_cache_that_goes_away_while_it_is_read_costs_time_only(copied):
    _, manifest = copied
    frames.cache(manifest)
    reader = frames.Frames(manifest)
    assert reader._index
    shutil.rmtree(frames._files(manifest)[0].parent)
    seen, *_ = reader.distinct(manifest.videos[0], lambda total: np.array([0, total - 1]))
    assert len(seen) == 2


def test_content_that_is_not_stated_is_never_kept(copied):
    _, manifest = copied
    frames.cache(manifest.subset(tuple(replace(v, content=None) for v in manifest.videos)))
    assert not frames._files(manifest)[0].parent.exists()
