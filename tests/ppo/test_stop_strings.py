"""The minimum length holds stop strings back as it does stop tokens."""

import pytest
import torch

from rlhf_recipes.engine.generation import generate
from rlhf_recipes.engine.sampling import Sampling
from rlhf_recipes.engine.stops import stop_string_test


@pytest.mark.parametrize("least", [0, 3])
def test_a_stop_string_ends_no_answer_before_the_minimum_length(models, least):
    sampling = Sampling(max_length=6, min_length=least, stopped=lambda ids: True)  # every token completes one
    sequences, _, finished = generate(
        models["policy"], [[5, 6], [7, 8]], torch.full((2, 6), 0.5), sampling, pad_id=0, batch_size=2
    )
    assert sequences.mask.sum(1).tolist() == [least + 1] * 2
    assert finished.all()


def test_a_string_of_wide_characters_is_found():
    """A byte a token, as byte-level tokenizers write what they have no word for."""

    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode(errors="replace")

    stopped = stop_string_test(["🙂🙂🙂"], Bytes())
    ids = list("Hi 🙂🙂🙂".encode())
    assert [stopped(ids[: n + 1]) for n in range(len(ids))] == [False] * (len(ids) - 1) + [True]
