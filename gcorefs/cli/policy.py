"""The options of a policy, for each command that takes a core."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import click

from gcorefs.option import Option, OptionError, options_of
from gcorefs.policy import Policy
from gcorefs.process.errors import named_with_limit
from gcorefs.profile_file import ProfileError, read_profiles
from gcorefs.profiles import BUILT_IN, MARK, settings

_OPTIONS = options_of(Policy)

_POLICY = click.option(
    "--policy",
    "policy_text",
    metavar="POLICY",
    help=f"A profile ({', '.join(MARK + name for name in BUILT_IN)}), or options like "
    "memory=none,hold=copy, or both with a comma between them.  The other options change it.",
)


def takes_policy(
    but: Collection[str] = (),
    profile: str | Callable[[Mapping[str, Any]], str] = "",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of a policy, except those in `but`, to a command as parameter `policy`.

    `profile`: the policy if --policy is not given; empty for the default of each option.  It may
    depend on the other options of the command.
    """
    options = [each for name, each in _OPTIONS.items() if name not in but]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_policy(*arguments: Any, **named: Any) -> None:
            texts = {each.name: named.pop(each.name) for each in options}
            given = {name: text for name, text in texts.items() if text is not None}
            policy_text = named.pop("policy_text")
            if policy_text is None:
                policy_text = (profile if isinstance(profile, str) else profile(named)) or None
            with _refusals_told():
                values = {} if policy_text is None else _named(policy_text)
                values = {name: value for name, value in values.items() if name not in but}
                values |= {name: _OPTIONS[name].parse(text) for name, text in given.items()}
                policy = Policy(**values)
            command(*arguments, policy=policy, **named)

        decorated: Callable[..., None] = with_policy
        for each in reversed(options):
            decorated = _as_word(each)(decorated)
        return _POLICY(decorated)

    return decorate


def _as_word(option: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option as a click option.  Its value stays text, and is parsed as -o is."""
    is_told = "default" in option.help.lower()
    return click.option(
        f"--{option.name.replace('_', '-')}",
        metavar=f"[{'|'.join(option.words)}]" if option.words else option.unit,
        help=option.help if is_told else f"{option.help}  [default: {option.default}]",
    )


def _named(text: str) -> dict[str, Any]:
    """The options that a text names.  OptionError, ProfileError, OSError."""
    profiles = BUILT_IN
    name = text.partition(",")[0].removeprefix(MARK)
    if text.startswith(MARK) and name not in profiles:
        # Imported here to save memory in a dump without options (victim.py).
        from gcorefs.mount.policy_names import IN_NAMES  # noqa: PLC0415

        found = read_profiles(None, IN_NAMES)
        # A dump has no time after which it lets a process go.
        profiles = {
            name: {option: value for option, value in values.items() if option in _OPTIONS}
            for name, values in found.items()
        }
    return settings(text, _OPTIONS, profiles)


@contextlib.contextmanager
def _refusals_told() -> Iterator[None]:
    try:
        yield
    except (OptionError, ProfileError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:  # of the file of the profiles
        raise click.ClickException(named_with_limit(error)) from error
