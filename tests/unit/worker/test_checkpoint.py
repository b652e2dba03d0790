import json
import multiprocessing
import os
import signal
import threading
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch.optim import SGD, Adafactor, Adam, AdamW

from trainwright.api.figures import Evaluation
from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.resume import Source, find_newest, restore
from trainwright_worker.checkpoint.staging import Staging
from trainwright_worker.checkpoint.state import TrainingProgress, gather_state, pack_rank
from trainwright_worker.checkpoint.tensors import read_header
from trainwright_worker.checkpoint.writer import Writer
from trainwright_worker.errors import InfrastructureError, NonFiniteError, UserError
from trainwright_worker.optim.layerwise import Lamb, Lars
from trainwright_worker.storage import FolderStorage

ALONE = SimpleNamespace(rank=0, size=1, device=torch.device("cpu"), broadcast_tensors=list)
OPTIMIZERS = {
    "sgd": lambda weights: SGD(weights, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda weights: Adam(weights, lr=0.1, fused=True),
    "adamw": lambda weights: AdamW(weights, lr=0.1),
    "adafactor": lambda weights: Adafactor(weights, lr=0.1),
    "lamb": lambda weights: Lamb(weights, lr=0.1),
    "lars": lambda weights: Lars(weights, lr=0.1, momentum=0.9),
}


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()


def trained(optimizer="adam", steps=3):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    made = OPTIMIZERS[optimizer](model.parameters())
    train(model, made, steps)
    progress = TrainingProgress(steps, torch.tensor(1.25, dtype=torch.float64))
    progress.best = Evaluation(split="validation", step=2, metrics={"loss": 0.1})
    progress.history.append({"epoch": 1, "loss": 0.5})
    return model, made, progress


def folder_at(path, keep=5, **options):
    return CheckpointFolder(FolderStorage(str(path)), keep, **options)


def save(folder, model, optimizer, progress, step=None, extras=None):
    if step is not None:
        progress.step = step
    state = gather_state(model, optimizer, extras or {}, [pack_rank(progress)])
    return folder.write(Staging().copy(state), {"trainSamples": 9} | progress.to_facts())


def newest_step(folder):
    found, _ = folder.find_newest()
    return found and found.manifest.step


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_from_what_was_saved_as_if_nothing_had_happened(tmp_path, kind):
    model, optimizer, progress = trained(kind)
    extras = {"average.0.weight": model[0].weight.detach() * 2, "scaler.scale": torch.tensor(8.0, dtype=torch.float64)}
    save(folder_at(tmp_path), model, optimizer, progress, extras=extras)
    expected = torch.rand(3)
    train(model, optimizer, 2)
    other, other_optimizer, other_progress = trained(kind, steps=1)
    folder = folder_at(tmp_path)
    found, note = find_newest(folder, ALONE)
    restored = restore(folder, found, other, other_optimizer, other_progress, ALONE)
    assert note == ""
    assert torch.equal(torch.rand(3), expected), "the generator goes on where it was"
    assert other_progress == progress
    assert restored.keys() == extras.keys()
    assert all(torch.equal(restored[name], extras[name]) for name in extras)
    train(other, other_optimizer, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_weights_are_plain_safetensors_and_nothing_is_a_pickle(tmp_path):
    model, optimizer, progress = trained()
    save(folder_at(tmp_path), model, optimizer, progress)
    base = tmp_path / "checkpoints" / "step-00000003"
    assert {path.suffix for path in base.iterdir()} == {".safetensors", ".json"}
    loaded = safetensors.torch.load_file(base / "model.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    header = read_header(FolderStorage(str(base)), "model.safetensors")
    assert header["3.weight"].shape == [2, 4]
    assert header["1.num_batches_tracked"].dtype == "I64"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool])
def test_every_type_of_number_and_every_shape_comes_back(tmp_path, dtype):
    model = torch.nn.Module()
    for name, shape in {"single": (), "empty": (0, 3), "row": (7,), "cube": (2, 3, 5)}.items():
        model.register_buffer(name, torch.randint(0, 2, shape).to(dtype))
    model.register_buffer("last", torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last))
    model.weight = torch.nn.Parameter(torch.ones(1))
    optimizer = SGD(model.parameters(), lr=1)
    folder = folder_at(tmp_path)
    save(folder, model, optimizer, TrainingProgress(1, torch.zeros((), dtype=torch.float64)))
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    found, _ = folder.find_newest()
    restore(folder, found, model, optimizer, TrainingProgress(0, torch.zeros((), dtype=torch.float64)), ALONE)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_weight_with_two_names_is_saved_once(tmp_path):
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    optimizer = Adam(model.parameters())
    folder = folder_at(tmp_path)
    progress = TrainingProgress(1, torch.zeros((), dtype=torch.float64))
    save(folder, model, optimizer, progress)
    found, _ = folder.find_newest()
    assert found.manifest.names("model") == {"0.weight"}
    restore(folder, found, model, optimizer, progress, ALONE)


def test_a_copy_does_not_follow_the_model_and_its_memory_is_used_again():
    model, optimizer, _ = trained()
    staging = Staging()
    first = staging.copy(gather_state(model, optimizer, {}, []))
    before, memory = first.tensors["model.0.weight"].clone(), first.tensors["model.0.weight"].data_ptr()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(first.tensors["model.0.weight"], before)
    second = staging.copy(gather_state(model, optimizer, {}, []))
    assert torch.equal(second.tensors["model.0.weight"], before + 1)
    assert second.tensors["model.0.weight"].data_ptr() == memory


def test_a_weight_that_is_not_a_number_is_never_saved(tmp_path):
    model, optimizer, progress = trained()
    folder = folder_at(tmp_path)
    writer = Writer(folder, lambda _: None)
    with torch.no_grad():
        model[3].bias[0] = float("nan")
    writer.save(gather_state(model, optimizer, {}, []), progress.to_facts())
    with pytest.raises(NonFiniteError, match=r"weight 3.bias is not finite at step 3"):
        writer.wait()
    assert newest_step(folder) is None


def test_large_weights_whose_sum_overflows_are_finite(tmp_path):
    model, optimizer, progress = trained()
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    assert save(folder_at(tmp_path), model, optimizer, progress)[-1].step == 3


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (torch.nn.Sequential(torch.nn.Linear(3, 4)), "this model has no weight 1.bias"),
        (torch.nn.Sequential(*[torch.nn.Linear(3, 4) for _ in range(5)]), "the checkpoint has no weight 2.bias"),
        (torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 2)),
         "weight 0.weight has shape 4x3 in the checkpoint, but 5x3 in this model"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_model_is_a_user_error(tmp_path, model, problem):
    folder = folder_at(tmp_path)
    save(folder, *trained())
    found, _ = folder.find_newest()
    with pytest.raises(
        UserError, match=f"spec.model: the model differs from that of the checkpoint of step 3: {problem}"
    ):
        restore(folder, found, model, Adam(model.parameters()), TrainingProgress(0, torch.zeros(())), ALONE)


def test_the_newest_are_kept_and_described(tmp_path):
    folder = folder_at(tmp_path, keep=2)
    parts = trained()
    saved = [save(folder, *parts, step=step)[-1] for step in (5, 10, 15)]
    assert folder.list_complete() == saved[1:]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000010", "step-00000015"]
    assert newest_step(folder) == 15
    assert saved[-1].bytes == sum(
        path.stat().st_size
        for path in (tmp_path / "checkpoints" / "step-00000015").iterdir()
        if path.stem != "manifest"
    )


def test_the_best_is_kept_however_old_and_flagged(tmp_path):
    folder = folder_at(tmp_path, keep=1, keep_best=True)
    model, optimizer, progress = trained()
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5)):
        progress.best = Evaluation(split="validation", step=best, metrics={"loss": 1 / best})
        complete = save(folder, model, optimizer, progress, step=step)
    assert [(saved.step, saved.best) for saved in complete] == [(5, True), (6, False)]


def test_a_damaged_newest_is_passed_over_and_named(tmp_path):
    folder = folder_at(tmp_path, keep=6)
    parts = trained()
    for step in (1, 2, 3, 4, 5, 6):
        save(folder, *parts, step=step)
    base = tmp_path / "checkpoints"
    weights = base / "step-00000006" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (base / "step-00000005" / "optimizer.safetensors").write_bytes(b"half")
    (base / "step-00000004" / "state.json").unlink()
    manifest = base / "step-00000003" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"state.json"', '"../state.json"'))
    (base / "step-00000002" / "manifest.json").write_text("{}")
    found, skipped = folder.find_newest()
    assert found.manifest.step == 1
    assert skipped[0] == "checkpoint step-00000006 skipped: model.safetensors does not match its checksum"
    assert "step-00000005 skipped: optimizer.safetensors has 4 bytes instead of" in skipped[1]
    assert skipped[2] == "checkpoint step-00000004 skipped: state.json is missing"
    assert skipped[3] == "checkpoint step-00000003 skipped: its manifest has the invalid file name '../state.json'"
    assert "step-00000002 skipped: it cannot be read" in skipped[4]
    (base / "step-00000001" / "manifest.json").unlink()
    assert folder.find_newest()[1][-1] == "checkpoint step-00000001 skipped: it has no manifest.json"


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    folder = folder_at(tmp_path)
    parts = trained()
    save(folder, *parts, step=1)
    (tmp_path / "checkpoints" / "step-00000001" / "manifest.json").unlink()
    assert newest_step(folder) is None
    save(folder, *parts, step=1)
    assert folder.find_newest()[1] == []


def damage(path, *steps):
    for step in steps:
        weights = path / "checkpoints" / f"step-{step:08}" / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_do_not_take_the_places_of_new_ones(tmp_path, keep):
    folder, parts = folder_at(tmp_path, keep=keep), trained()
    for step in (90, 100):
        save(folder, *parts, step=step)
    damage(tmp_path, *[90, 100][-keep:])
    assert newest_step(folder) is None
    for step, kept in ((10, [10]), (20, [10, 20]), (30, [20, 30])):
        complete = save(folder, *parts, step=step)
        assert [saved.step for saved in complete] == kept[-keep:]
        assert newest_step(folder) == step


def test_the_best_outlives_a_damaged_checkpoint_of_a_later_step(tmp_path):
    folder = folder_at(tmp_path, keep=1, keep_best=True)
    model, optimizer, progress = trained()
    progress.best = Evaluation(split="validation", step=1, metrics={"loss": 1.0})
    for step in (1, 9):
        save(folder, model, optimizer, progress, step=step)
    damage(tmp_path, 9)
    assert newest_step(folder) == 1
    complete = save(folder, model, optimizer, progress, step=3)
    assert [(saved.step, saved.best) for saved in complete] == [(1, True), (3, False)]


def test_no_folder_means_no_checkpoint(tmp_path):
    folder = folder_at(tmp_path / "none", keep=1)
    folder.clear_unfinished()
    assert folder.find_newest() == (None, [])
    assert folder.list_complete() == []


class Dying(FolderStorage):
    """Kills its process before the n-th change of the disk."""

    def __init__(self, root, die_at):
        super().__init__(root)
        self._left = die_at

    def _count(self):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, name, parts):
        def counted():
            for part in parts:
                self._count()
                yield part

        super().write(name, counted())

    def rename(self, folder, name):
        self._count()
        super().rename(folder, name)

    def delete(self, folder):
        self._count()
        super().delete(folder)


def die_while_writing(path, parts, die_at):
    save(CheckpointFolder(Dying(path, die_at), keep=1), *parts, step=2)


@pytest.mark.parametrize("die_at", [1, 2, 3, 8, 20, *range(30, 40)])
def test_killed_at_any_point_of_a_save_leaves_a_valid_checkpoint(tmp_path, die_at):
    parts = trained()
    folder = folder_at(tmp_path, keep=1)
    save(folder, *parts, step=1)
    # Forked before any thread of torch has run: no test of this file computes anything large.
    process = multiprocessing.get_context("fork").Process(target=die_while_writing, args=(str(tmp_path), parts, die_at))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    found, skipped = folder.find_newest()
    assert skipped == []
    assert found.manifest.step in (1, 2)
    folder.clear_unfinished()
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert all(name.startswith("step-") for name in names)
    save(folder, *parts, step=3)
    assert newest_step(folder) == 3


@pytest.mark.parametrize("die_at", range(35, 42))
def test_killed_while_a_later_step_is_removed_leaves_a_valid_checkpoint(tmp_path, die_at):
    parts = trained()
    for step in (1, 9):
        save(folder_at(tmp_path, keep=2), *parts, step=step)
    damage(tmp_path, 9)
    process = multiprocessing.get_context("fork").Process(target=die_while_writing, args=(str(tmp_path), parts, die_at))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    folder = folder_at(tmp_path, keep=1)
    found, skipped = folder.find_newest()
    assert found.manifest.step in (1, 2)
    assert skipped in ([], ["checkpoint step-00000009 skipped: model.safetensors does not match its checksum"])


def test_the_writer_tells_of_what_is_complete_and_fails_loudly(tmp_path):
    done = []
    writer = Writer(folder_at(tmp_path, keep=3), done.append)
    model, optimizer, progress = trained()
    for step in (1, 2):
        progress.step = step
        writer.save(gather_state(model, optimizer, {}, []), progress.to_facts())
    writer.wait()
    assert [[saved.step for saved in complete] for complete in done] == [[1], [1, 2]]
    assert json.loads((tmp_path / "checkpoints" / "step-00000002" / "manifest.json").read_text())["step"] == 2
    (tmp_path / "file").write_text("in the way")
    blocked = Writer(folder_at(tmp_path / "file"), done.append)
    blocked.save(gather_state(model, optimizer, {}, []), progress.to_facts())
    with pytest.raises(InfrastructureError, match="cannot save a checkpoint"):
        blocked.wait()


def test_the_memory_of_a_copy_is_allocated_before_it_is_needed(tmp_path):
    model, optimizer, progress = trained()
    state = gather_state(model, optimizer, {}, [])
    staging = Staging()
    staging.reserve(state)
    copy = staging.copy(state)
    places = {name: value.data_ptr() for name, value in copy.tensors.items()}
    staging.reserve(state)
    again = staging.copy(state)
    assert places == {name: value.data_ptr() for name, value in again.tensors.items()}
    assert all(torch.equal(value, state[name]) for name, value in again.tensors.items())
    writer = Writer(folder_at(tmp_path, keep=1), lambda _: None)
    writer.reserve(state)
    writer.save(state, progress.to_facts())
    writer.reserve(state)
    writer.wait()
    assert newest_step(folder_at(tmp_path, keep=1)) == progress.step


def test_training_does_not_wait_for_the_disk(tmp_path):
    released = threading.Event()

    class Slow(FolderStorage):
        def write(self, name, parts):
            released.wait()
            super().write(name, parts)

    model, optimizer, progress = trained()
    writer = Writer(CheckpointFolder(Slow(str(tmp_path)), keep=3), lambda _: None)
    writer.save(gather_state(model, optimizer, {}, []), progress.to_facts())
    expected = model[0].weight.detach().clone()
    train(model, optimizer, 1)
    assert writer.busy
    released.set()
    writer.wait()
    assert not writer.busy
    saved = safetensors.torch.load_file(tmp_path / "checkpoints" / "step-00000003" / "model.safetensors")
    assert torch.equal(saved["0.weight"], expected)


def test_what_is_sent_to_other_ranks_is_in_the_same_order_in_every_process():
    """Names come out of sets, whose order differs from pod to pod: a rank must not take another one's state for its own."""
    sent = []
    group = SimpleNamespace(rank=1, size=2, broadcast_tensors=lambda tensors: sent.extend(map(int, tensors)))
    targets = {name: torch.tensor(number) for number, name in enumerate(["model.weight", "ranks.0", "ranks.1"])}
    source = Source(storage=None, found=None, everywhere=False)
    for names in (list(targets), list(reversed(targets))):
        source.fill({name: targets[name] for name in names}, group)
    assert sent[:3] == sent[3:]


def test_what_could_not_be_written_takes_no_room(tmp_path):
    def parts():
        yield b"begun"
        raise OSError(28, "No space left on device")

    storage = FolderStorage(str(tmp_path))
    storage.write("file", [b"before"])
    with pytest.raises(OSError, match="No space left"):
        storage.write("file", parts())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]
