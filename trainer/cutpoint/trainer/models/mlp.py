"""The model of rows."""

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """[batch, feature] to [batch, output]: linear layers with ReLU between them."""

    def __init__(
        self, features: int, outputs: int, hidden: tuple[int, ...], dropout: float = 0.0, input_dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(input_dropout)] if input_dropout else []
        for wide, narrow in pairwise((features, *hidden)):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear((features, *hidden)[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, feature] to [batch, output]."""
        return self.head(self.body(x))  # type: ignore[no-any-return]
