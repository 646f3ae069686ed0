"""V-trace: off-policy values and advantages by truncated importance weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from logratio.objectives.advantages import discounted_sum, weighted

Rows = Float[Tensor, "sequences time"]


@dataclass(frozen=True, slots=True)
class VTrace:
    """What V-trace gives for each row."""

    targets: Tensor
    """v_t, what the critic should say: `[sequences, time]`."""
    advantages: Tensor
    """`min(ρ̄, ρ_t)·(r_t + γ_t v_{t+1} − V_t)`, the weight of ∇ log π: `[sequences, time]`."""


def vtrace(
    log_ratio: Rows,
    rewards: Rows,
    values: Rows,
    next_values: Rows,
    discounts: Rows,
    traces: Rows,
    *,
    rho_ceiling: float = 1.0,
    c_ceiling: float = 1.0,
) -> VTrace:
    """Corrected values of a policy from another policy's rows.

    `δ_t = min(ρ̄, ρ_t)(r_t + γ_t V(s'_t) − V(s_t))`, `v_t = V(s_t) + δ_t + γ_t c_t (v_{t+1} − V(s_{t+1}))`,
    `c_t = λ_t min(c̄, ρ_t)` (Espeholt et al., 2018, arXiv:1802.01561, section 4.1). Its fixed point is the
    value of the policy `∝ min(ρ̄ μ, π)`: π itself where ρ̄ never binds. On-policy without ceilings it is GAE.

    Args:
        log_ratio: log ρ_t = log π(a_t|s_t) − log μ(a_t|s_t).
        rewards: as in `gae`, and so the next four.
        values: V(s_t).
        next_values: V of the true next state.
        discounts: γ, or 0 where the episode terminated.
        traces: λ, or 0 where the episode ended for any reason.
        rho_ceiling: ρ̄, the ceiling of the weight of each difference; it sets what is converged to.
        c_ceiling: c̄, the ceiling of the traces; it sets how fast.

    Returns:
        Targets and advantages; no gradient flows through them.

    Raises:
        ValueError: a ceiling is not above 0, or c̄ is above ρ̄.
    """
    if not 0 < c_ceiling <= rho_ceiling:
        raise ValueError(
            f"the ceilings are rho {rho_ceiling} and c {c_ceiling}; 0 < c ≤ rho is what V-trace needs"
        )
    with torch.no_grad():
        ratio = log_ratio.exp()
        rho, c = ratio.clamp(max=rho_ceiling), traces * ratio.clamp(max=c_ceiling)
        differences = rho * (rewards + weighted(discounts, next_values) - values)
        errors = discounted_sum(differences, discounts * c)
        later = torch.cat([errors[:, 1:], torch.zeros_like(errors[:, :1])], dim=1)
        following = next_values + weighted(traces, later)
        advantages = rho * (rewards + weighted(discounts, following) - values)
        # In here too: a target that moves with its critic would leave the critic's loss without a gradient.
        targets = values + errors
    return VTrace(targets=targets, advantages=advantages)
