"""Run a function in a fresh process, because a process cannot see how another one would differ."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

from mlpbench.machine.parent import end_with_parent

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the function's result from a new interpreter, which inherits only the environment variables.

    Function, arguments and result must be picklable. An exception of the function is raised here.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        max_workers=1, mp_context=context, initializer=end_with_parent, initargs=(os.getpid(),)
    ) as pool:
        return pool.submit(function, *args, **kwargs).result()
