import contextlib
import json
import os
import stat
from pathlib import Path

import pytest

from posttrain_helpers.environment.paths import (
    atomic_directory,
    check_file_target,
    output_root,
    read_json,
    repository_root,
    write_json_atomic,
    write_text_atomic,
)
from posttrain_helpers.errors import CourseError


def test_output_root_follows_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTTRAIN_OUTPUT", str(tmp_path / "elsewhere"))
    assert output_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("POSTTRAIN_OUTPUT")
    assert output_root() == repository_root() / "trainer_output"


def test_output_root_does_not_follow_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("POSTTRAIN_OUTPUT", raising=False)
    before = output_root()
    monkeypatch.chdir(tmp_path)
    assert output_root() == before


def test_text_is_replaced_whole_and_nothing_is_left_beside(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text_atomic(path, "first ☕\n")
    write_text_atomic(path, "second\n")
    assert path.read_bytes() == b"second\n"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_can_be_read_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        file = write_text_atomic(tmp_path / "file", "")
        with atomic_directory(tmp_path / "directory"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o755


@pytest.mark.parametrize("value", ["file", "file/below", "~nobody-of-this-name/x"])
def test_an_output_that_is_a_file_is_a_sentence_and_a_strange_home_is_a_name(monkeypatch, tmp_path, value):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTTRAIN_OUTPUT", value)
    if value == "file":
        with pytest.raises(CourseError, match=r"POSTTRAIN_OUTPUT names .*file, which is no directory"):
            output_root()
    else:
        assert output_root() == tmp_path / value
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("directory", "is a directory, but a file"),
        ("file/x.json", "cannot be written: .*file is no directory"),
    ],
)
def test_what_cannot_become_a_file_is_refused(tmp_path, target, words):
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for call in (check_file_target, lambda path: write_text_atomic(path, "new")):
        with pytest.raises(CourseError, match=words):
            call(tmp_path / target)
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]
    check_file_target(tmp_path / "new" / "x.json")
    check_file_target(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text_atomic(pipe, "text\n")
    assert os.read(reader, 100) == b"text\n"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_names_the_file_and_keeps_nothing(tmp_path, monkeypatch):
    path = write_text_atomic(tmp_path / "file.txt", "old")

    def full(self, text, **options):
        self.touch()
        with open("/dev/full", "w") as device:
            device.write(text)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text_atomic(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_text_atomic(tmp_path / "file.txt", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(tmp_path / "bad.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
    assert json.loads(write_json_atomic(tmp_path / "good.json", {"ä": 1}).read_text(encoding="utf-8")) == {
        "ä": 1
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b'{"a": "\xe9"}', "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON .brackets in brackets without end"),
        (b'{"a": ' * 100_000, "is not valid JSON .brackets in brackets without end"),
        (b"9" * 5000, "is not valid JSON"),
        (b"[1]", "is no JSON object but a list"),
        (b"null", "is no JSON object but a NoneType"),
    ],
    ids=["empty", "cut", "latin-1", "lists", "objects", "digits", "list", "null"],
)
def test_json_that_is_damaged_is_one_sentence_with_its_path(tmp_path, content, words):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(CourseError, match=words) as caught:
        read_json(path, "make it again")
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith("; make it again.")


def test_a_json_object_is_read(tmp_path):
    assert read_json(write_json_atomic(tmp_path / "file.json", {"a": [1]}), "make it again") == {"a": [1]}


def test_directory_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "stage"
    with atomic_directory(target) as directory:
        (directory / "weights").write_text("1", encoding="utf-8")
        assert not target.exists()
    assert (target / "weights").read_text(encoding="utf-8") == "1"
    assert os.listdir(tmp_path) == ["stage"]


def test_failed_directory_keeps_the_old_one(tmp_path):
    target = tmp_path / "stage"
    with atomic_directory(target) as directory:
        (directory / "weights").write_text("old", encoding="utf-8")

    def interrupted() -> None:
        with atomic_directory(target) as directory:
            (directory / "weights").write_text("half", encoding="utf-8")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert (target / "weights").read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["stage"]


@pytest.mark.parametrize(("call", "kept"), [(1, "old"), (2, "old"), (3, "new")])
def test_an_interruption_between_the_renames_keeps_one_of_the_two(tmp_path, monkeypatch, call, kept):
    target = tmp_path / "stage"
    with atomic_directory(target) as directory:
        (directory / "weights").write_text("old", encoding="utf-8")
    replace, calls = os.replace, []

    def interrupted(*names):
        calls.append(names)
        if len(calls) == call:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", interrupted)
    with contextlib.suppress(KeyboardInterrupt), atomic_directory(target) as directory:
        (directory / "weights").write_text("new", encoding="utf-8")
    assert (target / "weights").read_text(encoding="utf-8") == kept
    assert os.listdir(tmp_path) == ["stage"]


def test_complete_directory_replaces_the_old_one_with_all_its_files(tmp_path):
    target = tmp_path / "stage"
    for content in ("old", "new"):
        with atomic_directory(target) as directory:
            (directory / content).write_text(content, encoding="utf-8")
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["stage"]


def test_an_interruption_while_the_directory_appears_leaves_nothing(tmp_path, monkeypatch):
    make = Path.mkdir

    def interrupted(path, *arguments, **options):
        make(path, *arguments, **options)
        if path.suffix == ".tmp":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "stage"):
        pass
    assert list(tmp_path.iterdir()) == []
