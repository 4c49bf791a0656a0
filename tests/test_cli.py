"""Exit codes and what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curate.cli import cli

pytestmark = pytest.mark.usefixtures("own_store")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "curate.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build", "absent.yaml"], "absent.yaml"),
        (["build"], "Missing argument"),
        (["bild"], "No such command"),
        (["verify", "absent"], "no manifest.json"),
        (["formats", "megatrn"], "megatron"),
    ],
)
def test_user_faults_are_one_line_and_exit_2(arguments: list[str], expected: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == "" and expected in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_commands_and_imports_nothing_heavy() -> None:
    code = """if True:
        import sys
        import curate.cli.commands
        print([m for m in ("numpy", "numba", "rich", "pyarrow", "torch") if m in sys.modules])
        import curate.pipeline.build
        heavy = "numba", "pyarrow", "polars", "scipy", "jinja2", "curate.laws", "rich", "torch"
        heavy += "curate.proxy", "curate.report.page.parts", "curate.tokens.run"
        print([m for m in heavy if m in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
    assert "build" in run("--help").stdout


def test_what_is_left_to_the_end_is_done() -> None:
    code = "import atexit, sys; atexit.register(print, 'kept'); sys.argv[1:] = ['formats']; " \
           "from curate.cli import main; main(); print('never')"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("kept\n") and "megatron" in done.stdout
    if not Path("/dev/full").exists():
        return
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "curate.cli", "formats"]
        lost = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert lost.returncode == 2
    assert lost.stderr.startswith("curate: standard output: No space left")


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors in the shell's way")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_success_where_nobody_listens(closed: str) -> None:
    command = f"'{sys.executable}' -m curate.cli --help {closed}"
    assert subprocess.run(command, shell=True, capture_output=True, check=False).returncode == 0


def test_json_is_json_and_quiet_is_quiet(recipe: Path) -> None:
    done = run("plan", recipe, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["budget_tokens"] == 30000
    stats = json.loads(run("stats", recipe, "--json").stdout)
    assert stats["domains"]["wiki"]["documents"] == 300
    assert json.loads(run("mix", recipe, "--json").stdout)["method"] == "entropy"
    quiet = run("build", recipe, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    verified = run("verify", recipe.parent / "out" / "tiny", "--json")
    assert json.loads(verified.stdout)["ok"] is True


def test_every_command_with_a_result_takes_the_same_options() -> None:
    lists = {"methods", "formats", "corpus", "schema", "doctor"}
    shared = {"--json", "--csv", "--markdown", "-q", "-v", "--log-file"}
    for name, command in cli.commands.items():
        options = {text for option in command.params for text in option.opts}
        assert name in lists or shared <= options, name


def test_dry_run_writes_a_plan_and_no_shard(recipe: Path) -> None:
    done = run("build", recipe, "--dry-run")
    assert done.returncode == 0 and "plan of 30,000 tokens" in done.stdout
    directory = recipe.parent / "out" / "tiny"
    assert (directory / "plan.json").exists() and not (directory / "train").exists()


def test_output_that_cannot_be_written_is_one_line(recipe: Path) -> None:
    (recipe.parent / "file").write_text("in the way")
    done = run("build", recipe, "--quiet", "--out", recipe.parent / "file")
    assert done.returncode == 2
    assert done.stderr.startswith("curate: ") and done.stderr.count("\n") == 1


def test_lists(tmp_path: Path) -> None:
    assert {row["method"] for row in json.loads(run("methods", "--json").stdout)} >= {"entropy"}
    assert {row["format"] for row in json.loads(run("formats", "--json").stdout)} >= {"megatron"}
    assert "np.load" in run("formats", "npy").stdout
    assert json.loads(run("schema").stdout)["$defs"]
    assert "numba" in run("doctor").stdout


def test_results_and_errors_can_be_read_by_a_program(recipe: Path, tmp_path: Path) -> None:
    rows = run("mix", recipe, "--csv").stdout.splitlines()
    assert rows[0].startswith("domain,weight,low,high") and len(rows) == 4
    shown = run("plan", recipe, "--markdown").stdout.splitlines()
    assert shown[1].startswith("| ---") and len(shown) == 5
    both = run("mix", recipe, "--csv", "--json")
    assert both.returncode == 2
    message = json.loads(both.stdout)["error"]["message"]
    assert message == "--json and --csv exclude each other: give one of them"
    failed = run("plan", recipe, "--json", "--set", "budget_tokens=9_000_000_000")
    error = json.loads(failed.stdout)["error"]
    assert (failed.returncode, error["exit_code"], error["kind"]) == (2, 2, "InfeasiblePlan")
    assert failed.stderr.endswith(f"curate: {error['message']}\n")


def test_a_command_names_what_it_wrote_and_logs_where_it_is_told(
    recipe: Path, tmp_path: Path
) -> None:
    log = tmp_path / "run.log"
    done = run("plan", recipe, "--log-file", log)
    assert done.returncode == 0, done.stderr
    out = recipe.parent / "out" / "tiny"
    written = f"wrote stats.json, mixture.json, plan.json in {out}"
    assert written in done.stdout
    failed = run("plan", recipe, "--log-file", log, "--set", "mixture.method=no-such", "-v")
    lines = log.read_text(encoding="utf-8")
    for text in ("begin plan", "end plan", f"wrote {out}/plan.json", "Traceback", "no-such"):
        assert text in lines, text
    assert "Traceback" in failed.stderr and failed.returncode == 2
    absent = run("plan", recipe, "--log-file", tmp_path / "absent" / "run.log")
    assert absent.returncode == 2 and "--log-file" in absent.stderr
