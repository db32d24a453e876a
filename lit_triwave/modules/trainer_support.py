"""Options of Lightning's `Trainer` and its callbacks: what they do here if it is not the same, or why they are refused.

A test checks that `docs/reference/trainer.md` agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lightning.pytorch import Callback, callbacks
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_triwave.errors import TriwaveError, did_you_mean
from lit_triwave.modules.trainer_values import check_values

AS_DOCUMENTED = "as Lightning documents it"
PSUTIL = find_spec("psutil") is not None
_UNCHANGED: Any = object()


@dataclass(frozen=True)
class Fit:
    """The properties of a fit on which refusals depend.

    Attributes:
        stages: names of the stages that have epochs; none for a module without stages.
        second_order: names of the stages that are trained by Levenberg–Marquardt.
        epochs: total number of epochs of all stages.
        shares_batches: whether the data module itself shares its batches among ranks, as in this project.
        has_run: whether the fit has a run folder; a `Trainer` of the user has none.
        metrics: metrics that the module logs in a fit; empty if not known.
    """

    stages: tuple[str, ...] = ()
    second_order: tuple[str, ...] = ()
    epochs: int = 0
    shares_batches: bool = False
    has_run: bool = False
    metrics: tuple[str, ...] = ()


_Refusal = Callable[[Any, Fit], str]
"""Returns what a value must be, or why a callback is refused, and what to do; "" if it is accepted."""


@dataclass(frozen=True)
class Row:
    """An option.

    Attributes:
        here: what it does here, for the help and the documentation.
        refusal: whether a value is refused.
        default: default of this project, if it is not Lightning's.
    """

    here: str
    refusal: _Refusal = lambda value, fit: ""
    default: Any = _UNCHANGED


def _first_order(fits: Callable[[Any], bool], needed: str) -> _Refusal:
    def refusal(value: Any, fit: Fit) -> str:
        if not fit.second_order or fits(value):
            return ""
        return f"must be {needed} for stage {fit.second_order[0]}, one step on all training points, got {value}"

    return refusal


_some_batches = _first_order(lambda value: value is None or isinstance(value, int) or value == 1.0, "1.0")


def _train_batches(value: Any, fit: Fit) -> str:
    if fit.stages and value == 0:
        return f"must be above 0, got {value}: set a stage's epochs to 0 to leave it out"
    return _some_batches(value, fit)


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _must_be(needed: Any, then: str, own_data: bool = False) -> _Refusal:
    """Refuses all other values than `needed` and None; with `own_data`, only for this project's data modules."""

    def refusal(value: Any, fit: Fit) -> str:
        if value in (needed, None) or (own_data and not fit.shares_batches):
            return ""
        return f"must be {_word(needed)}, got {_word(value)}: {then}"

    return refusal


def _min_epochs(value: Any, fit: Fit) -> str:
    if not fit.stages or value is None or value <= fit.epochs:
        return ""
    return f"must be at most the {fit.epochs} epochs of all stages, got {value}: give a stage more epochs"


_ONE_STEP = "refused where a stage is trained by Levenberg–Marquardt, which takes one step on all points"
_CUT = "the run is marked `cut short`"

OPTIONS: dict[str, Row] = {
    "accelerator": Row(f"{AS_DOCUMENTED}; functions need float64, which `mps` lacks"),
    "strategy": Row(
        "one device or `ddp`; strategies that shard parameters are refused for modules with stages, because each stage "
        "has its own parameters; those that spawn or fork processes (`ddp_spawn`) are refused for all"
    ),
    "precision": Row(
        f"{AS_DOCUMENTED} for classifiers. Functions take `64-true` (in the configs), `32-true`, `bf16-mixed` or "
        "`16-mixed`. On CPUs, `16-mixed` is `bf16-mixed`, and a line says so. On a GPU, `16-mixed` is refused with "
        "Levenberg–Marquardt"
    ),
    "logger": Row(
        "your loggers are used in addition to `metrics.csv` and W&B, and all files stay in the run folder; `false` "
        "logs nothing; a `WandbLogger` needs `run.wandb disabled`"
    ),
    "callbacks": Row("your callbacks are added to those of this project, see below"),
    "fast_dev_run": Row(f"{AS_DOCUMENTED}: a few batches of the first stage, without checkpoints; {_CUT}"),
    "max_epochs": Row(
        f"−1 trains all stages; a number below the sum of their epochs ends the run earlier, and {_CUT}", default=-1
    ),
    "min_epochs": Row(
        "`EarlyStopping` waits for this number of epochs, counted through all stages; at most the sum of their epochs",
        _min_epochs,
    ),
    "max_steps": Row(f"{AS_DOCUMENTED}, counted through all stages; {_CUT}"),
    "min_steps": Row("`EarlyStopping` waits for this number of steps, counted through all stages"),
    "max_time": Row(f"{AS_DOCUMENTED}; {_CUT}"),
    "limit_train_batches": Row(f"{AS_DOCUMENTED}; {_CUT}; a share below 1 is {_ONE_STEP}", _train_batches),
    "limit_val_batches": Row(f"{AS_DOCUMENTED}; with 0 there is no `best.ckpt`"),
    "limit_test_batches": Row(f"{AS_DOCUMENTED}; {_CUT}"),
    "overfit_batches": Row(
        "refused with this project's data modules: use `configs/debug/overfit.yaml`",
        _must_be(0, "configs/debug/overfit.yaml trains on one batch of this project's data modules", own_data=True),
    ),
    "val_check_interval": Row(f"{AS_DOCUMENTED}; validations inside an epoch do not choose `best.ckpt`"),
    "check_val_every_n_epoch": Row(
        f"{AS_DOCUMENTED}; a function's epoch is often one step, and classifiers have 1 in their configs", default=50
    ),
    "num_sanity_val_steps": Row(f"{AS_DOCUMENTED}; errors in the data are found before training anyway", default=0),
    "log_every_n_steps": Row(f"{AS_DOCUMENTED}; 0 logs only validations, and a line says so", default=10),
    "enable_checkpointing": Row(
        "`false` is refused: a run is tested, resumed and exported from its checkpoints",
        _must_be(True, "run.checkpoint_every says how often last.ckpt is saved"),
    ),
    "enable_progress_bar": Row("a bar for each stage; a progress bar of your own replaces it"),
    "enable_model_summary": Row(
        f"{AS_DOCUMENTED}; a run prints the most important numbers of it when it starts", default=False
    ),
    "accumulate_grad_batches": Row(f"{AS_DOCUMENTED}; {_ONE_STEP}", _first_order(lambda value: value == 1, "1")),
    "gradient_clip_val": Row(
        f"{AS_DOCUMENTED}; for functions, the norm is computed for each seed separately; {_ONE_STEP}",
        _first_order(lambda value: not value, "null"),
    ),
    "use_distributed_sampler": Row(
        "`true` is refused with this project's data modules, which share their batches among ranks themselves; for "
        "your own data modules the default is `true`",
        _must_be(False, "this project's data modules share their batches among the ranks themselves", own_data=True),
        default=False,
    ),
    "profiler": Row(f"{AS_DOCUMENTED}; if no file is given, the report is printed at the end"),
    "barebones": Row(
        "`true` is refused: it has neither checkpoints nor `metrics.csv`",
        _must_be(False, "python -m benchmarks.loop measures the loop alone"),
    ),
    "plugins": Row("your plugins are added; a `CheckpointIO` is refused, because runs have their own"),
    "sync_batchnorm": Row("`true`: several ranks train as one process does", default=True),
    "default_root_dir": Row(
        "refused: it is the run folder", _must_be(None, "run.root, run.experiment and run.id choose the run folder")
    ),
    "model_registry": Row("refused", _must_be(None, "run.artifact uploads a run's best checkpoint")),
}
"""Options of `Trainer` that do not just what Lightning documents, or have another default."""


def _in_stages(why: str) -> _Refusal:
    return lambda value, fit: why if fit.stages else ""


_own_optimizer = _in_stages("each stage makes its own optimizer")
_other_parameters = _in_stages("later stages train other parameters")

CALLBACKS: dict[str, _Refusal] = {
    "BackboneFinetuning": _own_optimizer,
    "BaseFinetuning": _own_optimizer,
    "BatchSizeFinder": lambda value, fit: "tuners are not supported: set data.batch_size",
    "DeviceStatsMonitor": lambda value, fit: (
        "cpu_stats needs psutil (pip install psutil)" if value._cpu_stats and not PSUTIL else ""
    ),
    "EMAWeightAveraging": _other_parameters,
    "GradientAccumulationScheduler": _in_stages("a stage's schedule spans a known number of steps"),
    "LearningRateFinder": lambda value, fit: (
        f"tuners are not supported: {'each stage has its own lr' if fit.stages else 'set the learning rate'}"
    ),
    "ModelPruning": _other_parameters,
    # Lightning's `fit` would resume from its file without being asked.
    "OnExceptionCheckpoint": lambda value, fit: (
        "fit would resume from its file, set run.checkpoint_seconds" if fit.has_run else ""
    ),
    "StochasticWeightAveraging": _other_parameters,
    "WeightAveraging": _other_parameters,
}
"""Callbacks that are refused in some fits."""


_DIAGNOSTICS = ("stage", "dead_units", "linear_regions/count")
"""Metrics that runs log for most modules, see `callbacks/diagnostics.py`."""


def check_options(options: Mapping[str, Any], fit: Fit) -> None:
    """Refuses options of the trainer that cannot do what Lightning documents.

    Args:
        options: name ↦ value. Names that are not in the table are left to Lightning.
        fit: the fit for which they are given.

    Raises:
        TriwaveError: an option is refused; the message names it.
    """
    check_values(options)
    for name, value in options.items():
        refusal = OPTIONS[name].refusal(value, fit) if name in OPTIONS else ""
        if refusal:
            raise TriwaveError(f"trainer.{name} {refusal}")


def check_callbacks(given: Sequence[Callback], fit: Fit) -> None:
    """Refuses callbacks that cannot do what Lightning documents.

    Args:
        given: callbacks of the trainer. A subclass of the user is treated as its nearest base class of Lightning.
        fit: the fit for which they are given.

    Raises:
        TriwaveError: a callback is refused; the message names it.
    """
    for callback in given:
        names = (base.__name__ for base in type(callback).__mro__ if base is getattr(callbacks, base.__name__, None))
        refusal = next((CALLBACKS[name](callback, fit) for name in names if name in CALLBACKS), "")
        if refusal:
            raise TriwaveError(f"trainer.callbacks must have no {type(callback).__name__}: {refusal}")
    _check_monitors(given, fit.metrics)


def _check_monitors(given: Sequence[Callback], metrics: tuple[str, ...]) -> None:
    """Refuses callbacks that watch a metric which is never logged; Lightning finds it at the first validation."""
    if not metrics or any(not type(one).__module__.startswith(("lightning.", "lit_triwave.")) for one in given):
        return  # callbacks of the user may log further metrics
    for callback in given:
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or callback.monitor is None:
            continue
        steps = ("epoch", "step") if isinstance(callback, ModelCheckpoint) else ()
        if callback.monitor not in (*metrics, *steps, *_DIAGNOSTICS):
            raise TriwaveError(
                f"monitor of {type(callback).__name__} must be one of {', '.join(metrics)}, got {callback.monitor}"
                f"{did_you_mean(callback.monitor, metrics)}"
            )


def own_defaults() -> dict[str, Any]:
    """Returns the options whose default is not Lightning's default."""
    return {name: row.default for name, row in OPTIONS.items() if row.default is not _UNCHANGED}
