"""The command: what is asked for, where it goes, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lit_triwave.checkpoints.rebuild import Saved, load_module
from lit_triwave.commands.export.formats import (
    FORMATS,
    SUFFIXES,
    Exported,
    Format,
    write_onnx,
    write_program,
    write_torch,
)
from lit_triwave.commands.export.plain import plain_network
from lit_triwave.commands.export.verify import Difference, compare, sample_inputs
from lit_triwave.commands.parser import OneLineParser
from lit_triwave.commands.quiet import quiet
from lit_triwave.errors import TriwaveError, did_you_mean
from lit_triwave.files import file_size, open_folder, written_whole

ARITHMETIC = {"float32": torch.float32, "float64": torch.float64}
DESCRIPTION = "A trained network without this project: plain PyTorch, a torch.export program, or ONNX."


def run(args: Sequence[str], started: float) -> int:
    """`export` with its command line; returns the exit code."""
    options = parse(args)
    quiet()
    saved = load_module(options.checkpoint)
    seed = saved.seed(options.seed)
    dtype = torch.float32 if options.float32 else saved.dtype
    paths = places(saved, options)
    exported = describe(saved, seed, dtype, arithmetic(saved, dtype, options.arithmetic))
    difference = write(saved, seed, exported, options.format, paths)
    print(report(saved, seed, exported, paths, difference))
    return 0


def parse(args: Sequence[str]) -> Any:
    """The command line as a namespace; exits with code 2 and one line on a wrong one."""
    parser = OneLineParser(prog="python -m lit_triwave export", description=DESCRIPTION)
    parser.add_argument("checkpoint", type=str, help="a .ckpt file, the folder of a run, or of an experiment")
    parser.add_argument(
        "--format",
        type=str,
        default="torch",
        help="torch: weights and a Python file that builds the network; program: a torch.export program; onnx",
    )
    parser.add_argument("--out", type=str, help="file to write; by default exported/ in the run's folder")
    parser.add_argument("--seed", type=int, help="which of a function's seeds, from 0; by default the best one")
    parser.add_argument(
        "--float32", type=bool, nargs="?", const=True, default=False, help="inputs and outputs, also of a float64 model"
    )
    parser.add_argument(
        "--arithmetic",
        type=str,
        help="float32 or float64: what is computed between them; by default functions in float64, classifiers as they "
        "were trained",
    )
    parser.add_argument("--overwrite", type=bool, nargs="?", const=True, default=False, help="a file that exists")
    options = parser.parse_args(list(args))
    if options.format not in FORMATS:
        near = did_you_mean(options.format, FORMATS)
        parser.error(f"--format {options.format}: one of {', '.join(FORMATS)}{near}")
    if options.arithmetic not in (None, *ARITHMETIC):
        near = did_you_mean(options.arithmetic, ARITHMETIC)
        parser.error(f"--arithmetic {options.arithmetic}: one of {', '.join(ARITHMETIC)}{near}")
    suffix = SUFFIXES[options.format]
    if options.out and Path(options.out).suffix != suffix:
        parser.error(f"--out {options.out}: a file of --format {options.format} ends in {suffix}")
    return options


def places(saved: Saved, options: Any) -> list[Path]:
    """The files to write.

    Raises:
        TriwaveError: one exists already, or the folder can't be written.
    """
    name = saved.path.stem + ("" if options.seed is None else f"-seed{options.seed}")
    folder = Path.cwd() if saved.run_folder is None else saved.run_folder / "exported"
    path = Path(options.out) if options.out else folder / f"{name}{SUFFIXES[options.format]}"
    paths = [path, path.with_suffix(".py")] if options.format == "torch" else [path]
    for place in paths:
        if place.is_dir():
            raise TriwaveError(f"--out {place} is a folder")
        if place.exists() and not options.overwrite:
            raise TriwaveError(f"{place} exists: give --overwrite, or another --out")
    open_folder(path.parent, "give another --out")
    return paths


def arithmetic(saved: Saved, dtype: torch.dtype, asked: str | None) -> torch.dtype:
    """What an export with inputs and outputs of a precision computes in.

    Raises:
        TriwaveError: in float32 between inputs and outputs in float64.
    """
    if asked is None:
        return torch.float64 if saved.is_function else dtype
    if asked == "float32" and dtype == torch.float64:
        raise TriwaveError("--arithmetic float32: this model is float64, give --float32 too")
    return ARITHMETIC[asked]


def describe(saved: Saved, seed: int, dtype: torch.dtype, arithmetic: torch.dtype) -> Exported:
    """The plain network of a checkpoint, and what a user who has nothing else should know of it."""
    arguments = saved.module.hparams
    about: dict[str, Any] = {
        "title": title(saved),
        "lit_triwave": version("lit_triwave"),
        "stage": saved.module.stage,
        "dtype": name_of(dtype),
        "arithmetic": name_of(arithmetic),
    }
    backbone = None
    if saved.is_function:
        scaling = saved.scaling
        ends = torch.stack([scaling.lower, scaling.lower + scaling.span], 1).tolist()
        about |= {"domain": dict(zip(saved.variables, ends, strict=True)), "target": saved.target, "seed": seed}
        about["outside"] = "clamped to the domain" if arguments["initialization"] == "constructed" else "extrapolated"
    else:
        classes = saved.class_names
        about |= {"image_shape": list(arguments["image_shape"]), "classes": classes, "pixels": pixels(saved)}
        if arguments["backbone"] not in ("none", "cnn"):
            backbone = {"name": arguments["backbone"], "num_classes": arguments["num_classes"]}
    name = "images" if not saved.is_function else saved.variables[0] if len(saved.variables) == 1 else "inputs"
    return Exported(
        network=plain_network(saved, seed, dtype, arithmetic),
        example=sample_inputs(saved, dtype)[:2],
        input=name if name.isidentifier() else "inputs",
        output="value" if saved.is_function and name != "value" else "output" if saved.is_function else "logits",
        about=about,
        backbone=backbone,
    )


def name_of(dtype: torch.dtype) -> str:
    """float32, float64."""
    return str(dtype).removeprefix("torch.")


def title(saved: Saved) -> str:
    """What the network is, in a line."""
    if saved.is_function:
        return f"{saved.target or 'a target'}, a function of {', '.join(saved.variables)}"
    arguments = saved.module.hparams
    return f"{arguments['num_classes']} classes of images, backbone {arguments['backbone']}, head {arguments['head']}"


def pixels(saved: Saved) -> str:
    """How pixels are normalised before they reach the network, as far as the checkpoint says it."""
    data = saved.run.get("data", {})
    arguments = data.get("init_args", {})
    if "mean" in arguments:
        return f"in [0, 1], less {arguments['mean']}, divided by {arguments['std']}"
    return f"as {data.get('class_path', 'the data module').rpartition('.')[2]} normalises them"


def write(saved: Saved, seed: int, exported: Exported, kind: Format, paths: Sequence[Path]) -> Difference:
    """Writes the files, whole and only if what was read again from them is the model.

    Raises:
        TriwaveError: it can't be written, or it is not the model.
    """
    with ExitStack() as stack:
        partial = [stack.enter_context(written_whole(path)) for path in paths]
        try:
            if kind == "torch":
                evaluate = write_torch(exported, partial[0], partial[1], paths[0])
            else:
                evaluate = (write_program if kind == "program" else write_onnx)(exported, partial[0])
        except OSError as error:
            raise TriwaveError(f"{paths[0]} cannot be written: {error.strerror or error}") from error
        difference = compare(saved, seed, evaluate, exported.example.dtype, exported.arithmetic)
        if not difference.acceptable:
            raise TriwaveError(
                f"not written: the {kind} file differs from the model by {difference.share:.1e} of {unit(saved)}, "
                f"allowed is {difference.limit:.1e}"
            )
    return difference


def report(saved: Saved, seed: int, exported: Exported, paths: Sequence[Path], difference: Difference) -> str:
    """What was written, in aligned lines."""
    dtype = exported.about["dtype"]
    what = "points" if saved.is_function else "images"
    found = f"{difference.largest:.1e} on {difference.samples} random {what}: {difference.share:.1e} of {unit(saved)}"
    rows = [("exported", f"{saved.path}, {place(saved, seed)}")]
    rows += [("written", f"{path}, {file_size(path)}") for path in paths]
    sizes = ", ".join(["batch", *map(str, exported.example.shape[1:])])
    if saved.is_function:
        ranges = ", ".join(f"{name} in [{low:g}, {high:g}]" for name, (low, high) in exported.about["domain"].items())
        rows.append(("input", f"{exported.input} ({sizes}) {dtype}: {ranges}; outside {exported.about['outside']}"))
        rows.append(("output", f"{exported.output} (batch, 1) {dtype}: {exported.about['target'] or 'the target'}"))
    else:
        rows.append(("input", f"{exported.input} ({sizes}) {dtype}: pixels {exported.about['pixels']}"))
        rows.append(("output", f"{exported.output} (batch, {len(exported.about['classes'])}) {dtype}"))
    rows.append(("arithmetic", exported.about["arithmetic"]))
    rows.append(("difference", found))
    if difference.share > 1e-6 or (saved.dtype == torch.float32 and difference.rounding > 1e-6):
        rows.append(("", f"the model itself, in float32, is {difference.rounding:.1e} away from float64"))
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def unit(saved: Saved) -> str:
    """What differences are measured in."""
    return "the targets' range" if saved.is_function else "the largest logit, or of 1"


def place(saved: Saved, seed: int) -> str:
    """Where in its run the checkpoint was taken, and which seed."""
    where: str = saved.module.place(saved.epoch)
    if saved.seeds == 1:
        return where
    best = ", the best one" if seed == saved.seed() else ""
    return f"{where}, seed {seed} of {saved.seeds}{best}"
