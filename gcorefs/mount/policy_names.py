"""The policy in the name of a directory: @all, @memory=none,hold=copy, @all,unresponsive=omit."""

from dataclasses import fields, replace
from math import inf

from gcorefs.mount.options import FUSE_OPTIONS, OPTIONS, MountPolicy, Options
from gcorefs.option import ValueRefused
from gcorefs.profiles import BUILT_IN, MARK, Profiles, UnknownWord, settings, text_of

LONGEST = 255
"""Bytes of a name, as in most file systems (NAME_MAX, include/uapi/linux/limits.h)."""

_OF_THE_WHOLE_MOUNT = {"xstate", "copy_limit", "spool", "spool_limit", "bpf"}
"""All cores of a stop have one layout of vector registers and one source of mappings, and copies
have one place, and one limit for a user."""

IN_NAMES = {
    each.name: OPTIONS[each.name]
    for each in fields(MountPolicy)
    if each.name not in _OF_THE_WHOLE_MOUNT
}
"""The options that a name may have."""

_TIMES = ("stop_timeout", "idle_timeout", "max_stop")


class WholeMount(ValueRefused):
    """The option holds for the whole mount, and a name may not have it."""


def policy_named(name: bytes, options: Options, profiles: Profiles = BUILT_IN) -> MountPolicy:
    """The policy of a directory in a mount with these options and profiles.

    UnknownWord: there is no such name.  ValueRefused, WholeMount.
    """
    text = name.decode("utf-8", "surrogateescape")
    if not text.startswith(MARK):
        raise UnknownWord("a policy begins with @")
    words = [word.partition("=") for word in text.removeprefix(MARK).split(",")]
    for option, _, _ in words:
        if option in FUSE_OPTIONS or (option in OPTIONS and option not in IN_NAMES):
            raise WholeMount(option, f"option {option}")
    _, has_value, _ = words[0]
    found = settings(text.removeprefix(MARK) if has_value else text, IN_NAMES, profiles)
    return replace(options.mount_policy, **found)


def profile_of(name: bytes) -> bytes:
    """The name of its profile alone; empty if it has none."""
    first, _, _ = name.partition(b",")
    return b"" if b"=" in first else first


def longer_than(policy: MountPolicy, bound: MountPolicy) -> str:
    """The first time of a policy that is longer than that of `bound`, as a text; empty if there is
    none."""
    for name in _TIMES:
        value, most = getattr(policy, name), getattr(bound, name)
        is_never = name != "stop_timeout"  # 0 seconds: never
        if (value or inf if is_never else value) > (most or inf if is_never else most):
            return f"{text_of({name: value})}, and the mount has {text_of({name: most})}"
    return ""


def difference(policy: MountPolicy, options: Options) -> str:
    """The options of a policy that differ from those of the mount, as a text."""
    values = {name: getattr(policy, name) for name in IN_NAMES}
    return text_of({name: it for name, it in values.items() if it != getattr(options, name)})
