"""Times PyTorch's 3D convolutions on the CPU: the rows of BenchmarkConv in internal/backend/cpu/kernel, forward and backward-data.

    python3 bench/cpu_peer.py [threads] [substring of a row's name]

Prints minimum and median seconds and GFLOP/s by the median. Run it in turn with

    go test -run '^$' -bench 'Conv/.*/avx512' -cpu 2 ./internal/backend/cpu/kernel

on an otherwise idle machine. Debian's python3-torch suffices.
"""
import sys
import time

import torch
import torch.nn.functional as F

ROWS = [  # name, in, out, groups, kernel, stride, input size
    ("stem_3_64_k3x7x7_s1x2x2", 3, 64, 1, (3, 7, 7), (1, 2, 2), (32, 112, 112)),
    ("stem_1_32_k3_s2", 1, 32, 1, (3, 3, 3), (2, 2, 2), (64, 128, 128)),
    ("dense_64_64_k3", 64, 64, 1, (3, 3, 3), (1, 1, 1), (32, 56, 56)),
    ("dense_128_128_k3", 128, 128, 1, (3, 3, 3), (1, 1, 1), (16, 28, 28)),
    ("dense_512_512_k3", 512, 512, 1, (3, 3, 3), (1, 1, 1), (4, 7, 7)),
    ("dense_64_128_k3_s2", 64, 128, 1, (3, 3, 3), (2, 2, 2), (32, 56, 56)),
    ("pointwise_24_144", 24, 144, 1, (1, 1, 1), (1, 1, 1), (32, 64, 64)),
    ("pointwise_144_24", 144, 24, 1, (1, 1, 1), (1, 1, 1), (32, 64, 64)),
    ("depthwise_96_k3", 96, 96, 96, (3, 3, 3), (1, 1, 1), (32, 64, 64)),
    ("depthwise_96_k3_s2", 96, 96, 96, (3, 3, 3), (2, 2, 2), (32, 64, 64)),
    ("depthwise_240_k5", 240, 240, 240, (5, 5, 5), (1, 1, 1), (8, 16, 16)),
]


def timed(f, least=5, seconds=1.5):
    f()
    times, start, cpu = [], time.perf_counter(), time.process_time()
    while len(times) < least or (time.perf_counter() - start < seconds and len(times) < 100):
        t = time.perf_counter()
        f()
        times.append(time.perf_counter() - t)
        if len(times) >= 2 and time.perf_counter() - start > 10:
            break
    n = len(times)
    times.sort()
    return times[0], times[len(times) // 2], (time.process_time() - cpu) / n


def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, oneDNN {torch.backends.mkldnn.is_available()}")
    for name, cin, cout, groups, kernel, stride, size in ROWS:
        if only not in name:
            continue
        pad = [k // 2 for k in kernel]
        x = torch.randn(1, cin, *size)
        w = torch.randn(cout, cin // groups, *kernel) * 0.05
        with torch.no_grad():
            y = F.conv3d(x, w, None, stride, pad, 1, groups)
            dy = torch.randn_like(y)
            flop = 2 * y.numel() * (cin // groups) * kernel[0] * kernel[1] * kernel[2]
            runs = {
                "forward": lambda: F.conv3d(x, w, None, stride, pad, 1, groups),
                "backward": lambda: torch.ops.aten.convolution_backward(
                    dy, x, w, None, list(stride), pad, [1, 1, 1], False, [0, 0, 0], groups, [True, False, False]),
            }
            for what, f in runs.items():
                best, median, cpu = timed(f)
                print(f"{name + '/' + what:40s} min {best * 1e3:9.2f} ms  median {median * 1e3:9.2f} ms "
                      f"{flop / median / 1e9:8.1f} GFLOP/s {flop / cpu / 1e9:8.1f} GFLOP/cpu-s", flush=True)


if __name__ == "__main__":
    main()
