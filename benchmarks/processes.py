"""Wall time, processor time and peak memory of a command and its child processes."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PERIOD = 0.1  # between samples of the memory, in seconds


@dataclass(frozen=True)
class Measured:
    """Wall time and processor time (s), memory (bytes) and exit state of a command.

    ``others`` is the processor time (s) of all other processes meanwhile; 0 without ``/proc``.
    """

    wall: float
    cpu: float
    others: float
    memory: float
    code: int
    timed_out: bool


def measure(command, *, log, limit, cwd=None, env=None):
    """
    Run a command in its own session, log its output, and end it after ``limit`` seconds.

    The memory is the larger of two values: the largest resident size of one process, and the sum
    of the proportional sizes of all processes, sampled every `PERIOD` seconds. Without ``/proc``
    it is the first, as reported by the operating system.
    """
    late = threading.Event()

    def end():
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    with Path(log).open("wb") as output:
        start, busy = time.perf_counter(), _busy()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        timer, watcher = threading.Timer(limit, end), _Watcher(process.pid)
        timer.start()
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
            watcher.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(
        wall=time.perf_counter() - start,
        cpu=cpu,
        others=max(_busy() - busy - cpu, 0.0),
        memory=watcher.peak or usage.ru_maxrss * 1024,
        code=process.returncode,
        timed_out=late.is_set(),
    )


class _Watcher(threading.Thread):
    """Sample the memory of a process and its descendants until stopped."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._pid = pid
        self._stopped = threading.Event()
        self.peak = 0

    def run(self):
        while not self._stopped.wait(PERIOD):
            sizes = [_sizes(pid) for pid in _tree(self._pid)]
            together = sum(proportional for proportional, _ in sizes)
            self.peak = max([self.peak, together, *(largest for _, largest in sizes)])

    def stop(self):
        self._stopped.set()
        self.join()


def _busy():
    """Return the processor time of all processes but this one since the start of the system."""
    try:
        ticks = Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq = map(int, ticks)
    total = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return total - time.process_time()


def _tree(pid):
    """Return a process and its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(word) for word in children.read_text().split()]
            except OSError:  # the process has ended in the meantime
                continue
    return found


def _sizes(pid):
    """Return the proportional size and the largest resident size of a process, in bytes."""
    proportional = _field(f"/proc/{pid}/smaps_rollup", "Pss:")
    return proportional, _field(f"/proc/{pid}/status", "VmHWM:")


def _field(path, name):
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
