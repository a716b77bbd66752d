"""Muon, the optimizer of the tiny models' matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Muon"]


class Muon:
    """Muon (Jordan et al. 2024): orthogonalised Nesterov momentum, for matrices only.

    Matrices of the same shape are updated as a batch.
    """

    def __init__(self, weights: list[Tensor], momentum: float = 0.9) -> None:
        import torch

        groups: dict[tuple[int, ...], list[Tensor]] = {}
        for weight in weights:
            groups.setdefault(tuple(weight.shape), []).append(weight)
        self.momentum = momentum
        self.groups = [(group, torch.zeros(len(group), *shape)) for shape, group in groups.items()]

    def step(self, rate: float) -> None:
        """Move every matrix against its ``.grad`` by about ``rate`` in spectral norm."""
        import torch

        with torch.no_grad():
            for weights, mean in self.groups:
                gradient = torch.stack(
                    [weight.grad for weight in weights if weight.grad is not None]
                )
                mean.lerp_(gradient, 1 - self.momentum)
                update = gradient.lerp(mean, self.momentum)
                rows, columns = update.shape[1:]
                update = (
                    self.orthogonal(update.mT).mT if rows > columns else self.orthogonal(update)
                )
                scale = max(1.0, rows / columns) ** 0.5
                for weight, change in zip(weights, update, strict=True):
                    weight.sub_(change, alpha=rate * scale)

    @staticmethod
    def orthogonal(x: Tensor) -> Tensor:
        """``x``, a batch of wide matrices, with singular values near 1.

        It takes four Newton-Schulz steps.
        """
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(4):
            square = x @ x.mT
            x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
        return x
