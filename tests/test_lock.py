# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the lock on an output folder, and of outputs of interrupted runs."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import assert_refused, run

import levelmatch as lm
from levelmatch.results.lock import LOCK_NAME, output_lock

CODE = "from levelmatch.cli import main; main(prog_name='levelmatch')"


@pytest.fixture
def paths(row, write, tmp_path):
    """Return four files."""
    folder = tmp_path / "in"
    folder.mkdir()
    return [write(image, folder / image.meta["FILENAME"]) for image in row[1]]


def test_a_second_process_is_refused_by_name(paths, tmp_path):
    output = tmp_path / "out"
    with output_lock(output):
        command = [sys.executable, "-c", CODE, "run", *map(str, paths), "-o", str(output)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 2
        assert f"process {os.getpid()}" in found.stderr
        assert "another run writes to this folder" in found.stderr
        assert os.listdir(output) == [LOCK_NAME]
    assert not output.exists()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert LOCK_NAME not in os.listdir(output)


@pytest.mark.parametrize("function", ["write", "apply", "undo"])
def test_a_second_thread_is_refused(paths, tmp_path, function):
    result = lm.match_levels(paths)
    outputs = result.write(tmp_path / "first")
    call = {
        "write": lambda: result.write(tmp_path / "out"),
        "apply": lambda: lm.apply_record(result.record, paths, tmp_path / "out"),
        "undo": lambda: lm.undo_record(result.record, outputs, tmp_path / "out"),
    }[function]
    held, done = threading.Event(), threading.Event()

    def hold():
        with output_lock(tmp_path / "out"):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    with pytest.raises(lm.LevelMatchError, match=r"out: another run writes to this folder"):
        call()
    done.set()
    thread.join()
    call()
    with pytest.raises(FileExistsError, match="exists"):
        call()
    assert LOCK_NAME not in os.listdir(tmp_path / "out")


def test_concurrent_runs_do_not_mix(paths, tmp_path):
    groups = [paths[:2], paths[1:3], paths[2:], paths]
    output = tmp_path / "out"
    for _ in range(2):
        commands = [
            [sys.executable, "-c", CODE, "run", *map(str, g), "-o", str(output), "--overwrite"]
            for g in groups
        ]
        started = [
            subprocess.Popen(c, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for c in commands
        ]
        ended = [(p.communicate()[1], p.returncode) for p in started]
        won = [k for k, (_, status) in enumerate(ended) if status == 0]
        assert won
        assert all("another run" in text for text, status in ended if status)
        last = lm.read_record(output / "levelmatch.asdf")
        assert last.names in [[path.name for path in groups[k]] for k in won]
        lm.verify_record(last, [output / name for name in last.names])
        shutil.rmtree(output)


def killed_while_writing(paths, output, tmp_path):
    """Run a command that is killed at its third output."""
    code = (
        "import os, signal\n"
        "from levelmatch.results import files\n"
        "files.N_WRITERS = 1\n"
        "original, n = files.atomic_stream, []\n"
        "def stream(path):\n"
        "    n.append(path)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(n) == 3 else None\n"
        "    return original(path)\n"
        "files.atomic_stream = stream\n"
    )
    command = [sys.executable, "-c", code + CODE, "run", *map(str, paths), "-o", str(output)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL


def test_a_killed_run_licenses_its_own_outputs_alone(paths, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    killed_while_writing(paths, output, tmp_path)
    names = set(os.listdir(output))
    assert {"levelmatch.asdf", paths[0].name, paths[1].name, LOCK_NAME} <= names
    # A foreign file at the path of an output that was not yet written.
    other = output / paths[3].name
    shutil.copy(paths[2], other)
    content = other.read_bytes()
    assert_refused(run("run", *paths, "-o", output), f"{paths[3].name} exists")
    assert other.read_bytes() == content
    other.unlink()
    assert run("run", *paths, "-o", output).exit_code == 0
    left = {*(path.name for path in paths), "levelmatch.asdf"}
    assert set(os.listdir(output)) == left
    assert run("run", *paths, "-o", output).exit_code == 2


def test_a_checkpoint_is_no_licence(paths, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / ".levelmatch-pairs").write_bytes(b"")
    (output / paths[0].name).write_bytes(b"of somebody else")
    found = run("run", *paths, "-o", output)
    assert found.exit_code == 2
    assert (output / paths[0].name).read_bytes() == b"of somebody else"


def test_a_refused_run_leaves_nothing(paths, tmp_path):
    paths[1].write_bytes(b"no image")
    found = run("run", *paths, "-o", tmp_path / "a" / "b")
    assert found.exit_code == 2
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"record": 1}', bytes(100)])
def test_a_lock_that_was_left_is_taken_over(paths, tmp_path, content):
    output = tmp_path / "out"
    output.mkdir()
    (output / LOCK_NAME).write_bytes(content)
    assert run("run", *paths, "-o", output).exit_code == 0
    assert LOCK_NAME not in os.listdir(output)


def test_without_locks_of_the_system_a_process_that_lives_is_respected(
    paths, tmp_path, monkeypatch
):
    def without_locks(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", without_locks)
    output = tmp_path / "out"
    output.mkdir()
    holder = {"process": os.getppid(), "host": os.uname().nodename, "since": "now"}
    (output / LOCK_NAME).write_text(json.dumps(holder))
    assert "another run" in run("run", *paths, "-o", output).output
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (output / LOCK_NAME).write_text(json.dumps({**holder, "process": process.pid}))
    assert run("run", *paths, "-o", output).exit_code == 0


def test_originals_and_images_are_never_replaced(paths, tmp_path, snapshot):
    before = snapshot(paths)
    output = tmp_path / "out"
    assert run("run", *paths, "-o", output).exit_code == 0
    written = [output / path.name for path in paths]
    images = snapshot(written)
    record = output / "levelmatch.asdf"
    assert_refused(run("undo", record, *written, "-o", paths[0].parent, "--overwrite"), "original")
    for path in (written[0], paths[0]):
        assert_refused(run("solve", record, "-o", path, "--overwrite"), "is not a record")
    assert snapshot(paths) == before
    assert snapshot(written) == images


def processor_time(process):
    """Return the processor time, in seconds, that a running process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")
@pytest.mark.parametrize("method", ["direct", "exact", "adaptive"])
def test_an_interrupt_ends_a_run_soon(paint, write, tmp_path, method):
    paths = [
        write(paint(f"{k}.fits", (0, 300.0 * k), shape=(700, 700)), tmp_path / f"{k}.fits")
        for k in range(4)
    ]
    output = tmp_path / "out"
    arguments = ["run", *map(str, paths), "-o", str(output), "--method", method, "--debug"]
    # A process that a shell runs in the background ignores interrupts.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {CODE}"
    start = os.times()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    time.sleep(1.8)
    before = processor_time(process)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[1]
    if process.returncode != 0:
        assert process.returncode == 130
        assert "interrupted" in text
    # Processor time, unlike the time of day, depends little on what else the machine does.
    assert os.times().children_user - start.children_user - before < 3


def test_a_run_in_the_background_ignores_interrupts(paths, tmp_path):
    # A shell without job control sets this for commands that end in "&".
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); {CODE}"
    command = [sys.executable, "-c", code, "run", *map(str, paths), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "out" / "levelmatch.asdf").is_file()
