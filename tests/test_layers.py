"""Who may import whom, and that importing the package stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPILED = ("episodes/rng.py", "episodes/store/_gather.py", "episodes/store/_past.py", "episodes/store/_pointers.py")
ONLY = {  # module -> the files, or folders, that may import it
    "numba": COMPILED,
    "llvmlite": COMPILED,
    "h5py": ("episodes/store/writer.py",),
    "PIL": (
        "episodes/readers/",
        "episodes/shards/images.py",
        "episodes/picture.py",
        "episodes/stats.py",
        "episodes/bench/report.py",
    ),
    "simplejpeg": ("episodes/store/_encoded.py", "episodes/readers/_jpeg.py"),
    "concurrent": (
        "episodes/ingest/",
        "episodes/stream/threads.py",
        "episodes/shards/",
        "episodes/engines/local.py",
        "episodes/remote/",
    ),
    "fsspec": ("episodes/remote/calls.py",),
    "torch": ("episodes/adapters/", "learners/", "cli/train.py"),
    "jax": ("episodes/adapters/jax.py",),
    "tensorflow": ("episodes/adapters/tensorflow.py",),
    "lightning_fabric": ("learners/fabric.py",),
    "matplotlib": ("learners/plots.py",),
    "distributed": ("episodes/engines/dask.py",),
    "ray": ("episodes/engines/ray.py",),
    "click": ("cli/",),
    "rich": ("cli/",),
    "learners": ("learners/", "cli/"),
    "cli": ("cli/",),
}
SIBLINGS = ("episodes.readers", "episodes.sampling", "episodes.store")  # none imports another


def imports():
    for package in ("episodes", "learners", "cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from ((name, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield name, node.module
                    yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_import_is_where_it_may_be():
    wrong = [
        (file, module)
        for file, module in imports()
        if (allowed := ONLY.get(module.partition(".")[0])) and not file.startswith(allowed)
    ]
    assert wrong == []


def test_readers_sampling_and_store_do_not_know_each_other():
    wrong = [
        (file, module)
        for file, module in imports()
        for own in SIBLINGS
        if file.startswith(own.replace(".", "/")) and any(module.startswith(other) for other in SIBLINGS if other != own)
    ]
    assert wrong == []


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, episodes; print(sorted({'torch', 'numba', 'h5py', 'PIL', 'click'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_opening_a_store_of_this_machine_loads_nothing_of_the_network(glyphs_store):
    network = "{'asyncio', 'http', 'ssl', 'fsspec'}"
    code = f"import sys, episodes; episodes.open({str(glyphs_store)!r}); print(sorted({network} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_sampling_and_streaming_need_no_torch():
    code = (
        "import sys, numpy as np, episodes; from episodes.store.memory import MemoryStore;"
        "s = MemoryStore({'x': np.zeros((8, 2))}, {'a': 4, 'b': 4}, splits={'s': {'train': ['a', 'b']}});"
        "e = episodes.sample(s, 'train', episodes.EpisodeSpec(ways=2, shots=1, queries=1));"
        "next(episodes.Stream(e)); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_commands_of_the_data_pipeline_need_no_torch(tmp_path):
    store, none = tmp_path / "glyphs.store", "import sys; sys.modules['torch'] = None; from cli.main import main; main()"
    for command in (
        ["ingest", "glyphs", store, "--alphabets", "6"],
        ["plan", store],
        ["plan", store, "--stats", "--count", "5"],
        ["show", store, "-o", tmp_path / "episode.png"],
        ["freeze", store, "--count", "3", "-o", tmp_path / "list.jsonl"],
        ["compile", store, "--count", "3", "-o", tmp_path / "shards"],
        ["inspect", store],
    ):
        words = [sys.executable, "-c", none, *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
