"""Replays a trace of memory that is taken and closed on PyTorch's caching allocator, on a GPU.

    VOXCAM_LONG=1 VOXCAM_TRACE=trace.json go test -run NoFragmentation -v ./internal/backend/cuda/devmem
    python3 bench/caching_allocator.py trace.json

Prints, at ten points of the trace, what is reserved and allocated, the largest inactive block, and two ratios: fragmentation, 1 - largest
inactive block / all inactive bytes of the segments, and slack, 1 - allocated / reserved. The Go test prints the same of voxcam's memory
and of its model of this allocator. PYTORCH_CUDA_ALLOC_CONF is PyTorch's own variable; without it the settings are the default ones.
"""
import json
import sys

import torch


def figures():
    """What torch.cuda.memory_snapshot says: bytes of segments, of active blocks, of inactive ones, and of the largest of those."""
    reserved = allocated = inactive = largest = 0
    for segment in torch.cuda.memory_snapshot():
        reserved += segment["total_size"]
        for block in segment["blocks"]:
            if block["state"] == "inactive":
                inactive += block["size"]
                largest = max(largest, block["size"])
            else:
                allocated += block["size"]
    return reserved, allocated, inactive, largest


def main(path):
    with open(path) as f:
        trace = json.load(f)
    torch.empty(1, device="cuda")  # starts CUDA; its segment is the first
    torch.cuda.empty_cache()
    print(torch.__version__, torch.cuda.get_device_name())
    print(f"{'step':>8} {'reserved':>10} {'allocated':>10} {'largest':>10} {'fragmentation':>14} {'slack':>7}   MiB")
    live, worst = {}, 0.0
    tenth = max(1, len(trace) // 10)
    for i, event in enumerate(trace, 1):
        if event["bytes"]:
            live[event["id"]] = torch.empty(event["bytes"], dtype=torch.uint8, device="cuda")
        else:
            del live[event["id"]]
        if i % tenth and i != len(trace):
            continue
        reserved, allocated, inactive, largest = figures()
        ratio = 1 - largest / inactive if inactive else 0.0
        worst = max(worst, ratio)
        print(f"{i:8} {reserved / 2**20:10.1f} {allocated / 2**20:10.1f} {largest / 2**20:10.1f} {ratio:14.3f} {1 - allocated / reserved:7.3f}")
    print(f"worst fragmentation at these points {worst:.3f}, at most {torch.cuda.max_memory_reserved() / 2**20:.1f} MiB reserved")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
