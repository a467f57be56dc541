"""The house keeps its layers: who may import whom, and that one file alone knows of other processes."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fedlit"

LAYERS = [
    {
        "__init__",
        "errors",
        "seeding",
        "signatures",
        "names",
        "units",
        "files",
        "storage",
        "fedfms_score",
        "iopfl_score",
    },
    {"weights", "metrics", "losses", "networks", "schema", "targets", "provenance", "hardware", "stopping"},
    {"significance", "resident", "patients"},
    {"sources", "components", "data", "record", "summary", "gallery", "download", "published_weights", "micro_sam"},
    {"config", "messages", "preparation", "display", "result_table", "report", "teachers", "text_table"},
    {"rundir", "fleet", "aggregation", "transforms", "inspection", "partition"},
    {"training_state", "training", "local_score", "checkpoint"},
    {"privacy"},
    {"client"},
    {"algorithms", "prediction"},
    {"attacks"},
    {"federation"},
    {"judging"},
    {"starts", "progress", "sharing"},
    {"beginning", "examination"},
    {"closing"},
    {"experiment"},
    {"machine", "misfits"},
    {"first_network", "site_roles", "assembly"},
    {"finished", "rehearsal", "footprint", "pace", "sweep", "collect"},
    {"slurm", "grouping"},
    {"collected_table"},
    {"studies"},
    {"sketch"},
    {"workload"},
    {"plan"},
    {"plan_table", "structure"},
    {"command", "outcome"},
    {"data_commands", "job_commands"},
    {"study_commands"},
    {"__main__"},
]
DISTRIBUTED = ("torch.distributed", "global_rank", "local_rank", "world_size", "all_reduce", "all_gather")


def room(path: Path) -> str:
    """`fedlit/data/cache.py` -> data, `fedlit/fleet.py` -> fleet."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms of fedlit that a file imports, early or late; imports for type checkers do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedlit":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fedlit.")}
    return found - {room(path), "__version__"}


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_a_layer():
    rooms = [name for layer in LAYERS for name in layer]
    assert len(rooms) == len(set(rooms)) and set(rooms) == {room(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_layers_before_its_own(path):
    number = next(number for number, layer in enumerate(LAYERS) if room(path) in layer)
    allowed = set().union(*LAYERS[: number + 1])
    assert imports(path) <= allowed


def test_rooms_of_one_layer_form_no_cycle():
    above = {}
    for path in FILES:
        above.setdefault(room(path), set()).update(imports(path))
    done: set[str] = set()
    while len(done) < len(above):
        free = {name for name in above if name not in done and above[name] <= done}
        assert free, f"a cycle among {sorted(above.keys() - done)}"
        done |= free


@pytest.mark.parametrize("path", [path for path in FILES if room(path) != "fleet"], ids=lambda path: path.name)
def test_only_the_fleet_knows_of_other_processes(path):
    names = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert not [name for name in names for word in DISTRIBUTED if word in name]


def test_the_config_layer_loads_no_torch():
    import subprocess

    code = (
        "import sys; import fedlit.config, fedlit.__main__; "
        "print([name for name in ('torch', 'numpy', 'lightning', 'matplotlib') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_top_level_holds_what_it_should():
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {Path(name).parts[0] for name in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "fedlit",
        "configs",
        "launch",
        "tests",
    }
