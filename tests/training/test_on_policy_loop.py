"""What is written down of an update, and what an update that fails leaves behind."""

import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from algorithms.test_reinforce import TableActor, TableCollector
from logratio.algorithms import reinforce
from logratio.algorithms.reinforce import ReinforceConfig
from logratio.errors import InvariantViolated
from logratio.run_directory import RunDirectory
from logratio.training.on_policy_loop import on_policy_updates, rollout_metrics


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


def updates(actor, config, run):
    """The updates of a method of the tests' own."""
    collector = TableCollector(actor, [(0, 0, 1, 2), (0, 1, 1, 2)])
    return on_policy_updates(*(actor, collector, config, run), stage="own", num_minibatches=2, controllers={})


def test_a_method_that_fails_leaves_the_session_closed(tmp_path):
    """At once: while its fault is on its way, signals are answered as before the run."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def fail(run):
        for _ in updates(TableActor(), ReinforceConfig(), run):
            assert signal.getsignal(signal.SIGTERM) != handlers[1]
            raise ZeroDivisionError

    with RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run:
        try:
            fail(run)
        except ZeroDivisionError:
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert run.metrics == []


def test_an_update_that_stops_before_its_last_minibatch_moves_nothing_more(tmp_path):
    """Its gradients are forgotten, and it is counted among the rows: what it says ended the update."""
    actor, config = TableActor(), ReinforceConfig.of(baseline="none", warmup=0.0, epochs=1)
    with RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run:
        for update in updates(actor, config, run):
            losses = partial(reinforce.row_losses, config=config, time=1)
            counted = []
            for sums in update.minibatches(
                reinforce.estimate(update.rollout, config), losses, reduction=config.reduction, epochs=3
            ):
                counted.append(sums.rows)
                if len(counted) == 4:
                    update.zero_grad()
                    break
                update.optimizer_step()
            after = actor.module.logits.detach().clone()
            assert (counted, update.num_steps) == ([4, 4, 4, 4], 3)
            assert actor.module.logits.grad is None
        assert torch.equal(actor.module.logits, after)
        assert run.metrics[0]["ratio_deviation"] > 0
        assert run.summary["updates"] == 1


def test_a_policy_that_is_moved_before_its_first_minibatch_is_noticed(tmp_path):
    actor, config = TableActor(), ReinforceConfig.of(baseline="none")
    with (
        RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run,
        pytest.raises(InvariantViolated, match="ratio_is_one"),
    ):
        for update in updates(actor, config, run):
            with torch.no_grad():
                actor.module.logits[0] += 0.1
            losses = partial(reinforce.row_losses, config=config, time=1)
            targets = reinforce.estimate(update.rollout, config)
            next(update.minibatches(targets, losses, reduction=config.reduction))
