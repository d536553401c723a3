"""The house as its map says it is: who may import whom, which rooms are pure, and that each says what it is for.

The layers themselves are import-linter's contracts in pyproject.toml; the rest is read from the source here. Nothing is
imported, so a module that does not import on this machine is checked all the same.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "gateway").rglob("*.py"), *(ROOT / "health").rglob("*.py")])
PACKAGES = [path for path in MODULES if path.name == "__init__.py"]

WORLD = {"aiohttp", "asyncio", "http", "logging", "os", "random", "secrets", "selectors", "socket", "subprocess"} | {
    "ssl",
    "sys",
    "tempfile",
    "threading",
    "time",
}
"""What a pure module knows nothing of."""
CALLS_ON_THE_WORLD = {"open", "print", "input", "exec", "eval", "read_text", "read_bytes", "write_text", "getenv"}

PURE = {
    "gateway.config",
    "gateway.errors",
    "gateway.kinds",
    "gateway.providers.base",
    "gateway.records.ended",
    "gateway.web.routes",
    "gateway.providers.local.models.gguf_header",
    "gateway.providers.local.models.model_error",
    "gateway.providers.local.llama_child.refusals",
}
"""Besides everything under policy/, and every module whose docstring has a sentence that begins with "Pure"."""
TABLES_OF_THE_WORLD = {("gateway.providers.local.ends.endings", "os"): "os.strerror is a table"}

READS_THE_ENVIRONMENT = {
    "gateway.process": "hands the environment to the settings and to the boot's own names, and checks aiohttp's switch",
    "gateway.assembly": "hands it to the search for models (the Hub's own variables), and to a rented machine's",
    "gateway.cli": "hands it to the settings and on to start.sh",
    "gateway.commands.control": "hands it on: where a gateway that runs may have its folder",
    "gateway.commands.report": "hands it to the settings, and takes what sounds secret in it out of the report",
    "gateway.commands.doctor": "hands it to the settings",
    "gateway.commands.plan": "hands it on: which GPUs CUDA leaves, and the Hub's own variables",
    "gateway.commands.rehearse": "hands it on to the gateway that it plays with",
    "gateway.doctor.facts": "looks at aiohttp's switch, as the gateway does",
    "gateway.doctor.report": "where a caller hands none: the platforms' own variables",
    "gateway.providers.local.models.models": "where a caller hands none: the Hub's own (proxies, HF_ENDPOINT)",
    "gateway.providers.local.provider": "what an engine's environment is chosen from, by an allow-list",
    "gateway.records.logs.stdout": "TERM: whether what is a terminal understands more than lines",
    "gateway.providers.local.models.pull": "the same as for models, from the command line",
}

LONG = 60
LONG_FUNCTIONS = {
    "gateway.commands.logs.logs": "a table: its options, one after the other",
    "gateway.commands.plan.plan": "a table: its options, one after the other",
    "gateway.records.metrics._make_histograms": "a table: one histogram after the other, with its buckets",
    "gateway.treasury.__init__": "a table: what it knows, one after the other",
}
"""`module.function` and why it is better in one piece: a table, or a list of cases."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstring(path: Path) -> str:
    return ast.get_docstring(tree_of(path)) or ""


def imports(path: Path) -> Iterator[str]:
    """Full names of what it imports, inside functions too. `from a import b` counts as a.b, too, where that exists."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, module] if module else base)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}" in NAMES)


NAMES = {name_of(path): path for path in MODULES}


def is_pure(path: Path) -> bool:
    name = name_of(path)
    claims = re.search(r"(?:^|[.)\n]\s*)Pure\b", docstring(path)) is not None
    return name.startswith("gateway.policy") or name in PURE or claims


PURE_MODULES = [path for path in MODULES if is_pure(path)]


def test_imports_go_downward_only() -> None:
    """import-linter's contracts: the layers, and that policy knows nothing of the world, not even by way of others."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_the_pure_modules_are_found() -> None:
    """If the search found none, the tests below would say nothing."""
    names = {name_of(path) for path in PURE_MODULES}
    assert {
        "gateway.policy.lifecycle.machine",
        "gateway.proxy.dialects",
        "gateway.proxy.framing",
        "gateway.proxy.headers",
        "gateway.proxy.checks",
        "gateway.providers.local.commands",
        "gateway.providers.local.environment",
        "gateway.providers.local.ends.endings",
        "gateway.providers.local.models.model_names",
        "gateway.providers.local.llama_child.parameters",
    } <= names
    assert set(NAMES) >= PURE and len(names) > 20


@pytest.mark.parametrize("path", PURE_MODULES, ids=name_of)
def test_a_pure_module_knows_nothing_of_the_world(path: Path) -> None:
    for name in imports(path):
        root = name.partition(".")[0]
        allowed = (name_of(path), root) in TABLES_OF_THE_WORLD
        assert root not in WORLD or allowed, f"{name_of(path)} is pure and imports {name}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert called not in CALLS_ON_THE_WORLD, f"{name_of(path)}:{node.lineno} is pure and calls {called}"


@pytest.mark.parametrize("path", PURE_MODULES, ids=name_of)
def test_a_pure_module_stands_on_pure_ones_only(path: Path) -> None:
    for name in imports(path):
        if name in NAMES and not (ROOT / name.replace(".", "/")).is_dir():
            assert is_pure(NAMES[name]), f"{name_of(path)} is pure and imports {name}, which is not"


@pytest.mark.parametrize("path", sorted((ROOT / "health").rglob("*.py")), ids=name_of)
def test_the_health_port_stands_on_the_standard_library_alone(path: Path) -> None:
    """With flat imports: it runs as `python -I -S health/`, where there is no package and no site-packages."""
    neighbours = {each.stem for each in (ROOT / "health").glob("*.py")}
    for name in imports(path):
        root = name.partition(".")[0]
        assert root in sys.stdlib_module_names or root in neighbours | {"health"}, f"{name_of(path)} imports {name}"


SHARED = ("renting", "own_machine")
"""What those who rent have in common, and knows none of them; and the machine seen from inside, no provider."""
VENDORS = [
    path
    for path in sorted((ROOT / "gateway" / "providers").iterdir())
    if (path / "__init__.py").exists() and path.name not in SHARED
]


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda path: path.name)
def test_vendors_are_strangers_to_each_other(vendor: Path) -> None:
    others = tuple(f"gateway.providers.{other.name}" for other in VENDORS if other != vendor)
    assert others
    for path in vendor.rglob("*.py"):
        for name in imports(path):
            assert not name.startswith(others), f"{name_of(path)} imports {name}"


def test_only_the_catalogue_and_the_assembly_know_the_vendors() -> None:
    known = {"gateway.assembly", "gateway.renting", "gateway.cli", "gateway.providers.catalogue"}
    known |= {name for name in map(name_of, MODULES) if name.startswith("gateway.doctor")}  # it looks into all rooms
    vendors = tuple(f"gateway.providers.{vendor.name}" for vendor in VENDORS)
    for path in MODULES:
        if not name_of(path).startswith(vendors) and name_of(path) not in known:
            assert not [name for name in imports(path) if name.startswith(vendors)], name_of(path)


def test_our_engine_stands_on_its_own() -> None:
    """It may run under another Python, one that has llama_cpp and nothing else of ours."""
    folder = ROOT / "gateway" / "providers" / "local" / "llama_child"
    for path in folder.rglob("*.py"):
        for name in imports(path):
            assert not name.startswith("gateway.") or name.startswith("gateway.providers.local.llama_child"), (
                f"{name_of(path)} imports {name}"
            )


def test_the_guard_is_standard_library() -> None:
    """It is started by the path of its file, before anything else could be found."""
    for name in imports(ROOT / "gateway" / "providers" / "local" / "guard.py"):
        assert name.partition(".")[0] in sys.stdlib_module_names, name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    said = docstring(path)
    assert len(said) >= 40 and said[0] != " ", f"{name_of(path)} has no opening paragraph"
    first = said.partition("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "?")), f"{name_of(path)}: {first!r}"


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_every_room_has_a_map_at_its_door(package: Path) -> None:
    """It says what the room is for, and who lives there where there are several."""
    said = docstring(package)
    living = [
        path.stem if path.suffix else path.name
        for path in package.parent.iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").exists()
    ]
    nameless = [name for name in living if not re.search(rf"\b{name}\b", said)]
    assert len(living) < 3 or not nameless, f"{name_of(package)} does not say who lives there: {sorted(nameless)}"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name_of(path)}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = {name for path in MODULES for name, lines in functions(path) if lines > LONG}
    assert too_long == set(LONG_FUNCTIONS), "shorten it, or say in LONG_FUNCTIONS why not"


def test_settings_are_read_in_one_place() -> None:
    """No room looks into the environment on its own: `config` makes a value of it, and it is handed down."""
    readers = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
                and node.attr in ("environ", "environb", "getenv")
            ):
                readers.add(name_of(path))
            assert not (
                isinstance(node, ast.ImportFrom)
                and node.module == "os"
                and {alias.name for alias in node.names} & {"environ", "getenv"}
            ), name_of(path)
    assert readers == set(READS_THE_ENVIRONMENT), "hand it in, or say in READS_THE_ENVIRONMENT why not"


def test_no_exception_of_every_kind_is_swallowed() -> None:
    """`except Exception` says something: it logs, tells, or raises."""
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type is not None else "everything"
                silent = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
                assert not (silent and caught in ("everything", "Exception", "BaseException")), (
                    f"{name_of(path)}:{node.lineno}"
                )


def test_every_package_that_is_imported_is_one_that_an_installation_brings() -> None:
    """The tests' own environment has more than a fresh ./start.sh installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {re.split(r"[^A-Za-z0-9_-]", line)[0] for line in project["dependencies"]}
    named |= {
        re.split(r"[^A-Za-z0-9_-]", line)[0] for extra in project["optional-dependencies"].values() for line in extra
    }
    brought = {OTHER_NAMES.get(name, name.replace("-", "_")) for name in named} | BROUGHT_ALONG
    for path in (ROOT / "gateway").rglob("*.py"):
        for name in imports(path):
            root = name.partition(".")[0]
            ours = root in ("gateway", "health") or root in sys.stdlib_module_names
            assert ours or root in brought, f"{name_of(path)} imports {name}, which no dependency names"


OTHER_NAMES = {"python-dotenv": "dotenv", "nvidia-ml-py": "pynvml", "llama-cpp-python": "llama_cpp"}
"""Packages whose modules are called otherwise."""
BROUGHT_ALONG = {"yarl", "multidict", "pydantic_core", "click", "filelock", "jinja2", "vllm"}
"""Part of what the dependencies themselves show; and an engine that is looked for."""


def test_no_test_is_switched_off() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*@pytest\.mark\.(?:skip|xfail)\b", text, re.M), path.name
