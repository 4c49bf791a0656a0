"""The command line: one thin function for each command; only it prints and exits.

Modules are imported inside commands, so that `curate --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys

# torch's threads spin while they wait, which makes training eight times slower on shared cores.
# torch reads this variable when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click  # noqa: E402

from curate import __version__  # noqa: E402
from curate.cli import evidence, info, main_job, proxies  # noqa: E402
from curate.cli.session import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER, say  # noqa: E402
from curate.errors import CurateError  # noqa: E402
from curate.runtime.escape import tolerate_encodings  # noqa: E402
from curate.runtime.machine import fault_line  # noqa: E402

COMMANDS = (
    main_job.tokenize, main_job.stats, main_job.mix, main_job.plan, main_job.build, main_job.verify,
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


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command line; exit with a code and, after an error, one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as after Ctrl-C
    _open_streams()
    sys.exit(_run())


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


def _run() -> int:
    try:
        cli.main(standalone_mode=False)
        if sys.stdout is not None:  # None where the caller closed it, as schedulers may
            sys.stdout.flush()  # so that a full disk is reported below, like any other error
    except CurateError as error:
        say(f"curate: {error}", err=True)
        return EXIT_USER
    except click.ClickException as error:
        error.show()
        return EXIT_USER
    except (KeyboardInterrupt, click.Abort):
        click.echo("curate: interrupted; finished work is kept, run again to continue", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_FAILED
    except UnicodeEncodeError as error:
        say(
            f"curate: {error.object}: the locale's encoding, {error.encoding}, cannot name this "
            "file; set PYTHONUTF8=1 or LC_ALL=C.UTF-8",
            err=True,
        )
        return EXIT_USER
    except Exception as error:
        line = fault_line(error, "")  # a full disk, little memory
        if line is None and isinstance(error, OSError):  # a directory without write permission
            line = f"{error.filename or 'a file'}: {error.strerror or error}"
        if line is None:
            raise
        say(f"curate: {line}", err=True)
        _discard_output()
        return EXIT_USER
    return 0


def _discard_output() -> None:
    """Discard buffered output, so that Python does not fail to write it at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
