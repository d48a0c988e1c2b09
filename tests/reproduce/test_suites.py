"""One file holds a suite's recipe, networks and searches."""

import pytest

from reproduce.engine import searching
from reproduce.suites import CONFIGS, SUITES

FOLDERS = ("kinetics", "ssv2", "full", "quick", "tiny")


def test_a_suite_is_one_file():
    assert [p.name for folder in FOLDERS for p in (CONFIGS / folder).glob("*.py")] == ["suite.py"] * len(FOLDERS)


@pytest.mark.parametrize("name", ["ssv2", "kinetics-tiny"])
def test_recipes_hold_one_network_and_no_others(name):
    for entry in SUITES[name].entries:
        recipe = entry.recipe()
        assert "type" in recipe.net
        assert not {"nets", "searches", "options"} & recipe.keys()
        if entry.search:
            config = searching.search_config(entry)
            assert config.method == entry.search
            assert config.net == recipe.net


def test_what_a_suite_changes_stays_out_of_the_one_it_inherits():
    epochs = [SUITES[name].entry("assemblenet_searched").recipe(search=True).epochs for name in ("ssv2", "kinetics")]
    assert epochs == [30, 60]
