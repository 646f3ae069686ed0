"""The data's order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.training.order import batch_indices, num_updates


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_every_pass_sees_every_example_once(num_examples, batch_size, seed, shuffle):
    per_epoch = num_updates(num_examples, batch_size=batch_size, epochs=1)
    for epoch in range(3):
        seen = [
            index
            for place in range(per_epoch)
            for index in batch_indices(
                epoch * per_epoch + place,
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
