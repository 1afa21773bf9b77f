"""A line between two ports of a switch that delays frames and loses some: what `tc netem` does, on any kernel.

Usage: line.py NEAR FAR DELAY_MS JITTER_MS LOSS_PERCENT, as root, in the namespace of the switch. Makes two TAP devices of these
names, says `ready`, and carries frames from each to the other, in order, until its input is closed.
"""

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
MAX_FRAME_BYTES = 65_536


def tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    os.set_blocking(device, False)
    return device


def main(near, far, delay_ms, jitter_ms, loss_percent):
    ends = [tap(near), tap(far)]
    # Frames on their way to each end, and when each of them arrives.
    under_way = [deque(), deque()]
    print("ready", flush=True)
    while True:
        due = min((frames[0][0] for frames in under_way if frames), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([*ends, sys.stdin], [], [], wait)
        if sys.stdin in readable and not sys.stdin.read(1):
            return
        now = time.monotonic()
        for at, end in enumerate(ends):
            if end in readable:
                frame = os.read(end, MAX_FRAME_BYTES)
                if random.uniform(0, 100) >= loss_percent:
                    towards = under_way[1 - at]
                    arrives = now + max(0.0, delay_ms + random.uniform(-jitter_ms, jitter_ms)) / 1000
                    # One that is faster than the one ahead of it waits behind it.
                    towards.append((max(arrives, towards[-1][0] if towards else 0.0), frame))
        for end, frames in zip(ends, under_way):
            while frames and frames[0][0] <= now:
                try:
                    os.write(end, frames.popleft()[1])
                except OSError:
                    # The port is down, or its queue full: the frame is lost, as on a wire.
                    pass


main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:6]))
