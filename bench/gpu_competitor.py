"""Another program on the GPU: takes its memory, and gives some back, without doing anything with it.

    python3 bench/gpu_competitor.py hold --free 1GiB                          leaves so much free, until it is ended
    python3 bench/gpu_competitor.py compete --low 300MiB --high 3GiB --seed 1  leaves another amount free every moment

Prints a line "free BYTES" when it holds what it should, and one for each change. Needs NVIDIA's driver only.
"""
import argparse
import ctypes
import random
import signal
import sys
import time

cuda = ctypes.CDLL("libcuda.so.1")


def check(code, what):
    if code:
        raise SystemExit(f"{what}: CUDA error {code}")


def size(text):
    for unit, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)):
        if text.endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


class Memory:
    PIECES = [1 << 30, 64 << 20, 2 << 20]  # sizes of what is taken, largest first

    def __init__(self, device):
        check(cuda.cuInit(0), "cuInit")
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        check(cuda.cuDeviceGet(ctypes.byref(handle), device), "cuDeviceGet")
        check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "cuDevicePrimaryCtxRetain")
        check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        self.held = {n: [] for n in self.PIECES}
        self.refused = 0

    def free(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        check(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
        return free.value

    def take(self, n):
        at = ctypes.c_uint64()
        if cuda.cuMemAlloc_v2(ctypes.byref(at), ctypes.c_size_t(n)):
            self.refused += 1
            return False
        self.held[n].append(at)
        return True

    def leave(self, target):
        """Takes or gives until about target bytes are free. What others hold cannot be had."""
        for n in self.PIECES:
            while self.free() - n >= target and self.take(n):
                pass
        for n in reversed(self.PIECES):
            while self.held[n] and self.free() + n <= target:
                check(cuda.cuMemFree_v2(self.held[n].pop()), "cuMemFree")
        while self.free() < target - self.PIECES[-1]:  # only large pieces are left: give one, and take part of it again
            n = next((n for n in reversed(self.PIECES) if self.held[n]), None)
            if n is None:
                return
            check(cuda.cuMemFree_v2(self.held[n].pop()), "cuMemFree")
            for smaller in self.PIECES:
                while self.free() - smaller >= target and self.take(smaller):
                    pass

    def total(self):
        return sum(n * len(pieces) for n, pieces in self.held.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["hold", "compete"])
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--free", type=size, default=1 << 30)
    parser.add_argument("--low", type=size, default=300 << 20)
    parser.add_argument("--high", type=size, default=3 << 30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--pause", type=float, default=0.5, help="longest time between changes, in seconds")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    memory = Memory(args.device)
    memory.leave(args.free if args.mode == "hold" else args.high)
    print("free", memory.free(), "held", memory.total(), flush=True)
    end, rng = time.monotonic() + args.seconds, random.Random(args.seed)
    changes = 0
    while time.monotonic() < end:
        if args.mode == "hold":
            time.sleep(min(1, max(0, end - time.monotonic())))
            continue
        time.sleep(rng.uniform(0.01, args.pause))
        memory.leave(int(args.low * (args.high / args.low) ** rng.random()))
        changes += 1
        print(f"{time.time():.2f} free {memory.free()} held {memory.total()}", flush=True)
    print("changes", changes, "refused", memory.refused, flush=True)


if __name__ == "__main__":
    main()
