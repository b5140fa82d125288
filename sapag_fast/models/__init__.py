"""Small victim networks of the gradient-leakage literature, their activations and initialisations."""

from sapag_fast.models.activations import ACTIVATIONS, Activation, FunctionalActivation
from sapag_fast.models.convnet import ConvNet
from sapag_fast.models.encoder import Encoder, EncoderOptions
from sapag_fast.models.initialisation import INITIALISATIONS, initialise
from sapag_fast.models.lenet import LeNet
from sapag_fast.models.mlp import MLP
from sapag_fast.models.registry import MODELS, make_model
from sapag_fast.models.resnet import ResNet
from sapag_fast.models.vit import ViT

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "MLP",
    "MODELS",
    "Activation",
    "ConvNet",
    "Encoder",
    "EncoderOptions",
    "FunctionalActivation",
    "LeNet",
    "ResNet",
    "ViT",
    "initialise",
    "make_model",
]
