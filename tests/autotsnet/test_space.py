"""Architectures, their codes, and their cost."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotsnet.architecture import TwoStreamArchitecture
from autotsnet.cost import CostModel
from autotsnet.models import TwoStreamNet
from autotsnet.spaces import PRESETS, STAGES, preset
from reproduce.measure.macs import count

CLASSES = 10


def meta_count(architecture):
    """GMACs and parameters of the static model, counted operator by operator."""
    macro = architecture.macro
    return count(lambda: TwoStreamNet(architecture, CLASSES), macro.frames, macro.crop)


@pytest.mark.parametrize("name", PRESETS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_encode_inverts_decode(name, seed):
    space = preset(name)
    code = space.sample(1, np.random.default_rng(seed))[0]
    architecture = space.decode(code)
    assert torch.equal(space.encode(architecture), code)
    again = TwoStreamArchitecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert again == architecture
    assert again.hash == architecture.hash


@pytest.mark.parametrize("name", PRESETS)
def test_size_blocks_and_stages_agree(name):
    space = preset(name)
    size = 1
    for stage in STAGES:
        for block in space.blocks(stage):
            for n in block:
                size *= n
    assert size == space.size
    assert sorted(i for s in STAGES for i in space.positions(s)) == list(range(len(space.variables)))
    neighbours = space.neighbours(0 * space.counts)
    assert len(neighbours) == (space.counts - 1).sum()
    assert ((neighbours != 0).sum(1) == 1).all()


@pytest.mark.parametrize(("name", "samples"), [("tiny", 40), ("s", 2), ("m", 2), ("l", 1)])
def test_closed_form_equals_the_count(name, samples):
    check_cost(name, samples)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_closed_form_equals_the_count_of_200(name):
    check_cost(name, 200)


def check_cost(name, samples):
    """Closed form against the meta device on random architectures of a preset."""
    space = preset(name)
    codes = space.sample(samples, np.random.default_rng(0))
    gmacs, params = CostModel(space, CLASSES)(codes)
    for code, g, p in zip(codes, gmacs, params, strict=True):
        counted = meta_count(space.decode(code))
        assert g == pytest.approx(counted.gmacs, rel=1e-9)
        assert p == counted.params


@pytest.mark.parametrize("stream", ["slow", "fast"])
def test_closed_form_of_one_stream(stream):
    space = preset("tiny")
    codes = space.sample(20, np.random.default_rng(1))
    gmacs, params = CostModel(space, CLASSES, stream)(codes)
    for code, g, p in zip(codes, gmacs, params, strict=True):
        counted = meta_count(space.decode(code).alone(stream))
        assert g == pytest.approx(counted.gmacs, rel=1e-9)
        assert p == counted.params


@pytest.mark.parametrize("name", PRESETS)
def test_preset_brackets_its_budget(name):
    space = preset(name)
    cheapest, dearest = CostModel(space, 400).range()
    assert cheapest <= 0.4 * space.target
    assert dearest >= 2.5 * space.target


def test_what_does_not_fit_says_where_and_why():
    tiny = preset("tiny")
    architecture = tiny.decode(0 * tiny.counts)
    data = architecture.to_dict()
    data["slow"][1]["blocks"][0]["t"] = 7
    with pytest.raises(ValueError, match=r"slow\.1\.0\.t=7 is not a candidate of space 'tiny': \(1, 3\)"):
        tiny.encode(TwoStreamArchitecture.from_dict(data))
    with pytest.raises(ValueError, match="macro-architecture"):
        preset("s").encode(architecture)
    data = architecture.to_dict()
    data["fast"][0]["attention"] = "selfish"
    with pytest.raises(ValueError, match="fast group 0: attention 'selfish' is not one of none, se"):
        TwoStreamArchitecture.from_dict(data)
    with pytest.raises(ValueError, match="not an architecture: KeyError 'fusions'"):
        TwoStreamArchitecture.from_dict({k: v for k, v in architecture.to_dict().items() if k != "fusions"})
    code = 0 * tiny.counts
    code[0] = 99
    with pytest.raises(ValueError, match=r"slow\.0\.c=99 is out of range"):
        tiny.decode(code)
    with pytest.raises(ValueError, match="unknown search space 'xl'; known: tiny, s, m, l"):
        preset("xl")


def test_architecture_file(tmp_path):
    tiny = preset("tiny")
    architecture = tiny.extreme(largest=True)
    architecture.save(tmp_path / "a.json")
    assert TwoStreamArchitecture.load(tmp_path / "a.json") == architecture
    (tmp_path / "b.json").write_text('{"macro": 1')
    with pytest.raises(ValueError, match=r"b\.json"):
        TwoStreamArchitecture.load(tmp_path / "b.json")


@pytest.mark.parametrize("types", ["fusions", "attentions"])
def test_types_must_begin_with_none(types):
    """Stages before theirs are searched without any, which is candidate 0."""
    with pytest.raises(ValueError, match=rf"space 'tiny': the first of {types} must be 'none', got \('se'"):
        replace(preset("tiny"), **{types: ("se", "none")})
