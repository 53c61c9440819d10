"""The training step: optimisers, one iteration, averages; and on a GPU the step recorded once and replayed.

A step is thousands of short kernels. At small batches a GPU is done with them sooner than the host has named
them one by one; a replay of a CUDA graph is one call.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from distributed import average_gradients
from loader.noise import Noise
from loader.pairs import Batch
from model import (
    D_NAMES,
    D_NETWORKS,
    G_NETWORKS,
    G_WEIGHTS,
    SUP_NETWORKS,
    WHERE_NETWORKS,
    Paths,
    Views,
    WhereWhat,
    d_losses,
    g_losses,
    kl_losses,
)
from options import Options

GROUPS = {"d": D_NETWORKS, "sup": SUP_NETWORKS, "g": G_NETWORKS, "where": WHERE_NETWORKS}
G_SIDE = ("g", "where")  # what the gradient of g_total trains
LARGEST_WHERE_GRADIENT = 5.0  # norm at which the gradient of the density network is cut


class Optimisers:
    """Adam for each group of networks that one loss trains: discriminators, supervised encoders, G.

    The published program has seven Adams; Adam works number by number, so three over disjoint sets of
    parameters take the same steps. With float16 losses are scaled up before and gradients down after the
    backward pass, and steps with infinite gradients are left out. `recorded` (on a GPU): steps can be
    recorded as a CUDA graph, for which rates are tensors.
    """

    def __init__(self, model: WhereWhat, *, recorded: bool = False):
        options = model.options
        trained = {  # all but the biases that a norm removes
            group: [parameter for parameter in model.parameters_of(names) if parameter.requires_grad]
            for group, names in GROUPS.items()
        }
        self.parameters = {group: parameters for group, parameters in trained.items() if parameters}
        device = self.parameters["d"][0].device
        fused = device.type in ("cpu", "cuda")  # one pass over the numbers instead of ten
        self.adams = {
            group: torch.optim.Adam(
                parameters,
                lr=options.learning_rate,
                betas=(options.beta1, 0.999),
                fused=fused,
                capturable=recorded,
            )
            for group, parameters in self.parameters.items()
            if group != "where"
        }
        if "where" in self.parameters:
            self.adams["where"] = torch.optim.AdamW(
                self.parameters["where"],
                lr=options.where_learning_rate,
                betas=(0.9, 0.99),
                weight_decay=options.where_weight_decay,
                fused=fused,
                capturable=recorded,
            )
        self.rates = {group: adam.param_groups[0]["lr"] for group, adam in self.adams.items()}
        self.live_rates = (
            {g: torch.tensor(r, device=device) for g, r in self.rates.items()} if recorded else None
        )
        self.set_rates(1.0)
        self.scaler = torch.amp.GradScaler(
            "cuda" if device.type == "cuda" else "cpu", enabled=options.precision == "fp16"
        )

    def clear(self, *groups: str) -> None:
        for group in groups:
            if group in self.adams:
                self.adams[group].zero_grad(set_to_none=True)

    def add_gradients(self, groups: Sequence[str], loss: Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of `loss` for the parameters of some groups, and for no others."""
        inputs = [p for name, parameters in self.parameters.items() if name in groups for p in parameters]
        others = [p for name, parameters in self.parameters.items() if name not in groups for p in parameters]
        for (
            parameter
        ) in others:  # tells our own layers (layers/halving.py) not to work out gradients for them
            parameter.requires_grad_(False)
        try:
            self.scaler.scale(loss).backward(inputs=inputs, retain_graph=retain_graph)
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def step(self, *groups: str) -> None:
        """Average the gradients of these groups over all ranks and take a step by them."""
        present = [group for group in groups if group in self.adams]
        average_gradients([parameter for group in present for parameter in self.parameters[group]])
        for group in present:
            if group == "where":
                self.scaler.unscale_(self.adams[group])
                nn.utils.clip_grad_norm_(self.parameters[group], LARGEST_WHERE_GRADIENT)
            self.scaler.step(self.adams[group])
        self.scaler.update()

    def set_rates(self, share: float) -> None:
        """Use this share of each group's rate from now on."""
        for group, adam in self.adams.items():
            rate = share * self.rates[group]
            adam.param_groups[0]["lr"] = self.live_rates[group].fill_(rate) if self.live_rates else rate

    def state_dict(self) -> dict:
        states = {group: adam.state_dict() for group, adam in self.adams.items()}
        for state in states.values():
            for settings in state["param_groups"]:  # how this run was taken, which another need not be
                settings |= {"lr": float(settings["lr"]), "capturable": False}
        return states | {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for group, adam in self.adams.items():
            adam.load_state_dict(state[group])
            adam.param_groups[0]["capturable"] = self.live_rates is not None
            for parameter, moments in adam.state.items():
                # Fused Adam walks through memory, so all must lie as this run's option channels_last says.
                for name in ("exp_avg", "exp_avg_sq"):
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])
        if state["scaler"]:  # empty after a run without float16
            self.scaler.load_state_dict(state["scaler"])


class NonFiniteLossError(Exception):
    """A loss term turned NaN or infinite; raised before any update by it."""

    def __init__(self, name: str, value: float, nothing_updated: bool):
        super().__init__(f"loss term {name} turned {value}")
        self.nothing_updated = nothing_updated  # no weight has changed in this iteration yet


def check_finite(losses: dict[str, Tensor], nothing_updated: bool) -> None:
    """Raise NonFiniteLossError for the first term that is NaN or infinite."""
    for name, value in losses.items():
        if not torch.isfinite(value):
            raise NonFiniteLossError(name, value.item(), nothing_updated)


def train_step(
    model: WhereWhat, optimisers: Optimisers, batch: Batch, noise: Noise, *, check: bool = False
) -> dict[str, Tensor]:
    """One iteration: a D update, then two G-side updates, the second with new dropout and sampling noise.

    All gradients of one update are taken at the same weights. Returns the terms of LOSS_NAMES as
    detached scalars: of the second half, and the discriminators' of the first (there is one D update).
    With `check`, a term that is NaN or infinite raises NonFiniteLossError. With option accumulate = n the
    batch goes through in n parts; its gradients are the same, memory is that of one part, and
    the first half's forward pass is done twice (D must be updated by all parts before G sees it).
    """
    parts = list(
        zip(batch.chunk(model.options.accumulate), noise.chunk(model.options.accumulate), strict=True)
    )
    whole = len(parts) == 1
    losses = dict.fromkeys(model.loss_names, 0.0)

    def add(terms: dict[str, Tensor], nothing_updated: bool) -> None:
        if check:
            check_finite(terms, nothing_updated)
        for name, value in terms.items():
            losses[name] = losses[name] + value.detach() / len(parts)

    for half in (0, 1):
        optimisers.clear("sup", *G_SIDE)
        if half == 0:
            optimisers.clear("d")
            for part, part_noise in parts:
                views = model.views(part)
                with model.autocast():
                    with torch.set_grad_enabled(whole):
                        paths = model(views, part_noise, 0)
                    terms = d_losses(model, views, paths)
                add(terms, nothing_updated=True)
                optimisers.add_gradients(["d"], sum(terms.values()) / len(parts))
            optimisers.step("d")
        for name in model.loss_names:
            losses[name] = losses[name] if name in D_NAMES else 0.0
        for part, part_noise in parts:
            if not whole:
                views = model.views(part)
            if not whole or half == 1:
                with model.autocast():
                    paths = model(views, part_noise, half)
            terms = g_terms(model, views, part_noise, paths)
            paths = None  # gradients need what the graph holds, not all that the paths hold
            add(terms, nothing_updated=False)
            g_gradients(model, optimisers, terms, 1 / len(parts))
        optimisers.step("sup", *G_SIDE)
    return losses


def g_terms(model: WhereWhat, views: Views, noise: Noise, paths: Paths) -> dict[str, Tensor]:
    """All terms of the G side: those of g_losses and kl_losses, and g_total, which trains G."""
    with model.autocast():
        losses = g_losses(model, views, noise, paths) | kl_losses(paths)
    losses["g_total"] = sum(weight * losses[name] for name, weight in G_WEIGHTS.items() if name in losses)
    losses["g_total"] = losses["g_total"] + model.options.overlap_weight * losses["overlap"]
    return losses


def g_gradients(
    model: WhereWhat, optimisers: Optimisers, losses: dict[str, Tensor], share: float = 1.0
) -> None:
    """Add `share` times the gradients of g_total to G, and of their own losses to the supervised encoders.

    `losses` are those of g_terms; their graph is used up.
    """
    # where_* terms do not depend on the what encoder nor the other way round: one sum serves both.
    supervised = model.options.what_kl_weight * losses["what_kl"] + losses["what_vae_recon"]
    if "where_kl" in losses:
        supervised = supervised + model.options.kl_weight * losses["where_kl"] + losses["where_vae_recon"]
    optimisers.add_gradients(["sup"], share * supervised, retain_graph=True)
    optimisers.add_gradients(G_SIDE, share * losses["g_total"])


class Averages:
    """Weights of what samples, averaged over the last iterations: steadier than the latest."""

    def __init__(self, model: WhereWhat, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self._pairs = tuple(m.parameters_of((*G_NETWORKS, *WHERE_NETWORKS)) for m in (self.model, model))

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move towards the weights after `iteration` (1, 2, ...); early on the mean of all so far."""
        share = max(1 - self.decay, 1 / iteration)
        torch._foreach_lerp_(*self._pairs, share)

    def state_dict(self) -> dict[str, Tensor]:
        averaged = (*G_NETWORKS, *WHERE_NETWORKS)
        return {n: t for n, t in self.model.networks.state_dict().items() if n.split(".")[0] in averaged}


# ---- recorded on a GPU --------------------------------------------------------------------------

WARM_UP = 3  # steps taken kernel by kernel first: cuDNN chooses its ways, Adam makes its moments


def can_record(options: Options, device: torch.device, ranks: int) -> bool:
    """Whether the step is recorded: on a GPU, by one process, without float16's scale, which is looked at."""
    return (
        options.cuda_graph == "auto"
        and device.type == "cuda"
        and ranks == 1
        and options.precision != "fp16"
        and not options.compile
    )


class RecordedStep:
    """`train_step` for batches of one size; with `Optimisers(model, recorded=True)`.

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
            self._record(batch, noise)
        else:
            torch._foreach_copy_(self.inputs, list(_tensors((batch, noise))))
        self.graph.replay()
        losses = dict(zip(self.names, self.outputs.clone().unbind(), strict=True))
        if check:
            check_finite(losses, nothing_updated=False)
        return losses

    def _record(self, batch: Batch, noise: Noise) -> None:
        self.inputs = list(_tensors((batch, noise)))  # each later batch is copied into this one
        self.optimisers.clear(*self.optimisers.parameters)  # gradients belong to the graph's own memory
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
