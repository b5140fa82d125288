"""Vision transformers of transformers, torchvision and timm as they are, with random weights."""

import importlib

import pytest
import torch
from explicit_cases import CLASSES
from test_explicit_vision import _setup
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sapag_fast.matching.choose import choose_matching
from sapag_fast.matching.one_by_one import SequentialMatching

COMMON = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
}
WINDOWS = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2],
    "num_heads": [2],
    "window_size": 4,
}
STAGES = {"image_size": 16, "hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2, "patch_size": 2}
HUGGING_FACE = {
    "ViT": COMMON,
    "ViT eager": COMMON | {"attn_implementation": "eager"},
    "DeiT": COMMON,
    "Dinov2": COMMON | {"mlp_ratio": 2},
    "Beit": COMMON | {"use_relative_position_bias": True, "use_absolute_position_embeddings": True},
    "Swin": WINDOWS,
    "ConvNext": STAGES,
}


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def _runs_explicitly(model):
    with sdpa_kernel(SDPBackend.MATH):
        problem, inputs, labels = _setup(model.eval(), (3, 16, 16))
        choice = choose_matching(problem, inputs, labels)
        assert (choice.mode, choice.reason) == ("explicit", "")
        expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
        found = choice.matching.value_and_gradient(inputs, labels)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-13)
        for mine, other in zip(found[1], expected[1], strict=True):
            assert (mine - other).norm() <= 1e-8 * other.norm()


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    kind = name.partition(" ")[0]
    config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **HUGGING_FACE[name])
    _runs_explicitly(Logits(getattr(transformers, f"{kind}ForImageClassification")(config)))


def test_torchvision():
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    torch.manual_seed(0)
    model = models.VisionTransformer(16, 4, 2, 2, 24, 32, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight)  # zeros otherwise, behind which no gradient comes
    _runs_explicitly(model)


def test_timm():
    pytest.importorskip("timm", exc_type=ImportError)
    vision_transformer = importlib.import_module("timm.models.vision_transformer")
    torch.manual_seed(0)
    _runs_explicitly(
        vision_transformer.VisionTransformer(
            16, 4, 3, CLASSES, embed_dim=24, depth=2, num_heads=2, init_values=0.1
        )
    )
