"""Models of torchvision and timm: published sizes, small images, pretrained files, recomputation."""

import subprocess
import sys

import pytest
import timm
import torch
import torchvision

from trainwright.api.job import read_spec
from trainwright.api.spec.model import LoraSpec
from trainwright_worker.batch import Batch
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.lora import merge_lora
from trainwright_worker.models.pretrained import load_pretrained
from trainwright_worker.models.recompute import blocks_of, enable_gradient_checkpointing
from trainwright_worker.models.vision import check_images
from trainwright_worker.preflight.dry import uses_all_weights

pytestmark = pytest.mark.local


def spec_of(name, **model):
    changes, lora = model.pop("changes", {}), model.pop("lora", None)
    model = {"name": name, **model}
    raw = {"model": model, "dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}, **changes}
    spec = read_spec(raw)
    # Adapted though nothing has trained it, which a manifest may not ask for.
    return spec.model_copy(update={"model": spec.model.model_copy(update={"lora": lora})})


def make(name, facts, **model):
    torch.manual_seed(0)
    return build(spec_of(name, **model), facts)


def weights(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("torchvision:resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["num_params"]),
        ("torchvision:resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["num_params"]),
        ("torchvision:resnet152", torchvision.models.ResNet152_Weights.IMAGENET1K_V1.meta["num_params"]),
        ("timm:resnet50", 25_557_032),
    ],
)
def test_sizes_are_the_published_ones(name, count):
    with torch.device("meta"):
        assert weights(make(name, Facts((3, 224, 224), 1000))) == count


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("torchvision:resnet18", (3, 32, 32), {}),
        ("torchvision:resnet18", (1, 28, 28), {}),
        ("torchvision:mobilenet_v3_small", (3, 32, 32), {"dropout": 0.1}),
        ("torchvision:googlenet", (3, 64, 64), {}),
        ("torchvision:vit_b_16", (3, 32, 32), {"image_size": 32}),
        ("timm:resnet18", (1, 28, 28), {}),
        ("timm:resnet10t.c3_in1k", (3, 32, 32), {"drop_rate": 0.1}),
        ("timm:vit_tiny_patch16_224", (3, 32, 32), {"img_size": 32, "patch_size": 8}),
    ],
)
def test_a_step_changes_every_weight(name, shape, args):
    model = make(name, Facts(shape, 4), args=args).train()
    loss = torch.nn.functional.cross_entropy(model(torch.rand(2, *shape)), torch.tensor([1, 3]))
    loss.backward()
    assert torch.isfinite(loss)
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == [], "DDP waits for the gradient of every weight"


def test_torchvisions_own_file_with_a_new_head(tmp_path):
    torch.manual_seed(5)
    source = torchvision.models.resnet18(num_classes=1000).eval()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    spec = spec_of("torchvision:resnet18", pretrained="resnet18.pth")
    facts = Facts((3, 32, 32), 10)
    model = build(spec, facts, str(tmp_path))
    notes = load_pretrained(model, spec, facts, str(tmp_path))
    assert notes == ["starting from resnet18.pth: 120 tensors", "new head for 10 outputs: fc.bias, fc.weight"]
    source.fc = model.fc
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.eval()(images), source(images))


def test_timms_own_folder_for_grey_images(tmp_path):
    from safetensors.torch import save_file  # noqa: PLC0415

    torch.manual_seed(5)
    source = timm.create_model("resnet10t", num_classes=7).eval()
    (tmp_path / "model").mkdir()
    save_file(source.state_dict(), tmp_path / "model" / "model.safetensors")
    spec = spec_of("timm:resnet10t", pretrained="model")
    facts = Facts((1, 32, 32), 7)
    model = build(spec, facts, str(tmp_path))
    load_pretrained(model, spec, facts, str(tmp_path))
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(model.eval()(grey), source(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_weights_of_another_model_name_their_tensors(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    spec = spec_of("torchvision:resnet50", pretrained="resnet18.pth")
    facts = Facts((3, 32, 32), 10)
    model = build(spec, facts, str(tmp_path))
    with pytest.raises(UserError, match=r"layer1.0.conv1.weight has shape \(64, 64, 3, 3\), the model needs") as error:
        load_pretrained(model, spec, facts, str(tmp_path))
    assert "missing: layer1.0.conv3.weight" in error.value.message


@pytest.mark.parametrize(
    ("name", "shape", "model", "words"),
    [
        ("torchvision:resnet81", (3, 32, 32), {}, "torchvision has no model resnet81"),
        ("torchvision:fasterrcnn_resnet50_fpn", (3, 32, 32), {}, "has no model fasterrcnn_resnet50_fpn"),
        ("timm:vit_tiny_patch16_223", (3, 32, 32), {}, "timm has no model vit_tiny_patch16_223"),
        ("timm:resnet18.nobody", (3, 32, 32), {}, "Invalid pretrained tag"),
        ("torchvision:resnet18", (3, 32, 32), {"args": {"depth": 3}}, "spec.model.args: .* keyword argument 'depth'"),
        ("timm:resnet18", (3, 32, 32), {"args": {"depth": 3}}, "rejects its args: .* 'depth'"),
        (
            "torchvision:resnet18",
            (3, 32, 32),
            {"args": {"weights": "DEFAULT"}},
            "spec.model.args.weights: is determined",
        ),
        ("timm:resnet18", (3, 32, 32), {"args": {"pretrained": True}}, "spec.model.args.pretrained: is determined"),
        ("torchvision:vit_b_16", (3, 32, 32), {}, "does not accept images of 3x32x32: Wrong image height"),
        ("timm:vit_tiny_patch16_224", (3, 32, 32), {}, "does not accept images of 3x32x32"),
        ("torchvision:alexnet", (3, 16, 16), {}, "does not accept images of 3x16x16: .* Output size is too small"),
        ("torchvision:resnet18", (9,), {}, "reads images, but the data has inputs of 9"),
        (
            "torchvision:resnet18",
            (3, 32, 32),
            {"changes": {"regularization": {"dropout": 0.1}}},
            "spec.regularization.dropout: torchvision:resnet18 has its own dropout setting",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(name, shape, model, words):
    with pytest.raises(UserError, match=words):
        make(name, Facts(shape, 10), **model)


class Shared(torch.nn.Module):
    """One layer under two names, as coat of timm has it."""

    def __init__(self):
        super().__init__()
        self.one = self.other = torch.nn.Linear(12, 12)

    def forward(self, images):
        return self.other(self.one(images.flatten(1)))


def test_looking_at_shapes_leaves_a_model_as_it_was():
    model = Shared()
    weight = model.one.weight
    check_images(model, spec_of("torchvision:resnet18"), Facts((3, 2, 2), 12))
    assert uses_all_weights(model, Batch.of(torch.rand(2, 3, 2, 2), torch.zeros(2, dtype=torch.int64)))
    assert model.one.weight is weight


def test_near_names_are_offered():
    with pytest.raises(UserError) as error:
        make("torchvision:resnt50", Facts((3, 32, 32), 10))
    assert error.value.hint.startswith("did you mean torchvision:resnet50")


def test_an_image_model_refuses_text():
    with pytest.raises(UserError, match="torchvision:resnet18 reads images, but the data has text"):
        make("torchvision:resnet18", Facts((30,), 2, vocabulary=50))


@pytest.mark.parametrize(
    ("name", "args", "blocks"),
    [
        ("torchvision:resnet18", {}, 8),
        ("torchvision:swin_t", {}, 16),
        ("timm:vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}, 12),
    ],
)
def test_recomputed_activations_give_the_same_step(name, args, blocks):
    shape = (3, 32, 32)
    plain, model = (make(name, Facts(shape, 4), args=args).train() for _ in range(2))
    enable_gradient_checkpointing(model)
    assert len(blocks_of(model)) == blocks
    images = torch.rand(4, *shape)
    for candidate in (plain, model):
        torch.manual_seed(3)
        candidate(images).square().mean().backward()
    for (key, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), key
    for (key, one), other in zip(plain.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(one, other), key


def test_lora_of_a_vision_transformer():
    args = {"img_size": 32, "patch_size": 8}
    model = make("timm:vit_tiny_patch16_224", Facts((3, 32, 32), 4), args=args, lora=LoraSpec(rank=2)).eval()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora" not in name} == {"head.weight", "head.bias"}
    assert len(trained) == 2 * 12 + 2
    for name, parameter in model.named_parameters():
        if name.endswith("lora_up"):
            torch.nn.init.normal_(parameter.detach())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(images)
        merge_lora(model)
        torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-4)


def test_a_job_without_them_imports_none_of_the_libraries():
    program = (
        "import sys, trainwright_worker.models.build, trainwright_worker.models.pretrained, "
        "trainwright_worker.models.recompute\n"
        "from trainwright.api.spec.sources import BuiltinData, BuiltinName\n"
        "from trainwright_worker.data.builtin import read_builtin\n"
        "read_builtin(BuiltinData(name=BuiltinName.IRIS))\n"
        "print({'torchvision', 'timm', 'transformers', 'fsspec', 'sklearn', 'scipy', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
