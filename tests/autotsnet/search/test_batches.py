"""Batches of any form come apart, and loaders of any sampler go on."""

import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from autotsnet.search.batches import clips_in, endless, split


def test_nested_batches_come_apart_by_clips():
    batch = dict(inputs=[torch.ones(2), torch.zeros(3), torch.ones(1)], info=dict(label=torch.arange(3)))
    assert clips_in(batch) == 3
    first, second = split(batch, 2)
    assert [len(x) for x in first["inputs"]] == [2, 3]
    assert second["info"]["label"].tolist() == [2]
    with pytest.raises(ValueError, match=r"found lengths \[2, 3\]"):
        clips_in(dict(clips=torch.ones(2), label=torch.ones(3)))


def test_a_loader_of_an_ordinary_sampler_has_no_end_and_is_shuffled_anew():
    data = list(range(8))
    batches = endless(DataLoader(data, 4, sampler=DefaultSampler(data, seed=0)))
    epochs = [[x for _ in range(2) for x in next(batches).tolist()] for _ in range(3)]
    assert all(sorted(epoch) == data for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = endless(DataLoader(data, 4, sampler=DefaultSampler(data, seed=0)), step=2)
    assert [x for _ in range(2) for x in next(again).tolist()] == epochs[1]


def test_a_loader_without_a_batch_is_an_error():
    with pytest.raises(ValueError, match="data loader of list has no batch"):
        next(endless(DataLoader([1, 2], 4, drop_last=True)))
