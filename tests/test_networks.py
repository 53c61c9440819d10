"""Shapes, sizes and fixed operations of the networks, against docs/model.md and slow versions."""

import pytest
import torch
import torch.nn.functional as F

from layers.canvas import PLANES, Canvas, add_noise
from networks import SceneEncoder, build_networks, edge_map, noise_features, place, place_box
from options import Options, network_depth
from support.errors import InputError
from tests.plain import plain_coord_loss, plain_edge_map, plain_encode, plain_place
from tests.published import published_names

PARAMETER_COUNTS = {  # docs/model.md#networks, at the default sizes
    "where_encoder": 2_804_580,
    "where_encoder_sup": 488,
    "where_reconstructor": 2_801_919,
    "stn": 10_534,
    "what_encoder": 8_062_192,
    "what_encoder_sup": 1_869_056,
    "generator": 3_835_105,
    "what_reconstructor": 8_045_311,
    "d_stn": 257,
    "d_where": 14_905,
    "d_obj": 109_881,
    "d_what": 6_297,
}


def random_theta(count: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    """Boxes of all sizes, some partly outside the image, one flipped."""
    torch.manual_seed(seed)
    theta = torch.zeros(count, 6, dtype=dtype)
    theta[:, [0, 4]] = torch.empty(count, 2, dtype=dtype).uniform_(0.7, 12)
    theta[:, [2, 5]] = torch.empty(count, 2, dtype=dtype).uniform_(-1.5, 1.5) * theta[:, [0, 4]]
    theta[0, 0] *= -1
    theta[1] = torch.tensor([1.0, 0, 0, 0, 1, 0])
    return theta


def test_parameter_counts():
    with torch.device("meta"):
        networks = build_networks(Options())
    assert {
        name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()
    } == PARAMETER_COUNTS


def test_initial_weights():
    torch.manual_seed(0)
    networks = build_networks(Options(gf_dim=16))
    kernel = networks["what_encoder"].body[0].weight
    assert kernel.mean().abs() < 1e-3 and abs(kernel.std() - 0.02) < 1e-3
    convolutions = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    assert all(not m.bias.any() for m in networks.modules() if isinstance(m, convolutions))
    theta = networks["stn"](torch.randn(2, 128, 1, 1))
    torch.testing.assert_close(theta, torch.tensor([[1.0, 0, 0, 0, 1, 0]] * 2))
    assert networks["stn"].layers[0].weight.abs().max() > 0.05  # torch's own start, not N(0, 0.02)


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (128, 128), (256, 128), (96, 32)])
def test_other_sizes(size):
    """Maps come out at the size they went in, at sizes the published program could not be built for."""
    width, height = size
    options = Options(
        image_sizex_small=width, image_sizey_small=height, image_sizex_big=width, image_sizey_big=height,
        compact_sizex=32, compact_sizey=32, gf_dim=2, df_dim=2, embed_dim_small=4, embed_dim_big=4,
    )  # fmt: skip
    networks = build_networks(options)
    labels = torch.randint(0, 30, (1, height, width), dtype=torch.uint8)
    canvas = Canvas(labels, torch.zeros(1, 1, height, width), channel=20)
    for name, z_dim in (("where", options.z_dim_spatial), ("what", options.z_dim_appr)):
        encoder = networks[f"{name}_encoder"]
        embedding = encoder([encoder.scene_features(canvas)], torch.randn(1, z_dim, 1, 1))
        assert embedding.shape == (1, 4, 1, 1)
        reconstructor = networks[f"{name}_reconstructor"]
        assert reconstructor.layers(embedding).shape == (1, PLANES, height, width)
    assert networks["generator"](embedding).shape == (1, 1, 32, 32)
    assert networks["d_obj"](torch.rand(1, 1, 32, 32)).shape == (1, 1, 1, 1)
    assert networks["d_what"](canvas).shape == (1, 1, height // 8, width // 8)


@pytest.mark.parametrize("size", [(100, 100), (256, 4), (256, 24), (250, 128), (8, 64)])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(InputError, match="can't be built"):
        network_depth(*size, "small maps")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edge_map_equals_four_convolutions(dtype):
    torch.manual_seed(0)
    m = torch.randint(0, 4, (2, 1, 9, 13)).to(dtype) + torch.rand(2, 1, 9, 13, dtype=dtype)
    ours, plain = m.clone().requires_grad_(), m.clone().requires_grad_()
    torch.testing.assert_close(edge_map(ours), plain_edge_map(plain))
    weight = torch.randn(2, 1, 9, 13, dtype=dtype)
    (edge_map(ours) * weight).sum().backward()
    (plain_edge_map(plain) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_edge_map_of_a_known_map():
    ids = torch.tensor([[7, 7, 7], [7, 9, 9], [7, 9, 9]])[None, None]
    assert (edge_map(ids) > 0).int()[0, 0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.float64, 1e-9)])
@pytest.mark.parametrize("size", [(32, 64), (64, 128), (128, 128)])
def test_placing_equals_enlarging_and_sampling(size, dtype, tolerance):
    """Forward and gradient (to source and theta) against the affine grid on the enlarged source."""
    theta = random_theta(12, seed=1, dtype=torch.float64).to(dtype)
    source = torch.rand(12, 1, 16, 32, dtype=dtype)
    weight = torch.randn(12, 1, *size, dtype=dtype)
    results = []
    for operation in (place, plain_place):
        leaves = [source.clone().requires_grad_(), theta.clone().requires_grad_()]
        placed = operation(*leaves, size)
        (placed * weight).sum().backward()
        results.append([placed.detach(), leaves[0].grad, leaves[1].grad[:, [0, 2, 4, 5]]])
    # At the identity (row 1) samples sit on kinks, where rounding decides the side: values only.
    smooth = torch.arange(12) != 1
    for ours, plain in zip(*results, strict=True):
        scale = plain[smooth].abs().max()
        assert scale > 0
        torch.testing.assert_close(
            ours[smooth] / scale, plain[smooth] / scale, atol=tolerance, rtol=tolerance
        )
    torch.testing.assert_close(results[0][0][1], results[1][0][1], atol=1e-4, rtol=1e-4)


def test_placed_box_equals_placed_ones():
    theta = random_theta(8, seed=2)
    ones = torch.ones(8, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(place_box(theta, (64, 128), (32, 32)), plain_place(ones, theta, (64, 128)))


def test_soft_box_has_the_same_place_and_a_gradient():
    theta = torch.tensor([[4.0, 0, 0.3, 0, 3.0, -0.2]], dtype=torch.float64, requires_grad=True)
    hard = place_box(theta, (64, 128), (32, 32))
    soft = place_box(theta, (64, 128), (32, 32), ramp=1.0)
    assert (hard - soft).abs().amax() <= 1
    assert ((hard > 0.5) != (soft > 0.5)).sum() <= 0.05 * hard.sum()
    soft[..., 32:, 60:].sum().backward()
    assert theta.grad[0, [0, 2, 4, 5]].abs().min() > 1


@pytest.mark.parametrize("size", [(6, 6), (8, 32), (32, 64)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("counts", [(4,), (2, 2), (1, 1)])
def test_adding_noise_equals_convolving_tiled_noise(size, layout, counts):
    """Forward and gradients, for scenes that share the noises out and for scenes used several times."""
    torch.manual_seed(0)
    height, width = size
    z, weight = torch.randn(4, 5, 1, 1, dtype=torch.float64), torch.randn(7, 5, 4, 4, dtype=torch.float64)
    features = [
        torch.randn(count, 7, height // 2, width // 2, dtype=torch.float64).to(memory_format=layout)
        for count in counts
    ]
    leaves = [z.requires_grad_(), weight.requires_grad_(), *(f.requires_grad_() for f in features)]
    fast = add_noise(features, noise_features(z, weight))
    tiled = F.conv2d(z.expand(-1, -1, height, width), weight, stride=2, padding=1)
    times = 4 // sum(counts)
    slow = torch.cat([f.repeat(times, 1, 1, 1) for f in features]) + tiled
    torch.testing.assert_close(fast, slow)
    chosen = torch.randn_like(slow)
    for ours, plain in zip(
        torch.autograd.grad((fast * chosen).sum(), leaves),
        torch.autograd.grad((slow * chosen).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)


def test_shared_first_convolution_equals_the_published_one():
    """One scene, two noises: forward and gradients against concatenating tiled noise to the planes."""
    torch.manual_seed(0)
    encoder = SceneEncoder(4, 3, 3, (4, 8), 6).double()
    labels, edge = torch.randint(0, 30, (1, 32, 64), dtype=torch.uint8), torch.zeros(1, 1, 32, 64)
    canvas = Canvas(labels, edge.double(), channel=20)
    planes = canvas.planes()
    z = torch.randn(2, 4, 1, 1, dtype=torch.float64)
    shared = encoder([encoder.scene_features(canvas)], z)
    plain = plain_encode(encoder, planes.expand(2, -1, -1, -1), z)
    torch.testing.assert_close(shared, plain)
    weight = torch.randn_like(plain)
    ours = torch.autograd.grad((shared * weight).sum(), encoder.first.weight)
    theirs = torch.autograd.grad((plain * weight).sum(), encoder.first.weight)
    torch.testing.assert_close(ours, theirs)


def test_coord_loss_equals_the_one_over_the_grid():
    from losses import coord_loss

    theta = random_theta(40, seed=3).requires_grad_()
    ours, plain = coord_loss(theta), plain_coord_loss(theta, (32, 64))
    torch.testing.assert_close(ours, plain)
    keep = torch.arange(40) != 1  # the identity touches both bounds exactly
    gradients = [torch.autograd.grad(loss, theta)[0][keep][:, [0, 2, 4, 5]] for loss in (ours, plain)]
    torch.testing.assert_close(*gradients)


def test_published_names_follow_the_layers():
    with torch.device("meta"):
        networks = build_networks(Options())
    names = published_names(networks)
    assert set(names) == {name for name, _ in networks.named_parameters()}
    assert len(set(names.values())) == len(names)
    assert names["what_encoder.first.weight"] == "what_encoder/conv0.0.weight"
    assert names["what_encoder.z_head.bias"] == "what_encoder/reconz.1.bias"
    assert names["d_obj.0.weight"] == "disObj/conv0.0.weight"
