import json
import multiprocessing
import os
import shutil
import signal

import pytest
import torch

from trainwright.api.status import Evaluation
from trainwright_worker import checkpoint
from trainwright_worker.checkpoint import CheckpointFolder, Writer, decode, encode
from trainwright_worker.errors import InfrastructureError, NonFiniteError, UserError
from trainwright_worker.state import Progress, pack_rank, restore, take_snapshot


def trained(kind=torch.optim.Adam, steps=3):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    optimizer = kind(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.rand(5, 3)).sum().backward()
        optimizer.step()
    progress = Progress(steps, torch.tensor(1.25, dtype=torch.float64))
    progress.best = Evaluation(split="validation", step=2, metrics={"loss": 0.1})
    progress.history.append({"epoch": 1, "loss": 0.5})
    return model, optimizer, progress


def snapshot_of(model, optimizer, progress, step=None):
    if step is not None:
        progress.step = step
    return take_snapshot(model, optimizer, progress, [pack_rank(progress)], {"trainSamples": 9})


def test_what_is_restored_is_what_was_saved():
    model, optimizer, progress = trained()
    snapshot = decode(encode(snapshot_of(model, optimizer, progress)))
    expected = torch.rand(3)
    other, other_optimizer, other_progress = trained(steps=1)
    assert restore(snapshot, other, other_optimizer, other_progress, rank=0)
    assert torch.equal(torch.rand(3), expected), "the generator goes on where it was"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert other_progress == progress
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        state, restored = optimizer.state[mine], other_optimizer.state[theirs]
        assert state.keys() == restored.keys()
        assert all(torch.equal(state[key], restored[key]) for key in state)


def test_a_snapshot_does_not_follow_the_model():
    model, optimizer, progress = trained()
    snapshot = snapshot_of(model, optimizer, progress)
    before = snapshot.model["0.weight"].clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(snapshot.model["0.weight"], before)


def test_a_weight_that_is_not_a_number_is_never_saved():
    model, optimizer, progress = trained()
    with torch.no_grad():
        model[2].bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"weight 2.bias is not finite at step 3"):
        snapshot_of(model, optimizer, progress)


def test_a_checkpoint_of_another_model_is_a_user_error():
    snapshot = snapshot_of(*trained())
    model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    with pytest.raises(UserError, match=r"spec.model: the checkpoint of step 3 holds another model"):
        restore(snapshot, model, torch.optim.Adam(model.parameters()), Progress(0, torch.zeros(())), 0)


def test_the_generators_of_a_new_rank_are_not_in_an_older_checkpoint():
    model, optimizer, progress = trained()
    assert not restore(snapshot_of(model, optimizer, progress), model, optimizer, progress, rank=1)


def test_the_newest_are_kept_and_described(tmp_path):
    folder = CheckpointFolder(str(tmp_path), keep=2)
    parts = trained()
    saved = [folder.write(snapshot_of(*parts, step=step)) for step in (5, 10, 15)]
    assert folder.list_verified() == saved[1:]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000010", "step-00000015"]
    assert decode(folder.find_newest().files).step == 15


def test_a_damaged_newest_is_passed_over_and_named(tmp_path):
    folder = CheckpointFolder(str(tmp_path), keep=5)
    parts = trained()
    for step in (1, 2, 3, 4):
        folder.write(snapshot_of(*parts, step=step))
    base = tmp_path / "checkpoints"
    weights = base / "step-00000004" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (base / "step-00000003" / "state.json").unlink()
    manifest = base / "step-00000002" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("state.json", "../state.json"))
    found = folder.find_newest()
    assert decode(found.files).step == 1
    assert found.skipped[0] == "checkpoint step-00000004 skipped: model.safetensors does not match its checksum"
    assert "state.json has 0 bytes" in found.skipped[1]
    assert "its manifest names '../state.json'" in found.skipped[2]


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    folder = CheckpointFolder(str(tmp_path), keep=5)
    parts = trained()
    folder.write(snapshot_of(*parts, step=1))
    (tmp_path / "checkpoints" / "step-00000001" / "manifest.json").unlink()
    assert folder.find_newest().files is None
    folder.write(snapshot_of(*parts, step=1))
    assert folder.find_newest().skipped == []


def test_no_folder_means_no_checkpoint(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "none"), keep=1)
    folder.clear_unfinished()
    assert folder.find_newest().files is None
    assert folder.list_verified() == []


def die_while_writing(path, die_at):
    """Write a checkpoint and be killed at the n-th file or folder operation."""
    calls = 0

    def count(function):
        def counted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    checkpoint.write_durably = count(checkpoint.write_durably)
    checkpoint._flush_folder = count(checkpoint._flush_folder)
    checkpoint.shutil.rmtree = count(shutil.rmtree)
    CheckpointFolder(path, keep=1).write(snapshot_of(*trained(), step=2))


@pytest.mark.parametrize("die_at", range(1, 11))
def test_killed_at_any_point_of_a_save_leaves_a_valid_checkpoint(tmp_path, die_at):
    folder = CheckpointFolder(str(tmp_path), keep=1)
    folder.write(snapshot_of(*trained(), step=1))
    process = multiprocessing.get_context("fork").Process(target=die_while_writing, args=(str(tmp_path), die_at))
    process.start()
    process.join()
    found = folder.find_newest()
    assert found.skipped == []
    assert decode(found.files).step in (1, 2)
    folder.clear_unfinished()
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert all(name.startswith("step-") for name in names)
    folder.write(snapshot_of(*trained(), step=3))
    assert decode(folder.find_newest().files).step == 3


def test_the_writer_tells_of_what_is_complete_and_fails_loudly(tmp_path):
    done = []
    writer = Writer(CheckpointFolder(str(tmp_path), keep=3), done.append)
    parts = trained()
    for step in (1, 2):
        writer.save(snapshot_of(*parts, step=step))
    writer.wait()
    assert [saved.step for saved in done] == [1, 2]
    assert json.loads((tmp_path / "checkpoints" / "step-00000002" / "manifest.json").read_text())["step"] == 2
    blocked = Writer(CheckpointFolder(str(tmp_path / "file"), keep=3), done.append)
    (tmp_path / "file").write_text("in the way")
    blocked.save(snapshot_of(*parts, step=3))
    with pytest.raises(InfrastructureError, match="cannot save a checkpoint"):
        blocked.wait()
