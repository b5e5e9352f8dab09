"""What the losses cost: focal beside the formula that torchvision documents, the others beside plain cross-entropy.

torchvision has no CPU build beside every torch, so its `sigmoid_focal_loss` is written down here as documented. Logits are
float32 [4096, 512], 5 % positives, targets float32 as torchvision takes them; forward and backward. Peak memory is what torch's
allocator held at most beyond logits and targets, by its profiler; the gradient of the logits counts on both sides.
"""

import sys
from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from claims import Claim, report, timed
from cutpoint.trainer import loss as losses
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

ROWS, LABELS = 4096, 512
THREADS = (1, 2)


def torchvision_focal(inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The formula of torchvision.ops.sigmoid_focal_loss, reduction "mean"."""
    p = torch.sigmoid(inputs)
    ce_loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = ce_loss * ((1 - p_t) ** gamma)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * loss).mean()


def step(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, y: Tensor) -> Callable[[], None]:
    """Forward and backward, from no gradient."""

    def run() -> None:
        z.grad = None
        loss(z, y).backward()

    return run


def peak_bytes(run: Callable[[], None]) -> int:
    """The most that was allocated at once beyond what is there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    raw = profiler.profiler.kineto_results.events()  # events() leaves out what operators allocate
    changes = sorted((event.start_ns(), event.nbytes()) for event in raw if event.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


def main() -> None:
    """Measure and report."""
    generator = torch.Generator().manual_seed(0)
    z = (2 * torch.randn(ROWS, LABELS, generator=generator) - 3).requires_grad_()
    y = (torch.rand(ROWS, LABELS, generator=generator) < 0.05).float()
    focal, theirs = step(losses.focal, z, y), step(torchvision_focal, z, y)
    claims = []
    peaks = []
    for run in (focal, theirs):
        z.grad = None  # before the profiler: it would count what is freed of what it did not see allocated
        peaks.append(peak_bytes(run) / 2**20)
    claims.append(Claim("focal, peak memory, eager, against torchvision's formula", *peaks, 0.6, "MiB", least=False))
    compiled = [step(torch.compile(loss), z, y) for loss in (losses.focal, torchvision_focal)]
    for threads in THREADS:
        torch.set_num_threads(threads)
        cost = [1e3 * s for s in timed(focal, theirs, rounds=7)]
        on = f"{threads} thread{'s' * (threads > 1)}"
        claims.append(
            Claim(f"focal, forward and backward, eager, {on}, against torchvision's formula", *cost, 0.45, "ms", False)
        )
        cost = [1e3 * s for s in timed(*compiled, rounds=15)]
        claims.append(Claim(f"the same, both compiled, {on}", *cost, 1.0, "ms", False))
    torch.set_num_threads(THREADS[-1])
    two, one = torch.stack([-z, z], 1).detach().requires_grad_(), y.long()
    rates = y.mean(0)
    others = {
        "weighted_bce": step(lambda z, y: losses.weighted_bce(z, y, pos_weight=19.0), z, y),
        "focal": focal,
        "asymmetric": step(losses.asymmetric, z, y),
        "asymmetric, margin 0": step(lambda z, y: losses.asymmetric(z, y, margin=0), z, y),
        "class_balanced": step(lambda z, y: losses.class_balanced(z, y, ratio=19.0), z, y),
        "logit_adjusted": step(lambda z, y: losses.logit_adjusted(z, y, prior=rates), z, y),
        "ldam": step(lambda z, y: losses.ldam(z, y, rate=rates), z, y),
        "poly1": step(losses.poly1, z, y),
        "tversky": step(losses.tversky, z, y),
        "smooth_ap, 256 rows": step(losses.smooth_ap, z[:256].detach().requires_grad_(), y[:256]),
        "weighted_ce, two classes": step(losses.weighted_ce, two, one),
        "focal_ce, two classes": step(losses.focal_ce, two, one),
        "ldam_ce, two classes": step(losses.ldam_ce, two, one),
    }
    bce = step(F.binary_cross_entropy_with_logits, z, y)
    costs = timed(bce, *others.values())
    print(f"forward and backward over that of torch's binary_cross_entropy_with_logits, {1e3 * costs[0]:.3g} ms:")
    for name, seconds in zip(others, costs[1:], strict=True):
        print(f"  {name}: {seconds / costs[0]:.2f}")
    sys.stdout.flush()
    report(claims)


if __name__ == "__main__":
    main()
