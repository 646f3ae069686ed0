"""The directory of --out: made, or refused before the work begins."""

from __future__ import annotations

import pytest

from logratio.errors import BadConfig, NotWritable
from logratio.recipes import out_directory
from logratio.recipes.out_directory import prepare_out_directory


def test_it_is_made_with_its_parents_and_left_as_it_is(tmp_path):
    out = tmp_path / "runs" / "out"
    prepare_out_directory(out)
    (out / "mine").write_text("kept")
    prepare_out_directory(out)
    assert (out / "mine").read_text() == "kept"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadConfig, match="--out is a file"):
        prepare_out_directory(tmp_path / "out")
    with pytest.raises(NotWritable):
        prepare_out_directory(tmp_path / "out" / "below")


def test_a_directory_that_takes_no_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(out_directory.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(NotWritable, match="no file can be made there"):
        prepare_out_directory(tmp_path)
