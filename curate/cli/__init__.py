"""The command line: one thin function a command; the only place that prints and exits.

Modules are imported inside commands, so that `curate --help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys

# One process a core does the work here; BLAS threads beside them would only be in the way.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Threads that spin while they wait cost torch eight times the time where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# There are records by the hundred thousand and hardly a cycle: 20,000 files took 0.2 s of looking,
# 0.04 with 200,000 here, and every start 0.02 s with 50,000.
gc.set_threshold(500_000)

import click  # noqa: E402

from curate import __version__  # noqa: E402
from curate.cli import evidence, info, main_job, proxies  # noqa: E402
from curate.cli.session import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER  # noqa: E402
from curate.errors import CurateError  # noqa: E402

COMMANDS = (
    main_job.tokenize, main_job.stats, main_job.mix, main_job.plan, main_job.build, main_job.verify,
    proxies.proxy, proxies.experts, proxies.validate, evidence.fit, evidence.design,
    info.methods, info.formats, info.corpus, info.schema, info.doctor,
)  # fmt: skip
"""In the order of `curate --help`."""


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
    """Run the command line and turn faults into one line and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended politely, like Ctrl-C
    try:
        cli.main(standalone_mode=False)
        _leave(0)
    except CurateError as error:
        click.echo(f"curate: {error}", err=True)
        _leave(EXIT_USER)
    except click.ClickException as error:
        error.show()
        _leave(EXIT_USER)
    except (KeyboardInterrupt, click.Abort):
        click.echo("curate: interrupted; what was finished is kept, run again to go on", err=True)
        _leave(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:  # a full disk, a directory that may not be written, a file in its way
        click.echo(f"curate: {error.filename or 'a file'}: {error.strerror or error}", err=True)
        _leave(EXIT_USER)


def _leave(exit_code: int) -> None:
    """End the process as it is: to take tokenizers and tables apart first took 0.09 s of 2.5.

    Nor is a thread waited for that still builds a tokenizer.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # who started us has closed it, as schedulers may
            stream.flush()
    os._exit(exit_code)
