"""Files that appear whole or not at all."""

import errno
import os
import threading

import pytest

from swiftnet_ext.files import replacing, sweep


def write(path, text="new"):
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    target, link, dangling = tmp_path / "there" / "a.txt", tmp_path / "link", tmp_path / "dangling"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to("b.txt")
    for path in (link, dangling):
        write(path)
        assert path.is_symlink() and path.read_text() == "new"
    assert target.read_text() == (tmp_path / "b.txt").read_text() == "new"
    assert os.listdir(str(target.parent)) == ["a.txt"]


def test_what_is_no_file_is_written_to_itself(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(str(pipe))
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe)
    if pipe.is_fifo():  # else nobody wrote to it, and the reader waits on
        reader.join(10)
    assert read == ["new"] and os.listdir(str(tmp_path)) == ["pipe"]


@pytest.mark.parametrize("arguments", [(errno.ENOSPC, "No space left on device"), ("encoder error -2",)])
def test_an_error_names_the_file(tmp_path, arguments):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="No space left on device|encoder error -2") as error, replacing(path):
        raise OSError(*arguments)
    assert str(path) in str(error.value) and not os.listdir(str(tmp_path))
    with pytest.raises(OSError, match="nowhere") as error:
        write(tmp_path / "nowhere" / "a.txt")
    assert error.value.filename == str(tmp_path / "nowhere" / "a.txt")


def test_what_killed_processes_left_is_swept(tmp_path):
    left = replacing(tmp_path / "a.txt")
    left.__enter__().write_text("half")  # and no end
    for name in (".mine.tmp", ".a.txt.0123.tmp", "a.txt"):
        (tmp_path / name).write_text("kept")
    assert len(os.listdir(str(tmp_path))) == 4
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert sorted(os.listdir(str(tmp_path))) == [".a.txt.0123.tmp", ".mine.tmp", "a.txt"]
