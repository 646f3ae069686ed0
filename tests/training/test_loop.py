"""A session's own rates, its clipping, its best checkpoint."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from logratio.errors import PolicyRunaway
from logratio.run_directory import RunDirectory
from logratio.training.checkpointing import BestCheckpoint
from logratio.training.config import PolicyGradientConfig, TrainingConfig
from logratio.training.loop import Session
from logratio.training.optimizer import ParamGroupLR

CONFIG = TrainingConfig.of(
    learning_rate=0.01, warmup=0.0, schedule="constant", batch_size=1, checkpoint_every=0
)


def module():
    return nn.ModuleDict({"policy": nn.Linear(3, 1, bias=False), "critic": nn.Linear(3, 1, bias=False)})


def open_session(path, model, config=CONFIG, *, own=None, num_examples=4):
    run = RunDirectory.begin(path, {"identity": config.identity()}, resume=True)
    return run, Session(
        model, config, run, stage="ppo", num_examples=num_examples, unit="prompts", param_group_lr=own
    )


def set_gradients(model, policy, critic):
    for name, value in (("policy", policy), ("critic", critic)):
        model[name].weight.grad = torch.full_like(model[name].weight, value)


def test_a_critic_learns_at_its_own_rate(tmp_path):
    model = module()
    before = {name: model[name].weight.detach().clone() for name in model}
    run, session = open_session(
        tmp_path / "run", model, own=ParamGroupLR(parameters=list(model["critic"].parameters()), scale=20.0)
    )
    with run, session:
        for step in session.steps():
            set_gradients(model, 1.0, 1.0)
            session.optimizer_step(step, [step])
            # AdamW's first step is the learning rate in every coordinate, whatever the gradient's size.
            moved = {name: float((before[name] - model[name].weight.detach()).mean()) for name in model}
            break
    assert moved["policy"] == pytest.approx(0.01, rel=1e-5)
    assert moved["critic"] == pytest.approx(0.2, rel=1e-5)


def test_a_critic_with_its_own_rate_is_clipped_apart(tmp_path):
    model = module()
    run, session = open_session(
        tmp_path / "run", model, own=ParamGroupLR(parameters=list(model["critic"].parameters()), scale=2.0)
    )
    seen = {}
    with run, session:
        step = session.optimizer.step

        def look():
            seen.update({name: float(model[name].weight.grad.norm()) for name in model})
            return step()

        session.optimizer.step = look
        for number in session.steps():
            set_gradients(model, 0.1, 1000.0)
            norm = session.optimizer_step(number, [number])
            break
    # The policy's own norm is below 1 and stays; the critic's is cut to 1.
    assert norm == pytest.approx(0.1 * 3**0.5, rel=1e-5)
    assert seen["policy"] == pytest.approx(0.1 * 3**0.5, rel=1e-5)
    assert seen["critic"] == pytest.approx(1.0, rel=1e-4)


def test_without_a_rate_of_its_own_all_are_clipped_together(tmp_path):
    model = module()
    run, session = open_session(tmp_path / "run", model)
    with run, session:
        for number in session.steps():
            set_gradients(model, 3.0, 4.0)
            assert session.optimizer_step(number, [number]) == pytest.approx(5.0 * 3**0.5, rel=1e-5)
            break


def test_the_best_stretch_is_that_of_the_highest_mean():
    best = BestCheckpoint()
    for step, objectives in ((2, (1.0, 3.0)), (4, (5.0, 5.0)), (6, (9.0, 0.0)), (8, ())):
        for value in objectives:
            best.add({"objective": value, "reward": 100.0})
        best.add({"reward": 7.0})
        best.compare(step)
    assert (best.step, best.score) == (4.0, 5.0)


def test_a_policy_that_runs_away_leaves_its_best_weights(tmp_path):
    config = PolicyGradientConfig.of(
        learning_rate=0.1,
        warmup=0.0,
        batch_size=1,
        schedule="constant",
        checkpoint_every=1,
        keep_checkpoints=1,
    )
    model, weights = module(), {}
    run, session = open_session(tmp_path / "run", model, config, num_examples=6)
    with pytest.raises(PolicyRunaway, match="it went wrong") as caught, run, session:
        for step in session.steps():
            set_gradients(model, 1.0, 1.0)
            session.optimizer_step(step, [step])
            weights[step + 1] = model["policy"].weight.detach().clone()
            session.log(step, 1, {"objective": -abs(step - 1.0)})
            if step == 4:
                raise session.runaway("it went wrong")
    # The second update was the best; three checkpoints came after it, of which one is kept.
    assert torch.equal(model["policy"].weight, weights[2])
    assert not torch.equal(weights[5], weights[2])
    assert "update 2, the best checkpoint" in caught.value.action
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000004"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stopped"] == "it went wrong"
    assert summary["best_checkpoint"] == 2
    # Six were planned.
    assert summary["updates"] == 5


def test_the_best_is_remembered_by_a_run_that_goes_on(tmp_path):
    config = PolicyGradientConfig.of(batch_size=1, checkpoint_every=1, keep_checkpoints=1)
    for last in (3, 6):
        run, session = open_session(tmp_path / "run", module(), config, num_examples=6)
        with run, session:
            for step in session.steps():
                session.log(step, 1, {"objective": -float(step)})
                if step == last - 1:
                    session.step += 1
                    session.checkpoint()
                    break
    assert dataclasses.astuple(session.best)[:2] == (1.0, 0.0)
