"""Checkpoints: whole or not there, the same afterwards, damage found."""

import os
import signal

import pytest
import torch

from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.errors import (
    CheckpointCorrupt,
    DiskFull,
    Interrupted,
    NotWritable,
    OutOfMemory,
    ResumeMismatch,
    UnknownFormatVersion,
)
from logratio.models.loading import weights_fingerprint
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from logratio.training import checkpointing, loop
from logratio.training.checkpointing import (
    RestoredCheckpoint,
    list_checkpoints,
    restore_latest,
    save_checkpoint,
)
from logratio.training.config import TrainingConfig
from logratio.training.optimizer import build_optimizer
from tiny_models import random_groups, tiny_llama

VOCABULARY = 50


def stepped(seed=0):
    model = tiny_llama(VOCABULARY, seed=seed)
    optimizer = build_optimizer(model, TrainingConfig())
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
    optimizer.step()
    return model, optimizer


def test_restored_state_takes_the_same_next_step(tmp_path):
    model, optimizer = stepped()
    save_checkpoint(tmp_path, 1, model, optimizer, keep_last=2)
    other = tiny_llama(VOCABULARY, seed=9)
    other_optimizer = build_optimizer(other, TrainingConfig())
    assert restore_latest(tmp_path, other, other_optimizer) == RestoredCheckpoint(1, {}, ())
    for one, one_optimizer in ((model, optimizer), (other, other_optimizer)):
        one_optimizer.zero_grad()
        one(input_ids=torch.tensor([[4, 5, 6]])).logits.square().mean().backward()
        one_optimizer.step()
    assert weights_fingerprint(model) == weights_fingerprint(other)


def test_the_oldest_go_and_the_newest_stay(tmp_path):
    model, optimizer = stepped()
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, model, optimizer, keep_last=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000004", "step-000005"]


def test_nothing_goes_on_from_the_last_update(tmp_path, monkeypatch):
    """Its checkpoint is weights alone; resumed, the run is over, and a longer one is refused."""
    first = run_dpo(tmp_path)
    before, last = list_checkpoints(tmp_path / "checkpoints")
    assert (before / checkpointing.OPTIMIZER).is_file()
    assert not (last / checkpointing.OPTIMIZER).exists()
    assert run_dpo(tmp_path, resume=True) == first
    monkeypatch.setattr(loop, "num_updates", lambda *_, **__: 8)
    with pytest.raises(ResumeMismatch, match="ended with update 6"):
        run_dpo(tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "state"])
def test_a_damaged_checkpoint_is_passed_over_and_said_so(tmp_path, damage):
    model, optimizer = stepped()
    first = weights_fingerprint(model)
    save_checkpoint(tmp_path, 1, model, optimizer, keep_last=2)
    optimizer.step()
    newest = save_checkpoint(tmp_path, 2, model, optimizer, keep_last=2)
    file = newest / checkpointing.WEIGHTS
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "missing":
        file.unlink()
    else:
        (newest / checkpointing.STATE).write_text("{")
    restored = restore_latest(tmp_path, model, optimizer)
    step, notes = restored.step, restored.notes
    assert step == 1
    assert "step-000002" in notes[0]
    assert weights_fingerprint(model) == first


def test_a_checkpoint_of_another_format_is_refused_and_left_alone(tmp_path):
    model, optimizer = stepped()
    path = save_checkpoint(tmp_path, 1, model, optimizer, keep_last=1) / checkpointing.STATE
    state = path.read_text()
    path.write_text(state.replace('"format": 1', '"format": 99'))
    with pytest.raises(UnknownFormatVersion, match="format 99"):
        restore_latest(tmp_path, model, optimizer)


def test_nothing_is_resumed_from_damage_alone(tmp_path):
    model, optimizer = stepped()
    path = save_checkpoint(tmp_path, 1, model, optimizer, keep_last=1)
    (path / checkpointing.WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointCorrupt):
        restore_latest(tmp_path, model, optimizer)


def run_dpo(path, *, groups=None, resume=False, epochs=2.0, **settings):
    config = DPOConfig.of(batch_size=4, learning_rate=1e-3, epochs=epochs, checkpoint_every=2, **settings)
    policy = LanguagePolicy(tiny_llama(VOCABULARY), None)
    with RunDirectory.begin(path, {"identity": config.identity()}, resume=resume) as run:
        train_dpo(policy, groups or random_groups(12, vocab_size=VOCABULARY), config, run)
    return weights_fingerprint(policy.model), [
        {name: value for name, value in row.items() if "second" not in name} for row in run.metrics
    ]


def test_a_resumed_run_is_the_run_never_stopped(tmp_path, monkeypatch):
    """M3: stopped by SIGTERM after every update, and resumed each time."""
    expected = run_dpo(tmp_path / "whole")
    update = loop.Session.update

    def stop_after(self, step, examples, metrics):
        update(self, step, examples, metrics)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Session, "update", stop_after)
    for _ in range(6):
        with pytest.raises(Interrupted) as caught:
            run_dpo(tmp_path / "stopped", resume=True)
        assert caught.value.exit_status == 143
    assert run_dpo(tmp_path / "stopped", resume=True) == expected


def test_other_data_or_settings_are_not_resumed(tmp_path):
    run_dpo(tmp_path / "run")
    with pytest.raises(ResumeMismatch, match="beta"):
        run_dpo(tmp_path / "run", resume=True, beta=0.2)
    with pytest.raises(ResumeMismatch):
        run_dpo(tmp_path / "run", resume=True, groups=random_groups(12, vocab_size=VOCABULARY, seed=3))


def test_a_full_disk_at_a_checkpoint_leaves_the_last_one(tmp_path, monkeypatch):
    honest = checkpointing.write_tensors
    calls = []

    def full(path, tensors):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        return honest(path, tensors)

    monkeypatch.setattr(checkpointing, "write_tensors", full)
    with pytest.raises(DiskFull, match="no room"):
        run_dpo(tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000002"]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*tmp"))
    monkeypatch.undo()
    assert run_dpo(tmp_path / "run", resume=True) == run_dpo(tmp_path / "whole")


def test_too_little_room_is_said_before_the_first_update(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000})())
    with pytest.raises(DiskFull, match="will write about"):
        run_dpo(tmp_path / "run")


def test_permission_lost_is_not_success(tmp_path, monkeypatch):
    def denied(path, tensors):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpointing, "write_tensors", denied)
    with pytest.raises(NotWritable):
        run_dpo(tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")],
)
def test_out_of_memory_names_the_next_smaller_setting(tmp_path, monkeypatch, error):
    def exhausted(self, rows):
        if torch.is_grad_enabled():
            raise error
        return honest(self, rows)

    honest = LanguagePolicy.sequence_logprobs
    monkeypatch.setattr(LanguagePolicy, "sequence_logprobs", exhausted)
    with pytest.raises(OutOfMemory) as caught:
        run_dpo(tmp_path / "run", row_tokens=400)
    assert "--row-tokens 200" in caught.value.action
    assert "batch of 4" in caught.value.where
