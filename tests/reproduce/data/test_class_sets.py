"""Sets of classes that need time: the public lists with their defect, and those of the embedded videos."""

import pytest

from reproduce.data import kinetics, ssv2, synthetic
from reproduce.data.class_sets import PUBLISHED, class_sets
from reproduce.data.synthetic.scenes import played_backwards
from reproduce.suites import SUITES


def test_sets_of_only_time_can_tell():
    sets = class_sets(kinetics.NAME)
    assert {name: len(set(of)) for name, of in sets.items()} == dict(temporal=32, static=32, random=32)
    assert not set(sets["temporal"]) & set(sets["static"])
    names = [kinetics.CLASSES[c] for c in sets["temporal"]]
    assert (names[0], names[-1]) == ("bouncing on trampoline", "wrestling")
    assert {"cartwheeling", "robot dancing", "skiing (not slalom or crosscountry)", "vault"} < set(names)
    sets = class_sets(ssv2.NAME)
    names = [ssv2.CLASSES[c] for c in sets["temporal"]]
    assert names[:2] == ["Turning something upside down", "Approaching something with your camera"]
    assert names[-1] == "Moving something and something so they collide with each other"
    assert {name: len(set(of)) for name, of in sets.items()} == dict(temporal=18, static=17, random=18)


def test_the_class_that_is_in_both_lists_is_taken_out_of_the_static_one():
    listed = PUBLISHED[ssv2.NAME]
    assert set(listed["temporal"]) & set(listed["static"]) == {31}
    assert ssv2.CLASSES[31] == "Lifting up one end of something, then letting it drop down"
    assert 31 not in class_sets(ssv2.NAME)["static"]


def test_sets_of_embedded_videos_follow_from_reversal():
    sets, names = SUITES["kinetics-quick"].class_sets, synthetic.class_names("synthetic-kinetics", "quick")
    assert all("zooming" in names[c] for c in sets["temporal"])
    assert all("swaying" in names[c] or "bouncing" in names[c] for c in sets["static"])
    assert sorted(sets["temporal"] + sets["static"]) == list(range(8))
    assert SUITES["ssv2-quick"].class_sets == dict(temporal=tuple(range(8)), static=())
    assert SUITES["ssv2-lt"].class_sets == class_sets(ssv2.NAME)
    assert class_sets("My videos", "kinetics") == {}


@pytest.mark.parametrize(
    ("motion", "backwards"),
    [
        ("rising", "falling"),
        ("zooming out", "zooming in"),
        ("circling", "circling"),
        ("rising or zooming in", "falling or zooming out"),
        ("closer then sideways", "sideways then closer"),
    ],
)
def test_motions_played_backwards(motion, backwards):
    assert played_backwards(motion) == backwards
    assert played_backwards(backwards) == motion
