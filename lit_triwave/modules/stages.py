"""The stages of training: length, optimizer, learning rate and schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_triwave.errors import KIND_WORDS, check_choice, check_least
from lit_triwave.optim import LevenbergMarquardt
from lit_triwave.optim.variable_projection import VariableProjection

Schedule = Literal["constant", "cosine", "step"]
Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
SECOND_ORDER = "LevenbergMarquardt"
PEAK_OPTIONS = {"damping": 1e-2, "diagonal_floor": 1.0}
"""Defaults of `LevenbergMarquardt` for peaks. The peaks' logits, the logarithms of scales and the affine part have
similar sizes, so all get the same damping. In units of the diagonal, large logits would take steps of thousands."""
CHUNK = 512
"""Samples that are differentiated at a time; for 93 parameters of 30 seeds this takes 11 MB."""


@dataclass
class Stage:
    """One stage of training.

    Args:
        epochs: length of the stage; 0 leaves the stage out.
        lr: highest learning rate, > 0 and finite. Not used by `LevenbergMarquardt`.
        optimizer: name of any class in `torch.optim`. `pretrain` of function regression also takes
            `"LevenbergMarquardt"`: one step an epoch, on all training points, without learning rate and schedule.
        options: further arguments of the optimizer. The defaults of `LevenbergMarquardt` are `PEAK_OPTIONS`.
        schedule: `"cosine"` falls to zero over the stage; `"step"` falls to a tenth after each third of the stage, as
            in torchvision's reference recipe (epochs 30 and 60 of 90); `"constant"` does not change.
        warmup: share of the stage, 0 to 1, over which the learning rate rises linearly from zero. Constructed weights
            start near a good fit. Adam's first steps, before it knows the sizes of the gradients, would destroy it.

    Raises:
        ValueError: an argument is outside its range.
    """

    epochs: int = 1000
    lr: float = 1e-3
    optimizer: str = "Adam"
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    chunk: ClassVar[int] = CHUNK

    def __post_init__(self) -> None:
        check_least(0, epochs=self.epochs)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be above 0 and finite, got {self.lr}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be in [0, 1], got {self.warmup}")
        check_choice(Schedule, schedule=self.schedule)
        if self.second_order:
            self.configure([nn.Parameter(torch.zeros(_replicas(self.options), 1))], steps=1)
            return
        kind = getattr(torch.optim, self.optimizer, None)
        if not (isinstance(kind, type) and issubclass(kind, Optimizer)) or kind is Optimizer:
            raise ValueError(
                f"optimizer must be LevenbergMarquardt, or a class in torch.optim such as Adam, got {self.optimizer!r}"
            )
        self._try_optimizer()

    @property
    def second_order(self) -> bool:
        """Whether the optimizer needs the derivatives of each sample, not only the gradient of their mean."""
        return self.optimizer == SECOND_ORDER

    def _try_optimizer(self) -> None:
        """Refuses an optimizer or its options before the run starts, not at the start of the stage."""
        device = "cuda" if self.options.get("capturable") and torch.cuda.is_available() else "cpu"
        # In float64, so that a learning rate too large for float32 does not fail here; the run says where it diverges.
        parameters = [nn.Parameter(torch.ones(size, dtype=torch.float64, device=device)) for size in ((1, 1, 1), (1,))]
        optimizer, _ = self.configure(parameters, steps=1)

        def loss() -> float:
            for parameter in parameters:
                parameter.grad = 2 * parameter.detach()
            return sum(float(parameter.detach()) ** 2 for parameter in parameters)

        loss()
        try:
            optimizer.step(loss)
        except Exception as error:  # an AssertionError, too
            raise ValueError(self._unsuitable(error)) from error

    def _unsuitable(self, error: Exception) -> str:
        name = f"torch.optim.{self.optimizer}"
        if not self.options:
            return f"optimizer must suit the parameters, got {name}: {_why(error)}"
        return f"options must suit {name}, got {self.options}: {_why(error)}"

    def configure(self, parameters: Parameters, steps: int, begun: int = 0) -> tuple[Optimizer, LambdaLR | None]:
        """Returns the stage's optimizer, and its schedule in optimizer steps; a second-order optimizer has no schedule.

        Args:
            parameters: parameters to train, or groups of parameters as `torch.optim` takes them.
            steps: number of optimizer steps of the schedule: those of the whole stage, or of the whole run.
            begun: number of these steps before this stage.

        Raises:
            ValueError: the optimizer refuses its options.
        """
        if self.second_order:
            return _second_order(LevenbergMarquardt, parameters, PEAK_OPTIONS | self.options), None
        try:
            optimizer = getattr(torch.optim, self.optimizer)(parameters, lr=self.lr, **self.options)
        except Exception as error:  # an IndexError, too, for a list that is too short
            raise ValueError(self._unsuitable(error)) from error
        _keep_scalar_dtypes(optimizer)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor((begun + step) / max(1, steps)))

    def factor(self, progress: float) -> float:
        """Returns the learning rate as a share of `lr`, at a share `progress` of the stage."""
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        # Never exactly zero, so that the first step of a warm-up changes the parameters.
        rise = max(rise, 1e-3)
        if self.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        if self.schedule == "step":
            return rise * 0.1 ** min(2, math.floor(3 * progress + 1e-9))  # 1/3 + 1/3 + 1/3 may be less than 1
        return rise


@dataclass
class Limit:
    """The first stage of a stack: Levenberg–Marquardt on its limit network (METHOD section 7).

    One iteration an epoch, on all training points; `chunk` bounds its memory.

    Args:
        epochs: length of the stage in iterations; null means 100 for a stack and 0 for other networks.
        chunk: number of samples whose derivatives are in memory at a time, ≥ 1.
        max_points: largest number of training points that the stage uses, drawn at random, ≥ 1; null uses all points.
        halving: number of iterations after which the worse half of the seeds stops. This repeats until one seed is
            left. 0 trains all seeds to the end.
        options: further arguments of `lit_triwave.optim.VariableProjection`.

    Raises:
        ValueError: an argument is outside its range.
    """

    epochs: int | None = None
    chunk: int = 1024
    max_points: int | None = None
    halving: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    second_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_least(0, epochs=self.epochs)
        check_least(1, chunk=self.chunk, max_points=self.max_points)
        self.configure([nn.Parameter(torch.zeros(1, 1))], steps=1)

    @property
    def regularized(self) -> bool:
        """Whether weights that the data do not determine are kept small."""
        return bool(self.options.get("relevance"))

    def configure(self, parameters: Parameters, steps: int, begun: int = 0) -> tuple[Optimizer, LambdaLR | None]:
        """Makes the optimizer; it has no schedule.

        Raises:
            ValueError: the optimizer refuses its options.
        """
        return _second_order(VariableProjection, parameters, self.options, halving=self.halving), None


@dataclass
class Polish:
    """The last stage: Levenberg–Marquardt with kicks on the released weights, for small networks (METHOD section 6).

    One step an epoch, on all training points; `chunk` bounds its memory.

    Args:
        epochs: length of the stage in steps; 0 leaves the stage out.
        exchange: share of the seeds, 0 to 1/2, that continue from the weights of better seeds every third round of
            kicks. The best seed gets better. The seeds are then not independent, so their mean says little. 0 keeps
            them independent.
        chunk: number of samples whose derivatives are in memory at a time, ≥ 1.
        seed: seed of the kicks.
        options: further arguments of `lit_triwave.optim.LevenbergMarquardt`.

    Raises:
        ValueError: an argument is outside its range.
    """

    epochs: int = 0
    exchange: float = 0.0
    chunk: int = CHUNK
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    second_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_least(0, epochs=self.epochs)
        check_least(1, chunk=self.chunk)
        self.configure([nn.Parameter(torch.zeros(_replicas(self.options), 1))], steps=1)

    def configure(self, parameters: Parameters, steps: int, begun: int = 0) -> tuple[Optimizer, LambdaLR | None]:
        """Returns the optimizer, which has no schedule.

        Raises:
            ValueError: the optimizer refuses its options.
        """
        more = {"exchange": self.exchange, "seed": self.seed}
        return _second_order(LevenbergMarquardt, parameters, self.options, **more), None


def _second_order(kind: type[Optimizer], parameters: Parameters, options: dict[str, Any], **more: Any) -> Optimizer:
    """Returns a second-order optimizer with the options of a config."""
    try:
        return kind(parameters, **more, **options)
    except TypeError as error:
        raise ValueError(
            f"options must suit {kind.__name__}, got {options}: {_why(error)}; options {{}} takes its defaults"
        ) from error


def _why(error: Exception) -> str:
    """Returns why an optimizer refuses its options, without Python's internal words."""
    kinds = re.search(r"not supported between instances of '(\w+)' and '(\w+)'", str(error))
    if kinds:
        other = next((kind for kind in kinds.groups() if kind not in ("int", "float")), kinds[1])
        return f"a value must be a number, got {KIND_WORDS.get(other, other)}"
    if isinstance(error, IndexError):
        return "a list is too short"
    if re.search("object is not|can't multiply|unsupported operand", str(error)):
        return "a value is of the wrong kind"
    return re.sub(r"\w+\.__init__\(\) got an unexpected keyword argument", "it has no option", str(error))


def _replicas(options: dict[str, Any]) -> int:
    """Returns a number of replicas that the groups in the options divide, to try the options."""
    groups = options.get("groups", 1)
    return groups if isinstance(groups, int) and groups > 0 else 1


def _keep_scalar_dtypes(optimizer: Optimizer) -> None:
    """Makes an optimizer load numbers of its state in the dtype in which they were saved.

    PyTorch converts them to the dtype of the weights. NAdam and ASGD compute with float32 numbers also if the weights
    are in float64, so after a resume they would round differently.
    """
    saved: list[dict[str, Any]] = []

    def remember(_: Optimizer, state: dict[str, Any]) -> None:
        saved.append(state)

    def restore(loaded: Optimizer) -> None:
        values = saved.pop()["state"].values()
        for own, given in zip(loaded.state.values(), values, strict=True):
            for name, value in given.items():
                if isinstance(value, torch.Tensor) and value.ndim == 0:
                    own[name] = own[name].to(value.dtype)

    optimizer.register_load_state_dict_pre_hook(remember)
    optimizer.register_load_state_dict_post_hook(restore)
