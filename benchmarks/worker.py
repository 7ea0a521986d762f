"""One case of ``benchmarks.run`` in a process of its own, so that its peak memory is its own.

It prints the seconds of the first call, compilation included; then, for each line that it reads,
those of one more call; and at the end of its input the peak of its memory in bytes, on a GPU that
of the device.
"""

import argparse
import json
import resource
import sys
import time


def main() -> None:
    """Serves one case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=("jax", "torch"))
    parser.add_argument("network", choices=("mimo_unet", "svrnn", "recurrence", "convolution"))
    parser.add_argument("what", choices=("inference", "training"))
    parser.add_argument("shape", type=int, nargs="+", help="batch, height, width, and channels")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--cuda", action="store_true", help="PyTorch: on the GPU")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--backend", default="auto", help="JAX: whose operations")
    parser.add_argument("--not_deterministic", action="store_true", help="JAX, on a GPU")
    args = parser.parse_args()
    if args.framework == "jax":
        from benchmarks import jax_cases as cases
        from deblur_jax import ComputeConfig

        compute = ComputeConfig(
            dtype=args.dtype, backend=args.backend, deterministic=not args.not_deterministic
        )
        run = cases.make(args.network, args.what, args.shape, compute)
    else:
        from benchmarks import torch_cases as cases

        run = cases.make(
            args.network,
            args.what,
            args.shape,
            channels_last=args.channels_last,
            compiled=args.compiled,
            device="cuda" if args.cuda else "cpu",
            dtype=args.dtype,
        )
    _say(_seconds(run))
    for _ in sys.stdin:
        _say(_seconds(run))
    of_device = cases.peak_bytes_of_device()
    _say(of_device or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _say(value: float) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
