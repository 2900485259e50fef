"""What the parser of the command line refuses, in one line: what is wrong, and where the options are listed."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer

from spider.errors import shown
from untrusted.words import did_you_mean, not_known

_CLICK: Any = sys.modules[typer.BadParameter.__module__]  # some versions of typer bring a click of their own
_NO_WORDS: Any = getattr(_CLICK, "NoArgsIsHelpError", ())  # older versions print the help themselves
USAGE_ERROR: Any = _CLICK.UsageError
EXIT_CODE = 2

_NOT_ONE_OF = re.compile(r"'(?P<found>.*)' is not one of (?P<known>'.*')", re.DOTALL)
_NO_NUMBER = re.compile(
    r"'(?P<found>.*)' is not a valid (?P<type>integer|float)( range)?", re.DOTALL
)  # without pydantic
# What other programs that train call by an option. The names of these options are spelt like others here, or like none
_OF_OTHERS = {
    **dict.fromkeys(
        ("--gpus", "--ngpus", "--num-gpus", "--nproc-per-node"),
        "each GPU has a process: torchrun --nproc-per-node N -m spider train ... --run-dir DIR (or, as a job, spider "
        "launch)",
    ),
    "--outdir": "a run has the folder that you name: --run DIR",
}
_NUMBERS = {"integer": "a whole number", "float": "a number"}
_NO_COMMAND = re.compile(r"No such command '(?P<found>.*?)'", re.DOTALL)


def asks_for_help(error: Any) -> bool:
    """Whether nothing was typed, which is answered with the help."""
    return isinstance(error, _NO_WORDS)


def described(error: Any) -> str:
    """`--kmig: no such option; did you mean --kimg?; see spider train --help`.

    Args:
        error: a USAGE_ERROR.
    """
    command = "spider" if error.ctx is None else error.ctx.command_path
    return f"{_what(error)}; see {command} --help"


def option_names(command: Any) -> list[str]:
    """Every option of a command: `--run`, `--no-wait`, `-f`, ..., `--help`."""
    named = [each for each in command.params if each.param_type_name == "option"]
    spelled = [name for each in named for name in (*each.opts, *each.secondary_opts)]
    return list(dict.fromkeys([*spelled, "--help", "-h"]))


def _what(error: Any) -> str:
    message = str(error.message).removeprefix("Value error, ").rstrip(".")
    parameter = getattr(error, "param", None)
    if isinstance(error, _CLICK.NoSuchOption):
        if error.option_name in _OF_OTHERS and error.ctx is not None and error.ctx.info_name == "train":
            return f"{error.option_name}: no such option; {_OF_OTHERS[error.option_name]}"
        return f"{error.option_name}: no such option{did_you_mean(error.option_name, _options_beside(error))}"
    if isinstance(error, _CLICK.BadOptionUsage):
        return f"{error.option_name}: {message.removeprefix(f'Option {error.option_name!r} ')}"  # as of --version=3
    if isinstance(error, _CLICK.MissingParameter) and parameter is not None:
        return f"{_name(parameter)}: missing"
    if isinstance(error, _CLICK.BadParameter) and parameter is not None:
        return f"{_name(parameter)}: {_of_value(error, message)}"
    unknown = _NO_COMMAND.match(message)
    if unknown is not None and error.ctx is not None:
        return f"command {not_known(unknown['found'], error.ctx.command.commands)}"
    return f"{message[:1].lower()}{message[1:]}"


def _of_value(error: Any, message: str) -> str:
    choice = _NOT_ONE_OF.fullmatch(message)
    if choice is not None:
        return not_known(choice["found"], re.findall(r"'([^']*)'", choice["known"]))
    details = getattr(error.__cause__, "errors", None)  # pydantic's, in the versions of typer that convert with it
    if details is None:
        number = _NO_NUMBER.fullmatch(message)
        return message if number is None else f"must be {_NUMBERS[number['type']]}, found {shown(number['found'])}"
    from spider.config.refusal import must_be

    [detail, *_] = details()
    return f"{must_be(detail)}, found {shown(detail['input'])}"


def _options_beside(error: Any) -> list[str]:
    return [] if error.ctx is None else option_names(error.ctx.command)


def _name(parameter: Any) -> str:
    """`--run`, or the argument as --help calls it."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    return str(parameter.opts[0])
