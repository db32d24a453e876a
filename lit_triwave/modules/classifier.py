"""`ImageClassifier`: a backbone and a head, trained through the stages of the head's constructed subnetworks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from lit_triwave.errors import TrainingDiverged, TriwaveError, dtype_name
from lit_triwave.modules.metrics import classification_metrics
from lit_triwave.modules.staged import StagedModule
from lit_triwave.modules.stages import Parameters, Stage
from lit_triwave.nn.backbones import backbone_modules, build_network
from lit_triwave.nn.bank import Curvature, Release, TriangleBank
from lit_triwave.nn.heads import NORM_MOMENTUM, Squash, Start

Batch = tuple[Tensor, Tensor]
HeadKind = Literal["block_diagonal", "dense", "replaced", "original"]

DEFAULT_PRETRAIN = Stage(epochs=10, lr=0.01, optimizer="AdamW", warmup=0.05)
DEFAULT_TRAIN = Stage(epochs=10, lr=0.01, optimizer="AdamW", warmup=0.05)


class ImageClassifier(StagedModule):
    """Classifies images by a backbone and a head of constructed subnetworks or ordinary dense layers.

    Backbone and projections are trained in every stage, and keep their optimizer's state when the subnetworks are
    released. The schedule spans the whole run: `Stage.warmup` and a cosine start at its beginning. Weight decay applies
    only to weights, not to peaks, scales, norms and biases.

    Args:
        backbone: `"cnn"` (`SmallCNN`), `"none"` (pixels), any classification model of torchvision by name, any model of
            timm as `"timm/NAME"`, or the path of your own class or function, `"package.MyNet"`. It is called with
            `num_classes` and `image_shape` if it takes them. If it takes no `num_classes`, its outputs are features.
        head: `"block_diagonal"` (`BlockDiagonalHead`), `"dense"` (`DenseHead`); for models by name also `"replaced"`
            (their own classifier after `replace_dense`) and `"original"` (their own classifier).
        backbone_options: further arguments of a model by name.
        freeze_backbone: train only the head; the rest is not changed and stays in evaluation mode.
        num_nets: subnetworks K of a block-diagonal head; for `"replaced"` a quarter of the dense layer's width if None.
        depth: hidden layers of the subnetworks, or of a dense head.
        width: neurons of each hidden layer of a dense head; 4 · num_nets, the width of the subnetworks, if None.
        batch_norm: put batch norm before each ReLU of a dense head.
        dropout: dropout of the head, in [0, 1).
        norm_momentum: momentum of the batch norms of the head, in (0, 1]; see `BlockDiagonalLayers`. A larger value is
            better in the first epochs of a short training.
        start: start of the subnetworks, `"random"` (the paper's) or `"quadratic"`; see `BlockDiagonalLayers`.
        squash: see `BlockDiagonalLayers`.
        curvature: see `TriangleBank`.
        theorem31: see `TriangleBank`.
        margin: see `TriangleBank`.
        release: weights that standard training may change: `"blocks"` or `"dense"`, see `TriangleBank.release`.
        channels: channels of the small CNN's blocks.
        convolutions: convolutions in each of its blocks.
        weights: file with the initial state dict of a model by name: `.pt`, `.pth` or `.safetensors`. The weights
            of a classifier that the head replaces may be missing.
        label_smoothing: label smoothing of the loss, in [0, 1).
        mixup: parameter of MixUp's Beta distribution, ≥ 0; 0 leaves it out.
        cutmix: parameter of CutMix's Beta distribution, ≥ 0; 0 leaves it out. With both, one is drawn for each batch.
        pretrain: the stage that trains the peaks. Must have 0 epochs for a head without subnetworks.
        train: the stage that trains the weights.
        channels_last: use the memory format that is faster on GPUs, for images and backbone.
        compile: compile backbone and head with `torch.compile`.
        num_classes: number of classes; with a config it is taken from the data.
        image_shape: (C, H, W); with a config it is taken from the data.

    Attributes:
        network: images (batch, C, H, W) ↦ logits (batch, num_classes).

    Raises:
        ValueError: an argument is outside its range, or two contradict each other.
    """

    task = "classification"
    monitor = "val/accuracy"
    continuous = True

    def __init__(
        self,
        backbone: str = "cnn",
        head: HeadKind = "block_diagonal",
        backbone_options: dict[str, Any] | None = None,
        freeze_backbone: bool = False,
        num_nets: int | None = None,
        depth: int = 5,
        width: int | None = None,
        batch_norm: bool = False,
        dropout: float = 0.0,
        squash: Squash = "normal",
        curvature: Curvature = "convex",
        theorem31: bool = True,
        margin: float = 1e-2,
        release: Release = "blocks",
        channels: Sequence[int] = (32, 64),
        convolutions: int = 1,
        weights: str | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        pretrain: Stage = DEFAULT_PRETRAIN,
        train: Stage = DEFAULT_TRAIN,
        channels_last: bool = False,
        compile: bool = False,
        num_classes: int | None = None,
        image_shape: Sequence[int] | None = None,
        start: Start = "random",
        norm_momentum: float = NORM_MOMENTUM,
    ) -> None:
        super().__init__(pretrain, train, release)
        if pretrain.second_order:
            raise ValueError(
                f"pretrain.optimizer must be a class in torch.optim, got {pretrain.optimizer}: it fits functions only"
            )
        for stage, given in {"pretrain": pretrain, "train": train}.items():
            if given.optimizer == "LBFGS":
                raise ValueError(f"{stage}.optimizer must take several groups of parameters, got LBFGS: use Adam")
        self.save_hyperparameters(ignore=["pretrain", "train"])
        if head in ("dense", "original"):
            self.save_hyperparameters({"pretrain": {"epochs": 0}})  # for `load_from_checkpoint`: not the default
        if freeze_backbone and backbone == "none":
            raise ValueError("freeze_backbone must be false for backbone 'none', which has nothing to train, got true")
        if num_classes is None or image_shape is None:
            raise ValueError("num_classes and image_shape must be given, or be attributes of the data")
        for name, value in {"label_smoothing": label_smoothing, "dropout": dropout}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        for name, value in {"mixup": mixup, "cutmix": cutmix}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if head in ("dense", "original") and pretrain.epochs:
            raise ValueError(
                f"pretrain.epochs must be 0 for head {head!r}, which has no peaks to pretrain, got {pretrain.epochs}"
            )
        self.network: nn.Module = build_network(
            image_shape,
            num_classes,
            backbone=backbone,
            backbone_options=backbone_options,
            head=head,
            num_nets=num_nets,
            depth=depth,
            width=width,
            batch_norm=batch_norm,
            dropout=dropout,
            norm_momentum=norm_momentum,
            bank={"start": start, "squash": squash, "curvature": curvature, "theorem31": theorem31, "margin": margin},
            channels=channels,
            convolutions=convolutions,
            weights=weights,
        )
        self._fixed = backbone_modules(self.network) if freeze_backbone else []
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        self.num_classes = num_classes
        self.image_shape = tuple(image_shape)
        self.label_smoothing = label_smoothing
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.compiled = compile
        self.mixing = _mixing(mixup, cutmix, num_classes)
        metrics = {name: classification_metrics(num_classes, f"{name}/") for name in ("val", "test")}
        self.metrics: Any = nn.ModuleDict(metrics)
        self.fit_metrics = (*metrics["val"], "val/loss", "train/loss")
        self.losses: Any = nn.ModuleDict({name: MeanMetric() for name in metrics})
        self.results: dict[str, float] = {}
        self.confusion: Tensor | None = None
        self._unchecked: list[tuple[int, float, Tensor]] = []  # (step, learning rate, loss) since the last check

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (batch, C, H, W) to logits (batch, num_classes)."""
        logits: Tensor = self.network(images.to(memory_format=self.memory_format))
        return logits

    @property
    def frozen(self) -> list[nn.Parameter]:
        """The parameters that are never trained."""
        return [parameter for module in self._fixed for parameter in module.parameters(recurse=False)]

    def train(self, mode: bool = True) -> ImageClassifier:
        """Sets the mode of all modules except a frozen backbone, whose batch norms keep their statistics."""
        super().train(mode)
        for module in self._fixed:
            module.training = False
        return self

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.trainer.precision == "64-true":
            self.double()
        if self.compiled:
            self.network.compile()

    def parameter_groups(self) -> Parameters:
        """Returns two groups: weights of layers; and peaks, scales, norms and biases, which have no weight decay."""
        decayed: list[nn.Parameter] = []
        kept: list[nn.Parameter] = []
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                decays = name.endswith("weight") and (parameter.ndim > 1 or isinstance(module, TriangleBank))
                (decayed if decays else kept).append(parameter)
        return [group for group in ({"params": decayed}, {"params": kept, "weight_decay": 0.0}) if group["params"]]

    def on_fit_start(self) -> None:
        self.seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # After a resume, dropout, mixup and cutmix must draw the same numbers as without it; ranks draw different ones.
        # One seed for each epoch is not enough: Lightning's loaders draw from the same generator, and in a resumed
        # epoch they do so at another time.
        purpose = f"{self.seed} {self.current_epoch} {batch_idx} {self.global_rank}"
        torch.manual_seed(random.Random(purpose).getrandbits(63))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = _split(batch)
        if batch_idx == 0:
            self._check_batch(images, labels)
        target = labels
        if self.mixing is not None:
            images, target = self.mixing(images, labels)
        loss = functional.cross_entropy(self(images).float(), target, label_smoothing=self.label_smoothing)
        value = loss.detach()
        self._unchecked.append((self.global_step, self.trainer.optimizers[0].param_groups[0]["lr"], value))
        # Reading a loss waits for the device. On a GPU it is read only in steps in which Lightning reads it anyway.
        logged = self.is_logged(batch_idx)
        if self.device.type == "cpu" or logged or len(self._unchecked) >= 50:
            self.check_losses()
        if logged:  # `log` takes a millisecond, and the values of other steps are not written
            self.log("train/loss", value, sync_dist=True)
        return {"loss": loss}

    def check_losses(self) -> None:
        """Raises TrainingDiverged on all ranks if a loss since the last call was not finite on any rank."""
        if not self._unchecked:
            return
        unchecked, self._unchecked = self._unchecked, []
        infinite: Any = (~torch.stack([loss for _, _, loss in unchecked]).isfinite()).float()
        bad = self.trainer.strategy.reduce(infinite, reduce_op="sum").nonzero().flatten().tolist()
        if bad:
            step, rate, _ = unchecked[bad[0]]
            advice = f": try a lower {self.stage}.lr" if rate else ""
            if step == 0:  # no step was taken, so no learning rate is to blame
                advice = ": the first batch or the model's weights may have values that are not finite"
            raise TrainingDiverged(
                f"the loss is not finite in {self.place(self.current_epoch)}, step {step} at learning rate {rate:.3g}, "
                f"precision {self.trainer.precision}{advice}"
            )

    def check_finite(self) -> None:
        """Checks losses and parameters; called on all ranks before a checkpoint is saved.

        Raises:
            TrainingDiverged: a loss, or a parameter after the last step, is not finite.
        """
        self.check_losses()
        finite = torch.stack([tensor.isfinite().all() for tensor in self.parameters()]).all()
        if not finite:  # the same on all ranks, because all have the same parameters
            raise TrainingDiverged(
                f"parameters are not finite after {self.place(self.current_epoch)}, step {self.global_step}: try a "
                f"lower {self.stage}.lr"
            )

    def _check_batch(self, images: Tensor, labels: Tensor) -> None:
        """Raises TriwaveError for images or labels that the network does not take."""
        own, channels = next(self.parameters()).dtype, self.image_shape[0]
        fits = images.is_floating_point() and torch.promote_types(images.dtype, own) == own
        if images.ndim != 4 or images.shape[1] != channels or not fits:
            raise TriwaveError(
                f"images must have shape (batch, {channels}, height, width) and {dtype_name(own)}, got "
                f"{tuple(images.shape)} and {dtype_name(images.dtype)}"
            )
        if labels.shape != images.shape[:1] or labels.dtype not in (torch.long, torch.uint8):
            raise TriwaveError(
                f"labels must have shape ({len(images)},) and int64, got {tuple(labels.shape)} and "
                f"{dtype_name(labels.dtype)}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise TriwaveError(
                f"labels must be from 0 to {self.num_classes - 1}, as the model has {self.num_classes} classes, got "
                f"{int(labels.min())} to {int(labels.max())}"
            )

    def _evaluate(self, name: str, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = _split(batch)
        if batch_idx == 0:
            self._check_batch(images, labels)
        logits: Tensor = self(images).float()
        if len(labels):
            self.losses[name].update(functional.cross_entropy(logits, labels), len(labels))
            self.metrics[name].update(logits.softmax(1), labels)
        return logits

    def _results(self, name: str) -> dict[str, Tensor]:
        results: dict[str, Tensor] = self.metrics[name].compute() | {f"{name}/loss": self.losses[name].compute()}
        self.metrics[name].reset()
        self.losses[name].reset()
        self.log_dict(results, rank_zero_only=False, sync_dist=True)
        return results

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._results("val")

    def on_test_start(self) -> None:
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long, device=self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self._evaluate("test", batch, batch_idx)
        assert self.confusion is not None
        self.confusion.index_put_((batch[1], logits.argmax(1)), torch.ones_like(batch[1]), accumulate=True)

    def on_test_epoch_end(self) -> None:
        self.results = {name: float(value) for name, value in self._results("test").items()}
        self.confusion = self.trainer.strategy.reduce(self.confusion, reduce_op="sum")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = _split(batch)
        confidence, prediction = self(images).float().softmax(1).max(1)
        return {"label": labels, "prediction": prediction, "confidence": confidence}


def _split(batch: Any) -> Batch:
    """Returns the images and labels of a batch.

    Args:
        batch: (images, labels); for a prediction also only images, with -1 as labels.
    """
    parts = batch if isinstance(batch, (tuple, list)) else [batch]
    if len(parts) not in (1, 2) or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts) or "nothing"
        raise TypeError(f"a batch must be (images, labels), two tensors, got {kinds}")
    images = parts[0]
    return images, parts[1] if len(parts) == 2 else images.new_full((len(images),), -1, dtype=torch.long)


def _mixing(mixup: float, cutmix: float, num_classes: int) -> Any:
    """Returns torchvision's MixUp, CutMix, a choice of one for each batch, or None for neither."""
    if not (mixup or cutmix):
        return None
    from torchvision.transforms import v2  # takes seconds

    chosen = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
    chosen += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
    return v2.RandomChoice(chosen) if len(chosen) > 1 else chosen[0]
