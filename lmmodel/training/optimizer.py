"""AdamW and Muon over named parameters; their state is a flat table of tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmmodel.cores import map_in_order, num_cores
from lmmodel.device import as_rows_of, gather_stack, own_rows, put, take_stack
from lmmodel.errors import CheckpointError
from lmmodel.optimizing import OptimizerConfig, num_parts

# The odd polynomial a x + b x^3 + c x^5 of Muon (Jordan et al., "Muon", 2024): five rounds bring
# every singular value in (0, 1] to about [0.7, 1.2].
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Optimizer:
    """AdamW, or Muon for the layers' matrices and AdamW for the rest, over one model.

    Every parameter that is trained has state from the start, so the table of `state_tensors` has
    the same keys at every step.
    """

    def __init__(
        self, model: nn.Module, config: OptimizerConfig, dtype: torch.dtype = torch.float32
    ) -> None:
        """`dtype` is what Muon's products are in on a CPU, as those of the model."""
        self.config = config
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        is_muon = {name: config.name == "muon" and takes_muon(name, p) for name, p in named}
        self.adamw = make_adamw([(n, p) for n, p in named if not is_muon[n]], config)
        self.muon = Muon([(n, p) for n, p in named if is_muon[n]], config, dtype)
        self._adamw_names = {p: n for n, p in named if not is_muon[n]}

    def step(self, lr_ratio: float) -> None:
        """Move the weights by their gradients at this share of the peak learning rates."""
        for group in self.adamw.param_groups:
            group["lr"].fill_(self.config.lr * lr_ratio)
        self.adamw.step()
        self.muon.step(lr_ratio)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)
        self.muon.zero_grad()

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state, not copied: `NAME/mean`, `NAME/mean_square`, `NAME/momentum`, `step`.

        Tensors are those that the next step changes in place.
        """
        tensors: dict[str, Tensor] = {}
        for parameter, name in self._adamw_names.items():
            state = self.adamw.state[parameter]
            tensors[f"{name}/mean"] = state["exp_avg"]
            tensors[f"{name}/mean_square"] = state["exp_avg_sq"]
            tensors[f"{name}/step"] = state["step"]
        return tensors | self.muon.state_tensors()

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `state_tensors` gave.

        Raises:
            CheckpointError: a tensor is missing, too many, or of another shape
        """
        mine = self.state_tensors()
        if differing := sorted(mine.keys() ^ tensors.keys()):
            raise CheckpointError(
                f"the optimizer's state differs in {len(differing)} tensors, first {differing[0]}: "
                f"was it saved with another optimizer than {self.config.name} or another model?"
            )
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise CheckpointError(
                    f"optimizer state {name} has shape {tuple(tensors[name].shape)}, "
                    f"this model needs {tuple(tensor.shape)}"
                )
            put(tensor, tensors[name])


def takes_muon(name: str, parameter: Tensor) -> bool:
    """Whether Muon is for this parameter: a matrix of a layer."""
    return "layers." in name and parameter.ndim == 2 and not name.endswith("bias")


def takes_decay(name: str, parameter: Tensor, *, decay_embeddings: bool) -> bool:
    """Whether weights decay: matrices do, biases and norms never, embeddings by option.

    Example:
        >>> takes_decay("layers.0.mlp.input.weight", torch.ones(2, 3), decay_embeddings=False)
        True
    """
    is_matrix = parameter.ndim >= 2 and not name.endswith("bias")
    return is_matrix and (decay_embeddings or "embeddings." not in name)


def make_adamw(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.AdamW:
    """Return torch's fused AdamW in two groups, decayed and not, with its state in place.

    The learning rate is a tensor, so that a compiled step is not compiled again when it changes.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in named:
        decays = takes_decay(name, parameter, decay_embeddings=config.decay_embeddings)
        (decayed if decays else kept).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": decay,
            "lr": torch.tensor(config.lr, device=parameters[0].device),
        }
        for parameters, decay in ((decayed, config.weight_decay), (kept, 0.0))
        if parameters
    ]
    adamw = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
    for parameter in decayed + kept:
        adamw.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adamw


class Muon:
    """Momentum whose matrices are made orthogonal before they move the weights.

    Matrices of one shape are stacked and go through the Newton-Schulz rounds as one batch. A
    merged query-key-value matrix counts as three. Where weights are sharded over processes, each
    keeps its rows of the momentum; the rounds need whole matrices, so each process gathers them
    and does the rounds.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is what the rounds compute in on a CPU."""
        self.config = config
        self.dtype = dtype
        self.named = list(named)
        self.stacks: dict[tuple[int, ...], list[Tensor]] = {}
        for name, parameter in self.named:
            key = (num_parts(name), *parameter.shape)
            self.stacks.setdefault(key, []).append(parameter)
        self.momentum = {
            key: torch.zeros_like(torch.stack([own_rows(p) for p in stack]))
            for key, stack in self.stacks.items()
        }

    @torch.no_grad()
    def step(self, lr_ratio: float) -> None:
        """Move the weights by their gradients."""
        lr = self.config.muon_lr * lr_ratio
        stacks = [self._matrices(key) for key in self.stacks]
        updates = orthogonal_updates(stacks, self.dtype)
        for parameters, update in zip(self.stacks.values(), updates, strict=True):
            update = update.view(len(parameters), *parameters[0].shape)
            update = take_stack(update.mul_(-lr), parameters[0])  # (n, r, C)
            weights = [own_rows(p) for p in parameters]
            torch._foreach_mul_(weights, 1 - lr * self.config.muon_weight_decay)
            torch._foreach_add_(weights, update.unbind())

    def _matrices(self, key: tuple[int, ...]) -> Tensor:
        """Return what moves the matrices of a stack, not yet orthogonal: (n x parts, R, C)."""
        parameters = self.stacks[key]
        gradients = torch.stack([own_rows(_gradient(p)) for p in parameters])  # (n, r, C)
        moves = nesterov(gradients, self.momentum[key], self.config.muon_momentum)
        return split_matrices(gather_stack(moves, parameters[0]), key[0])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for _, parameter in self.named:
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Return `NAME/momentum` of each parameter, in its shape, not copied."""
        views: dict[Tensor, Tensor] = {}
        for key, parameters in self.stacks.items():
            views |= dict(zip(parameters, self.momentum[key].unbind(), strict=True))
        return {f"{name}/momentum": as_rows_of(views[p], p) for name, p in self.named}


def split_matrices(stack: Tensor, parts: int) -> Tensor:
    """Return n matrices (n, parts x R, C) as one stack of their parts (n x parts, R, C)."""
    num_matrices, rows, columns = stack.shape
    return stack.view(num_matrices * parts, rows // parts, columns)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def nesterov(gradients: Tensor, momentum: Tensor, beta: float) -> Tensor:
    """Return the gradients looked at one step ahead of the momentum; updates `momentum` in place.

    Args:
        gradients: floats of any shape
        momentum: floats of the same shape
        beta: decay of the momentum
    """
    momentum.lerp_(gradients, 1 - beta)
    return gradients.lerp(momentum, beta)


def orthogonal_updates(
    stacks: Sequence[Tensor], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Return `orthogonal_update` of each stack; on a CPU each core takes a share of its matrices.

    Threads that share one product wait for the slowest at each of them: where other programs use
    a core too, that takes eight times as long. Bits do not depend on the shares.
    """
    if not stacks:
        return []
    at_once = num_cores(stacks[0].device)
    shares = [stack.tensor_split(min(at_once, len(stack))) for stack in stacks]
    flat = [share for own in shares for share in own]
    found = map_in_order(lambda share: orthogonal_update(share, dtype), flat, at_once)
    parts = [list(itertools.islice(found, len(own))) for own in shares]
    return [own[0] if len(own) == 1 else torch.cat(own) for own in parts]


def orthogonal_update(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return each matrix of floats (n, R, C) made orthogonal, as it moves the weights.

    Tall matrices are scaled by sqrt(R / C), so that the change of an output per step does not
    depend on the shape (Jordan et al., 2024).
    """
    rows, columns = matrices.shape[-2:]
    return orthogonalize(matrices, dtype) * math.sqrt(max(1.0, rows / columns))


def orthogonalize(
    matrices: Tensor, dtype: torch.dtype = torch.float32, num_rounds: int = 5
) -> Tensor:
    """Return U V' for each matrix U S V', about: singular values come near 1.

    Newton-Schulz rounds of `NEWTON_SCHULZ`, which forgive the rounding of bfloat16.

    Args:
        matrices: floats (n, R, C)
        dtype: of the rounds on a CPU; on a GPU they are in bfloat16
        num_rounds: how often the polynomial is applied
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x.to(torch.bfloat16 if x.is_cuda else dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_rounds):
        gram = x @ x.mT  # (n, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype).contiguous()
