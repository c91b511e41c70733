"""Models without numbers, counted; and settings that make a run smaller."""

import copy

import torch
from torch import nn

from rlhf_recipes.preflight import remedies
from rlhf_recipes.preflight.ghosts import Ledger, haunted


def test_weights_gradients_and_what_backward_needs_are_counted():
    ledger = Ledger("cuda")  # no allocator's habits, and what is made on a CPU does not count
    with haunted(ledger):
        nn.Linear(64, 64)
    assert ledger.peak == 0
    ledger = Ledger("cpu")
    ledger.cut_up = 0.0
    with haunted(ledger) as ghosts:
        with ghosts.fake:
            model = nn.Sequential(nn.Linear(512, 512, bias=False), nn.Tanh())
        assert sum(ledger.live.values()) == 4 * 512 * 512
        x = torch.zeros(1024, 512)  # 2 MiB: a ghost
        y = model(x)
        assert sum(ledger.live.values()) == 4 * (512 * 512 + 3 * 1024 * 512 - 1024 * 512)  # x, tanh; not its input
        y.sum().backward()
        del y
        assert sum(ledger.live.values()) == 4 * (2 * 512 * 512 + 1024 * 512)


def test_a_ghost_answers_plainly_and_leaves_real_tensors_as_they_are():
    with haunted(Ledger("cpu")):
        ghost = torch.empty(4, 10)
        assert ghost.sum().item() == 0.0 and bool(ghost.isfinite().all()) and ghost.numpy().shape == (4, 10)
        assert ghost.argmax(-1).tolist() == [5] * 4  # a token in the middle of the vocabulary
        real, mask = torch.zeros(4), torch.tensor([True, False, True, True])
        real[mask] = ghost[mask].sum(1)
        assert real.tolist() == [0.0] * 4 and ghost[mask].shape == (3, 10)
        model = nn.Linear(3, 3)
        assert copy.deepcopy(model).weight is not model.weight
        assert model.to(torch.bfloat16).weight.dtype == torch.bfloat16


def test_small_blocks_stay_with_the_process_and_large_ones_do_not():
    ledger = Ledger("cpu")
    ledger.cut_up = 0.5
    with haunted(ledger):
        small = torch.empty(2**20)
        del small
        large = torch.empty(2**24)
    assert ledger.parts["kept by malloc"] == 1.5 * 2**22 and ledger.peak == 2**26 + 1.5 * 2**22
    assert large.nbytes == 2**26


def test_ways_that_are_enough_alone_come_in_their_order_and_else_the_best_together():
    sizes = {"a=1": 60.0, "b=2": 95.0, "c=3": 40.0, "d=4": None, "e=5": 50.0, "f=6": 10.0}
    found = remedies.ways(list(sizes), sizes.get, 100.0, 70.0)
    assert [(w.overrides, w.bytes) for w in found] == [("a=1", 60.0), ("c=3", 40.0), ("e=5", 50.0)]

    def together(overrides):
        parts = [sizes[one] for one in overrides.split()]
        return None if None in parts else min(parts) - len(parts)

    found = remedies.ways(["a=1", "b=2", "c=3"], together, 100.0, 38.0)
    assert [(w.overrides, w.fits) for w in found] == [("c=3 a=1", True)]
    found = remedies.ways(["a=1", "b=2", "c=3"], together, 100.0, 1.0)
    assert [(w.overrides, w.fits) for w in found] == [("c=3", False), ("a=1", False), ("c=3 a=1 b=2", False)]
