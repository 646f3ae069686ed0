"""The run directory: atomic writes, one process at a time, what may be resumed."""

import json
import os
import subprocess
import sys

import pytest

from logratio.errors import BadConfig, DiskFull, NotWritable, ResumeMismatch, RunDirBusy, RunExists
from logratio.run_directory import (
    SETUP_FILES,
    RunDirectory,
    atomic_directory,
    atomic_write,
    clean_up_leftovers,
    ensure_space,
    hash_json,
    read_json_lines,
    write_json,
    write_json_lines,
)

IDENTITY = {"identity": {"beta": 0.1, "data": "abc"}}


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as stream:
        stream.write("half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, 1)

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFull, match=r"file\.json"):
        write_json(path, 2)
    assert path.read_text() == "1\n"


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", float("nan"))
    assert not (tmp_path / "file.json").exists()


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_directory(path) as temporary:
        (temporary / "a").write_text("2")
        raise RuntimeError
    assert (path / "a").read_text() == "1"
    with atomic_directory(path) as temporary:
        (temporary / "b").write_text("3")
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_sweeping_deletes_halves_and_brings_back_what_was_moved_aside(tmp_path):
    (tmp_path / ".model.12345678.tmp").mkdir()
    (tmp_path / ".file.json.12345678.tmp").write_text("half")
    (tmp_path / ".model.12345678.old").mkdir()
    (tmp_path / ".other.12345678.old").mkdir()
    (tmp_path / "other").mkdir()
    clean_up_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def test_lines_survive_a_line_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert write_json_lines(path, [{"a": 1}, {"a": "é"}]) == 2
    with open(path, "a") as stream:
        stream.write('{"a": 3, "b"')
    assert read_json_lines(path) == [{"a": 1}, {"a": "é"}]


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    script = (
        "import sys\nfrom logratio.run_directory import RunDirectory\n"
        f"run = RunDirectory.begin({str(tmp_path)!r}, {{'identity': {{}}}}, resume=True)\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunDirBusy, match=str(process.pid)):
        RunDirectory.begin(tmp_path, {"identity": {}}, resume=True)
    process.kill()
    process.communicate()
    with RunDirectory.begin(tmp_path, {"identity": {}}, resume=True):
        pass


def test_what_stands_is_not_overwritten_and_what_differs_is_not_resumed(tmp_path):
    with RunDirectory.begin(tmp_path, IDENTITY) as run:
        run.log({"step": 1})
    with pytest.raises(RunExists, match="already"):
        RunDirectory.begin(tmp_path, IDENTITY)
    with pytest.raises(ResumeMismatch, match=r"beta was 0\.1, is 0\.2"):
        RunDirectory.begin(tmp_path, {"identity": {"beta": 0.2, "data": "abc"}}, resume=True)
    with RunDirectory.begin(tmp_path, IDENTITY, resume=True) as run:
        run.add_identity(model="m1")
    with RunDirectory.begin(tmp_path, IDENTITY, resume=True) as run:
        run.add_identity(model="m1")
        with pytest.raises(ResumeMismatch, match="model"):
            run.add_identity(model="m2")


def test_a_run_that_was_refused_before_it_computed_anything_is_begun_anew(tmp_path):
    other = {"identity": {"beta": 0.2, "data": "abc"}}
    with RunDirectory.begin(tmp_path, IDENTITY) as run:
        run.add_identity(model="m1")
        for name in SETUP_FILES - {"config.json"}:
            (run.path / name).write_text("{}")
    with RunDirectory.begin(tmp_path, other) as run:
        assert {name: run.config[name] for name in other} == other
        assert {entry.name for entry in tmp_path.iterdir()} == {".lock", "config.json"}
        run.checkpoints_path.mkdir()
    with pytest.raises(RunExists):
        RunDirectory.begin(tmp_path, IDENTITY)
    assert run.config["identity"] == other["identity"]


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path):
    with RunDirectory.begin(tmp_path, IDENTITY) as run:
        for step in range(1, 6):
            run.log({"step": step})
        run.truncate_metrics(3)
        assert [row["step"] for row in run.metrics] == [1, 2, 3]


def test_places_that_cannot_hold_a_run(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadConfig, match="is a file"):
        RunDirectory.begin(file, IDENTITY)
    with pytest.raises(NotWritable):
        RunDirectory.begin(file / "run", IDENTITY)
    with pytest.raises(DiskFull):
        ensure_space(tmp_path / "new" / "run", 10**18)


def test_hashes_do_not_depend_on_the_order_of_keys():
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
