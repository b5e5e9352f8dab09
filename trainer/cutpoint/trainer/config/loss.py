"""Settings of the losses, with the defaults of their papers."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from cutpoint.validation import Record
from pydantic import BeforeValidator, Field

from .weight import PosWeight


def _each(fits: Callable[[float], bool], expected: str) -> BeforeValidator:
    """A number that fits, or a list of such; one message for both, where a union would give two."""

    def check(value: Any) -> Any:
        listed = value if isinstance(value, list | tuple) else [value]
        try:
            numbers = tuple(float(number) for number in listed)
        except (TypeError, ValueError):
            numbers = ()
        if value is None or (numbers and all(map(fits, numbers)) and not any(isinstance(each, bool) for each in listed)):
            return value if value is None else numbers if listed is value else numbers[0]
        raise ValueError(f"expected {expected}, or a list of such numbers, one per label")

    return BeforeValidator(check)


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Power = Annotated[float, Field(ge=0, le=10)]
Shares = Annotated[float | tuple[float, ...] | None, _each(lambda share: 0 < share < 1, "a number between 0 and 1, or null")]
Powers = Annotated[float | tuple[float, ...], _each(lambda power: 0 <= power <= 10, "a number from 0 to 10")]


class LossRecord(Record):
    """What every loss says of itself.

    Attributes:
        two_class: it takes two logits for one label, [batch, 2, ...], not one for each label.
    """

    two_class: ClassVar[bool] = False


class WeightedBCELoss(LossRecord):
    """Binary cross-entropy whose positives weigh `pos_weight`.

    auto is negatives over positives per label, as the sampler presents them; sqrt, its square root, ranks as well or better.
    """

    name: Literal["weighted_bce"]
    pos_weight: PosWeight = "sqrt"


class WeightedCELoss(LossRecord):
    """Cross-entropy of two classes, for one label; `class_weight` is that of negatives, then of positives."""

    two_class: ClassVar[bool] = True
    name: Literal["weighted_ce"]
    class_weight: Literal["auto"] | tuple[Positive, Positive] = "auto"


class FocalLoss(LossRecord):
    """Focal loss (Lin 2017); `alpha` weighs positives and 1 - alpha negatives, null neither; `gamma` 0 is cross-entropy."""

    name: Literal["focal"]
    alpha: Shares = 0.25
    gamma: Powers = 2.0
    pos_weight: PosWeight = 1.0


class FocalCELoss(LossRecord):
    """Focal loss over the softmax of two classes, for one label; `alpha` as of focal."""

    two_class: ClassVar[bool] = True
    name: Literal["focal_ce"]
    alpha: Share | None = 0.25
    gamma: Power = 2.0


class AsymmetricLoss(LossRecord):
    """Asymmetric loss (Ridnik 2021): one focus for positives, one for negatives, and none on negatives below `margin`."""

    name: Literal["asymmetric"]
    gamma_pos: Powers = 0.0
    gamma_neg: Powers = 4.0
    margin: float = Field(default=0.05, ge=0, lt=1)


class ClassBalancedLoss(LossRecord):
    """Cross-entropy, or focal loss with `gamma` above 0, by the effective number of examples (Cui 2019)."""

    name: Literal["class_balanced"]
    beta: float = Field(default=0.9999, ge=0, lt=1)
    gamma: Powers = 0.0


class LogitAdjustedLoss(LossRecord):
    """Cross-entropy of z + `tau` logit(prior) (Menon 2021): logits are learnt as if classes were equally frequent."""

    name: Literal["logit_adjusted"]
    tau: float = Field(default=1.0, ge=0, le=10)


class BalancedSoftmaxLoss(LossRecord):
    """The same over the softmax of two classes, for one label (Ren 2020; Menon 2021 with `tau`)."""

    two_class: ClassVar[bool] = True
    name: Literal["balanced_softmax"]
    tau: float = Field(default=1.0, ge=0, le=10)


class LDAMLoss(LossRecord):
    """Margins that are wider for the rarer class, the widest `max_margin`; logits times `scale` (Cao 2019).

    After the share `defer` of the epochs, classes weigh by their effective number, `beta`; 1 is never.
    """

    name: Literal["ldam"]
    max_margin: Positive = 0.5
    scale: Positive = 30.0
    beta: float = Field(default=0.9999, ge=0, lt=1)
    defer: float = Field(default=0.8, ge=0, le=1)


class LDAMCELoss(LDAMLoss):
    """The same over the softmax of two classes, for one label."""

    two_class: ClassVar[bool] = True
    name: Literal["ldam_ce"]  # type: ignore[assignment]


class Poly1Loss(LossRecord):
    """Cross-entropy + `epsilon` (1 - p_t) (Leng 2022)."""

    name: Literal["poly1"]
    epsilon: float = Field(default=1.0, gt=-1, le=100)
    pos_weight: PosWeight = 1.0


class TverskyLoss(LossRecord):
    """1 - TP / (TP + `alpha` FP + `beta` FN) of a batch, to the power `gamma` (Salehi 2017; Abraham 2019)."""

    name: Literal["tversky"]
    alpha: Positive = 0.3
    beta: Positive = 0.7
    gamma: float = Field(default=1.0, gt=0, le=10)
    smooth: Positive = 1.0


class DiceLoss(LossRecord):
    """Tversky's with 0.5 and 0.5 (Milletari 2016)."""

    name: Literal["dice"]
    smooth: Positive = 1.0


class SmoothAPLoss(LossRecord):
    """1 - average precision of a batch, ranks counted by sigmoids of differences over `temperature` (Brown 2020)."""

    name: Literal["smooth_ap"]
    temperature: Positive = 1.0


LossSettings = (
    WeightedBCELoss
    | WeightedCELoss
    | FocalLoss
    | FocalCELoss
    | AsymmetricLoss
    | ClassBalancedLoss
    | LogitAdjustedLoss
    | BalancedSoftmaxLoss
    | LDAMLoss
    | LDAMCELoss
    | Poly1Loss
    | TverskyLoss
    | DiceLoss
    | SmoothAPLoss
)
Loss = Annotated[LossSettings, Field(discriminator="name")]
