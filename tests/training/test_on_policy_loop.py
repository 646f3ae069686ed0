"""What is written down of an update."""

from types import SimpleNamespace

import pytest
import torch

from logratio.training.on_policy_loop import rollout_metrics


@pytest.mark.parametrize(
    ("returns", "values", "explained"),
    [([1.0, 3.0], [1.0, 2.0], 0.75), ([1.0, 3.0], [5.0, 5.0], 0.0), ([2.0, 2.0], [1.0, 3.0], None)],
)
def test_where_nothing_is_to_be_explained_there_is_no_share_of_it(returns, values, explained):
    """The last step is none, whatever stands there."""
    rollout = SimpleNamespace(
        trajectories=SimpleNamespace(mask=torch.tensor([[True, True, False]])), metrics={"reward": 2.0}
    )
    targets = SimpleNamespace(returns=torch.tensor([*returns, 9.0]), values=torch.tensor([*values, -9.0]))
    found = rollout_metrics(rollout, targets, SimpleNamespace(signal_to_noise=lambda: None), critic=True)
    assert found.get("explained_variance") == explained
    assert (found["reward"], found["return"], found["rows"]) == (2.0, 2.0, 2.0)
