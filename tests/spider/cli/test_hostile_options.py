"""Whatever is typed, a command does it or says in one line what is wrong. Every command, every option: from the app."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from tests.spider.cli.commands import COMMANDS as LEAVES
from tests.spider.cli.commands import SPIDER
from untrusted.terminal import one_line

NUMBERS = [
    "", " ", "-1", "0", "1.5", "1e8", "1e30", "nan", "inf", str(2**64), "9" * 5000, "٣", "1 000", " 5", "0x10", "x",
    "1_0", "--", "true", "+5", "1/0", "5-1", "0-99999999999",
]  # fmt: skip
TEXTS = [
    "", " ", "-1", "0", "nan", "9" * 5000, "5-1", "0-99999999999", "a=b", "a==b", "=a", "a=", "a.b.c.d=1", "a=[1,",
    "a=!!python/object/apply:os.system ['true']", "a=\t", "batch=4\nseed: 3", "\udcff", "a\x1b[2Jb", "x" * 5000,
    "~", "a@b@c", "run@nan", "http://a b/", "s3://", "file:///", "builtin:", "torchvision:", "%", ",", "1/0",
    "2 log log", "a.png",
]  # fmt: skip
CHOICES = ["", "x", "0"]
# What a command needs besides the option that is tried
WORDS = {
    "cancel": ["{run}"],
    "classes": ["{digits}", "--out={new}.safetensors"],
    "compare": ["{run}", "{run}"],
    "config explain": [],
    "demo": [],
    "evaluate": ["{run}", "--embedding=offline"],
    "export": ["{run}", "{new}"],
    "generate": ["{run}", "--out={new}"],
    "import": ["{sweep}", "{new}"],
    "instances": ["{digits}", "--out={new}.safetensors", "--embedding=offline"],
    "interpolate": ["{run}", "--out={new}"],
    "launch": ["dcgan", "--data={digits}", "--run={new}", "--slurm=local"],
    "logs": ["{run}"],
    "ls": ["{run}"],
    "neighbors": ["{digits}", "{patches}", "--out={new}", "--embedding=offline"],
    "pack": ["{patches}", "{new}", "--workers=1"],
    "presets": [],
    "project": ["{run}", "{patches}", "--out={new}"],
    "status": ["{run}"],
    "study": ["{study}", "--out={new}"],
    "sweep": ["{sweep}", "--out={new}"],
    "toy": [],
    "train": ["dcgan", "--data={digits}", "--run={new}"],
    "verify": ["{digits}", "--workers=1"],
    "weights get": ["inception"],
    "weights list": [],
    "weights verify": ["inception"],
}


COMMANDS = {" ".join(path): command for path, command in LEAVES.items()}


def test_every_command_is_tried():
    assert COMMANDS.keys() == WORDS.keys()


@pytest.fixture
def places(trained, digits, patches, plane, study_file, tmp_path, monkeypatch):
    """What stands in `WORDS`, in a folder of its own, where no other program is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / "sweep.yaml").write_text(
        f"config: dcgan\ndata: {digits}\nkimg: 1\nspace: {{batch: {{grid: [1, 2]}}}}\n"
        "overrides: {evaluate.every_kimg: 1, evaluate.embedding: offline}\n"
    )
    files = {"sweep": "sweep.yaml", "study": study_file.name}
    named = {"run": trained, "digits": digits, "patches": patches, "new": "new", **files}
    return {name: str(place) for name, place in named.items()}


def values_for(annotation):
    """Values that its type may not expect."""
    types = {annotation, *get_args(annotation)}
    if bool in types or Literal in {get_origin(each) for each in types}:
        return CHOICES
    return NUMBERS if types & {int, float} else TEXTS


def tried(command, words):
    """Each hostile value in the place of each option and argument: (what is tried, value, words)."""
    annotations = get_type_hints(inspect.unwrap(command.callback))
    for parameter in command.params:
        for value in values_for(annotations.get(parameter.name, str)):
            if parameter.param_type_name == "option":
                yield parameter.opts[0], value, [f"{parameter.opts[0]}={value}", *words]
                continue
            options, given = (
                [word for word in words if word.startswith("-") is is_option] for is_option in (True, False)
            )
            first = [each.name for each in command.params if each.param_type_name == "argument"].index(parameter.name)
            for place in {first, len(given)} if parameter.nargs == -1 else {first}:
                yield parameter.name, value, [*options, "--", *given[:place], value, *given[place + 1 :]]


def run(words):
    """Exit code, and what is on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            SPIDER.main(words, prog_name="spider")
        except SystemExit as stop:
            return int(stop.code or 0), err.getvalue()
    raise AssertionError("a command ends the process")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_makes_a_traceback(places, no_work, name):
    wrong = []
    words = [word.format(**places) for word in WORDS[name]]
    for what, value, given in tried(COMMANDS[name], words):
        try:
            code, said = run([*name.split(), *given])
        except no_work:
            continue
        except Exception as error:
            wrong.append(f"{what} {value[:40]!r}: {error!r}"[:250])
            continue
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if code not in (0, 1, 2, 3) or "Traceback" in said or len(errors) != (code != 0):
            wrong.append(f"{what} {value[:40]!r}: exit code {code}: {said[-150:]}")
        elif code == 2 and not names_it(errors[0], what, value):
            wrong.append(f"{what} {value[:40]!r}: is not named: {errors[0]}"[:250])
    assert not wrong, "\n" + "\n".join(wrong)


def names_it(line, what, value):
    """Whether an error says which option is wrong, or what is wrong in it; or that there is no configuration."""
    option = what.strip("-").replace("-", "_").removesuffix("s")
    parts = [part[:10] for part in re.split(r"[=@,./\s]", value) if part] or [""]
    named = option in line.replace("-", "_").lower() or any(
        shape in line for part in parts for shape in (one_line(part), repr(part)[1:-1])
    )
    return named or "say what to train" in line


@pytest.mark.parametrize("verb", ["train", "launch"])
def test_a_first_override_may_be_longer_than_a_file_name(places, no_work, verb):
    words = [f"data.path={places['digits']}" + "/." * 2500, f"--run={places['run']}", "log.samples=0"]
    code, said = run([verb, *words, *(["--slurm=local"] if verb == "launch" else [])])
    assert code == 2
    assert "log.samples" in said
