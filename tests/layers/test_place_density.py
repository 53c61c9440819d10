"""The density of places: a bijection between z and theta, with the density that it says."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from layers.place_density import PlaceDensity, PlaceDensityNetwork

H, W, RATIO = 16, 32, 2.0


def random_density(scenes: int = 1, sharpness: float = 2.0, seed: int = 0) -> PlaceDensity:
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(scenes, 5, H, W, generator=generator, dtype=torch.float64)
    planes = torch.nn.functional.avg_pool2d(planes, 3, 1, 1) * 3
    start = torch.tensor([0, math.log(0.2), -1.0, math.log(0.4), -1.0])[None, :, None, None]
    scale = torch.tensor([sharpness, 0.3, 0.3, 0.3, 0.3])[None, :, None, None]
    return PlaceDensity.of_planes(planes * scale + start, RATIO)


def normal(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places(theta: torch.Tensor) -> torch.Tensor:
    """Boxes (N,4) x0, y0, x1, y1 in fractions of the image."""
    width, height = 1 / theta[:, 0], 1 / theta[:, 4]
    x, y = (1 - theta[:, 2] * width) / 2, (1 - theta[:, 5] * height) / 2
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)


def test_z_and_theta_determine_each_other():
    for seed in range(5):
        density, z = random_density(seed=seed), normal(500, seed)
        theta = density.theta_of_z(z)
        inside = z.abs().max(1).values < 4
        torch.testing.assert_close(density.z_of_theta(theta)[inside], z[inside], rtol=0, atol=1e-4)
        again = density.theta_of_z(density.z_of_theta(theta))
        torch.testing.assert_close(again, theta, rtol=1e-6, atol=1e-6)


def test_each_scene_has_its_own_density():
    both = random_density(2)
    z = normal(2)
    for number in (0, 1):
        alone = PlaceDensity(both.logits[number : number + 1], both.sizes[number : number + 1], RATIO)
        torch.testing.assert_close(
            both.theta_of_z(z)[number], alone.theta_of_z(z[number : number + 1])[0], rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("sharpness", [0.1, 2.0, 30.0])
def test_boxes_lie_in_the_image(sharpness):
    density = random_density(sharpness=sharpness)
    density = PlaceDensity(density.logits, density.sizes + 1.0, RATIO)  # far too large, and very uncertain
    boxes = places(density.theta_of_z(normal(2000) * 2))
    assert torch.isfinite(boxes).all()
    assert boxes.min() > -1e-9 and boxes.max() < 1 + 1e-9
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_the_mass_is_one_and_sampled_feet_follow_it():
    density = random_density(2)
    mass = density.mass()
    torch.testing.assert_close(mass.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    single = PlaceDensity(density.logits[:1], density.sizes[:1], RATIO)
    count = 40_000
    boxes = places(single.theta_of_z(normal(count)))
    columns = ((boxes[:, 0] + boxes[:, 2]) / 2 * W).long().clamp(0, W - 1)
    rows = (boxes[:, 3] * H).ceil().long().clamp(1, H) - 1
    found = np.bincount((rows * W + columns).numpy(), minlength=H * W)
    expected = mass[0].flatten().numpy() * count
    often = expected >= 5
    observed = np.append(found[often], found[~often].sum())
    assert stats.chisquare(observed, np.append(expected[often], expected[~often].sum())).pvalue > 1e-3


@pytest.mark.slow
def test_the_whole_density_integrates_to_one():
    """Over cells, heights and aspects: the likelihood that trains is that of a probability."""
    density = random_density(sharpness=1.0)
    x, y = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.55, dtype=torch.float64)
    steps = 400
    log_height = torch.linspace(math.log(0.002), math.log(0.55), steps + 1, dtype=torch.float64)
    log_height = (log_height[1:] + log_height[:-1]) / 2
    total, step_height = 0.0, (math.log(0.55) - math.log(0.002)) / steps
    for value in log_height:
        height = value.exp()
        low, high = math.log(1e-3), float((2 * RATIO * x / height).log())
        log_aspect = torch.linspace(low, high, steps + 1, dtype=torch.float64)
        log_aspect = (log_aspect[1:] + log_aspect[:-1]) / 2
        width = log_aspect.exp() * height / RATIO
        columns = [x - width / 2, (y - height).expand(steps), x + width / 2, y.expand(steps)]
        boxes = torch.stack(columns, 1)[None]
        known = torch.ones(1, steps, dtype=torch.bool)
        sizes = [density.losses(boxes[:, i : i + 1], known[:, :1])[1] for i in range(0, steps, 8)]
        total += float(torch.stack(sizes).neg().exp().mean()) * (high - low) * step_height
    assert total == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
def test_gradients_agree_with_finite_differences():
    density, z = random_density(), normal(6)

    def theta(z, logits, sizes):
        return PlaceDensity(logits, sizes, RATIO).theta_of_z(z)

    inputs = [tensor.clone().requires_grad_() for tensor in (z, density.logits, density.sizes)]
    assert torch.autograd.gradcheck(theta, inputs, eps=1e-7, atol=1e-4, rtol=1e-3, nondet_tol=0)

    boxes = places(density.theta_of_z(z))[None]
    known = torch.ones(1, len(z), dtype=torch.bool)

    def losses(logits, sizes):
        return PlaceDensity(logits, sizes, RATIO).losses(boxes, known)

    assert torch.autograd.gradcheck(losses, inputs[1:], eps=1e-6, atol=1e-5, rtol=1e-3)


def test_temperature_gathers_places_and_one_changes_nothing():
    density, z = random_density(), normal(2000)
    assert torch.equal(density.at_temperature(1.0).theta_of_z(z), density.theta_of_z(z))
    cold = density.at_temperature(0.5)
    entropy = [float(-(d.mass() * d.mass().log()).sum()) for d in (density, cold)]
    assert entropy[1] < entropy[0]


def test_at_a_temperature_each_density_is_its_power():
    """Log densities differ as they do at 1, divided by the temperature: what norms a density is left out."""
    density = random_density()
    warm = density.at_temperature(2.5)
    steps = torch.linspace(0.05, 0.2, 9, dtype=torch.float64)
    one_height, one_aspect = (torch.full_like(steps, 0.1), steps), (steps, 0.4 * steps / RATIO)

    def losses_of_sizes(of: PlaceDensity, heights: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
        x, y = 0.5, 0.6
        boxes = torch.stack([x - widths / 2, y - heights, x + widths / 2, torch.full_like(heights, y)], 1)
        known = torch.ones(1, 1, dtype=torch.bool)
        return torch.stack([of.losses(box[None, None], known)[1] for box in boxes])

    feet, warm_feet = (of.mass().log().flatten().diff() for of in (density, warm))
    torch.testing.assert_close(warm_feet, feet / 2.5)
    for sizes in (one_height, one_aspect):
        losses, warm_losses = (losses_of_sizes(of, *sizes).diff() for of in (density, warm))
        torch.testing.assert_close(warm_losses, losses / 2.5, rtol=1e-4, atol=1e-6)


def test_unknown_places_do_not_count():
    density = random_density(2)
    boxes = places(density.theta_of_z(normal(2)))[:, None].repeat(1, 3, 1)
    boxes[:, 1:] = 0
    known = torch.tensor([[True, False, False], [True, True, False]])
    boxes[1, 1] = boxes[1, 0] * 0.9
    foot, size = density.losses(boxes, known)
    alone = density.losses(boxes[:, :2], known[:, :2])
    torch.testing.assert_close(torch.stack([foot, size]), torch.stack(alone))
    halves = [
        PlaceDensity(density.logits[i : i + 1], density.sizes[i : i + 1], RATIO).losses(
            boxes[i : i + 1], known[i : i + 1]
        )
        for i in (0, 1)
    ]
    torch.testing.assert_close(torch.tensor(halves).mean(0), torch.stack([foot, size]))
    nothing = density.losses(boxes, torch.zeros(2, 3, dtype=torch.bool))
    assert [float(value) for value in nothing] == [0.0, 0.0]


def test_feet_stand_where_the_height_fits():
    density = random_density(sharpness=0.1)
    fitting = density.that_fit()
    lowest, lowest_fitting = (float((1 / d.theta_of_z(normal(2000))[:, 4]).min()) for d in (density, fitting))
    assert lowest_fitting > 3 * lowest
    odds = (fitting.logits - density.logits).exp()
    expected = torch.special.ndtr((math.log(0.5 / H) - density.sizes[:, 0, 0]) / density.sizes[:, 1, 0].exp())
    torch.testing.assert_close(odds[:, 0], expected)
    assert odds[:, 0].max() < 1e-3 and odds[:, -1].min() > 0.95  # the uppermost row of cells, and the lowest


def test_likelihoods_of_several_classes_are_those_of_each():
    """The densities of 2 scenes x 3 classes: each box counts by that of its scene and class."""
    every = random_density(6)
    boxes, known = torch.tensor([[0.4, 0.3, 0.5, 0.8]]).repeat(2, 4, 1), torch.ones(2, 4, dtype=torch.bool)
    known[1, 2:] = False
    classes = torch.tensor([[0, 2, 1, 1], [2, 0, 0, 0]])
    found = every.losses(boxes.double(), known, classes)
    wanted = torch.zeros(2, dtype=torch.float64)
    for scene, numbers in enumerate(([0, 2, 1, 1], [2, 0])):
        for number in numbers:
            row = slice(3 * scene + number, 3 * scene + number + 1)
            alone = PlaceDensity(every.logits[row], every.sizes[row], RATIO)
            terms = alone.losses(boxes[:1, :1].double(), known[:1, :1])
            wanted += torch.stack(terms) / len(numbers) / 2
    torch.testing.assert_close(torch.stack(found), wanted, rtol=1e-9, atol=1e-9)


def test_overlap_is_the_fraction_of_boxes_on_things():
    """Against boxes on a fine grid, foot by foot; and its gradient drives feet away from things."""
    density = random_density(2)
    things = torch.zeros(2, H, W, dtype=torch.bool)
    things[0, 5:11, 8:20] = True
    things[1, 3:9, 2:6] = True
    fine = 40
    expected = 0.0
    for scene in (0, 1):
        enlarged = things[scene].double().repeat_interleave(fine, 0).repeat_interleave(fine, 1)
        for row in range(H):
            for column in range(W):
                log_height, log_aspect = density.sizes[scene, [0, 2], row, column].tolist()
                tall, wide = math.exp(log_height) * H, math.exp(log_height + log_aspect) / RATIO * W
                x, y = column + 0.5, row + 0.5
                rows = slice(round(max(y - tall, 0) * fine), round(y * fine))
                columns = slice(round(max(x - wide / 2, 0) * fine), round(min(x + wide / 2, W) * fine))
                expected += float(density.mass()[scene, row, column] * enlarged[rows, columns].mean()) / 2
    found = density.overlap(things)
    assert float(found) == pytest.approx(expected, abs=2e-3) and expected > 0.02

    clear = density.clear_of(things, 3.0)
    assert float(clear.overlap(things)) < expected / 2 and torch.equal(clear.sizes, density.sizes)
    where_clear = (density.logits - clear.logits) == 0
    assert where_clear.any() and not where_clear.all()  # only places on things lose

    logits = density.logits.clone().requires_grad_()
    for _ in range(50):
        (gradient,) = torch.autograd.grad(PlaceDensity(logits, density.sizes, RATIO).overlap(things), logits)
        logits = (logits - 20 * gradient).detach().requires_grad_()
    assert float(PlaceDensity(logits, density.sizes, RATIO).overlap(things)) < expected / 2


@pytest.mark.slow
def test_the_network_learns_one_place():
    """A few steps on one scene: the likelihood of its place rises far above the start."""
    torch.manual_seed(0)
    network = PlaceDensityNetwork(30, 8, 3)
    network.start()
    labels = torch.randint(0, 30, (1, H * 2, W * 2), dtype=torch.uint8)
    boxes, known = torch.tensor([[[0.4, 0.3, 0.5, 0.8]]]), torch.ones(1, 1, dtype=torch.bool)
    adam = torch.optim.Adam(network.parameters(), lr=2e-2)
    losses = []
    for step in range(200):
        adam.param_groups[0]["lr"] = 2e-2 * (1 - step / 200)
        density = PlaceDensity.of_planes(network(labels)[:, 0], RATIO)
        foot, size = density.losses(boxes, known)
        adam.zero_grad()
        (foot + size).backward()
        adam.step()
        losses.append([foot.item(), size.item()])
    assert losses[0][0] > math.log(4 * H * W) - 1  # feet anywhere
    assert losses[-1][0] < 0.2 and losses[-1][1] < losses[0][1] - 1
    box = places(density.theta_of_z(torch.zeros(1, 4)))[0]
    assert float((box[0] + box[2]) / 2) == pytest.approx(0.45, abs=1 / 64)
    assert float(box[3]) == pytest.approx(0.8, abs=1 / 32)
