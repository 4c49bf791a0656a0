"""Training: stacked as alone, killed and resumed, one that breaks, memory that runs out."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Listener

from curate.errors import CurateError, EngineError, InputError, MissingEvidence, RecipeError
from curate.pipeline.proxies import train_domain_experts, train_proxies
from curate.pipeline.proxy_setup import check_proxy
from curate.proxy import memory
from curate.proxy.checkpoint import find_checkpoint, save_checkpoint
from curate.proxy.device import find_device
from curate.proxy.memory import (
    GroupSize,
    Workload,
    fit_models,
    group_bytes,
    halve_until_it_fits,
    is_out_of_memory,
)
from curate.proxy.optimiser import OptimiserSettings, StackedAdamW
from curate.proxy.runs import RunRow, append_runs, read_runs
from curate.proxy.shape import PRESETS, Shape
from curate.proxy.stack import Stack, StackSettings
from curate.recipe import LoadedRecipe, load
from curate.runtime.progress import Observer

CPU = torch.device("cpu")
TINY = Shape(2, 16, 2, 32, 64)

SWARM = (
    "proxy={preset: nano, runs: 4, tokens: 4096, sequence_length: 32, batch: 4, checkpoints: 3,"
    " validation_tokens: 400, learning_rate: 0.0005}",
)
SWARM_OF_A_FILE = (SWARM[0].replace("runs: 4, ", ""),)
NAMES = ("wiki", "code", "talk")


def tiny_stack(seeds: list[int], rates: list[float] | None = None, steps: int = 200) -> Stack:
    settings = OptimiserSettings(5e-4, steps=steps, warmup_steps=10)
    return Stack(StackSettings(TINY, settings, CPU, torch.float32), seeds, rates)


def tiny_batches(models: int, steps: int, seed: int = 0) -> torch.Tensor:
    """Sequences that count upwards, so that there is something to learn."""
    starts = np.random.default_rng(seed).integers(0, 64, (steps, models, 2, 1))
    ids = (starts + np.arange(17) * (1 + np.arange(models)[:, None, None])) % 64
    return torch.from_numpy(ids.astype(np.int32))


@pytest.mark.slow
def test_stacked_training_is_training_alone_for_200_steps() -> None:
    batches = tiny_batches(3, 200)
    together = tiny_stack([1, 2, 3])
    stacked = [together.train_step(batch, 2) for batch in batches]
    for model, seed in enumerate([1, 2, 3]):
        alone = tiny_stack([seed])
        for batch, losses in zip(batches, stacked, strict=True):
            loss = alone.train_step(batch[model : model + 1], 2)
            assert float(loss[0]) == pytest.approx(float(losses[model]), rel=1e-3)
    assert stacked[-1].max() < 0.5 * stacked[0].min()  # it has learnt


def test_micro_batches_add_up_to_the_batch() -> None:
    batch = tiny_batches(2, 1)[0]
    whole, parts = tiny_stack([1, 2]), tiny_stack([1, 2])
    assert torch.allclose(whole.train_step(batch, 2), parts.train_step(batch, 1), rtol=1e-5)
    for name, weight in whole.weights.items():
        assert torch.allclose(weight, parts.weights[name], atol=1e-5)


def test_update_equals_that_of_torch() -> None:
    """One model, no clipping, width 256 so that no rate is scaled: `torch.optim.AdamW`."""
    rng = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(1, 256, generator=rng) for name in ("final_norm", "head")}
    own = {name: w.clone().requires_grad_() for name, w in weights.items()}
    theirs = {name: w.clone().requires_grad_() for name, w in weights.items()}
    settings = OptimiserSettings(1e-2, warmup_steps=0, clip=1e9)
    ours = StackedAdamW(own, [1e-2], settings)
    groups = [
        {"params": [theirs["head"]], "weight_decay": 0.1},
        {"params": [theirs["final_norm"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(5):
        for name in weights:
            grad = torch.randn(1, 256, generator=rng)
            own[name].grad, theirs[name].grad = grad.clone(), grad.clone()
        ours.step()
        reference.step()
    for name in weights:
        assert torch.allclose(own[name], theirs[name], atol=1e-6)


def test_each_model_is_clipped_by_its_own_norm() -> None:
    weights = {"final_norm": torch.zeros(2, 256, requires_grad=True)}
    optimiser = StackedAdamW(weights, [1e-2, 1e-2], OptimiserSettings(1e-2))
    weights["final_norm"].grad = torch.stack([torch.full((256,), 1.0), torch.full((256,), 1e-3)])
    norms = optimiser.step()
    assert norms.tolist() == pytest.approx([16.0, 0.016])
    first = optimiser.first["final_norm"] / 0.1
    assert first[:, 0].tolist() == pytest.approx([1 / 16, 1e-3])


def test_a_model_that_breaks_ends_alone() -> None:
    batches = tiny_batches(2, 30)
    broken, fine = tiny_stack([1, 2]), tiny_stack([2])
    with torch.no_grad():
        broken.weights["down"][0, 0, 0, 0] = float("nan")
    for batch in batches:
        broken.train_step(batch, 2)
        fine.train_step(batch[1:], 2)
    assert broken.optimiser.alive_K.tolist() == [False, True]
    assert broken.optimiser.failed_step_K.tolist() == [1, 0]
    assert torch.allclose(broken.weights["head"][1], fine.weights["head"][0], rtol=1e-3, atol=1e-4)


def final_losses(directory: Path) -> dict[str, np.ndarray]:
    rows = read_runs(directory / "runs.csv", NAMES)
    return {row.run: np.array(row.losses) for row in rows if row.step == 32}


def test_a_swarm_writes_its_runs_once(recipe: Path, tmp_path: Path) -> None:
    loaded = load(recipe, SWARM)
    result = train_proxies(loaded, 1, Observer())
    with (loaded.output_dir / "runs.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["run"], line["step"], line["tokens"]) for line in lines[:3]] == [
        ("m000", "1", "128"), ("m001", "1", "128"), ("m002", "1", "128"),
    ]  # fmt: skip
    assert len(lines) == 12 and not result.failed
    assert {int(line["params"]) for line in lines} == {PRESETS["nano"].sized(400).matmul_parameters}
    for line in lines:
        assert sum(float(line[f"w_{name}"]) for name in NAMES) == pytest.approx(1)
    mean = {step: np.mean([float(line["loss_wiki"]) for line in lines if line["step"] == step])
            for step in ("1", "32")}  # fmt: skip
    assert mean["32"] < mean["1"] - 0.3
    assert not list(loaded.output_dir.glob("group-*"))
    (curves,) = (loaded.output_dir / "curves").glob("*.parquet")
    table = pq.read_table(curves).to_pydict()
    assert table["run"] == [f"m00{run}" for run in range(4) for _ in range(32)]
    assert table["tokens"] == [128 * step for step in range(1, 33)] * 4 and set(table["seed"]) == {
        0
    }
    assert table["loss"][0] == pytest.approx(np.log(512), rel=0.02)  # all ids alike, at first
    assert np.mean(table["loss"][28:32]) < table["loss"][0] - 0.3
    before = (loaded.output_dir / "runs.csv").read_bytes()
    notes = Listener()
    train_proxies(loaded, 1, notes)
    assert (loaded.output_dir / "runs.csv").read_bytes() == before
    assert "finished already: 4 runs" in notes.notices
    one_by_one = load(recipe, (*SWARM, "proxy.models=1", f"output.dir={tmp_path / 'single'}"))
    train_proxies(one_by_one, 1, Observer())
    stacked, single = final_losses(loaded.output_dir), final_losses(one_by_one.output_dir)
    assert all(np.allclose(stacked[run], single[run], rtol=1e-3) for run in stacked)


def scalars(directory: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard reads: tag → step → value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory))
    found.Reload()
    return {tag: {event.step: event.value for event in found.Scalars(tag)}
            for tag in found.Tags()["scalars"]}  # fmt: skip


def test_tensorboard_reads_what_runs_lost(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = tmp_path / "board"
    own = (*SWARM, "proxy.runs=2", "proxy.schedule=exponential", "proxy.spacing=even")
    loaded = load(recipe, (*own, f"proxy.tensorboard={board}"))
    result = train_proxies(loaded, 1, Observer())
    assert sorted(path.name for path in board.iterdir()) == ["m000", "m001"]
    (curves,) = (loaded.output_dir / "curves").glob("*.parquet")
    table = pq.read_table(curves).to_pydict()
    for number, run in enumerate(("m000", "m001")):
        found = scalars(board / run)
        losses = table["loss"][32 * number : 32 * number + 32]
        assert found["train/loss"] == pytest.approx(dict(enumerate(losses, 1)))
        rates = found["train/learning_rate"]
        assert rates[1] < rates[3] == pytest.approx(5e-4) and rates[32] == pytest.approx(5e-5)
        assert set(found["train/tokens_per_second"]) == {11, 21, 32}
        assert min(found["train/tokens_per_second"].values()) > 0
        for row in result.rows:
            if row.run != run:
                continue
            for name, loss, bits in zip(NAMES, row.losses, row.bits_per_byte, strict=True):
                assert found[f"validation/{name}"][row.step] == pytest.approx(loss)
                assert found[f"bits_per_byte/{name}"][row.step] == pytest.approx(bits)


def test_tensorboard_that_is_not_installed(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else known(name)
    )
    with pytest.raises(MissingEvidence, match=r"pip install 'curate-mix\[tensorboard\]'"):
        check_proxy(load(recipe, (*SWARM, "proxy.tensorboard=board")))


def test_runs_of_other_settings_are_set_aside(recipe: Path) -> None:
    loaded = load(recipe, SWARM)
    train_proxies(loaded, 1, Observer())
    notes = Listener()
    train_proxies(load(recipe, (*SWARM, "proxy.learning_rate=0.001")), 1, notes)
    assert any(
        "has runs of other settings; it is kept as runs-" in notice for notice in notes.notices
    )
    assert len(list(loaded.output_dir.glob("runs-*.csv"))) == 1


def test_other_held_out_documents_are_other_settings(recipe: Path) -> None:
    """What a run trained on must not be what its loss is measured on after all."""
    train_proxies(load(recipe, SWARM), 1, Observer())
    train_proxies(load(recipe, (*SWARM, "validation.key=1")), 1, heard := Listener())
    assert any(
        "has runs of other settings; it is kept as runs-" in notice for notice in heard.notices
    )


def test_a_name_that_means_another_mixture_is_trained_again(recipe: Path) -> None:
    table = recipe.with_name("mixtures.csv")
    table.write_text("run,wiki,code,talk\na,0.5,0.3,0.2\nb,0.2,0.3,0.5\n", "utf-8")
    loaded = load(recipe, (*SWARM_OF_A_FILE, f"proxy.mixtures={table}"))
    before = {row.run: row for row in train_proxies(loaded, 1, Observer()).rows}
    table.write_text("run,wiki,code,talk\na,0.5,0.3,0.2\nb,0.5,0.25,0.25\n", "utf-8")
    settings = json.loads((loaded.output_dir / "proxy.json").read_text("utf-8"))["settings"]
    begun = loaded.output_dir / "group-0.safetensors"  # of the old mixture: not to go on from
    save_checkpoint(begun, settings, ["b"], b"[]", {"step": torch.ones(1)})
    heard = Listener()
    after = {row.run: row for row in train_proxies(loaded, 1, heard).rows}
    assert after["a"] == before["a"]
    assert after["b"].weights == (0.5, 0.25, 0.25) and after["b"].losses != before["b"].losses
    assert "finished already: 1 run" in heard.notices
    (aside,) = loaded.output_dir.glob("runs-*.csv")
    assert f"rows with other mixtures are kept in {aside.name}: 1 run" in heard.notices
    assert read_runs(aside, NAMES)[-1] == before["b"]


def test_runs_drawn_within_other_caps_stay(recipe: Path) -> None:
    before = train_proxies(load(recipe, (*SWARM, "max_epochs=1.5")), 1, Observer()).rows
    heard = Listener()
    after = train_proxies(load(recipe, (*SWARM, "max_epochs=30")), 1, heard).rows
    assert after == before
    assert any("rows drawn within other epoch caps stay:" in n for n in heard.notices)


def test_killed_and_started_again_gives_the_same_runs(recipe: Path, tmp_path: Path) -> None:
    more = (*SWARM, "proxy.tokens=8192", "proxy.checkpoints=8")
    whole = load(recipe, (*more, f"output.dir={tmp_path / 'whole'}"))
    train_proxies(whole, 1, Observer())
    command = [sys.executable, "-m", "curate.cli", "proxy", str(recipe), "--workers", "1"]
    for override in (*more, f"output.dir={tmp_path / 'killed'}"):
        command += ["--set", override]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                          stdout=subprocess.DEVNULL) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not list((tmp_path / "killed").glob("group-*.safetensors")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "runs.csv").exists()
    train_proxies(load(recipe, (*more, f"output.dir={tmp_path / 'killed'}")), 1, Observer())
    expected, found = (read_runs(tmp_path / n / "runs.csv", NAMES) for n in ("whole", "killed"))
    assert [(row.run, row.step) for row in found] == [(row.run, row.step) for row in expected]
    curves = [
        pq.read_table(next((tmp_path / n / "curves").glob("*.parquet"))).to_pydict()
        for n in ("whole", "killed")
    ]
    assert curves[1]["loss"] == pytest.approx(curves[0]["loss"], rel=1e-4)
    for one, other in zip(found, expected, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
        assert one.weights == other.weights


def test_a_run_whose_loss_explodes_is_left_out_with_a_notice(recipe: Path) -> None:
    notes = Listener()
    with pytest.raises(InputError, match=r"no run ended .* lower proxy.learning_rate \(it was 1e"):
        train_proxies(load(recipe, (*SWARM, "proxy.learning_rate=1e6")), 1, notes)
    assert any(
        "run 'm000' is left out: its gradient was not finite at step" in n for n in notes.notices
    )


def test_a_proxy_tokenizer_keeps_the_shares_of_text(recipe: Path) -> None:
    own = (*SWARM, "proxy.tokenizer={train: {vocab_size: 300, sample_bytes: 60000}}")
    result = train_proxies(load(recipe, own), 1, Observer())
    with_recipe = train_proxies(load(recipe, SWARM), 1, Observer())
    assert result.rows[0].params == PRESETS["nano"].sized(300).matmul_parameters
    assert result.rows[0].weights == with_recipe.rows[0].weights  # of the recipe's tokens, in both
    ratio = [row.losses[0] / row.bits_per_byte[0] for row in (result.rows[0], with_recipe.rows[0])]
    assert ratio[0] < ratio[1]  # shorter tokens have fewer bytes


def test_seeds_repeat_every_mixture(recipe: Path) -> None:
    result = train_proxies(load(recipe, (*SWARM, "proxy.runs=1", "proxy.seeds=2")), 1, Observer())
    first, second = (row for row in result.rows if row.step == 32)
    assert (first.run, second.run, second.seed) == ("m000", "m000.s1", 1)
    assert first.weights == second.weights and first.losses != second.losses


def test_experts_know_their_own_domain_best(recipe: Path) -> None:
    own = (*SWARM, "proxy.tokens=8192", "max_epochs=10")
    loaded = load(recipe, own)
    losses = train_domain_experts(loaded, 1, Observer())
    table = np.array([losses[name] for name in NAMES])
    assert (table.argmin(axis=0) == [0, 1, 2]).all()
    found = pq.read_table(loaded.output_dir / "experts.parquet").to_pydict()
    owner = np.array(found["target_domain"])
    for expert, row in zip(NAMES, table, strict=True):
        values = np.array(found[f"logp_{expert}"])
        means = [-values[owner == name].mean() for name in NAMES]
        assert means == pytest.approx(row, rel=1e-4)
    keys = list(zip(found["target_domain"], found["document"], found["position"], strict=True))
    assert len(set(keys)) == len(keys)
    assert train_domain_experts(loaded, 1, Observer()) == losses  # nothing is trained again


def test_memory_that_runs_out_halves_sequences_then_models() -> None:
    done: list[tuple[int, ...]] = []
    notices: list[str] = []

    def work(items: list[int], micro: int) -> None:
        if len(items) * micro > 4:  # what fits
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        done.append((*items, micro))

    halve_until_it_fits([1, 2, 3, 4], 4, work, notices.append)
    assert done == [(1, 2, 3, 4, 1)]
    assert notices == [
        "out of memory with 4 sequences at a time; trying 2",
        "out of memory with 2 sequences at a time; trying 1",
    ]
    done.clear()
    halve_until_it_fits([1, 2, 3, 4, 5], 2, work, notices.append)
    assert done == [(1, 2, 3, 1), (4, 5, 1)]
    assert notices[-1] == "out of memory with 5 models at once; trying 3 at once"


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes",
    ],
)
def test_every_message_of_memory_that_ran_out(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert is_out_of_memory(torch.OutOfMemoryError(message))
    assert not is_out_of_memory(ValueError(message))


def test_half_of_a_group_goes_on_where_the_group_was(tmp_path: Path) -> None:
    batches = tiny_batches(3, 6)
    whole = tiny_stack([1, 2, 3])
    for batch in batches[:3]:
        whole.train_step(batch, 2)
    path = tmp_path / "group-abc.safetensors"
    save_checkpoint(path, "settings", ["a", "b", "c"], b"[]", whole.state())
    state = find_checkpoint(tmp_path, "settings", ["c", "a"])
    assert state is not None
    half = Stack(whole.settings, [7, 7], state=state.tensors)
    assert half.step_number == 3
    for batch in batches[3:]:
        expected, found = whole.train_step(batch, 2), half.train_step(batch[[2, 0]], 2)
        assert torch.allclose(found, expected[[2, 0]], rtol=1e-4)
    assert find_checkpoint(tmp_path, "settings", ["a", "d"]) is None
    assert find_checkpoint(tmp_path, "others", ["a"]) is None
    path.write_bytes(path.read_bytes()[:100])  # damaged: training starts again
    assert find_checkpoint(tmp_path, "settings", ["a"]) is None


def test_what_cannot_fit_and_what_is_no_lack_of_memory() -> None:
    def hopeless(items: list[int], micro: int) -> None:
        raise MemoryError

    def wrong(items: list[int], micro: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(EngineError, match="one sequence; set a smaller proxy.preset"):
        halve_until_it_fits([1, 2], 2, hopeless, lambda _: None)
    with pytest.raises(RuntimeError, match="shapes differ"):
        halve_until_it_fits([1, 2], 2, wrong, lambda _: None)
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60)
    assert is_out_of_memory(real.value)


def workload(name: str, **changes: int) -> Workload:
    preset = PRESETS[name]
    training = preset.training
    sizes = {"sequence_length": training.sequence_length, "run_tokens": training.tokens,
             "batch_sequences": training.batch_sequences, "runs": 32,
             "most_models": 32}  # fmt: skip
    return Workload(preset.sized(50_432), **{**sizes, **changes})


def test_a_fit_is_possible_and_smaller_for_larger_models() -> None:
    large, small = (fit_models(workload(name), torch.float32, CPU) for name in ("60M", "1M"))
    assert 1 <= large.models <= small.models <= 16
    assert small.micro_sequences * small.part_models <= 2  # 2048 tokens each fill the caches


def test_parts_of_a_cpu_stay_in_its_caches_and_groups_are_even() -> None:
    nano = workload("nano", sequence_length=64, runs=17)
    assert fit_models(nano, torch.float32, CPU, 2) == GroupSize(9, 8, 4)
    assert fit_models(replace(nano, runs=32), torch.float32, CPU, 1) == GroupSize(16, 8, 8)
    assert fit_models(replace(nano, runs=2), torch.float32, CPU, 2) == GroupSize(2, 8, 1)
    assert fit_models(replace(nano, most_models=1), torch.float32, CPU, 2) == GroupSize(1, 8, 1)


def fit_gpu(monkeypatch: pytest.MonkeyPatch, gib: int, load: Workload) -> GroupSize:
    monkeypatch.setattr(memory, "free_bytes", lambda device: gib << 30)
    return fit_models(load, torch.bfloat16, torch.device("cuda"))


def test_a_fit_on_a_gpu_is_fast_not_full(monkeypatch: pytest.MonkeyPatch) -> None:
    large = fit_gpu(monkeypatch, 138, workload("1M"))
    assert (large.models, large.micro_sequences) != (32, 1)
    assert large.micro_sequences * 2048 >= 65_536  # the head's chunks are long
    assert group_bytes(large, workload("1M"), torch.bfloat16, "cuda") < 30 << 30
    # Small batches of short sequences leave a GPU idle unless many models share its kernels.
    tiny = Workload(Shape(2, 256, 8, 512, 8192), 512, 4, 10**8, 128, 128)
    assert fit_gpu(monkeypatch, 138, tiny).models >= 32
    # It still runs where little is free, and the most that is planned with does fit.
    for gib in (8, 24):
        size = fit_gpu(monkeypatch, gib, workload("60M"))
        assert group_bytes(size, workload("60M"), torch.bfloat16, "cuda") < gib << 30
    assert fit_gpu(monkeypatch, 1, workload("500M")) == GroupSize(1, 1, 1)
    assert fit_gpu(monkeypatch, 138, replace(workload("1M"), most_models=1)).models == 1


def test_a_run_table_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    row = RunRow("m0", 3, 10, 5, 100, (0.1, 0.9), (1 / 3, 2.0), (1e-17, 4.0))
    append_runs(path, ["a", "b"], [row])
    append_runs(path, ["a", "b"], [replace(row, run="m,1")])
    assert read_runs(path, ["a", "b"]) == [row, replace(row, run="m,1")]
    with pytest.raises(InputError, match="runs.csv:1: not the columns of these domains"):
        read_runs(path, ["a", "c"])
    path.write_text(path.read_text("utf-8") + "m2,0,1,1\n", "utf-8")
    with pytest.raises(InputError, match="runs.csv:4: not a row of a run"):
        read_runs(path, ["a", "b"])


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("proxy.preset=mega", RecipeError, "no preset is called 'mega'"),
        ("proxy.tokens=100", RecipeError, "less than one step of 4 sequences of 32 tokens; set "),
        (
            "proxy.device=cuda:9",
            InputError,
            "cuda:9 cannot be used .*; set proxy.device: auto or cpu",
        ),
    ],
)
def test_what_a_recipe_cannot_ask(
    recipe: Path, override: str, error: type[CurateError], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_proxies(load(recipe, (*SWARM, override)), 1, Observer())


def test_an_absent_file_of_mixtures_is_named(recipe: Path) -> None:
    with pytest.raises(InputError, match="none.csv: No such file"):
        train_proxies(load(recipe, (*SWARM_OF_A_FILE, "proxy.mixtures=none.csv")), 1, Observer())


def test_without_torch_the_command_says_what_to_install(recipe: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from curate.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, "proxy", str(recipe)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr == (
        "curate: proxy: torch is not installed, and proxies train with it; "
        "pip install 'curate-mix[proxy]'\n"
    )


def test_a_recipe_without_proxies_is_the_recipe_it_was(recipe: Path) -> None:
    plain, changed = load(recipe), load(recipe, ("proxy.preset=1M",))
    assert plain.hash == changed.hash  # datasets built before stay fresh
    assert isinstance(plain, LoadedRecipe)
    check_proxy(plain)
    assert MissingEvidence.__doc__


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bfloat16_on_a_gpu_learns_as_float32_on_the_cpu() -> None:
    device = find_device("auto")
    settings = OptimiserSettings(5e-4, steps=100, warmup_steps=10)
    low = Stack(StackSettings(TINY, settings, device, torch.bfloat16), [1, 2])
    exact = tiny_stack([1, 2], steps=100)
    for batch in tiny_batches(2, 100):
        one, other = low.train_step(batch, 2), exact.train_step(batch, 2)
    assert torch.allclose(one.cpu(), other, rtol=0.05, atol=0.05)
