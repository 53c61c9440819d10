"""Everything that can be done in a session, each a function from a `State` to the next one.

What a filter rejects leaves the objects as they are and says why. Raised is InputError, for files alone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import numpy as np
import torch

from augment.paint.choosing import MAX_ENLARGEMENT
from augment.placement.filters import FILTERS, Filters
from augment.placement.places import ImageForModel, Inserter
from augment.placement.scene import EditedImage
from data.geometry import boxes_of_theta, metric_heights
from demo.state import FORCED, DemoObject, State, Wishes
from demo.studio import Studio
from support.errors import InputError
from support.seeds import generator

UNDO = 30  # states that are kept
# What forbids an object besides the filters that can be switched off.
FORBIDDEN = {
    "no_free_id": "instance maps have no number left for another one of its class",
    "height_range": "it would be smaller than anything that the model has learnt from",
    "hides": "another thing would vanish behind it",
    "covers_inserted": "a new object would vanish behind it",
    "render": "there is no other instance to show, or none that is large enough",
}


class RejectedError(Exception):
    """Why an object can't stand there, as a sentence."""


def filter_in_words(filter_name: str, filters: Filters) -> str:
    """What a filter asks, its limits in numbers."""
    text = FILTERS[filter_name]
    for name in ("min_apart", "max_overlap", "min_score", "min_area"):
        text = text.replace(name, f"{getattr(filters, name):g}")
    return text


def in_words(reason: str, wishes: Wishes, filters: Filters) -> str:
    """Why an object may not stand in an image, by the filters for it (`Inserter.filters_for`)."""
    if reason == "render" and wishes.own is not None:
        return f"your cut-out has too few pixels, it would be enlarged more than {MAX_ENLARGEMENT:g} times"
    if reason in FILTERS:
        return f"the filter “{reason}” asks: {filter_in_words(reason, filters)}"
    return FORBIDDEN[reason]


def action(function: Callable) -> Callable:
    """A rejected change leaves everything as it was, but for the message."""

    @wraps(function)
    def act(studio: Studio, state: State, *arguments) -> State:
        try:
            return function(studio, state, *arguments)
        except RejectedError as rejected:
            return replace(state, message=f"**Rejected:** {rejected}.")

    return act


# ---- objects ------------------------------------------------------------------------------------


def in_scene_of(state: State | None, begun: State) -> State:
    """Another scene, where what was uploaded as an object may still stand."""
    return begun if state is None else replace(begun, own=state.own)


@action
def click(studio: Studio, state: State, wishes: Wishes, x: float, y: float) -> State:
    """Put an object with its foot at x, y (pixels): of the median size there, any shape."""
    wishes = _with_own(state, wishes)
    image, number = state.image.copy(), len(state.objects)
    inserter, view = _inserter_and_view(studio, image, wishes, wishes.class_name)
    height, width = image.label_ids.shape
    foot = torch.tensor([[x / width, y / height]], dtype=torch.float64, device=inserter.device)
    theta = view.where.density.theta_at(foot, torch.zeros_like(foot))[0].cpu().numpy()
    z_appr = _shape_noise(state, view)
    placed = _put(inserter, wishes, image, view, theta, z_appr)
    after = _with(state, number, (placed,), (image,), draws=state.draws + 1)
    return replace(after, message=f"Put there: {described(after, number)}.")


@action
def surprise(studio: Studio, state: State, wishes: Wishes) -> State:
    """Put an object where the model draws one; the first of its places that passes the filters."""
    wishes = _with_own(state, wishes)
    image, number = state.image.copy(), len(state.objects)
    inserter = studio.inserter_for(image, wishes, seed=state.draws)
    record = inserter.insert(image, number + 1, wishes.class_name)
    filters = inserter.filters_for(image, wishes.class_name)
    tried = [
        f"{count} because {in_words(reason, wishes, filters)}" for reason, count in record["refusals"].items()
    ]
    if record["status"] == "refused":
        raise RejectedError(f"none of the places drawn will do; {'; '.join(tried)}")
    facts = {key: record[key] for key in FACTS if key in record}
    z_appr = np.array(record["z_appr"], np.float32)
    placed = _placed(wishes, image, np.array(record["theta"]), z_appr, facts)
    after = _with(state, number, (placed,), (image,), draws=state.draws + 1)
    places = f" Places rejected before it: {'; '.join(tried)}." if tried else ""
    return replace(after, message=f"Drawn: {described(after, number)}.{places}")


@action
def move(studio: Studio, state: State, wishes: Wishes, number: int, value: float) -> State:
    """Give one of the four numbers of z_spatial of the chosen object another value."""
    z = place_noise(studio, state, wishes)
    z[number] = value
    image, placed = state.steps[state.chosen], state.objects[state.chosen]
    inserter, view = _inserter_and_view(studio, image, wishes, placed.class_name)
    z_spatial = torch.from_numpy(z)[None].to(inserter.device)
    if number < 2:
        theta = view.where.density.theta_of_z(z_spatial)
    else:  # the foot stays to the last digit, also where the density is next to nothing
        x0, _, x1, y1 = boxes_of_theta(placed.theta[None], 1, 1)[0]
        foot = z_spatial.new_tensor([[(x0 + x1) / 2, y1]])
        theta = view.where.density.theta_at(foot, z_spatial[:, 2:])
    theta = theta[0].cpu().numpy()
    return _changed(studio, state, wishes, theta, placed.z_appr)


@action
def reshape(studio: Studio, state: State, wishes: Wishes, number: int, value: float) -> State:
    """Move the chosen object's z_appr along direction 0, 1, ... to this value."""
    placed = state.objects[state.chosen]
    direction = studio.directions[placed.class_name][number]
    z_appr = placed.z_appr + (value - direction @ placed.z_appr) * direction
    return _changed(studio, state, wishes, placed.theta, z_appr.astype(np.float32))


@action
def another_shape(studio: Studio, state: State, wishes: Wishes) -> State:
    """Draw z_appr of the chosen object anew."""
    if state.chosen is None:
        raise RejectedError("there is no object yet")
    placed = state.objects[state.chosen]
    _, view = _inserter_and_view(studio, state.image, wishes, placed.class_name)
    state = replace(state, draws=state.draws + 1)
    return _changed(studio, state, wishes, placed.theta, _shape_noise(state, view), seed=state.draws)


@action
def remove(studio: Studio, state: State, wishes: Wishes) -> State:
    """Take the chosen object away."""
    if state.chosen is None:
        raise RejectedError("there is no object to remove")
    name = named(state, state.chosen)
    later, images = _again(studio, wishes, state.steps[state.chosen], state.objects[state.chosen + 1 :])
    after = _with(state, state.chosen, later, images)
    return replace(after, message=f"Removed: {name}.")


@action
def repaint(studio: Studio, state: State, wishes: Wishes) -> State:
    """Paint all objects with the pixels that are wished for now; nothing can be undone then."""
    objects, images = _again(studio, wishes, state.steps[0], state.objects)
    steps = state.steps[0], *images
    return replace(state, objects=objects, steps=steps, earlier=(), message="Painted anew.")


def choose(state: State, number: int) -> State:
    """Let sliders and buttons work on object 0, 1, ..."""
    return replace(state, chosen=number, moving=False, message=f"Chosen: {described(state, number)}.")


def with_error(state: State | None, error: InputError) -> State | None:
    """The same state, with what is wrong with a file."""
    return state and replace(state, message=f"**Can't be used:** {error}.")


def undo(state: State) -> State:
    """The state before the last change."""
    if not state.earlier:
        return replace(state, message="There is nothing to undo.")
    before, earlier = state.earlier[-1], state.earlier[:-1]
    return replace(before, earlier=earlier, draws=state.draws, own=state.own, message="Undone.")


def settled(state: State) -> State:
    """The state when a slider is let go: the next change is one of its own for `undo`."""
    return replace(state, moving=False)


# ---- what is said of them -----------------------------------------------------------------------


def place_noise(studio: Studio, state: State, wishes: Wishes) -> np.ndarray:
    """z_spatial (4,) float64 of the chosen object, by the exact inverse at its place."""
    placed = state.objects[state.chosen]
    _, view = _inserter_and_view(studio, state.steps[state.chosen], wishes, placed.class_name)
    theta = torch.from_numpy(placed.theta)[None].to(view.where.density.logits.device)
    return view.where.density.z_of_theta(theta)[0].cpu().numpy()


def shape_values(studio: Studio, state: State) -> np.ndarray:
    """How far the chosen object's z_appr goes along each of the directions that have a slider."""
    placed = state.objects[state.chosen]
    return studio.directions[placed.class_name] @ placed.z_appr if studio.directions else np.zeros(0)


def named(state: State, number: int) -> str:
    """What object 0, 1, ... is called in the list."""
    return f"{number + 1}: {state.objects[number].label}"


def described(state: State, number: int) -> str:
    """Object 0, 1, ... with its scores and what is seen of it, in words."""
    facts, seen = state.objects[number].facts, state.image.seen(number + 1)
    occluded = f", {seen['hidden_pixels']:,} more occluded" if seen["hidden_pixels"] else ""
    shape = facts["score_shape"]
    of_shape = "" if shape is None else f", of the shape {shape:.2f} (0 drawn, 1 real)"
    return (
        f"{state.objects[number].label} {number + 1}, score of the place {facts['score_place']:.2f} (the"
        f" likeliest of the scene has 1){of_shape};"
        f" {seen['pixels']:,} pixels seen{occluded}"
    )


# ---- inner --------------------------------------------------------------------------------------


FACTS = (
    *("theta", "box", "score_place", "score_shape"),
    *("instance_id", "inserted_value", "dropped", "label", "ridden", "render"),
)


def _with_own(state: State, wishes: Wishes) -> Wishes:
    """The wishes for a new object, which may be somebody's own. RejectedError if it can't be seen."""
    if state.own.cutouts is not None and state.image.rgb is None:
        raise RejectedError("this scene has no image that could show your cut-out")
    return replace(wishes, own=state.own.cutouts)


def _inserter_and_view(
    studio: Studio, image: EditedImage, wishes: Wishes, class_name: str, seed: int = 0
) -> tuple[Inserter, ImageForModel]:
    """What puts an object on an image, and the image as it sees it."""
    inserter = studio.inserter_for(image, wishes, seed)
    return inserter, inserter.view(image, class_name)


def _shape_noise(state: State, view: ImageForModel) -> np.ndarray:
    """z_appr (z_dim,) float32 of the next draw."""
    size = view.model.options.z_dim_appr
    return generator(state.draws, state.image.name, 0, "demo shape").standard_normal(size, np.float32)


def _put(
    inserter: Inserter,
    wishes: Wishes,
    image: EditedImage,
    view: ImageForModel,
    theta: np.ndarray,
    z_appr: np.ndarray,
) -> DemoObject:
    """Put an object on an image, which changes. Raises RejectedError."""
    name = view.model.target.name
    reason, facts = "no_free_id", {}
    if image.new_id(name) is not None:
        place = torch.from_numpy(theta)[None].float().to(inserter.device)
        reason, facts = inserter.put(image, view, place, z_appr[None])
    if reason:
        text = in_words(reason, wishes, view.filters)
        if reason == "height" and image.camera:
            box = boxes_of_theta(theta[None], *image.label_ids.shape[::-1])
            text += f"; it would be {metric_heights(box, image.camera)[0]:.2f} m high"
        raise RejectedError(text)
    return _placed(replace(wishes, class_name=name), image, theta, z_appr, facts)


def _placed(
    wishes: Wishes, image: EditedImage, theta: np.ndarray, z_appr: np.ndarray, facts: dict
) -> DemoObject:
    """What was put on an image last."""
    shown = image.shown.get(facts.get("render", {}).get("source"))
    return DemoObject(wishes.class_name, theta, z_appr, image.new_masks[-1], facts, shown, wishes.own)


def _again(
    studio: Studio, wishes: Wishes, image: EditedImage, objects: tuple[DemoObject, ...]
) -> tuple[tuple[DemoObject, ...], tuple[EditedImage, ...]]:
    """Put objects on an image as they were, one after another: they, and the image after each.

    Filters that they passed once are not asked again. Raises RejectedError if one vanishes altogether.
    """
    wishes = replace(wishes, filters=FORCED)
    placed, images = [], []
    for one in objects:
        image = image.copy()
        inserter = studio.inserter_for(image, replace(wishes, own=one.own))
        reason, facts = _put_again(inserter, image, one)
        if reason:
            name = f"{one.label} {len(image.new_ids) + 1}"
            filters = inserter.filters_for(image, one.class_name)
            raise RejectedError(f"{name} would be lost: {in_words(reason, wishes, filters)}")
        shown = image.shown.get(facts.get("render", {}).get("source"))
        placed.append(replace(one, patch=image.new_masks[-1], facts=one.facts | facts, shown=shown))
        images.append(image)
    return tuple(placed), tuple(images)


def _put_again(inserter: Inserter, image: EditedImage, one: DemoObject) -> tuple[str | None, dict]:
    """Put an object on an image as it was; another cut-out only if it was none. As `EditedImage.put`."""
    painter = inserter.painter
    if painter is None or not painter.collections:
        return image.put(one.class_name, one.patch, FORCED, painter and painter.paint)
    if one.shown is None:
        box = np.array(one.facts["box"])
        return inserter.put_cutout(image, inserter.view(image, one.class_name), box, one.patch)
    return image.put_cutout(one.shown, FORCED, painter)


def _changed(
    studio: Studio, state: State, wishes: Wishes, theta: np.ndarray, z_appr: np.ndarray, seed: int = 0
) -> State:
    """The chosen object at another place or of another shape, later ones as they were."""
    number = state.chosen
    image, wishes = state.steps[number].copy(), replace(wishes, own=state.objects[number].own)
    inserter, view = _inserter_and_view(studio, image, wishes, state.objects[number].class_name, seed)
    placed = _put(inserter, wishes, image, view, theta, z_appr)
    later, images = _again(studio, wishes, image, state.objects[number + 1 :])
    after = _with(state, number, (placed, *later), (image, *images))
    earlier = state.earlier if state.moving else after.earlier
    message = f"Now: {described(after, number)}."
    return replace(after, chosen=number, message=message, earlier=earlier, moving=True)


def _with(
    state: State,
    number: int,
    objects: tuple[DemoObject, ...],
    images: tuple[EditedImage, ...],
    draws: int | None = None,
) -> State:
    """The state with these objects and images instead of those from `number` on; the last is chosen."""
    objects = (*state.objects[:number], *objects)
    return State(
        state.scene,
        (*state.steps[: number + 1], *images),
        objects,
        len(objects) - 1 if objects else None,
        state.own,
        state.draws if draws is None else draws,
        earlier=(*state.earlier, replace(state, earlier=()))[-UNDO:],
    )
