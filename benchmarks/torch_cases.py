"""What ``benchmarks.worker`` runs of PyTorch."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from benchmarks.torch_mimo_unet import MIMOUNet
from benchmarks.torch_svrnn import SVRNN


def make(
    network: str,
    what: str,
    shape: Sequence[int],
    *,
    channels_last: bool,
    compiled: bool,
    device: str,
    dtype: str,
) -> Callable[[], None]:
    """A function that does the work once and waits for it; as ``jax_cases.make``.

    In "bfloat16" the network runs under PyTorch's autocast.
    """
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = (SVRNN() if network == "svrnn" else MIMOUNet()).to(device, memory_format=layout)
    batch, height, width = shape
    blurred, sharp = torch.rand(2, batch, 3, height, width, device=device)
    blurred = blurred.contiguous(memory_format=layout)
    network_fn = torch.compile(model) if compiled else model
    half = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def forward(images):
        with half:
            return network_fn(images)

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    if what == "inference":

        def restore():
            forward(blurred)
            finish()

        return torch.inference_mode()(restore)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    loss_fn = _squared_error if network == "svrnn" else _mimo_unet_loss

    def run():
        optimizer.zero_grad()
        loss_fn(forward(blurred), sharp).backward()
        optimizer.step()
        finish()

    return run


def peak_bytes_of_device() -> int | None:
    """The peak of a GPU's memory; None on the CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None


def _mimo_unet_loss(restored, sharp):
    loss = 0.0
    for scale, image in zip((1, 0.5, 0.25), restored, strict=True):
        image = image.float()
        truth = F.interpolate(sharp, scale_factor=scale, mode="bilinear") if scale < 1 else sharp
        spectrum = torch.view_as_real(torch.fft.fft2(image) - torch.fft.fft2(truth))
        loss = loss + F.l1_loss(image, truth) + 0.1 * spectrum.abs().mean()
    return loss


def _squared_error(restored, sharp):
    return torch.sum((restored.float() - sharp) ** 2) / 2 / len(sharp)
