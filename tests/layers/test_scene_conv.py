"""The first layer against a convolution of the planes written out: forward and every gradient."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from layers import scene_conv as module
from layers.canvas import Canvas
from layers.scene_conv import MIXED, MOVING, classes_of_windows, scene_conv
from networks import edge_map, place, place_box
from tests.canvases import CHANNEL, TOLERANCE, by_hand, gradients, make_canvas


@pytest.fixture(params=["windows", "planes"])
def way(request, monkeypatch) -> None:
    """Which of the two ways is taken, whatever the scenes show."""
    monkeypatch.setattr(module, "MAX_MIXED", 1.0 if request.param == "windows" else -1.0)


def check(canvas: Canvas, weight, bias, leaves) -> None:
    fast = scene_conv(canvas, weight, bias)
    slow = F.conv2d(by_hand(canvas), weight, bias, stride=2, padding=1)
    tolerance = TOLERANCE[weight.dtype] * 10
    for ours, plain in zip([fast, *gradients(fast, *leaves)], [slow, *gradients(slow, *leaves)], strict=True):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mask, drawn", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_scenes_without_a_plain_window(way, dtype, mask, drawn, layout):
    canvas = make_canvas(dtype, mask=mask, drawn=drawn)
    weight = torch.randn(5, 31, 4, 4, dtype=dtype).to(memory_format=layout).requires_grad_()
    bias = torch.randn(5, dtype=dtype, requires_grad=True)
    check(
        canvas,
        weight,
        bias,
        [weight, bias, *(t for t in (canvas.mask, canvas.drawn) if mask and t is not None)],
    )
    assert scene_conv(canvas, weight, bias).is_contiguous(memory_format=layout)
    torch.testing.assert_close(canvas.planes(), by_hand(canvas))


def blocks(dtype) -> Canvas:
    """Two scenes of large patches of one class, one of them the target's, with some edges."""
    torch.manual_seed(0)
    labels = torch.randint(0, 30, (2, 3, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, 16:32, 16:32] = CHANNEL
    edge = edge_map(labels[:, None].to(dtype)) > 0
    edge[:, :, 20, 3:40] = True
    return Canvas(labels.to(torch.uint8), edge.to(dtype), CHANNEL)


# t11, t13, t22, t23: anywhere; the whole image; its left half, edge on a pixel; out of the image; flipped
PLACES = [
    (3.1, 0.4, 2.3, -0.7),
    (1, 0, 1, 0),
    (63 / 31, 32 / 31, 47 / 23, 24 / 23),
    (2, 2.5, 2, 0),
    (-3, 0, 3, 1),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("place_of", PLACES)
@pytest.mark.parametrize("kind", ["box", "soft box", "object"])
def test_gradients_reach_the_place_and_the_shape(way, dtype, place_of, kind):
    """Windows that show one class take no part in the mask's gradient, and none of it is missed."""
    canvas = blocks(dtype)
    t11, t13, t22, t23 = place_of
    theta = torch.tensor([[t11, 0, t13, 0, t22, t23], [4, 0, 1, 0, 5, 1]], dtype=dtype, requires_grad=True)
    torch.manual_seed(1)  # a draw whose sums do not cancel
    compact = torch.rand(2, 1, 8, 8, dtype=dtype, requires_grad=True)
    leaves = [theta]
    if kind == "object":
        mask = place(compact, theta, (48, 64))
        canvas, leaves = dataclasses.replace(canvas, mask=mask, drawn=edge_map(mask)), [theta, compact]
    else:
        canvas = canvas.paste(place_box(theta, (48, 64), (8, 8), 3.0 if kind == "soft box" else 0.0))
    weight = torch.randn(5, 31, 4, 4, dtype=dtype, requires_grad=True)
    bias = torch.randn(5, dtype=dtype, requires_grad=True)
    check(canvas, weight, bias, [weight, bias, *leaves])


def test_which_windows_show_one_class():
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    labels[:, :, 8:] = 7
    edge = torch.zeros(1, 1, 16, 16)
    edge[0, 0, 5, 3] = 1
    scene = Canvas(labels, edge, CHANNEL)
    classes = classes_of_windows(scene, moving=False).view(8, 8)
    rim = torch.ones(8, 8, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert (classes[rim] == MIXED).all()
    assert (classes[1:-1, 1:3] == 0).sum() == 12 - 4  # rows 2 and 3 of columns 1 and 2 see the edge
    assert (classes[1:-1, 3:5] == MIXED).all()  # both sides of the border between the classes
    assert (classes[1:-1, 5:7] == 7).all()
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 2:12, 2:12] = 1
    covered = classes_of_windows(scene.paste(mask), moving=False).view(8, 8)
    assert (covered[2:5, 2:5] == CHANNEL).all()  # the edge is covered too
    mask[:, :, 8:], mask[:, :, :, 8:] = 0, 0
    covered = classes_of_windows(scene.paste(mask), moving=False).view(8, 8)
    moving = classes_of_windows(scene.paste(mask), moving=True).view(8, 8)
    assert (moving[rim] == MOVING).all()  # a box may end there
    near = torch.zeros(8, 8, dtype=torch.bool)
    near[1:5, 1:5] = True  # windows that show pixels on both sides of the mask's rim ...
    near[2, 2] = False  # ... unlike the one inside
    assert torch.equal((moving == MOVING)[1:-1, 1:-1], near[1:-1, 1:-1])
    assert torch.equal(moving >= MIXED, covered >= MIXED)


def test_only_the_gradients_asked_for_are_worked_out(way):
    """Weights of a discriminator cost nothing while G learns, which Optimisers tells by requires_grad."""
    canvas = blocks(torch.float32)
    canvas = canvas.paste(place_box(torch.tensor(2 * [[3.1, 0, 0.4, 0, 2.3, -0.7]]), (48, 64), (8, 8)))
    canvas.mask.requires_grad_()
    weight, bias = torch.randn(5, 31, 4, 4, requires_grad=True), torch.zeros(5, requires_grad=True)
    flop = {}
    for needed in (True, False):
        loss = scene_conv(canvas, weight, bias).square().sum()
        weight.requires_grad_(needed), bias.requires_grad_(needed)
        with FlopCounterMode(display=False) as counter:
            loss.backward(inputs=[canvas.mask])
        weight.requires_grad_(True), bias.requires_grad_(True)
        flop[needed] = counter.get_total_flops()
    assert weight.grad is None and bias.grad is None
    assert flop[False] <= flop[True] / 2
