"""The study of growth in small: its records agree with themselves, and its exponents are those of known curves."""

import numpy as np
import pytest

from reproduce.evidence import tables
from reproduce.evidence.verify import verify
from reproduce.studies import decoding, growth


@pytest.mark.parametrize(
    ("make", "size", "records"),
    [
        (growth.of_records, 19, 19),
        (growth.of_models, 2, 3 * 5),
        (growth.of_seeds, 2, 2 * 13),
        (growth.of_videos, 900, 1),
    ],
)
def test_records_pass_verify(tmp_path, make, size, records):
    make(size, tmp_path)
    tables.render(growth.SUITE, tmp_path)
    assert f"{records} records and the tables of 1 suites agree" in verify(tmp_path)
    assert len(list(tmp_path.glob("records/*/*.json"))) == records


@pytest.mark.parametrize("sizes", [growth.CURVES[name][2] for name in ("records", "videos", "frames")])
def test_exponents(sizes):
    sizes = np.array(sizes)
    for power in (0.5, 1, 1.1, 1.5, 2):
        for once in (0, 10):
            assert growth.exponent(sizes, once + sizes**power) == pytest.approx(power, abs=0.01)
    assert growth.exponent(sizes, sizes + sizes**2 / sizes[-1]) > growth.LINEAR
    assert growth.exponent(sizes, 1000 - sizes / 100) == 0


def test_a_curve(monkeypatch):
    monkeypatch.setattr(growth, "apart", lambda work, folder, size: dict(seconds=3 + size**2, peak_mib=800.0))
    found = growth.curve("videos", 1, (4, 8, 16))
    assert found["sizes"] == [4, 8, 16]
    assert list(found["work"]) == ["table", "verify"]
    table = found["work"]["table"]
    assert table["exponents"] == dict(seconds=pytest.approx(2, abs=0.01), peak_mib=0.0)
    assert not table["linear"]


def test_clips_of_any_number_of_frames_are_read(tmp_path):
    growth.of_frames(0, tmp_path)
    for frames in growth.CURVES["frames"][2]:
        assert growth.cost("clips", tmp_path, frames)["seconds"] > 0
        assert (frames - 1) * growth.STRIDE < decoding.FRAMES, "none is repeated"


def test_a_point_is_a_process_of_its_own(tmp_path):
    growth.of_videos(20, tmp_path)
    found = growth.apart("table", tmp_path, 20)
    assert found["seconds"] > 0
    assert found["peak_mib"] > 50
    assert (tmp_path / "tables" / f"{growth.SUITE.name}.md").exists()
