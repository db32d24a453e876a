"""The export formats: each file is written, and then loaded again in the way that its users will load it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_triwave.commands.export.script import script
from lit_triwave.errors import TriwaveError, reason

SUFFIXES = {"torch": ".pt", "program": ".pt2", "onnx": ".onnx"}
"""Name of a format ↦ ending of its file."""
_ONNX_BYTES = 2_000_000_000  # largest size of a protocol buffer

Evaluate = Callable[[Tensor], Tensor]


@dataclass
class Exported:
    """A network to export.

    Attributes:
        network: made of PyTorch's own modules, see `plain_network`.
        example: inputs of two samples.
        input, output: names of the inputs and outputs.
        about: further facts about the network, in plain containers.
        backbone: "name", "num_classes" and "options" of the torchvision model in the network; None if there is none.
    """

    network: nn.Module
    example: Tensor
    input: str
    output: str
    about: Mapping[str, Any]
    backbone: Mapping[str, Any] | None

    @property
    def arithmetic(self) -> torch.dtype:
        """Precision of the computation."""
        return next(self.network.parameters()).dtype

    @property
    def dynamic(self) -> tuple[dict[int, Any], ...]:
        """Tells `torch.export` that batches have any size."""
        return ({0: torch.export.Dim("batch")},)


def _write_torch(exported: Exported, paths: Sequence[Path], final: Path) -> Evaluate:
    """Writes a state dict, and beside it the Python file that builds the network."""
    path, script_path = paths[:2]
    torch.save(exported.network.state_dict(), path)
    shape = ", ".join(["batch", *map(str, exported.example.shape[1:])])
    call = f"{exported.output} = network({exported.input})"
    example = f"{call}  # {exported.input} of shape ({shape}), {exported.example.dtype}"
    text = script(exported.network, final, exported.backbone, exported.about, example)
    script_path.write_text(text)
    space: dict[str, Any] = {"__file__": str(script_path), "__name__": "exported"}
    exec(compile(text, str(script_path), "exec"), space)  # run in the same way as by its users
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = space["load"](path)
    return network


def _write_program(exported: Exported, paths: Sequence[Path], final: Path) -> Evaluate:
    """Writes a `torch.export` program."""
    with _quietly():
        program = torch.export.export(exported.network, (exported.example,), dynamic_shapes=exported.dynamic)
        for node in program.graph.nodes:  # removes paths of this machine
            node.meta.pop("stack_trace", None)
        torch.export.save(program, paths[0], extra_files={"about.json": _as_json(exported.about)})
        module: nn.Module = torch.export.load(paths[0]).module()
    return module


def _write_onnx(exported: Exported, paths: Sequence[Path], final: Path) -> Evaluate:
    """Writes an ONNX model, which onnxruntime runs."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        missing = getattr(error, "name", None) or "a part"
        raise TriwaveError(f"--format onnx: {missing} is not installed: pip install 'lit_triwave[onnx]'") from error
    size = sum(value.numel() * value.element_size() for value in exported.network.state_dict().values())
    if size > _ONNX_BYTES:
        raise TriwaveError(f"--format onnx: the weights must fit into 2 GB, got {size / 1e9:.1f}: use --format program")
    with _quietly():
        program: Any = torch.onnx.export(
            exported.network,
            (exported.example,),
            dynamo=True,
            verbose=False,
            input_names=[exported.input],
            output_names=[exported.output],
            dynamic_shapes=exported.dynamic,
        )
        model = program.model_proto
    for part in (model.graph, *model.graph.node, *model.functions, *model.graph.value_info):
        del part.metadata_props[:]  # removes paths of this machine
    onnx.helper.set_model_props(model, {key: _as_json(value) for key, value in exported.about.items()})
    onnx.save(model, str(paths[0]))
    try:
        session = onnxruntime.InferenceSession(str(paths[0]), providers=["CPUExecutionProvider"])
    except Exception as error:
        advice = ""
        if exported.arithmetic == torch.float64:
            advice = "; give --float32" if exported.example.dtype == torch.float64 else "; give --arithmetic float32"
        raise TriwaveError(f"--format onnx: onnxruntime cannot run it: {reason(error)}{advice}") from error
    return lambda x: torch.from_numpy(session.run([exported.output], {exported.input: x.numpy()})[0])


def _as_json(value: Any) -> str:
    """Returns a text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppresses the output of torch's exporters."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


WRITERS: dict[str, Callable[[Exported, Sequence[Path], Path], Evaluate]] = {
    "torch": _write_torch,
    "program": _write_program,
    "onnx": _write_onnx,
}
"""Name of a format ↦ function that writes a network to files; returns the network as loaded from them.

Its arguments are the network, the temporary files to write, and the final name of the first of them."""
