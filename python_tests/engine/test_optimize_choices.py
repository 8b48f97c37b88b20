"""What runs a step is measured once, kept in a file, and can be switched off."""

import json
import pwd
import warnings

import pytest
import torch

from swiftnet_ext.optimize import choices
from swiftnet_ext.optimize.choices import Choices, choices_path

CPU = torch.device("cpu")
RULE = "slow", "it is tried and tested"


@pytest.fixture
def path(monkeypatch, tmp_path):
    path = tmp_path / "folder" / "choices.json"
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", str(path))
    monkeypatch.setattr(choices, "_warned", set())
    return path


def slow():
    torch.randn(300000).sort()


def fast():
    return None


def never():
    raise AssertionError("it was measured before")


def test_the_fastest_is_chosen_and_kept(path):
    measured = Choices(CPU)
    choice = measured.pick("a step", {"slow": slow, "fast": fast}, RULE)
    assert choice.name == "fast" and choice.why.startswith("fast 0.") and " slow " in choice.why
    measured.save()
    again = Choices(CPU)
    assert again.pick("a step", {"slow": never, "fast": never}, RULE) == choice
    (where, steps), *_ = json.loads(path.read_text()).items()
    assert "threads; PyTorch " + torch.__version__ in where and set(steps) == {"a step"}
    assert [p.name for p in path.parent.iterdir()] == ["choices.json"]


def test_other_candidates_are_measured_anew(path):
    measured = Choices(CPU)
    measured.pick("a step", {"slow": slow, "fast": fast}, RULE)
    assert measured.pick("a step", {"slow": slow, "third": fast}, RULE).name == "third"


def test_one_candidate_is_not_measured(path):
    assert Choices(CPU).pick("a step", {"only": never}, RULE).name == "only"


def test_files_of_several_processes_are_joined(path):
    one, other = Choices(CPU), Choices(CPU)
    one.pick("one", {"slow": slow, "fast": fast}, RULE)
    other.pick("other", {"slow": slow, "fast": fast}, RULE)
    one.save()
    other.save()
    assert set(Choices(CPU).known) == {"one", "other"}


def test_switched_off(monkeypatch):
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", "off")
    assert choices_path() is None
    choice = Choices(CPU).pick("a step", {"slow": never, "fast": never}, RULE)
    assert choice.name == "slow" and choice.why == "it is tried and tested; not measured, SWIFTNET_EXT_CHOICES is off"


def test_what_was_not_measured_can_be_left_to_the_rules(path):
    measured = Choices(CPU)
    choice = measured.pick("a step", {"slow": slow, "fast": fast}, RULE)
    measured.save()
    before = path.read_bytes()
    other = Choices(CPU, measure=False)
    assert other.pick("a step", {"slow": never, "fast": never}, RULE) == choice
    unknown = other.pick("another", {"slow": never, "fast": never}, RULE)
    assert unknown.name == "slow" and unknown.why == "it is tried and tested; not measured"
    other.save()
    assert path.read_bytes() == before


def test_the_users_cache_is_the_place(monkeypatch, tmp_path):
    monkeypatch.delenv("SWIFTNET_EXT_CHOICES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert choices_path() == tmp_path / "swiftnet_ext" / "choices.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choices_path() == tmp_path / ".cache" / "swiftnet_ext" / "choices.json"


@pytest.mark.parametrize("named", ["~nobody_here/x.json", ""])
def test_a_home_folder_that_is_not_there_is_not_made(monkeypatch, tmp_path, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", named)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr(choices, "_warned", set())
    measured = Choices(CPU)
    assert measured.pick("a step", {"slow": slow, "fast": fast}, RULE).name == "fast"
    with pytest.warns(RuntimeWarning, match="can't be written .there is no such home folder") as warned:
        measured.save()
        measured.save()
    assert len(warned) == 1 and not list(tmp_path.iterdir())


def test_a_file_that_cant_be_written_is_tried_once(monkeypatch, path):
    tries = []

    def refused(path):
        tries.append(path)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(choices, "replacing", refused)
    measured = Choices(CPU)
    for step in ("one", "another"):
        measured.pick(step, {"slow": slow, "fast": fast}, RULE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                measured.save()
    assert len(tries) == 2  # once for what was measured


@pytest.mark.parametrize("content", ["", "[1]", '{"a": {"b": {}}}', '{"a": {"b": {"c": "fast"}}}', "\0", '{"a": 1}'])
def test_a_file_of_something_else_is_left_alone(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.warns(RuntimeWarning, match="can't be read as choices"):
        measured = Choices(CPU)
    assert measured.pick("a step", {"slow": slow, "fast": fast}, RULE).name == "fast"
    measured.save()
    assert path.read_text() == content


def test_a_file_that_cant_be_written_is_said_once(monkeypatch, tmp_path, recwarn):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", str(tmp_path / "file" / "choices.json"))
    monkeypatch.setattr(choices, "_warned", set())
    for _ in range(2):
        measured = Choices(CPU)
        measured.pick("a step", {"slow": slow, "fast": fast}, RULE)
        measured.save()
    assert len([w for w in recwarn if "can't be" in str(w.message)]) <= 2
