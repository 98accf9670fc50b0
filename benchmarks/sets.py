"""Simulations shared by the benchmarks, written once to a folder."""

from pathlib import Path

from levelmatch import testing

SETS = {
    "miri": (testing.simulate_miri, {"tiles": (2, 2), "n_dithers": 4, "noise": 0.5}),
    "miri-planes": (testing.simulate_miri, {"tiles": (2, 2), "noise": 0.5, "slope": 0.6}),
    # The dithers are wider than the gap between the two parts.
    "miri-lyot": (
        testing.simulate_miri,
        {"tiles": (2, 2), "noise": 0.5, "lyot": True, "dither_size": 24},
    ),
    "nircam": (testing.simulate_nircam_short, {"n_tiles": 2, "n_dithers": 4, "noise": 0.3}),
}


def simulated(name, seed=0):
    """Return the simulation with a name."""
    function, options = SETS[name]
    return function(seed=seed, **options)


def written(name, folder, seed=0):
    """Return the simulation and its files, and write missing files to a folder."""
    simulation = simulated(name, seed)
    directory = Path(folder) / f"{name}-{seed}"
    paths = [directory / str(image) for image in simulation.truth["name"]]
    if not all(path.exists() for path in paths):
        paths = simulation.write(directory, overwrite=True)
    return simulation, paths
