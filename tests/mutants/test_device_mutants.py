"""What a GPU cannot do, written into the package: the tests on the pretended device must notice each."""

import pytest

from mutants.harness import Mutant, survivors

TRAINED = "device/test_training.py::test_every_trainer_and_architecture"
NO_FLOAT64 = "device/test_training.py::test_a_device_without_float64"
TWO_DEVICES = "device/test_reading.py::test_two_devices_in_packed_rows_are_not_taken_for_the_architecture"
PATCHES: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "rows of trajectories on the CPU are looked up by places on the device",
        "logratio.policies.actor_critic:LanguageActor.micro_batches",
        "yield torch.tensor(row_indices), rows",
        "yield torch.tensor(row_indices, device=self.policy.device), rows",
        (f"{TRAINED}[ppo-llama]", f"{TRAINED}[reinforce-llama]"),
    ),
    (
        "log-ratios on the device are summed by sequence numbers on the CPU",
        "logratio.algorithms.reinforce:importance_log_weights",
        "place.to(log_ratio.device)",
        "place",
        (f"{TRAINED}[reinforce-llama]",),
    ),
    (
        "whatever goes wrong in packed rows is taken for the architecture",
        "logratio.training.layout_check:select_layout",
        "isinstance(error, InvariantViolated) or refuses_input(error)",
        "isinstance(error, (InvariantViolated, TypeError, ValueError, RuntimeError))",
        (f"{TWO_DEVICES}[policy]",),
    ),
    (
        "whatever goes wrong in packed scores is taken for the architecture",
        "logratio.policies.reward_scorer:RewardModel.select_layout",
        "if not refuses_input(error):",
        "if not isinstance(error, (TypeError, ValueError, RuntimeError)):",
        (f"{TWO_DEVICES}[scorer]",),
    ),
    (
        "the pairs of an update are averaged in float64 on the device",
        "logratio.algorithms.dpo:summarise",
        "PairLogprobs(*(column.cpu() for column in pair))",
        "pair",
        (f"{NO_FLOAT64}[dpo]",),
    ),
    (
        "the scores of an update are averaged in float64 on the device",
        "logratio.algorithms.reward:summarise",
        "PairScores(*(column.cpu() for column in pair))",
        "pair",
        (f"{NO_FLOAT64}[reward]",),
    ),
    (
        "the rows of an update are summed in float64 on the device",
        "logratio.policies.microbatches:RowLosses.sums",
        "*self.parts.values()]).cpu()",
        "*self.parts.values()])",
        (f"{NO_FLOAT64}[ppo]", f"{NO_FLOAT64}[reinforce]"),
    ),
    (
        "two policies are compared in float64 on the device",
        "logratio.kernels.chunked_kl:_Softmax.ended",
        "torch.stack(self.chunks).cpu().double()",
        "torch.stack(self.chunks).double().cpu()",
        (f"{NO_FLOAT64}[ppo]",),
    ),
    (
        "gradients are sampled in float64 on the device",
        "logratio.training.gradient_noise:GradientSNR._sample",
        "torch.cat(samples).cpu().double()",
        "torch.cat(samples).double().cpu()",
        (f"{NO_FLOAT64}[reinforce]",),
    ),
)
MUTANTS = [
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PATCHES
]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
