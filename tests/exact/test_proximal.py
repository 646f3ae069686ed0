"""The checks of PPO: every row holds."""

import pytest

from logratio.verify.checks import proximal


@pytest.mark.parametrize("check", proximal.CHECKS, ids=lambda check: check.name)
def test_every_row_holds(check):
    failed = [row for row in check.run(True) if not row.passed]
    assert failed == []
