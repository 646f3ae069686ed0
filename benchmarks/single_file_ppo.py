"""PPO in one file, as one would write it for one task: what a library's comfort is to be measured against.

Nothing is checked, saved or logged. Truncation is taken for termination, as such files do.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal


def layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made


class Agent(nn.Module):
    """Policy and critic apart, two hidden layers each."""

    def __init__(
        self, envs: gymnasium.vector.VectorEnv, widths: list[int], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        size = int(np.prod(envs.single_observation_space.shape))
        self.discrete = isinstance(envs.single_action_space, gymnasium.spaces.Discrete)
        outputs = envs.single_action_space.n if self.discrete else envs.single_action_space.shape[0]

        def network(last: int, gain: float) -> nn.Sequential:
            sizes = [size, *widths]
            hidden = [
                part
                for a, b in zip(sizes, widths, strict=False)
                for part in (layer(a, b, 2**0.5), activation())
            ]
            return nn.Sequential(*hidden, layer(widths[-1], last, gain))

        self.actor, self.critic = network(outputs, 0.01), network(1, 1.0)
        self.log_std = nn.Parameter(torch.zeros(outputs))

    def policy(self, seen: torch.Tensor):
        """The distribution of actions."""
        out = self.actor(seen)
        return Categorical(logits=out) if self.discrete else Independent(Normal(out, self.log_std.exp()), 1)


def train(job: dict) -> list[float]:
    """Train as the job says; returns the returns of the episodes, in order."""
    torch.manual_seed(job["seed"])
    modes = gymnasium.vector.AutoresetMode
    # Gymnasium normalises vectors in this mode alone; rows that an autoreset adds are then learned from.
    mode = modes.NEXT_STEP if job["normalise"] else modes.SAME_STEP
    envs = gymnasium.make_vec(
        job["env"],
        num_envs=job["num_envs"],
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
    )
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    if job["normalise"]:
        envs = gymnasium.wrappers.vector.NormalizeObservation(envs)
        envs = gymnasium.wrappers.vector.NormalizeReward(envs, gamma=job["discount"])
    agent = Agent(envs, job["widths"], {"tanh": nn.Tanh, "relu": nn.ReLU}[job["activation"]])
    optimiser = torch.optim.Adam(agent.parameters(), lr=job["learning_rate"], eps=1e-5)
    rows = job["num_envs"] * job["num_steps"]
    updates = -(-job["steps"] // rows)
    returns: list[float] = []
    seen, _ = envs.reset(seed=job["seed"])
    seen = torch.as_tensor(seen, dtype=torch.float32)
    done = torch.zeros(job["num_envs"])
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = job["learning_rate"] * (1 - update / updates)
        kept = {name: [] for name in ("seen", "action", "logprob", "reward", "done", "value")}
        for _ in range(job["num_steps"]):
            with torch.no_grad():
                policy = agent.policy(seen)
                action = policy.sample()
                value = agent.critic(seen).flatten()
            for name, what in (("seen", seen), ("action", action), ("done", done), ("value", value)):
                kept[name].append(what)
            kept["logprob"].append(policy.log_prob(action))
            given = action.numpy()
            if not agent.discrete:
                given = np.clip(given, envs.single_action_space.low, envs.single_action_space.high)
            after, reward, terminated, truncated, info = envs.step(given)
            if "episode" in info:
                returns += info["episode"]["r"][info["_episode"]].tolist()
            kept["reward"].append(torch.as_tensor(reward, dtype=torch.float32))
            seen = torch.as_tensor(after, dtype=torch.float32)
            done = torch.as_tensor(terminated | truncated, dtype=torch.float32)
        with torch.no_grad():
            following, advantage, flags = agent.critic(seen).flatten(), 0.0, [*kept["done"][1:], done]
            advantages = []
            for step in reversed(range(job["num_steps"])):
                continues = 1 - flags[step]
                delta = kept["reward"][step] + job["discount"] * following * continues - kept["value"][step]
                advantage = delta + job["discount"] * job["lam"] * continues * advantage
                advantages.insert(0, advantage)
                following = kept["value"][step]
        batch = {name: torch.cat(kept[name]) for name in ("seen", "action", "logprob", "value")}
        batch["advantage"] = torch.cat(advantages)
        batch["return"] = batch["advantage"] + batch["value"]
        for _ in range(job["update_epochs"]):
            for part in torch.randperm(rows).chunk(job["minibatches"]):
                one = {name: column[part] for name, column in batch.items()}
                policy = agent.policy(one["seen"])
                ratio = (policy.log_prob(one["action"]) - one["logprob"]).exp()
                gain = one["advantage"]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                clipped = ratio.clamp(1 - job["clip_range"], 1 + job["clip_range"])
                loss = -torch.minimum(ratio * gain, clipped * gain).mean()
                loss += (
                    job["value_coefficient"]
                    * (agent.critic(one["seen"]).flatten() - one["return"]).square().mean()
                )
                loss -= job["entropy_coefficient"] * policy.entropy().mean()
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), job["max_gradient_norm"])
                optimiser.step()
    envs.close()
    return returns
