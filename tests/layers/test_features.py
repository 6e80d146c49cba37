"""Features of signals, images and volumes come from the same code; each pooling is torch's own."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from problems.pyro_models import noise

from probmodel.layers.features import CNN, MLP, AveragePool, HalfPrecision, Identity, MaxPool, UpSample
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.randomness import isolated

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOLINGS = {"max": MaxPool(2), "average": AveragePool(2), "up": UpSample(2)}


def cnn(**settings):
    with isolated(seed=0):
        return CNN(2, 5, **settings).double()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_poolings_equal_torchs(dims):
    x = noise(3, 2, *(6,) * dims)
    torch.testing.assert_close(MaxPool(3)(x), MAX[dims](x, 3))
    torch.testing.assert_close(AveragePool(3)(x), AVERAGE[dims](x, 3))
    repeated = x
    for axis in range(2, 2 + dims):
        repeated = repeated.repeat_interleave(2, dim=axis)
    assert torch.equal(UpSample(2)(x), repeated)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_down_and_up_undo_each_other(dims):
    x = noise(3, 2, *(4,) * dims)
    for pool in (MaxPool(2), AveragePool(2)):
        torch.testing.assert_close(pool(UpSample(2)(x)), x)


@pytest.mark.parametrize("pool", POOLINGS.values(), ids=POOLINGS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_cnn_is_convolution_rectifier_and_pooling_then_linear_layers(dims, pool):
    net = cnn(dims=dims, channels=(3, 4), pool=pool, grid=2, hidden=(7,))
    x = noise(6, 2, *(8,) * dims)
    maps = x
    for layer in net.convolutions:
        maps = pool(F.relu(CONVOLUTION[dims](maps, layer.weight, layer.bias, padding=1)))
    size = maps.shape[-1] // 2
    h = AVERAGE[dims](maps, size).flatten(1)
    first, last = net.connected[0], net.connected[-1]
    expected = F.linear(F.relu(F.linear(h, first.weight, first.bias)), last.weight, last.bias)
    torch.testing.assert_close(net(x), expected)
    assert net(x).shape == (6, 5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_up_sampling_doubles_the_maps(dims):
    seen = []

    def spy(x):
        seen.append(UpSample(2)(x))
        return seen[-1]

    cnn(dims=dims, channels=(3, 3), pool=spy)(noise(2, 2, *(3,) * dims))
    assert [maps.shape[2:] for maps in seen] == [(6,) * dims, (12,) * dims]


def test_a_cnn_of_an_image_of_one_row_is_that_of_a_signal():
    image, signal = cnn(channels=(3,), pool=Identity2()), cnn(dims=1, channels=(3,), pool=Identity2())
    with torch.no_grad():
        image.convolutions[0].weight.zero_()
        image.convolutions[0].weight[:, :, 1] = signal.convolutions[0].weight
        image.convolutions[0].bias.copy_(signal.convolutions[0].bias)
        weight = signal.connected[-1].weight.reshape(5, 3, -1)
        grid = weight.shape[-1]
        # Every cell of the image's grid averages the same single row.
        image.connected[-1].weight.copy_((weight[:, :, None].expand(5, 3, grid, grid) / grid).reshape(5, -1))
        image.connected[-1].bias.copy_(signal.connected[-1].bias)
    x = noise(4, 2, 8)
    torch.testing.assert_close(image(x[:, :, None]), signal(x))


class Identity2:
    def __call__(self, x):
        return x


def test_any_input_size_of_the_same_rank_fits():
    net = cnn(grid=3)
    assert net(noise(2, 2, 12, 16)).shape == net(noise(2, 2, 28, 28)).shape == (2, 5)


@pytest.mark.parametrize("shape", [(4, 2, 8), (4, 3, 8, 8), (4, 2, 8, 8, 8)])
def test_a_cnn_says_which_shape_it_needs(shape):
    with pytest.raises(ValueError, match=r"expected x of shape \(N, 2, size, size\), got .*; reshape"):
        cnn()(noise(*shape))


@pytest.mark.parametrize("settings", [{"dims": 0}, {"dims": 4}, {"kernel_size": 2}])
def test_a_cnn_refuses_settings_that_cannot_work(settings):
    with pytest.raises(ValueError, match="got"):
        cnn(**settings)


def test_an_mlp_is_its_linear_layers_with_rectifiers():
    with isolated(seed=0):
        net = MLP(6, 4, hidden=(5,)).double()
    x = noise(3, 2, 3)
    first, last = net.connected[0], net.connected[2]
    torch.testing.assert_close(net(x), last(torch.relu(first(x.flatten(1)))))
    with pytest.raises(ValueError, match="expected x with 6 values per row, got 7; set in_features=7"):
        net(noise(3, 7))


def test_identity_flattens():
    x = noise(3, 2, 4)
    assert torch.equal(Identity()(x), x.reshape(3, 8))


@pytest.mark.parametrize("build", [lambda: CNN(2, 5, dims=1), lambda: MLP(6, 4), Identity])
def test_settings_build_the_same_piece_again(build):
    with isolated(seed=0):
        piece = build()
        twin = type(piece)(**piece.constructor_arguments())
    assert repr(twin) == repr(piece)
    twin.load_state_dict(piece.state_dict())


def test_half_precision_rounds_the_products_and_keeps_the_dtype_of_the_data():
    with isolated(seed=0):
        network = MLP(6, 4)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    rough, exact = HalfPrecision(network)(x), network(x)
    assert rough.dtype == x.dtype
    error = float(((rough - exact).abs().max() / exact.abs().max()).detach())
    assert 1e-5 < error < 0.05  # bfloat16 keeps 8 bits.


def test_gradients_through_half_precision_reach_float32_weights_and_trace():
    with isolated(seed=0):
        network = MLP(6, 1, hidden=(8,))
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    rough, exact = HalfPrecision(network), network
    leaves = list(network.parameters())
    slopes = [torch.autograd.grad(net(x).square().sum(), leaves) for net in (rough, exact)]
    for a, b in zip(*slopes, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05 * float(b.abs().max()))
    traced = Gradient(lambda x: rough(x).square().sum(), leaves, x)
    assert traced.program.reason is None
    _, found = traced(x)
    for a, b in zip(found, slopes[0], strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_refuses_what_it_cannot_shorten():
    with isolated(seed=0), pytest.raises(ValueError, match=r"data\.to\(torch\.float32\)"):
        HalfPrecision(MLP(3, 2).double())(torch.zeros(4, 3, dtype=torch.float64))
    for dtype in (torch.int64, torch.bool):
        with pytest.raises(ValueError, match=rf"got {dtype}, in which features cannot be returned; .+x\.float\(\)"):
            inspect.unwrap(HalfPrecision.forward)(HalfPrecision(Identity()), torch.ones(4, 3, dtype=dtype))


@pytest.mark.parametrize("network", [torch.relu, MLP, None])
def test_half_precision_refuses_what_is_no_network(network):
    with pytest.raises(TypeError, match=r"expected a network that is an nn\.Module, got .+; pass one that is built"):
        inspect.unwrap(HalfPrecision.__init__)(HalfPrecision(Identity()), network)
