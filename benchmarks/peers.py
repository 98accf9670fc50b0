"""
Times, memory and errors of levelmatch and other packages on the same files.

Run as ``tox -e bench -- peers``, with options after another ``--``, for example::

    tox -e bench -- peers -- --only levelmatch,stcal --sets miri

Each package has a virtual environment of its own, made by pip from pinned versions, and a script in
``benchmarks/peers/`` that names the page of the documentation that it follows. Results are kept in
a file for each simulation, package and version, and reused. So an interrupted run continues, and
only changes are run again. ``--again`` repeats all runs. One simulation cannot distinguish nearly
equal errors: ``--seeds 0,1,2,3`` makes several, and a table of the errors over all of them.

All kept results are written to ``docs/user_guide/peers_table.rst`` (``--table``).
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from peers_table import write_table
from processes import measure
from sets import written

from levelmatch.testing import level_errors, plane_errors

HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "user_guide" / "peers_table.rst"

# Fit type for each simulation of `sets`.
FITS = {"miri": "level", "miri-planes": "level+slope", "nircam": "level"}


@dataclass(frozen=True)
class Peer:
    """A package: its requirements for pip, the phases of its script, and its limits."""

    name: str
    requirements: tuple = ()
    phases: tuple = ("find",)
    refuses: tuple = ()  # pairs of a fit type that is left out, and the reason
    makes: str = "levels"  # content of the measured time
    label: str = ""

    @property
    def version(self):
        """Return the pinned version of the package; for levelmatch add a digest of its files."""
        if not self.requirements:
            return f"{version('levelmatch')}-{_digest()}"
        return self.requirements[0].partition("==")[2]


COMMON = ("astropy==8.0.2", "numpy==2.4.6", "scipy==1.17.1")
NO_PLANES = (("level+slope", "it has levels only"),)
PEERS = {
    peer.name: peer
    for peer in (
        Peer("levelmatch", label="levelmatch"),
        Peer(
            "stcal",
            ("stcal==1.20.0", "gwcs==1.0.3", "spherical_geometry==1.4.0", *COMMON),
            refuses=NO_PLANES,
            label="stcal ``skymatch``",
        ),
        Peer(
            "reproject",
            ("reproject==0.21.0", "dask==2026.8.0", *COMMON),
            refuses=NO_PLANES,
            makes="levels and the mosaic",
            label="reproject ``match_background``",
        ),
        Peer(
            "montage",
            ("MontagePy==2.3.0", *COMMON[:2]),
            makes="levels and reprojected images",
            label="Montage",
        ),
        Peer(
            "wiimatch",
            ("wiimatch==0.3.2", "reproject==0.21.0", "dask==2026.8.0", "shapely==2.2.0", *COMMON),
            makes="levels and reprojected images",
            label="wiimatch",
        ),
        Peer(
            "pjpipe",
            (
                "pjpipe==1.3.0",
                "jwst==3.0.0",
                "stdatamodels==6.0.0",
                "gwcs==1.0.3",
                "photutils==3.0.0",
                "reproject==0.21.0",
                "shapely==2.2.0",
                "astropy==8.0.2",
                "numpy==2.3.5",
                "scipy==1.17.1",
            ),
            phases=("prepare", "find", "collect"),
            makes="levels, plots and corrected files",
            label="PJPipe ``LevelMatchStep``",
        ),
    )
}


def _digest():
    """Return a digest of levelmatch's installed code, which identifies its version."""
    folder = Path(importlib.util.find_spec("levelmatch").origin).parent
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".pyx", ".h", ".so", ".pyd"):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:8]


def machine():
    """Return processor, cores, memory, system and Python, on which results depend."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


class NotInstallableError(Exception):
    """The environment of a package could not be made."""


def environment(peer, folder):
    """Return the Python of a package's environment, and make the environment if needed."""
    if not peer.requirements:
        return sys.executable
    directory = Path(folder).resolve() / peer.name
    python = directory / "bin" / "python"
    made = directory / "requirements.txt"
    wanted = "\n".join(peer.requirements)
    if made.exists() and made.read_text(encoding="utf-8") == wanted:
        return str(python)
    print(f"making the environment of {peer.name} in {directory}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *peer.requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstallableError((errors or [f"pip ended with {done.returncode}"])[-1])
    made.write_text(wanted, encoding="utf-8")
    return str(python)


def clean_environ():
    """Return environment variables without thread settings and paths of this project."""
    left_out = ("OMP_NUM_THREADS", "PYTHONPATH", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if k not in left_out}


def run_peer(peer, name, paths, python, limit):
    """Run all phases of a package on files; return its result without errors."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        answer, measured = {}, None
        for phase in peer.phases:
            output = folder / f"{phase}.json"
            script = HERE / "peers" / f"run_{peer.name}.py"
            command = [python, str(script), phase, "--fit", FITS[name], "--scratch", str(folder)]
            command += ["--output", str(output), *map(str, paths)]
            took = run_logged(command, folder, limit)
            if isinstance(took, dict):
                return took
            answer |= {k: v for k, v in json.loads(output.read_text()).items() if k == "found"}
            if phase == "find":
                measured = took
                answer["seconds"] = json.loads(output.read_text())["seconds"]
        if peer.name == "levelmatch":
            measured = run_logged(shell_command(python, name, paths, folder), folder, limit)
            if isinstance(measured, dict):
                return measured
    return {
        "status": "measured",
        "seconds": answer["seconds"],
        "wall": measured.wall,
        "cpu": measured.cpu,
        "others": measured.others,
        "memory": measured.memory,
        "found": answer["found"],
    }


def run_logged(command, folder, limit):
    """Run a command; return its time and memory, or the record of its failure."""
    log = folder / "log.txt"
    took = measure(command, log=log, limit=limit, cwd=folder, env=clean_environ())
    if took.timed_out:
        return {"status": "timeout", "limit": limit, "memory": took.memory}
    if took.code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        print("\n".join(lines[-20:]), flush=True)
        reason = lines[-1] if lines else f"ended with {took.code}"
        if took.code < 0:
            reason = f"ended by signal {-took.code}, at {took.memory / 2**30:.1f} GiB"
        return {"status": "failed", "reason": reason}
    return took


def shell_command(python, name, paths, folder):
    """Return the command line of levelmatch, which reads and writes all images."""
    command = [python, "-m", "levelmatch", "run", *map(str, paths), "-o", str(folder / "out")]
    command += ["--fit-type-dithers", FITS[name], "--fit-type-mosaic-tiles", FITS[name], "-q"]
    return [*command, "--combine-nircam-short"] if name.startswith("nircam") else command


def errors_of(found, truth, fit):
    """
    Return the rms errors of corrections given by image name.

    One is of the levels at the centres of the images, minus a common level. The other is of the
    planes over the pixels of the images, minus a common plane.
    """
    planes = {k: v if fit == "level+slope" else [v, 0.0, 0.0] for k, v in found.items()}
    levels = {k: plane[0] for k, plane in planes.items()}
    return {
        "level_error": rms(level_errors(levels, truth)),
        "plane_error": rms(plane_errors(planes, truth)),
    }


def rms(values):
    return float(np.sqrt(np.mean(np.square(np.asarray(values)))))


def read_all(paths):
    """Read the files into the system's cache before the first package runs."""
    for path in paths:
        Path(path).read_bytes()


def record_of(peer, name, args, seed=0):
    """Return the kept or a new result of a package on a simulation."""
    kept = args.results / f"{name}@{seed}-{peer.name}-{peer.version}.json"
    if kept.exists() and not args.again:
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record["machine"] == machine():
            return record
    record = new_record(peer, name, args, seed)
    record |= {"peer": peer.name, "set": name, "seed": seed}
    record |= {"version": peer.version, "machine": machine()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def new_record(peer, name, args, seed):
    """Run a package on a simulation."""
    refused = dict(peer.refuses).get(FITS[name])
    if refused is not None:
        return {"status": "cannot", "reason": refused}
    try:
        python = environment(peer, args.environments)
    except NotInstallableError as error:
        return {"status": "not installable", "reason": str(error)}
    simulation, paths = written(name, args.folder / "sets", seed)
    read_all(paths)
    print(f"{name}@{seed}: {peer.name} {peer.version} ...", flush=True)
    record = run_peer(peer, name, [path.resolve() for path in paths], python, args.timeout)
    if record["status"] == "measured":
        record |= errors_of(record["found"], simulation.truth, FITS[name])
    shown = {k: v for k, v in record.items() if k != "found"}
    print(f"{name}@{seed}: {peer.name} {shown}", flush=True)
    return record


def kept_records(results):
    """Return the kept results of this machine and of the present versions."""
    found = []
    for name in FITS:
        for peer in PEERS.values():
            for path in sorted(results.glob(f"{name}@*-{peer.name}-{peer.version}.json")):
                record = json.loads(path.read_text(encoding="utf-8"))
                if record["machine"] == machine():
                    found.append(record)
    return found


def parse(words=None):
    """Return the options."""
    default = Path(tempfile.gettempdir()) / "levelmatch-peers"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PEERS), help="packages, by commas")
    parser.add_argument("--sets", default=",".join(FITS), help="sets, by commas")
    parser.add_argument("--seeds", default="0", help="of the sets, by commas; times are of 0")
    parser.add_argument("--folder", type=Path, default=default, help="of the sets")
    parser.add_argument("--environments", type=Path, help="folder of the virtual environments")
    parser.add_argument("--results", type=Path, help="folder of what was measured")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for one run")
    parser.add_argument("--again", action="store_true", help="measure what is kept once more")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the table goes")
    args = parser.parse_args(words)
    args.only, args.sets = args.only.split(","), args.sets.split(",")
    for given, known in ((args.only, PEERS), (args.sets, FITS)):
        unknown = [word for word in given if word not in known]
        if unknown:
            parser.error(f"not known: {', '.join(unknown)}; there are {', '.join(known)}")
    args.seeds = [int(word) for word in args.seeds.split(",")]
    args.environments = args.environments or args.folder / "environments"
    args.results = args.results or args.folder / "results"
    return args


def main():
    args = parse()
    warnings.simplefilter("ignore")
    for name, seed, peer in itertools.product(args.sets, args.seeds, args.only):
        record_of(PEERS[peer], name, args, seed)
    text = write_table(kept_records(args.results), PEERS, machine())
    args.table.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
