"""`travelcard` and `python -m travelcard`: the command line in a process of its own, set up for one short job."""

from __future__ import annotations

import gc
import os
import signal
import sys

__all__ = ["command"]


class _WithoutPandas:
    """Lets pyarrow find no pandas: it would import it at its first array, 0.4 s, and no command needs it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def command() -> None:
    """Run the command line with what only a process of our own may be given."""
    sys.meta_path.insert(0, _WithoutPandas)
    # Polars gives the pages of each decoded row group back to the system, and the next one faults them in again.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1")
    # Arrow asks for huge pages, and where the host has to make them a day of 99.5 million pings took 0.6 s longer.
    os.environ.setdefault("MIMALLOC_ALLOW_THP", "0")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no command multiplies matrices; its threads spin all the same
    gc.disable()  # a command makes few objects and ends soon; walking the imported ones again and again took 0.2 s

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # cards are Chinese, and cron's locale is C

    told: list[int] = []

    def stop(number: int, _: object) -> None:
        told.append(number)
        raise KeyboardInterrupt(number)  # as Ctrl-C does: what runs is ended, what is published stays

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        """A callback of a library written in C raises nothing: it is told again, when it has returned."""
        if told and isinstance(unraisable.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        else:
            sys.__unraisablehook__(unraisable)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGALRM, lambda _, frame: stop(told[0], frame))
    sys.unraisablehook = again
    code: object = 0
    try:
        from travelcard.cli import main  # noqa: PLC0415  after the settings

        main()
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        if told:  # a library may have made an error of its own out of the interrupt
            sys.stderr.write("stopped: nothing more was published\n")
            sys.stderr.flush()
            os._exit(128 + told[0])  # at once: a module whose loading was interrupted is not safe to take apart
        elif isinstance(error, BrokenPipeError):  # `| head`: who reads has enough
            code = 1
        elif isinstance(error, OSError):  # of the output: of any other file it has become a refusal that names it
            sys.stderr.write(f"refused: the output cannot be written: {error}\n")
            code = 1
        else:
            raise
    sys.stderr.flush()
    # Everything is written and published; taking the interpreter apart, module by module, would take 0.2 s.
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    command()
