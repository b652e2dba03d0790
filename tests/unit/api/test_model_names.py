"""What is said of a model name that is none: where such a model comes from, or what was probably meant."""

import pytest

from trainwright.api.job import InvalidJobError, read_spec

SPEC = {"dataset": {"builtin": {"name": "digits"}}, "training": {"epochs": 1}}


def meant(name):
    with pytest.raises(InvalidJobError) as caught:
        read_spec({**SPEC, "model": {"name": name}})
    return caught.value.errors[0].message.partition("did you mean ")[2].partition("?")[0]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("resnet50", "torchvision:resnet50"),
        ("resnet18", "torchvision:resnet18"),
        ("ResNet-50", "torchvision:resnet50"),
        ("resnet", "torchvision:resnet50"),
        ("vit_b_16", "torchvision:vit_b_16"),
        ("mobilenet_v3_small", "torchvision:mobilenet_v3_small"),
        ("mobilenetv2", "torchvision:mobilenet_v2"),
        ("efficientnet_b0", "torchvision:efficientnet_b0"),
        ("vit_base_patch16_224", "timm:vit_base_patch16_224"),
        ("bert", "hf:bert"),
        ("bert-base-uncased", "hf:bert"),
        ("llama", "hf:llama"),
        ("distilbert", "hf:distilbert"),
        ("roberta", "hf:roberta"),
        ("xlm_roberta", "hf:xlm-roberta"),
        ("deberta-v2", "hf:deberta-v2"),
        ("gpt2", "gpt"),
        ("cn", "cnn"),
        ("lenet5", "lenet"),
        ("unet", ""),
    ],
)
def test_the_library_is_named_or_the_nearest_of_our_own(written, name):
    assert meant(written) == name
