"""Summary and closing table of a `FunctionRegressor`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from lit_triwave.analysis.costs import multiply_adds
from lit_triwave.analysis.dead_units import SAMPLES, dead_share
from lit_triwave.callbacks.summary import RunSummary
from lit_triwave.modules.metrics import dead, over_targets, spread
from lit_triwave.nn.stack import StackNetwork
from lit_triwave.tracking.metric_goals import shown, title

if TYPE_CHECKING:
    from lit_triwave.modules.regressor import FunctionRegressor

_DEAD_INPUTS = 100_000
"""Most training inputs in the search for dead units. More take minutes, and hardly a unit is active only on these."""
RAISED = 10
"""A stage that multiplies the error by this factor is reported. Smaller factors are normal fluctuations of Adam."""
LEAST_R2 = 0.99
"""Share of a noiseless function's variance below which a fit has failed."""
_GAP = 100
"""Ratio of test and training error of a stack above which it has missed a part of the function between the points."""
_SMALL = 1e-9
"""Share of the variance below which this gap is of no interest."""
_JUMP = 0.2
"""Share of the target range above which the largest error of a fit that is good elsewhere is reported."""


class RegressionSummary(RunSummary):
    """Summary of a `FunctionRegressor`.

    Attributes:
        chosen: name of the summarised checkpoint if the validation chose it, else "".
        unfinished: how the run ended before its time, such as `cut short`, else "".
    """

    chosen = unfinished = ""

    def summarize(self, data: Any, module: FunctionRegressor) -> dict[str, Any]:
        """Returns the flat summary of a tested function; errors are in units of the targets, MSEs in squared units."""
        best, targets, test = module.best_replicas, module.num_targets, module.test_results
        summary: dict[str, Any] = {"stage": module.trained_stage, "replicas": module.hparams["replicas"]}
        if targets == 1:
            summary["best_replica"] = best[0]
        shares = _r2(test["test/mse"], data.test_set.y)
        for name, values in (test | {"test/r2": shares}).items():
            chosen = values[best]
            if chosen.isnan().all():
                continue  # the R² of constant targets
            summary[name] = over_targets(name, chosen[~chosen.isnan()])
            if targets > 1:
                split, metric = name.split("/")
                each = zip(data.target_names, chosen, strict=True)
                summary |= {f"{split}/{target}/{metric}": value for target, value in each if not value.isnan()}

        def over_seeds(name: str, values: torch.Tensor) -> None:
            summary[name] = values[best].mean()
            summary.update(spread(name, values, targets))

        over_seeds("test/mse", test["test/mse"])
        if summary["replicas"] > 1:
            summary["test/mse_std"] = test["test/mse"].view(targets, -1).std(1).mean()
        summary |= {"parameters": targets * module.trained_parameters}
        if isinstance(module.network, StackNetwork):
            summary["layers"] = "-".join(map(str, module.network.layers))
            if module.limit_mse.isfinite().any():
                over_seeds("limit/mse", module.limit_mse)
                if module.built_mse.isfinite().any():
                    over_seeds("built/mse", module.built_mse)
                summary["limit/parameters"] = targets * module.network.limit_parameters
        depth = getattr(module.network, "depth", None) or module.hparams["depth"]
        if depth is not None:
            summary["depth"] = depth
        operations = multiply_adds(module)
        summary["multiply_adds"] = None if operations is None else targets * operations
        with torch.no_grad():
            outputs = torch.cat([module(x.to(module.device)) for x in data.train_set.x.split(SAMPLES)])
            train = (outputs - module.targets(data.train_set.y.to(module.device))).square().mean(0)
        summary["dead"] = float(dead(outputs).double().mean())
        plains = [module.plain(replica) for replica in best]
        inputs = data.train_set.x[:: -(-len(data.train_set) // _DEAD_INPUTS)].to(plains[0][0].weight)
        dead_units = [dead_share(module.network, plain, inputs) for plain in plains]
        summary["dead_units"] = sum(dead_units) / targets
        if module.pretrain_mse.isfinite().any():
            over_seeds("pretrain/mse", module.pretrain_mse)
            if module.pretrain_regions.all() and targets == 1:  # zero means too many to count
                summary["linear_regions/pretrained"] = int(module.pretrain_regions[best[0]])
                summary["linear_regions/pretrained_min"] = int(module.pretrain_regions.min())
        over_seeds("train/mse", train)
        regions = module.linear_regions(best[0]) if targets == 1 else None
        if regions is not None:
            summary["linear_regions/final"] = regions
        # The limit for the current number of pieces: standard training can make more pieces than the depth gives.
        limit = None if regions is None or module.network.segments is None else data.free_knot_mse(regions)
        if limit is not None:
            summary |= {"free_knot/mse": limit, "free_knot/segments": regions}
        return {name: float(value) if isinstance(value, torch.Tensor) else value for name, value in summary.items()}

    def table(self, summary: dict[str, Any], data: Any, module: FunctionRegressor) -> Table:
        table = _table(summary, data.target_names, module)
        if getattr(data, "validates", False) and not _has_later_stages(module):
            table.title = f"the iterate that is best on the {len(data.val_set)} validation rows"
        return table

    def remarks(self, summary: dict[str, Any], data: Any, module: FunctionRegressor) -> list[str]:
        """Names the checkpoint; warns if a stage raised the error, or if the fit of a function without noise failed."""
        if self.chosen and _has_later_stages(module):
            return [f"this is {self.chosen}, the best on the {len(data.val_set)} validation rows; last.ckpt is the end"]
        raised = _raised(summary)
        if raised:
            return [raised]
        share = summary.get("test/r2")
        if share is None:
            return [f"there is no R²: {data.target_name} is constant on the test data"]
        if getattr(data, "noise", None) != 0:
            return []  # the noise of a table is unknown
        if share >= LEAST_R2:
            ratio = summary["test/mse"] / max(summary["train/mse"], 1e-300)
            if "layers" in summary and ratio > _GAP and 1 - share > _SMALL:
                return [f"the test error is {ratio:.0f} times the training error: try more points"]
            worst = summary["test/max_error"] / float(data.test_set.y.max() - data.test_set.y.min())
            jump = f"the largest test error is {worst:.0%} of the target range, perhaps at a jump"
            return [jump] if worst > _JUMP else []
        stack = "" if "layers" in summary else "wiring stack (configs/stack.yaml), "
        advice = f"try {stack}more layers, or more points"
        built_badly = summary["train/mse_min"] > 2 * summary.get("limit/mse_min", math.inf)  # most of the error
        if built_badly and module.hparams["depth"] is not None:
            advice = f"depth {summary['depth']:g} is too small, set model.depth to null, which chooses"
        if self.unfinished:
            advice = f"the run was {self.unfinished}"
        what = f"explains {max(share, 0):.1%} of the variance of {data.target_name}, less than {LEAST_R2:.0%}"
        return [f"warning: the best seed {what}: {advice}"]


def _has_later_stages(module: FunctionRegressor) -> bool:
    """Whether anything is trained after the limit."""
    return any(module.stages[name].epochs for name in ("pretrain", "train", "polish"))


def _raised(summary: dict[str, Any]) -> str:
    """Returns a line about the first stage that left the lowest training error of all seeds far higher; "" for none."""
    before, last = summary.get("built/mse_min"), summary["train/mse_min"]
    for stage, key, other in (
        ("pretrain", "pretrain/mse_min", "pretrain.optimizer LevenbergMarquardt"),
        ("train", "train/mse_min", "model.polish instead of model.train"),
    ):
        after = summary.get(key)
        if before is not None and after is not None and min(after, last) > RAISED * before:
            advice = f"take best.ckpt (--ckpt_path best), a lower {stage}.lr, or {other}"
            return f"warning: stage {stage} raised the error from {before:.1e} to {after:.1e}: {advice}"
        before = before if after is None else after
    return ""


def _r2(mse: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the share of the targets' variance that each replica explains.

    Args:
        mse: mean squared errors, (R,).
        targets: (n,), or (n, F) for F functions; R / F replicas learn each of them.

    Returns:
        1 − MSE / variance, (R,); NaN where the targets are constant.
    """
    variance = targets.double().var(0, unbiased=False).reshape(-1).to(mse.device)
    variance = variance.repeat_interleave(len(mse) // len(variance))
    return torch.where(variance > 0, 1 - mse / variance, torch.nan)


def _table(summary: dict[str, Any], targets: Sequence[str], module: FunctionRegressor) -> Table:
    """Returns the closing table; lowest and, if no seed has been stopped, mean are over seeds."""
    replicas, mean = module.hparams["replicas"], not module.stops_seeds
    if len(targets) > 1:
        return _targets_table(summary, replicas, targets)
    table = Table(show_header=replicas > 1)
    table.add_column("")
    table.add_column("best seed", justify="right")
    if replicas > 1:
        table.add_column("lowest" if mean else f"lowest of {replicas} seeds", justify="right")
    if replicas > 1 and mean:
        table.add_column(f"mean of {replicas} seeds", justify="right")

    def row(label: str, *values: str) -> None:
        table.add_row(label, *values[: len(table.columns) - 1])

    for key in ("val/mse", "limit/mse", "pretrain/mse", "train/mse", "test/mse"):
        if f"{key}_min" in summary:
            lowest = summary[f"{key}_min"]
            every = summary.get(key, lowest), lowest, summary[f"{key}_mean"]
            row(title(key), *(shown(key, value) for value in every))
    for key in ("test/r2", "test/max_error"):
        if key in summary:
            row(title(key), shown(key, summary[key]))
    regions = [f"{summary[key]}" for key in ("linear_regions/pretrained", "linear_regions/final") if key in summary]
    if regions:
        # For several inputs, they are counted along the domain's diagonal.
        where = "linear regions" if len(module.diagonal[0]) == 1 else "linear regions, diagonal"
        row(where + (", before → after" if len(regions) > 1 else ""), " → ".join(regions))
    if "free_knot/mse" in summary:
        row(f"free-knot limit, {summary['free_knot/segments']} segments", f"{summary['free_knot/mse']:.2e}")
    if summary.get("dead"):
        row(title("dead"), shown("dead", summary["dead"]))
    return table


def _targets_table(summary: dict[str, Any], replicas: int, targets: Sequence[str]) -> Table:
    """Returns the closing table of several targets: the best seed of each, and all targets together."""
    table = Table("" if replicas == 1 else f"best of {replicas} seeds")
    for name in (*targets, "mean"):
        table.add_column(name, justify="right")
    for key in ("val/mse", "limit/mse", "pretrain/mse", "train/mse", "test/mse", "test/r2", "test/max_error"):
        value = summary.get(key, summary.get(f"{key}_min"))
        if value is not None:
            split, metric = key.split("/")
            each = [summary.get(f"{split}/{name}/{metric}") for name in targets]
            cells = ["" if one is None else shown(key, one) for one in each]
            table.add_row(title(key), *cells, shown(key, value) + (" (largest)" if key == "test/max_error" else ""))
    return table
