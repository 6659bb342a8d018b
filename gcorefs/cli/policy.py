"""The options of a policy, for each command that takes a core."""

import functools
from collections.abc import Callable
from typing import Any, get_args

import click

from gcorefs.policy import DEFAULT, MemoryRule, Policy, Unresponsive, XState

_OPTIONS = (
    click.option(
        "--stop-timeout", type=click.FloatRange(0, 1e9), default=DEFAULT.stop_timeout,
        show_default=True, metavar="SECONDS",
        help="How long a thread may take to stop before the core goes on without its registers.",
    ),
    click.option(
        "--unresponsive", type=click.Choice(get_args(Unresponsive)),
        default=DEFAULT.unresponsive, show_default=True,
        help="What the core has of such a thread: its system call, zeros, nothing; or no core.",
    ),
    click.option(
        "--memory", type=click.Choice(get_args(MemoryRule)), default=DEFAULT.memory,
        show_default=True,
        help="What coredump_filter takes and what no file shows any more, or the kernel's choice.",
    ),
    click.option(
        "--xstate", type=click.Choice(get_args(XState)), default=DEFAULT.xstate,
        show_default=True,
        help="Vector registers in a layout that every gdb knows, or in the processor's own.",
    ),
)  # fmt: skip


def takes_policy(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it gets them as one argument, `policy`."""

    @functools.wraps(command)
    def with_policy(
        *arguments: Any,
        stop_timeout: float,
        unresponsive: Unresponsive,
        memory: MemoryRule,
        xstate: XState,
        **named: Any,
    ) -> None:
        policy = Policy(stop_timeout, unresponsive, memory, xstate)
        command(*arguments, policy=policy, **named)

    for option in reversed(_OPTIONS):
        with_policy = option(with_policy)
    return with_policy
