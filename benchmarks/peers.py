"""Methods to learn a function from points, for `benchmarks.functions`: this project and others, with good settings.

Each computes in float64 on one thread and gets the same training points. The same validation points may be used to
choose among starts or to stop.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmarks.loop import Seconds
from datamodules import FunctionDataModule
from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.cli import main as lit_triwave
from lit_triwave.distributed.signals import INTERRUPTED
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.stack import StackNetwork
from lit_triwave.optim import LeastSquares, LevenbergMarquardt

CONFIGS = Path(__file__).parents[1] / "configs"
STACK = CONFIGS / "stack.yaml"


class Problem:
    """A function known at some points.

    Args:
        config: the shipped config that has the expression and the domain. All other settings of the data are those of
            configs/stack.yaml.
        seed: seed of the points and of the start of each method.
        effort: share of each method's iterations, in (0, 1].
        points: replaces settings of the data, such as `points` and `test_points`.

    Attributes:
        data: the points.
        options: command-line options for the same points.
    """

    def __init__(self, config: Path, seed: int = 0, effort: float = 1.0, **points: int) -> None:
        named = settings(config)["data"]["init_args"]
        function = {key: named[key] for key in ("expression", "domain")}
        arguments = settings(STACK)["data"]["init_args"] | function | {"seed": seed} | points
        self.config, self.seed, self.effort = config, seed, effort
        self.data = FunctionDataModule(**arguments)
        self.options = ["--seed_everything", str(seed)]
        for key, value in arguments.items():
            self.options += [f"--data.{key}", value if isinstance(value, str) else json.dumps(value)]

    @property
    def inputs(self) -> int:
        """Number of variables."""
        return len(self.data.domain)

    def iterations(self, usual: int) -> int:
        """Returns the number of iterations, a share of the usual number but at least 1."""
        return math.ceil(self.effort * usual)


class Learned(NamedTuple):
    """The result of a method on a problem.

    Attributes:
        predict: inputs (batch, inputs) ↦ values (batch,).
        parameters: number of parameters.
        seconds: seconds of the training.
    """

    predict: Callable[[Tensor], Tensor]
    parameters: int
    seconds: Seconds


class Peer(NamedTuple):
    """A method to learn a function.

    Attributes:
        name: name on the command line and in the table.
        settings: one sentence for the legend.
        train: returns None for a problem that it has no settings for.
        package: package that must be installed; "" for none.
    """

    name: str
    settings: str
    train: Callable[[Problem], Learned | None]
    package: str = ""

    @property
    def installed(self) -> bool:
        return not self.package or importlib.util.find_spec(self.package) is not None


def settings(config: Path) -> dict[str, Any]:
    """Returns the content of a config file."""
    content: dict[str, Any] = yaml.safe_load(config.read_text())
    return content


class FitTimer(Callback):
    """Times a fit from the first hook, after imports and data, to the last, before test and figures.

    Attributes:
        last: of the last fit in this process.
    """

    last: ClassVar[Seconds]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = Seconds.now()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        FitTimer.last = Seconds.now().since(self.begun)


def fit_stack(problem: Problem, config: Path = STACK) -> Learned:
    """Runs the command `fit` with a stack's config.

    Raises:
        RuntimeError: it failed.
        KeyboardInterrupt: it was interrupted.
    """
    options = [*problem.options, "--run.wandb", "disabled", "--run.experiment", "stack", "--run.id", "a"]
    options += ["--trainer.callbacks+=benchmarks.peers.FitTimer"]
    epochs = settings(config)["model"]["init_args"]["limit"]["epochs"]
    options += ["--model.limit.epochs", str(problem.iterations(epochs))]
    with tempfile.TemporaryDirectory() as root:
        with said() as output:
            code = lit_triwave(["fit", "--config", str(config), *options, "--run.root", root])
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise RuntimeError(output.getvalue().strip().rpartition("\n")[2])
        run = Path(root) / "stack" / "a"
        saved = load_module(run)
        parameters = json.loads((run / "summary.json").read_text())["parameters"]
    network = one_seed(saved.module.network, saved.seed())
    return Learned(lambda x: network(x)[:, 0], parameters, FitTimer.last)


def fit_own_config(problem: Problem) -> Learned | None:
    """Runs `fit` with the config of the function, if its model is a stack."""
    if settings(problem.config)["model"]["init_args"]["wiring"] != "stack":
        return None
    return fit_stack(problem, problem.config)


def one_seed(network: StackNetwork, seed: int) -> StackNetwork:
    """Returns a stack with the parameters of only one seed."""
    domain = {str(i): (0.0, 1.0) for i in range(network.scaling.in_features)}  # the state replaces it
    single = StackNetwork(domain, layers=network.layers)
    state = network.state_dict().items()
    single.load_state_dict({name: v if name.startswith("scaling.") else v[seed : seed + 1] for name, v in state})
    return single


class TanhNetwork(DenseNetwork):
    """A `DenseNetwork` with tanh instead of ReLU; its derivatives come from `torch.func`."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs (batch, in_features) to outputs (batch, replicas)."""
        h = x.T.expand(self.replicas, *x.T.shape)
        *hidden, last = zip(self.weight, self.bias, strict=True)
        for weight, bias in hidden:
            h = torch.baddbmm(bias.mT, weight, h).tanh()
        weight, bias = last
        return torch.baddbmm(bias.mT, weight, h)[:, 0].T


MLP_STARTS = 2
"""Random starts of an MLP, trained side by side; the better one is used."""
MLP_ITERATIONS = 100
"""Iterations of Levenberg–Marquardt."""


def fit_mlp(problem: Problem, network: DenseNetwork, **options: Any) -> Learned:
    """Trains dense networks, several starts at once, with this project's `LevenbergMarquardt`.

    Args:
        problem: the points.
        network: network with a random start.
        options: options of the optimizer.
    """
    train, val = problem.data.train_set, problem.data.val_set
    begun = Seconds.now()
    analytic = not isinstance(network, TanhNetwork)
    least_squares = LeastSquares(network, train.x, train.y, analytic=analytic)
    optimizer = LevenbergMarquardt(network.parameters(), **options)
    for _ in range(problem.iterations(MLP_ITERATIONS)):
        optimizer.step(least_squares)
    with torch.no_grad():
        best = int((network(val.x) - val.y[:, None]).square().mean(0).argmin())
    seconds = Seconds.now().since(begun)
    for parameter in network.parameters():
        parameter.data = parameter.data[best : best + 1]
    network.replicas = 1
    return Learned(lambda x: network(x)[:, 0], count(network.parameters()), seconds)


def fit_relu(problem: Problem) -> Learned:
    """Trains ReLU networks with about as many parameters as a stack."""
    width, depth = (8, 2) if problem.inputs == 1 else (14, 3)
    generator = torch.Generator().manual_seed(problem.seed)
    sizes = {"width": width, "depth": depth, "replicas": MLP_STARTS}
    return fit_mlp(problem, DenseNetwork(problem.data.domain, generator=generator, **sizes))


def fit_tanh(problem: Problem) -> Learned:
    """Trains tanh networks of two layers with about as many parameters as a stack."""
    generator = torch.Generator().manual_seed(problem.seed)
    sizes = {"width": 8 if problem.inputs == 1 else 19, "depth": 2, "replicas": MLP_STARTS}
    # A smooth loss needs no kicks.
    return fit_mlp(problem, TanhNetwork(problem.data.domain, generator=generator, **sizes), round_length=0)


GRIDS = (3, 10, 20)
KAN_STEPS = 50
"""Steps of LBFGS on each grid."""


def fit_pykan(problem: Problem) -> Learned:
    """Trains pykan's [inputs, 5, 1] by LBFGS, then refines its grid and trains again, as its tutorials do."""
    from kan import KAN

    train, val = problem.data.train_set, problem.data.val_set
    points = {"train_input": train.x, "train_label": train.y[:, None]}
    points |= {"test_input": val.x, "test_label": val.y[:, None]}
    steps = problem.iterations(KAN_STEPS)
    updating = math.ceil(0.6 * steps)  # while the grid still moves; the rest is for accuracy
    with tempfile.TemporaryDirectory() as folder, said(), default_float64():
        begun = Seconds.now()
        model = KAN([problem.inputs, 5, 1], grid=GRIDS[0], seed=problem.seed, auto_save=False, ckpt_path=folder)
        for grid in GRIDS:
            if grid != model.grid:
                model.get_act(train.x)  # the new grid is laid where these are
                model = model.refine(grid)
                model.auto_save = False
            model.fit(points, steps=steps, stop_grid_update_step=updating, grid_update_num=min(10, updating))
        seconds = Seconds.now().since(begun)
    model.speed()  # without what only plots and symbolic fits need
    return Learned(lambda x: model(x)[:, 0], count(model.act_fun.parameters()), seconds)


INKAN_STEPS = 1000
"""Steps of Adam."""
INKAN_ITERATIONS = 2000
"""Iterations of LBFGS."""


def fit_inkan(problem: Problem) -> Learned:
    """Trains inkan's [inputs, 5, 1] by Adam and then by LBFGS."""
    from inkan import KANNetwork

    train = problem.data.train_set
    torch.manual_seed(problem.seed)
    with default_float64():
        model = KANNetwork([problem.inputs, 5, 1], grid_size=GRIDS[-1], compile_basis=False)
    begun = Seconds.now()
    steps = problem.iterations(INKAN_STEPS)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)

    def closure() -> Tensor:
        model.zero_grad()
        loss = (model(train.x)[:, 0] - train.y).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(steps):
        adam.step(closure)
        schedule.step()
    iterations = problem.iterations(INKAN_ITERATIONS)
    tolerances = {"tolerance_grad": 0.0, "tolerance_change": 0.0}
    torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, history_size=50, line_search_fn="strong_wolfe", **tolerances
    ).step(closure)
    return Learned(lambda x: model(x)[:, 0], count(model.parameters()), Seconds.now().since(begun))


SKLEARN_ITERATIONS = 2000


def fit_sklearn_mlp(problem: Problem) -> Learned:
    """Trains scikit-learn's MLP by its LBFGS, which suits small data."""
    train = problem.data.train_set
    iterations = problem.iterations(SKLEARN_ITERATIONS)
    options = {"activation": "tanh", "solver": "lbfgs", "alpha": 0, "tol": 1e-12, "max_fun": 20 * iterations}
    network = MLPRegressor(hidden_layer_sizes=(50, 50), max_iter=iterations, random_state=problem.seed, **options)
    scaled = make_pipeline(StandardScaler(), network)
    model = TransformedTargetRegressor(scaled, transformer=StandardScaler())
    begun = Seconds.now()
    model.fit(train.x.numpy(), train.y.numpy())
    seconds = Seconds.now().since(begun)
    fitted = model.regressor_[-1]
    return Learned(_of_arrays(model.predict), sum(a.size for a in fitted.coefs_ + fitted.intercepts_), seconds)


TREES = 1000


def fit_boosting(problem: Problem) -> Learned:
    """Trains scikit-learn's gradient boosting; its parameters are thresholds and the values of leaves."""
    train = problem.data.train_set
    trees = problem.iterations(TREES)
    model = HistGradientBoostingRegressor(max_iter=trees, early_stopping=False, random_state=problem.seed)
    begun = Seconds.now()
    model.fit(train.x.numpy(), train.y.numpy())
    seconds = Seconds.now().since(begun)
    return Learned(_of_arrays(model.predict), sum(len(tree.nodes) for (tree,) in model._predictors), seconds)


def _of_arrays(predict: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.from_numpy(predict(x.numpy()))


def count(parameters: Iterator[nn.Parameter]) -> int:
    """Returns the number of trained parameters."""
    return sum(p.numel() for p in parameters if p.requires_grad)


@contextlib.contextmanager
def default_float64() -> Iterator[None]:
    """Makes new modules use float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def said() -> Iterator[io.StringIO]:
    """Catches what is printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield output


_MLP = f"{MLP_ITERATIONS} iterations of `LevenbergMarquardt`, the better of {MLP_STARTS} starts"
PEERS = (
    Peer("stack", "configs/stack.yaml through `fit`, which chooses the layers and the best of 16 starts", fit_stack),
    Peer("own-config", "the config of the function in configs/functions_nd through `fit`", fit_own_config),
    Peer(
        "pykan",
        f"[inputs, 5, 1], grid {' → '.join(map(str, GRIDS))}, {KAN_STEPS} steps of its LBFGS on each, one start",
        fit_pykan,
        "kan",
    ),
    Peer(
        "inkan",
        f"[inputs, 5, 1], grid {GRIDS[-1]}, {INKAN_STEPS} steps of Adam (10⁻² to 0 by a cosine) and "
        f"{INKAN_ITERATIONS} iterations of LBFGS, one start",
        fit_inkan,
        "inkan",
    ),
    Peer("tanh-mlp", f"two layers of 19 (one variable: of 8), {_MLP}, without kicks", fit_tanh),
    Peer("relu-mlp", f"three layers of 14 (one variable: two of 8), {_MLP}, with kicks", fit_relu),
    Peer(
        "sklearn-mlp",
        f"scikit-learn's MLPRegressor, two layers of 50, tanh, scaled, {SKLEARN_ITERATIONS} iterations of LBFGS",
        fit_sklearn_mlp,
    ),
    Peer("boosting", f"scikit-learn's HistGradientBoostingRegressor, {TREES} trees, learning rate 0.1", fit_boosting),
)
