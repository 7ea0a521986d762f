"""Injects faults and counts how they end; the figures are those of docs/faults.md."""

import argparse
import tempfile
from pathlib import Path

from tests.faults.checkpoints import count_bit_flips, count_damaged_checkpoints
from tests.faults.files import count_readings
from tests.faults.kills import count_kills
from tests.faults.processes import HEADER, faults

READINGS = {"torch": 200, "caffe": 100, "image": 400, "archive": 120}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("what", nargs="*", default=[*READINGS, "flips", "checkpoints", "kills"])
    parser.add_argument("--number", type=int, help="instead of the usual one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="of the killed runs: /dev/shm is a tmpfs")
    args = parser.parse_args()
    for what in args.what:
        if what == "processes":
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                print(HEADER)
                for fault in faults(Path(folder)):
                    print(fault, flush=True)
            continue
        if what in READINGS:
            counts = count_readings(what, args.number or READINGS[what], args.seed)
        elif what == "flips":
            counts = count_bit_flips(args.number or 80, args.seed)
        elif what == "checkpoints":
            counts = count_damaged_checkpoints(args.number or 60, args.seed)
        else:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                counts = count_kills(args.number or 20, Path(folder), seed=args.seed)
        print(f"{what}: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
