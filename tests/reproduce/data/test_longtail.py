"""Long tails: counts to the digit, what is cut, how classes are drawn, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.data.datasets import TrainClips
from reproduce.data.longtail import (
    SSV2_LT,
    VALIDATION,
    Tail,
    accuracies,
    counts,
    counts_of,
    cut,
    drawn,
    exponential,
    groups,
    probabilities,
    step,
)
from reproduce.data.manifest import DataError, Manifest, Video
from reproduce.suites import SUITES

N = np.array([100, 20, 5])


def manifest(*available: int) -> Manifest:
    videos = tuple(Video(f"{c}-{i:03d}", "", c) for c, n in enumerate(available) for i in range(n))
    return Manifest("d", "train", Path("/nowhere"), tuple("abcdefgh"[: len(available)]), videos)


@pytest.mark.parametrize(
    ("classes", "largest", "factor", "total"), [(100, 500, 100, 10_847), (10, 500, 100, 1236), (400, 400, 100, 34_318)]
)
def test_exponential_tails_to_the_digit(classes, largest, factor, total):
    found = exponential(classes, largest, factor)
    assert sum(found) == total
    assert (found[0], found[-1]) == (largest, largest // factor)
    if classes == 10:
        assert (found[:3], found[-2:]) == ([500, 299, 179], [8, 5])


def test_step_tail():
    assert step(5, 50, 10) == [50, 50, 5, 5, 5]


def test_counts_of_ssv2_lt():
    n = np.array(SSV2_LT)
    assert (len(n), n.sum(), n.max(), n.min()) == (174, 50_418, 2500, 5)
    group = groups(n)
    assert [(group == name).sum() for name in ("many", "medium", "few")] == [70, 49, 55]
    assert (n <= 20).sum() == 57, "few of LMR"
    assert n.argmax() == 109
    assert (counts_of(np.full(174, 2500), Tail("ssv2_lt")) == n).all()
    with pytest.raises(DataError, match="174 classes, these videos are of 3"):
        counts_of(N, Tail("ssv2_lt"))
    with pytest.raises(DataError, match="SSv2-LT needs 2500 training videos of class '109', there are 2499"):
        counts_of(np.full(174, 2499), Tail("ssv2_lt"))


@pytest.mark.parametrize(
    ("sampler", "epoch", "p"),
    [
        ("instance", 0, (0.8, 0.16, 0.04)),
        ("square_root", 0, (0.598508, 0.267661, 0.133831)),
        ("class", 0, (1 / 3, 1 / 3, 1 / 3)),
        ("progressive", 0, (0.8, 0.16, 0.04)),
        ("progressive", 1, (0.794757, 0.161948, 0.043296)),
        ("progressive", 45, (0.564045, 0.247640, 0.188315)),
        ("progressive", 89, (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_samplers_to_the_digit(sampler, epoch, p):
    assert probabilities(N, sampler, epoch, 90) == pytest.approx(p, abs=5e-7)


@given(st.sampled_from(("class", "square_root", "progressive")), st.integers(0, 99), st.integers(0, 9))
def test_an_epoch_is_drawn_without_replacement_inside_of_classes(sampler, seed, epoch):
    labels = np.repeat([0, 1, 2], N)
    order = drawn(labels, sampler, seed, epoch, 10)
    assert (order == drawn(labels, sampler, seed, epoch, 10)).all(), "a function of seed and epoch"
    assert len(order) == N.sum()
    for c in range(3):
        times = np.bincount(order, minlength=len(labels))[labels == c]
        assert times.max() - times.min() <= 1
    of_class = np.bincount(labels[order], minlength=3) / len(order)
    assert np.abs(of_class - probabilities(N, sampler, epoch, 10)).max() < 0.25


def test_drawing_by_video_is_the_permutation_that_it_was():
    assert (drawn(np.zeros(50, int), "instance", 3, 2, 1) == np.random.default_rng((3, 0, 2)).permutation(50)).all()


def test_a_tail_is_cut_with_videos_held_out():
    whole = manifest(40, 50, 45, 48)
    train, held_out = cut(whole, Tail("exponential", factor=10, largest=40, validation=5))
    assert counts(train).tolist() == [4, 40, 8, 18], "ranked by what is there: b, d, c, a"
    assert counts(held_out).tolist() == [5] * 4
    assert not {v.id for v in train.videos} & {v.id for v in held_out.videos}
    smaller, same = cut(whole, Tail("exponential", factor=20, largest=40, validation=5))
    assert {v.id for v in smaller.videos} < {v.id for v in train.videos}
    assert same == held_out
    other, _ = cut(whole, Tail("exponential", factor=10, largest=40, validation=5, seed=1))
    assert counts(other).tolist() == counts(train).tolist()
    assert other != train
    assert cut(whole, Tail("step", factor=10, largest=40))[1] is None
    between = cut(manifest(100, 10, 40), Tail("exponential", factor=10))[0]
    assert counts(between).tolist() == [100, 10, 31]
    capped = cut(manifest(100, 12, 11, 10), Tail("exponential", factor=10))[0]
    assert counts(capped).tolist() == [100, 12, 11, 10], "between the ends a class has what it has"


@pytest.mark.parametrize(
    ("available", "tail", "message"),
    [
        ((40, 40), dict(factor=50), r"factor 50 leaves class 'b' without a video, .* can be 40 at most"),
        (
            (40, 40),
            dict(factor=4, largest=50),
            r"factor 4 needs 50 training videos of class 'a', there are 40 beside 0",
        ),
        ((40, 9), dict(factor=4), r"factor 4 needs 10 training videos of class 'b', there are 9"),
        ((40, 40), dict(factor=4, validation=5, largest=40), r"there are 35 beside 5 held out; .*another factor"),
        ((40, 3), dict(factor=40, validation=3), r"needs 0|needs 1 |without a video"),
        ((40, 40), dict(factor=1), r"imbalance factor 1: the most frequent class over the rarest is more than 1"),
        ((40, 40), dict(kind="pareto", factor=4), r"tail kind 'pareto' is unknown; known: exponential, step, ssv2_lt"),
    ],
)
def test_what_the_data_cannot_give_is_refused(available, tail, message):
    with pytest.raises(DataError, match=message):
        cut(manifest(*available), Tail(**{"kind": "exponential", **tail}))


def test_accuracies_by_groups_of_training_counts():
    n = np.array([101, 100, 20, 19])
    assert groups(n).tolist() == ["many", "medium", "medium", "few"]
    label = np.repeat([0, 1, 2, 3], [4, 2, 2, 1])
    right = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1])
    found = accuracies(right, label, n)
    assert found == pytest.approx(dict(many=75, medium=25, few=100, macro=56.25, micro=500 / 9))
    found = accuracies(right[:6], label[:6], n)
    assert "few" not in found, "of a group without test videos nothing is said"
    assert found["macro"] == pytest.approx(62.5)


def test_a_stream_of_balanced_classes_is_the_same_from_any_item(tiny):
    suite, train, _ = tiny
    stream = TrainClips(train, suite.protocol, 0, sampler="square_root", epochs=3)
    labels = [stream[n]["label"] for n in range(30)]
    assert TrainClips(train, suite.protocol, 0, sampler="square_root", epochs=3)[29]["label"] == labels[29]
    with pytest.raises(ValueError, match="sampler='balanced' is unknown; known: instance, class, square_root"):
        TrainClips(train, suite.protocol, 0, sampler="balanced")


def test_suites_with_a_long_tail():
    quick = SUITES["kinetics-quick-lt"]
    assert counts_of(np.full(8, 275), quick.tail).tolist() == [250, 142, 81, 46, 26, 15, 8, 5]
    assert quick.gmacs == SUITES["kinetics-quick"].gmacs
    assert quick.entry("x3d_class").recipe()["sampler"] == "class"
    assert "sampler" not in quick.entry("x3d").recipe()
    assert SUITES["ssv2-lt"].tail.of == SUITES["ssv2"].dataset
    assert SUITES["kinetics-quick"].tail is None
    assert "stages" not in SUITES["kinetics-quick"].entry("x3d").recipe()


def test_a_suite_with_a_tail_gives_three_splits(tiny, kinetics_root):
    from dataclasses import replace

    suite, train, test = tiny
    tailed = replace(suite, dataset="with a tail", tail=Tail("exponential", factor=4, largest=4, validation=2))
    assert counts(tailed.manifest("train", kinetics_root)).tolist() == [4, 2, 1, 1]
    assert counts(tailed.manifest(VALIDATION, kinetics_root)).tolist() == [2] * 4
    assert tailed.manifest("train", kinetics_root).dataset == "with a tail"
    assert tailed.manifest("val", kinetics_root).hash == test.hash
    assert {v.id for v in tailed.manifest("train", kinetics_root).videos} < {v.id for v in train.videos}
    with pytest.raises(DataError, match="holds out no videos to choose on; set `validation`"):
        replace(tailed, tail=Tail("step", factor=2)).manifest(VALIDATION, kinetics_root)
