"""The data's order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.training.loop import batch_indices, epochs_done, num_updates


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_every_pass_sees_every_example_once(num_examples, batch_size, seed, shuffle):
    per_epoch = num_updates(num_examples, batch_size=batch_size, epochs=1)
    for epoch in range(3):
        seen = [
            index
            for offset in range(per_epoch)
            for index in batch_indices(
                epoch * per_epoch + offset,
                num_examples=num_examples,
                batch_size=batch_size,
                seed=seed,
                shuffle=shuffle,
            )
        ]
        assert sorted(seen) == list(range(num_examples))


def test_passes_and_seeds_differ_and_repeat():
    def order(seed, step):
        return batch_indices(step, num_examples=64, batch_size=64, seed=seed)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert batch_indices(0, num_examples=5, batch_size=3, seed=0, shuffle=False) == [0, 1, 2]


def test_half_passes():
    assert num_updates(80, batch_size=8, epochs=1.5) == 15
    assert num_updates(3, batch_size=8, epochs=0.1) == 1


@pytest.mark.parametrize("num_examples", [1, 7, 8, 9])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 8, 1000])
def test_epochs_are_examples_seen_over_their_number(num_examples, batch_size):
    seen = 0
    for step in range(20):
        seen += len(batch_indices(step, num_examples=num_examples, batch_size=batch_size, seed=0))
        done = epochs_done(step + 1, num_examples=num_examples, batch_size=batch_size)
        assert done == pytest.approx(seen / num_examples, abs=1e-12)
        # A whole pass is a whole number, whatever its last batch held.
        if seen % num_examples == 0:
            assert done == seen // num_examples
