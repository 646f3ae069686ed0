"""What is refused where nobody checks the annotations at run time, as with users of the package."""

import inspect

import pytest
import torch

from logratio.objectives import dpo


def test_an_unknown_normalisation_is_refused():
    four = [torch.zeros(2) for _ in range(4)]
    with pytest.raises(ValueError, match="normalise is 'token'; it must be 'sum' or 'mean'"):
        inspect.unwrap(dpo.ipo_loss)(*four, tau=0.1, normalise="token")
