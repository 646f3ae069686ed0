"""Where environments stand, in a form that a checkpoint can hold: the actions since their episodes began.

Few environments can be saved, and pickles are not opened here. But most do the same again for the same seed
and the same actions: what is kept is the actions of the episodes that are under way. Whether an environment
came to where it was is then seen by what it shows, and where it did not, its episodes begin anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from logratio.control.env.adapter import VectorEnvAdapter

OWN_STATE = ("state", "steps", "prev_done")
"""What the vector form of CartPole holds beside its random state."""


def save(environments: VectorEnvAdapter) -> dict[str, Any]:
    """Everything that brings the environments back to where they stand, as JSON takes it."""
    history = environments.history
    actions = [history.of(number) for number in range(environments.num_envs)]
    saved: dict[str, Any] = {
        "steps": environments.steps,
        "episodes": history.episodes.tolist(),
        "actions": [None if own is None else own.tolist() for own in actions],
        "seen": state_fingerprint(environments),
        "under_way": environments.under_way,
    }
    if not environments.seeds_each_episode:
        saved["actions"] = None
        saved["own"] = _own_state(environments.vector)
    return saved


def save_counts(environments: VectorEnvAdapter) -> dict[str, Any]:
    """How far the environments are, where their state is of no use: their episodes begin anew."""
    episodes = environments.history.episodes.tolist()
    return {"steps": environments.steps, "episodes": episodes, "actions": None, "own": {}, "seen": ""}


def restore(environments: VectorEnvAdapter, saved: Mapping[str, Any]) -> str:
    """Bring the environments to where they stood; says what could not be done, empty where all could.

    Raises:
        EnvironmentFault: an environment raised on the way.
    """
    environments.history.episodes[:] = saved["episodes"]
    if saved["actions"] is not None:
        done = None not in saved["actions"]
        if done:
            _replay(environments, saved["actions"], np.array(saved["episodes"]))
    else:
        done = _restore_own(environments, saved["own"])
    if not done or state_fingerprint(environments) != saved["seen"]:
        environments.begin()
        done = False
    else:
        environments.under_way = saved["under_way"]
    environments.steps = int(saved["steps"])
    environments.finished.clear()
    if done:
        return ""
    return (
        f"{environments.name} cannot be brought back to where it was: its episodes begin anew, "
        "everything else goes on as it stood"
    )


def state_fingerprint(environments: VectorEnvAdapter) -> str:
    """Hash of what a policy sees next."""
    view = environments.view
    digest = hashlib.sha256(np.ascontiguousarray(view.observations).tobytes())
    digest.update(view.episode_start.tobytes())
    digest.update(b"" if view.action_mask is None else view.action_mask.tobytes())
    return digest.hexdigest()


def _replay(environments: VectorEnvAdapter, actions: list[list[Any]], episodes: np.ndarray) -> None:
    """Do the actions of every episode again, such that all of them come to their last step together.

    Environments are stepped together: one whose history is short begins late, and what it does before that is
    of no account.
    """
    longest = max(map(len, actions))
    starts = np.array([longest - len(own) for own in actions])
    environments.begin()
    for time in range(longest + 1):
        if (starts == time).any():
            environments.reset_where(starts == time, episodes)
        if time < longest:
            now = environments.idle()
            for number in np.flatnonzero(starts <= time):
                now[number] = actions[number][time - starts[number]]
            environments.step(now)


def _own_state(vector: Any) -> dict[str, Any]:
    """The state of a vector form that is known to be nothing but these numbers; empty for any other."""
    if not all(hasattr(vector, name) for name in OWN_STATE):
        return {}
    arrays = {name: np.asarray(getattr(vector, name)).tolist() for name in OWN_STATE}
    return {"arrays": arrays, "random": vector.np_random.bit_generator.state}


def _restore_own(environments: VectorEnvAdapter, own: Mapping[str, Any]) -> bool:
    if not own:
        return False
    environments.begin()
    vector = environments.vector
    for name, values in own["arrays"].items():
        setattr(vector, name, np.array(values, dtype=np.asarray(getattr(vector, name)).dtype))
    vector.np_random.bit_generator.state = own["random"]
    environments.restore_observations(
        np.asarray(vector.state).T.astype(np.float32), over=np.array(own["arrays"]["prev_done"])
    )
    return True
