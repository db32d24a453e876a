"""The command: parses the command line, writes the files, and reports what was written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lit_triwave.checkpoints.rebuild import Saved, load_module
from lit_triwave.commands.export.formats import SUFFIXES, WRITERS, Exported
from lit_triwave.commands.export.plain import plain_network
from lit_triwave.commands.export.verify import Difference, compare, sample_inputs
from lit_triwave.commands.quick_parser import FLAG, QuickParser, at_least
from lit_triwave.commands.quiet import quiet
from lit_triwave.errors import TriwaveError, dtype_name
from lit_triwave.files import file_size, open_folder, read_json, write_json, written_whole
from lit_triwave.nn.named_models import BUILT_IN, torchvision_options
from lit_triwave.nn.scaling import interval

_ARITHMETIC = {"float32": torch.float32, "float64": torch.float64}
DESCRIPTION = "Writes a trained network as plain PyTorch, a torch.export program or ONNX, independent of lit_triwave."


def run(args: Sequence[str], started: float) -> int:
    """Runs `export` with its command line; returns the exit code."""
    options = _parse(args)
    quiet()
    saved = load_module(options.checkpoint)
    networks = saved.networks(options.seed)
    dtype = torch.float32 if options.float32 else saved.dtype
    paths = _files(saved, options)
    exported = _describe(saved, networks, dtype, _arithmetic(saved, dtype, options.arithmetic))
    difference = _write(saved, networks, exported, options.format, paths)
    print(_report(saved, networks, exported, paths, difference))
    return 0


def _parse(args: Sequence[str]) -> Any:
    """Returns the command line as a namespace; exits with code 2 and one line if it is wrong."""
    parser = QuickParser(prog="python -m lit_triwave export", description=DESCRIPTION)
    parser.add_argument("checkpoint", help="a .ckpt file, the folder of a run, or of an experiment")
    parser.add_argument(
        "--format",
        choices=[*SUFFIXES],
        default="torch",
        help="torch: weights and a Python file that builds the network; program: a torch.export program; onnx; "
        "default %(default)s",
    )
    parser.add_argument("--out", help="file to write; by default exported/ in the run's folder")
    parser.add_argument(
        "--seed", type=at_least(0), help="seed of a function's network, from 0; by default the best one"
    )
    parser.add_argument("--float32", **FLAG, help="float32 inputs and outputs, also for a float64 model")
    parser.add_argument(
        "--arithmetic",
        choices=[*_ARITHMETIC],
        help="precision of the computation; by default float64 for functions, that of the training for classifiers",
    )
    parser.add_argument("--overwrite", **FLAG, help="replace existing files")
    options = parser.parse_args(args)
    suffix = SUFFIXES[options.format]
    if options.out and Path(options.out).suffix != suffix:
        parser.error(f"--out must end in {suffix} for --format {options.format}, got {options.out}")
    return options


def _files(saved: Saved, options: Any) -> list[Path]:
    """Returns the files to write."""
    name = saved.path.stem + ("" if options.seed is None else f"-seed{options.seed}")
    folder = Path.cwd() if saved.run_folder is None else saved.run_folder / "exported"
    path = Path(options.out) if options.out else folder / f"{name}{SUFFIXES[options.format]}"
    paths = [path, path.with_suffix(".py")] if options.format == "torch" else [path]
    described = path.with_suffix(".json")  # the same for each format
    if saved.columns:
        paths.append(described)
    for place in paths:
        if place == described and read_json(described) == _description(saved):
            continue
        if place.is_dir():
            raise TriwaveError(f"--out must be a file, got the folder {place}")
        if place.exists() and not options.overwrite:
            raise TriwaveError(f"{place} exists: give --overwrite, or another --out")
    open_folder(path.parent, "give another --out")
    return paths


def _arithmetic(saved: Saved, dtype: torch.dtype, asked: str | None) -> torch.dtype:
    """Returns the precision in which an export computes."""
    if asked is None:
        return torch.float64 if saved.is_function else dtype
    if asked == "float32" and dtype == torch.float64:
        raise TriwaveError("--arithmetic must be float64 for a float64 model, got float32: give --float32 too")
    return _ARITHMETIC[asked]


def _describe(saved: Saved, networks: Sequence[int], dtype: torch.dtype, arithmetic: torch.dtype) -> Exported:
    """Returns the plain network of a checkpoint, with the facts that its users need."""
    arguments = saved.module.hparams
    about: dict[str, Any] = {
        "title": _title(saved),
        "lit_triwave": version("lit_triwave"),
        "stage": saved.module.trained_stage,
        "dtype": dtype_name(dtype),
        "arithmetic": dtype_name(arithmetic),
    }
    backbone = None
    if saved.is_function:
        scaling = saved.scaling
        ends = torch.stack([scaling.lower, scaling.lower + scaling.span], 1).tolist()
        about["domain"] = dict(zip(saved.variables, ends, strict=True))
        about |= {"target": _target(saved), "seed": _seeds(saved, networks)}
        about["outside"] = "clamped to the domain" if arguments["initialization"] == "constructed" else "extrapolated"
    else:
        about |= {"image_shape": list(arguments["image_shape"]), "classes": saved.class_names}
        about["pixels"] = _pixels(saved)
        if arguments["backbone"] not in BUILT_IN:
            backbone = {"name": arguments["backbone"], "num_classes": arguments["num_classes"]}
            given = arguments.get("backbone_options") or {}
            backbone["options"] = torchvision_options(arguments["backbone"], arguments["image_shape"], given)
    name = "images" if not saved.is_function else saved.variables[0] if len(saved.variables) == 1 else "inputs"
    return Exported(
        network=plain_network(saved, networks, dtype, arithmetic),
        example=sample_inputs(saved, dtype)[:2],
        input=name if name.isidentifier() else "inputs",
        output="value" if saved.is_function and name != "value" else "output" if saved.is_function else "logits",
        about=about,
        backbone=backbone,
    )


def _title(saved: Saved) -> str:
    """Returns a description of the network in one line."""
    if saved.is_function:
        kind = "a function" if len(saved.targets) == 1 else "functions"
        return f"{saved.target or 'a target'}, {kind} of {', '.join(saved.variables)}"
    arguments = saved.module.hparams
    return f"{arguments['num_classes']} classes of images, backbone {arguments['backbone']}, head {arguments['head']}"


def _pixels(saved: Saved) -> str:
    """Returns how pixels are normalised before they reach the network, as far as the checkpoint records it."""
    data = saved.run.get("data", {})
    arguments = data.get("init_args", {})
    if "mean" in arguments:
        return f"in [0, 1], less {arguments['mean']}, divided by {arguments['std']}"
    return f"as {data.get('class_path', 'the data module').rpartition('.')[2]} normalises them"


def _target(saved: Saved) -> str | list[str]:
    """Returns the name of the target, or the names of several in the order of the outputs."""
    return saved.target if len(saved.targets) == 1 else saved.targets


def _description(saved: Saved) -> dict[str, Any]:
    """Returns how to compute the inputs of a table's network from its columns."""
    return {"inputs": saved.variables, "columns": saved.columns, "target": _target(saved)}


def _seeds(saved: Saved, networks: Sequence[int]) -> int | list[int]:
    """Returns the seed, from 0, or for several targets the seed of each."""
    each = saved.seeds // len(networks)
    return networks[0] if len(networks) == 1 else [network % each for network in networks]


def _write(saved: Saved, networks: Sequence[int], exported: Exported, kind: str, paths: Sequence[Path]) -> Difference:
    """Writes the files, completely or not at all, and only if the network loaded from them equals the model."""
    with ExitStack() as stack:
        partial = [stack.enter_context(written_whole(path)) for path in paths]
        try:
            evaluate = WRITERS[kind](exported, partial, paths[0])
            if saved.columns:
                write_json(partial[-1], _description(saved))
        except OSError as error:
            raise TriwaveError(f"{paths[0]} cannot be written: {error.strerror or error}") from error
        difference = compare(saved, networks, evaluate, exported.example.dtype, exported.arithmetic)
        if not difference.share <= difference.limit:  # also if an output is NaN
            found = f"{difference.share:.1e} of {_unit(saved)}, allowed is {difference.limit:.1e}"
            raise TriwaveError(f"not written: the {kind} file differs from the model by {found}")
    return difference


def _report(
    saved: Saved, networks: Sequence[int], exported: Exported, paths: Sequence[Path], difference: Difference
) -> str:
    """Returns the report on what was written, in aligned lines."""
    about, dtype = exported.about, exported.about["dtype"]
    what = "points" if saved.is_function else "images"
    found = f"{difference.largest:.1e} on {difference.samples} random {what}: {difference.share:.1e} of {_unit(saved)}"
    rows = [("exported", f"{saved.path}, {_place(saved, networks)}")]
    rows += [("written", f"{path}, {file_size(path)}") for path in paths]
    sizes = ", ".join(["batch", *map(str, exported.example.shape[1:])])
    if saved.is_function:
        ranges = ", ".join(f"{name} in {interval(*ends)}" for name, ends in about["domain"].items())
        accepted, count = f"{ranges}; outside {about['outside']}", len(networks)
    else:
        accepted, count = f"pixels {about['pixels']}", len(about["classes"])
    rows.append(("input", f"{exported.input} ({sizes}) {dtype}: {accepted}"))
    meaning = f": {saved.target or 'the target'}" if saved.is_function else ""
    rows.append(("output", f"{exported.output} (batch, {count}) {dtype}{meaning}"))
    rows += [("arithmetic", about["arithmetic"]), ("difference", found)]
    if difference.share > 1e-6 or (saved.dtype == torch.float32 and difference.rounding > 1e-6):
        rows.append(("", f"the model itself in float32 differs from float64 by {difference.rounding:.1e}"))
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _unit(saved: Saved) -> str:
    """Returns the unit of differences."""
    return "the targets' range" if saved.is_function else "the largest logit, or of 1"


def _place(saved: Saved, networks: Sequence[int]) -> str:
    """Returns the place of the checkpoint in its run, and the seed of each target."""
    where: str = saved.module.place(saved.epoch)
    each = saved.seeds // len(networks)
    if each == 1:
        return where
    best = ", the best one" if networks == saved.networks() else ""
    return f"{where}, seed {_seeds(saved, networks)} of {each}{best}"
