"""A quickstart small enough for a test, and what its run directory and its lines say."""

from __future__ import annotations

from dataclasses import replace

from logratio.algorithms.dpo import DPOConfig
from logratio.algorithms.ppo import PPOConfig
from logratio.algorithms.reward import RewardConfig
from logratio.algorithms.sft import SFTConfig
from logratio.cli.quickstart.config import Arguments, PPOAnswers
from logratio.run_directory import hash_file

MODULE = "lr_quick_rewards"
REWARDS = """
def letters(completions, **kwargs):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [sum(text.count(letter) for letter in "aeiou") / (1 + len(text)) for text in texts]

def wanted(completions, letter, **kwargs):
    return [text.count(one) / (1 + len(text)) for text, one in zip(completions, letter)]

def broken(completions, **kwargs):
    return [None] * len(completions)
"""


def small_arguments(directory, model):
    """A run in `directory` with a reward that is written there; the directory must be on the path."""
    (directory / f"{MODULE}.py").write_text(REWARDS)
    return Arguments(
        out=directory / "run",
        model=str(model),
        reward=f"{MODULE}:letters",
        num_train=10,
        num_held_out=6,
        num_samples=3,
        max_new_tokens=6,
        # A model of random weights seldom ends an answer within six tokens.
        finished_only=False,
        sft=SFTConfig(batch_size=4, learning_rate=1e-3),
        dpo=DPOConfig(batch_size=4, learning_rate=1e-3),
    )


def with_ppo(arguments):
    """The same with a reward model, PPO and best-of-n, as small."""
    return replace(
        arguments,
        further=("ppo",),
        reward_model=RewardConfig(batch_size=2, learning_rate=1e-3, seed=1),
        reward_held_out=0.3,
        ppo=PPOConfig(
            batch_size=4,
            learning_rate=1e-3,
            update_epochs=2,
            minibatches=2,
            early_stop_factor=0.0,
            checkpoint_every=1,
        ),
        collect=PPOAnswers(num_samples=2, target_kl=4.0),
        best_of=4,
        bound_prompts=2,
        bound_samples=120,
    )


def weights(path, *names):
    """The hashes of what was trained."""
    trained = names or ("sft", "dpo")
    return {name: hash_file(path / name / "model" / "model.safetensors") for name in trained}


def done(capsys):
    """The stages that were done, not those that stood, by what was printed."""
    return names_done(capsys.readouterr().out)


def names_done(printed):
    """The same of what was printed."""
    lines = [line for line in printed.splitlines() if line.startswith("[")]
    return [line.split("] ")[1].split(" ")[0] for line in lines if line.endswith("…")]
