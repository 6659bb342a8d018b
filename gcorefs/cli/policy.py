"""The options of a policy, for each command that takes a core."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import click

from gcorefs.option import Option, OptionError, options_of
from gcorefs.policy import Policy

_OPTIONS = options_of(Policy)


def takes_policy(
    but: Collection[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of a policy, except those in `but`, to a command as parameter `policy`."""
    options = [each for name, each in _OPTIONS.items() if name not in but]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_policy(*arguments: Any, **named: Any) -> None:
            texts = {each.name: named.pop(each.name) for each in options}
            given = {name: text for name, text in texts.items() if text is not None}
            policy = Policy(**{name: _parse(name, text) for name, text in given.items()})
            command(*arguments, policy=policy, **named)

        decorated: Callable[..., None] = with_policy
        for each in reversed(options):
            decorated = _as_word(each)(decorated)
        return decorated

    return decorate


def _as_word(option: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option as a click option.  Its value stays text: `_parse` parses it, as -o does."""
    is_told = "default" in option.help.lower()
    return click.option(
        f"--{option.name.replace('_', '-')}",
        metavar=f"[{'|'.join(option.words)}]" if option.words else option.unit,
        help=option.help if is_told else f"{option.help}  [default: {option.default}]",
    )


def _parse(name: str, text: str) -> Any:
    try:
        return _OPTIONS[name].parse(text)
    except OptionError as error:
        raise click.UsageError(str(error)) from error
