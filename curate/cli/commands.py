"""The group of all commands, and how each of them ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys

import click

from curate import __version__
from curate.cli import evidence, info, interrupt, look_ups, main_job, proxies, upkeep
from curate.cli.session import EXIT_FAILED, EXIT_USER, print_json, say
from curate.errors import CurateError
from curate.runtime.escape import one_line, output_named, tolerate_encodings
from curate.runtime.machine import fault_line

COMMANDS = (
    main_job.init, main_job.tokenize, main_job.stats, main_job.mix, main_job.plan,
    main_job.build, main_job.verify, main_job.report, look_ups.show, look_ups.diff,
    upkeep.push, upkeep.remove,
    proxies.proxy, proxies.experts, proxies.validate, evidence.fit, evidence.design,
    info.methods, info.formats, info.corpus, info.schema, info.doctor,
)  # fmt: skip
"""Commands in the order of `curate --help`."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="curate")
def cli() -> None:
    """Turn raw text corpora into the right pretraining mix.

    Tokenise each domain once, measure it, derive the mixture, plan it to the token, write shards,
    read them back and certify them.
    """
    # torch's threads spin while they wait, which makes training eight times slower on shared cores.
    # torch reads this variable when it is imported, which only commands do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


for _command in COMMANDS:
    cli.add_command(_command)


KEPT = {
    "tokenize": "tokenised files and the counts of finished domains",
    "stats": "tokenised files and the counts of finished domains",
    "mix": "tokenised files, counts and entropies of finished domains, trained models and, with "
    "--compare, finished methods",
    "plan": "tokenised files, counts and entropies of finished domains, and trained models",
    "build": "tokenised files, counts and entropies of finished domains, trained models, and "
    "stages of the recipe that are finished, but no other shards",
    "remove": "the list of what is excluded, and tokenised files",
    "proxy": "finished runs and the checkpoints of others",
    "experts": "finished models and the checkpoints of others",
    "validate": "finished runs and the checkpoints of others",
    "design": "tokenised files and the counts of finished domains",
}
"""Work that an interrupted command keeps for the next run; other commands keep nothing."""


DESCRIPTORS = 8192
"""Open files that a command asks the system for; macOS grants no more than 10,240."""


def raise_descriptor_limit() -> None:
    """Raise the limit on open files as far as the system allows: macOS starts with 256.

    Each worker takes two or three descriptors, and so do readers of remote files.
    """
    if sys.platform == "win32":  # which has no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _open_streams() -> None:
    """Open closed standard streams on the null device, and let the others take any text.

    Otherwise the next file that is opened would be standard output or error, and messages of this
    process and of libraries would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    tolerate_encodings()


def run() -> int:
    """Run the command that the arguments name, and return the exit code."""
    _open_streams()
    raise_descriptor_limit()
    try:
        cli.main(standalone_mode=False)
        if sys.stdout is not None:  # None where the caller closed it, as schedulers may
            with output_named():
                sys.stdout.flush()  # so that a full disk is reported below, like other errors
    except BaseException as error:
        # After a signal, whatever it led to, such as a killed worker, is no error of its own.
        if interrupt.received() or isinstance(error, KeyboardInterrupt | click.Abort):
            return _interrupted()
        code = _report(error)
        if code is None:
            raise
        return code
    return 0


def _interrupted() -> int:
    """Say what is kept, and return the exit code."""
    kept = KEPT.get(next(iter(sys.argv[1:]), ""))
    ending = f"kept are {kept}; run again to continue" if kept else "nothing was changed"
    say(f"curate: interrupted; {ending}", err=True)
    return 128 + (interrupt.received() or signal.SIGINT)


def _report(error: BaseException) -> int | None:
    """Say what the user can do about an error, and return the exit code; None for a bug."""
    from curate.runtime.log import LOG

    LOG.info("ends with an error", exc_info=error)
    if isinstance(error, click.ClickException):
        error.show()
        _print_error(error, error.format_message())
        return EXIT_USER
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return EXIT_FAILED
    line = None
    if isinstance(error, CurateError):
        line = str(error)
    elif isinstance(error, UnicodeEncodeError):
        line = (
            f"{error.object}: the locale's encoding, {error.encoding}, cannot name this file; set "
            "PYTHONUTF8=1 or LC_ALL=C.UTF-8"
        )
    elif isinstance(error, Exception):
        line = fault_line(error, "")  # a full disk, little memory
        if line is None and isinstance(error, OSError):  # a directory without write permission
            line = f"{error.filename or 'a file'}: {error.strerror or error}"
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                line += (
                    "; choose places that can be written: --out or output.dir for the dataset, "
                    "cache for the token store, --recipe for a first recipe"
                )
        if line is not None:
            _discard_output()
    if line is None:
        return None
    say(f"curate: {line}", err=True)
    _print_error(error, line)
    return EXIT_USER


def _print_error(error: BaseException, line: str) -> None:
    """Print an error as JSON, where that was asked for, beside the line on standard error."""
    if "--json" not in sys.argv[1:] or sys.stdout is None:
        return
    fields = {"kind": type(error).__name__, "message": one_line(line), "exit_code": EXIT_USER}
    with contextlib.suppress(OSError):  # the line and the exit code have said it
        print_json({"error": fields})


def _discard_output() -> None:
    """Discard buffered output, so that Python does not fail to write it at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
