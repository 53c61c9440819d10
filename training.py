"""The training step: optimisers, one iteration, EMA; and on a GPU the step captured once and replayed.

A step is thousands of short kernels. At small batches a GPU is done with them sooner than the host has named
them one by one; a replay of a CUDA graph is one call.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from distributed import average_gradients
from loader.noise import Noise
from loader.pairs import Batch
from losses import total
from model import WhereWhat
from networks import GROUPS
from options import Options

G_SIDE = ("g", "where")  # what the gradient of g_total trains
MAX_WHERE_GRADIENT = 5.0  # norm at which the gradient of the density network is clipped


class Optimisers:
    """Adam for each group of networks that one loss trains: discriminators, supervised encoders, G, density.

    The published program has seven Adams; Adam works number by number, so fewer over the same sets of
    parameters take the same steps. `captured` (on a GPU): steps can be captured as a CUDA graph, for which
    learning rates are tensors.
    """

    def __init__(self, model: WhereWhat, *, captured: bool = False):
        options = model.options
        trained = {  # all but the biases that a norm removes
            group: [parameter for parameter in model.parameters_of(names) if parameter.requires_grad]
            for group, names in GROUPS.items()
        }
        self.parameters = {group: parameters for group, parameters in trained.items() if parameters}
        device = model.device
        speed = {"fused": device.type in ("cpu", "cuda"), "capturable": captured}  # one pass instead of ten
        self.adams = {
            group: torch.optim.AdamW(
                parameters,
                lr=options.where_learning_rate,
                betas=(0.9, 0.99),
                weight_decay=options.where_weight_decay,
                **speed,
            )
            if group == "where"
            else torch.optim.Adam(parameters, lr=options.learning_rate, betas=(options.beta1, 0.999), **speed)
            for group, parameters in self.parameters.items()
        }
        self.rates = {group: adam.param_groups[0]["lr"] for group, adam in self.adams.items()}
        self.live_rates = (
            {g: torch.tensor(r, device=device) for g, r in self.rates.items()} if captured else None
        )
        self.scale_rates(1.0)

    def zero_grad(self, *groups: str) -> None:
        for group in groups:
            if group in self.adams:
                self.adams[group].zero_grad(set_to_none=True)

    def backward(self, groups: Sequence[str], loss: Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of `loss` for the parameters of some groups, and for no others."""
        inputs = [p for name, parameters in self.parameters.items() if name in groups for p in parameters]
        if not inputs:
            return
        others = [p for name, parameters in self.parameters.items() if name not in groups for p in parameters]
        for parameter in others:  # tells layers/down_up.py not to work out gradients for them
            parameter.requires_grad_(False)
        try:
            loss.backward(inputs=inputs, retain_graph=retain_graph)
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def step(self, *groups: str) -> None:
        """Average the gradients of these groups over all ranks and take a step by them."""
        present = [group for group in groups if group in self.adams]
        average_gradients([parameter for group in present for parameter in self.parameters[group]])
        for group in present:
            if group == "where":
                nn.utils.clip_grad_norm_(self.parameters[group], MAX_WHERE_GRADIENT)
            self.adams[group].step()

    def scale_rates(self, scale: float) -> None:
        """Use `scale` times each group's learning rate from now on."""
        for group, adam in self.adams.items():
            rate = scale * self.rates[group]
            adam.param_groups[0]["lr"] = self.live_rates[group].fill_(rate) if self.live_rates else rate

    def state_dict(self) -> dict:
        states = {group: adam.state_dict() for group, adam in self.adams.items()}
        for state in states.values():
            for settings in state["param_groups"]:  # how this run was taken, which another need not be
                settings |= {"lr": float(settings["lr"]), "capturable": False}
        return states

    def load_state_dict(self, state: dict) -> None:
        for group, adam in self.adams.items():
            adam.load_state_dict(state[group])
            adam.param_groups[0]["capturable"] = self.live_rates is not None
            for parameter, moments in adam.state.items():
                # Fused Adam walks through memory, so all must lie as this run's option channels_last says.
                for name in ("exp_avg", "exp_avg_sq"):
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])


class NonFiniteLossError(Exception):
    """A loss term turned NaN or infinite; raised before any update by it."""

    def __init__(self, name: str, value: float, nothing_updated: bool):
        super().__init__(f"loss term {name} turned {value}")
        self.nothing_updated = nothing_updated  # no weight has changed in this iteration yet


def check_finite(losses: Mapping[str, Tensor], *, nothing_updated: bool) -> None:
    """Raise NonFiniteLossError for the first term that is NaN or infinite."""
    for name, value in losses.items():
        if not torch.isfinite(value):
            raise NonFiniteLossError(name, value.item(), nothing_updated)


def train_step(
    model: WhereWhat, optimisers: Optimisers, batch: Batch, noise: Noise, *, check: bool = False
) -> dict[str, Tensor]:
    """One iteration: a D step, then two G steps, the second with new dropout and sampling noise.

    All gradients of one step are taken at the same weights (docs/model.md#update). Returns all terms of
    model.loss_names as detached scalars: the discriminators' of the D step, all others of the second G step.
    With `check`, a term that is NaN or infinite raises NonFiniteLossError.
    """
    views = model.views(batch)
    paths = model(views, noise, 0)

    d_losses = model.d_losses(views, paths)
    if check:
        check_finite(d_losses, nothing_updated=True)
    d_step(model, optimisers, d_losses)

    g_losses = model.g_losses(views, noise, paths)
    del paths  # gradients need what the graph holds, not all that the paths hold
    if check:
        check_finite(g_losses, nothing_updated=False)
    g_step(model, optimisers, g_losses)

    paths = model(views, noise, 1)
    g_losses = model.g_losses(views, noise, paths)
    del paths
    if check:
        check_finite(g_losses, nothing_updated=False)
    g_step(model, optimisers, g_losses)
    losses = d_losses | g_losses
    return {name: losses[name].detach() for name in model.loss_names}


def d_step(model: WhereWhat, optimisers: Optimisers, losses: dict[str, Tensor]) -> None:
    """Each discriminator learns from its own loss."""
    optimisers.zero_grad("d")
    optimisers.backward(["d"], total(losses, model.objective["d"]))
    optimisers.step("d")


def g_step(model: WhereWhat, optimisers: Optimisers, losses: dict[str, Tensor]) -> None:
    """G learns from g_total, the supervised encoders from their own terms; the graph of both is used up."""
    optimisers.zero_grad("sup", *G_SIDE)
    optimisers.backward(["sup"], total(losses, model.objective["sup"]), retain_graph=True)
    optimisers.backward(G_SIDE, losses["g_total"])
    optimisers.step("sup", *G_SIDE)


class EMA:
    """Exponential moving average of the weights of what samples: steadier than the latest."""

    def __init__(self, model: WhereWhat, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.averaged = (*GROUPS["g"], *GROUPS["where"])
        self._pairs = tuple(m.parameters_of(self.averaged) for m in (self.model, model))

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move towards the weights after `iteration` (1, 2, ...); early on the mean of all so far."""
        weight = max(1 - self.decay, 1 / iteration)
        torch._foreach_lerp_(*self._pairs, weight)

    def state_dict(self) -> dict[str, Tensor]:
        weights = self.model.networks.state_dict()
        return {name: value for name, value in weights.items() if name.split(".")[0] in self.averaged}


# ---- captured on a GPU --------------------------------------------------------------------------

WARM_UP = 3  # steps taken kernel by kernel first: cuDNN chooses its ways, Adam makes its moments


def can_capture(options: Options, device: torch.device, ranks: int) -> bool:
    """Whether the step is captured as a CUDA graph: on a GPU, by one process."""
    return options.cuda_graph == "auto" and device.type == "cuda" and ranks == 1


class GraphedStep:
    """`train_step` for batches of one size; with `Optimisers(model, captured=True)`.

    The first steps are taken as usual, all later ones by replaying the graph: same kernels, same numbers.
    """

    def __init__(self, model: WhereWhat, optimisers: Optimisers):
        self.model, self.optimisers = model, optimisers
        self.steps = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch, noise: Noise, *, check: bool = False) -> dict[str, Tensor]:
        """Like train_step, except that `check` looks when the weights have been updated."""
        self.steps += 1
        if self.steps <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                losses = train_step(self.model, self.optimisers, batch, noise, check=check)
            torch.cuda.current_stream().wait_stream(self.stream)
            return losses
        if self.graph is None:
            self._capture(batch, noise)
        else:
            torch._foreach_copy_(self.inputs, list(_tensors((batch, noise))))
        self.graph.replay()
        losses = dict(zip(self.names, self.outputs.clone().unbind(), strict=True))
        if check:
            check_finite(losses, nothing_updated=False)
        return losses

    def _capture(self, batch: Batch, noise: Noise) -> None:
        self.inputs = list(_tensors((batch, noise)))  # each later batch is copied into this one
        self.optimisers.zero_grad(*self.optimisers.parameters)  # gradients belong to the graph's own memory
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may take page-locked memory meanwhile
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            losses = train_step(self.model, self.optimisers, batch, noise)
            self.names = tuple(losses)
            self.outputs = torch.stack(list(losses.values()))


def _tensors(value) -> Iterator[Tensor]:
    """All tensors of nested dataclasses and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _tensors(one)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _tensors(getattr(value, item.name))
