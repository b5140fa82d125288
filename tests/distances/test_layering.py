"""How tensors are grouped into layers."""

import pytest
from torch import nn

from sapag_fast.distances.layering import layering, model_layers


def test_bias_joins_the_weight_before_it():
    found = layering(((12, 1, 5, 5), (12,), (10, 588), (10,)), True, None)
    assert found.layer_of == (0, 0, 1, 1)
    assert found.layers == 2


def test_biases_apart_when_asked():
    assert layering(((12, 3), (12,), (10, 5), (10,)), False, None).layer_of == (0, 1, 2, 3)


def test_only_one_vector_joins_and_only_where_the_first_dimension_agrees():
    assert layering(((8, 3), (8,), (8,), (9, 8), (4,)), True, None).layer_of == (0, 0, 1, 2, 3)


def test_none_keeps_neighbours_apart_and_takes_no_layer():
    found = layering(((8, 3), None, (8,), (8,)), True, None)
    assert found.kept == (0, 2, 3)
    assert found.layer_of == (0, 1, 1)


def test_given_layers_win():
    found = layering(((8, 3), (8,), (2,)), True, (0, 1, 0))
    assert found.layer_of == (0, 1, 0)
    assert found.merged().layer_of == (0, 0, 0)


@pytest.mark.parametrize("layers", [(0,), (0, -1, 1)])
def test_bad_layers(layers):
    with pytest.raises(ValueError, match="layers: expected"):
        layering(((8, 3), (8,), (2,)), True, layers)


def test_layers_of_a_model_by_name():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[3].bias.requires_grad_(False)
    assert model_layers(model, "modules") == (0, 1, 1, 2)
    assert model_layers(model, "shapes") == (0, 0, 1, 2)  # a guess that takes a norm's weight for a bias
    assert model_layers(model, "separate") == (0, 1, 2, 3)
    assert model_layers(model, [0, 0, 0, 1]) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match=r"layers must be one of modules, shapes, .* found 'twins'"):
        model_layers(model, "twins")
    with pytest.raises(ValueError, match="one layer number for each of 4 tensors, found 1"):
        model_layers(model, [0])
