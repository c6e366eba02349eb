"""Where modules may import from, and how long they may be, read from their source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "brats_gan"
LONGEST = 400  # lines of a module

# A module imports only from rows above its own. A package stands below its modules,
# which it gives by their names; those that stand on it are below it.
ROWS = """
lazy files progress shipped
spec
replicas
addons layers losses schedules code_bank styles parts
fusion metrics blocks pages
map_networks
lesion_metrics structural_map figures networks signatures
recipes
io.streams
io.headers io.names io.conventions io.patients
io.metaimage io.nifti io.bids io.content
io.volumes
io.nnunet io.collections
io.layouts
io.labels io.twins
io.subjects
io
io.findings io.targets
io.checks io.convert io.page
data.cache data.record_forms
data.records
data.slices data.splits data.label_pool
data.batches data.source
data
phantom.grid phantom.tissues
phantom.anatomy
phantom.imaging phantom.lesions
phantom.subjects
phantom
runs.process runs.optimizers runs.games runs.peers
runs.checkpoints runs.locks runs.claims runs.strategies
runs.folder runs.training
runs.lengths
runs.exports
runs
cluster code_flow
registration privacy precision lesion_components stacks neighbours volume_lesions
multimodal.settings
multimodal.nets multimodal.passes
multimodal.steps
multimodal structural segmentation
synthesis volume_maps
volume_synthesis
manifest
synthetic_dataset
volume_dataset
weights.stored
weights.folders
weights.networks_file
weights.beginnings
weights
trained_models reports
painting
volume_reports
experiments.tables
report.curves
report.blocks
report.sections
report.scores report.card
report.trained report.made
report.several
report.writing
report.live
report
experiments.mixing
experiments.segmentors
experiments.runner
experiments
stages.beginning stages.inputs stages.sheets stages.flows
stages.structural stages.multimodal stages.ingredients stages.repeats
stages.segmentation
stages.workers
stages.dataset
stages.volumes stages.painted
stages.defaults
stages
app.worker app.guard app.opened
app.answers
app.server app.start
app
flag_parsers
common_flags commands
report.__main__
"""
ROW = {
    name: number
    for number, row in enumerate(ROWS.strip().splitlines())
    for name in row.split()
}


def modules():
    """{name within the package: path}; a package goes by its own name."""
    paths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        paths[name] = path
    return paths


MODULES = modules()
del MODULES[""]  # brats_gan itself has a version, and loads some modules late


def imported(path):
    """Names of the modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first != "brats_gan" or not rest:
                continue
            # The last part may be a name within the module.
            found.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return found - {""}


def test_every_module_has_one_row_and_every_row_a_module():
    assert sorted(ROWS.split()) == sorted(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_rows_above_its_own(name):
    wrong = [other for other in imported(MODULES[name]) if ROW[other] >= ROW[name]]
    assert not wrong, f"{name} imports {', '.join(wrong)}"


def test_imports_are_seen_wherever_they_are(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import brats_gan\nimport brats_gan.spec\nfrom brats_gan import files, runs\n"
        "def f():\n    from brats_gan.runs.training import loop\n"
        "    from absl import flags\n"
    )
    assert imported(path) == {"spec", "files", "runs", "runs.training"}


@pytest.mark.parametrize(
    "path",
    [*MODULES.values(), *sorted(ROOT.glob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_module_is_not_too_long(path):
    assert len(path.read_text().splitlines()) <= LONGEST


def top_level_imports(path):
    """First names of what is imported as a module is."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def test_what_takes_long_is_imported_at_once_by_modules_that_load_late_only():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    late = {each.value for each in call.args if isinstance(each, ast.Constant)}
    slow = {
        name
        for name, path in MODULES.items()
        if {"tensorflow", "matplotlib"} & top_level_imports(path)
    }
    assert slow == late


def test_only_the_seam_imports_tensorflow_addons():
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and "tensorflow_addons" in ast.unparse(node)
    }
    assert users == {"addons"}


def public_functions(node, prefix="", is_class=False):
    """(name, node, whether a method) of a module or class, with what classes hold.

    Public is what has no underscore in front, and __init__ and its kin of what is.
    """
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", None) or ""
        private = name.startswith("_") and not name.endswith("__")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not private:
            yield f"{prefix}{name}", child, is_class
        elif isinstance(child, ast.ClassDef) and not private:
            yield from public_functions(child, f"{prefix}{name}.", True)
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from public_functions(child, prefix, is_class)


def without_hint(source):
    """["function: arguments"] of the public functions that lack hints; "->" is the
    result."""
    found = []
    for name, function, is_method in public_functions(ast.parse(source)):
        given = function.args
        named = [*given.posonlyargs, *given.args]
        static = any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)
        if is_method and not static:
            named = named[1:]  # self
        named += [*given.kwonlyargs, given.vararg, given.kwarg]
        lacking = [each.arg for each in named if each and each.annotation is None]
        if function.returns is None:
            lacking.append("->")
        if lacking:
            found.append(f"{name}: {', '.join(lacking)}")
    return found


def test_what_lacks_a_hint_is_seen_wherever_it_is():
    source = (
        "def f(a: int, b, /, c=1, *d, e: str, **g): pass\n"
        "def whole(a: int, *b: int) -> None: pass\n"
        "def _private(a): pass\n"
        "class C:\n"
        "    def __init__(self, a) -> None: pass\n"
        "    @staticmethod\n"
        "    def s(a) -> int: pass\n"
        "    @property\n"
        "    def p(self): pass\n"
        "    def _private(self, a): pass\n"
        "class _P:\n"
        "    def f(self, a): pass\n"
        "try:\n"
        "    def t(): pass\n"
        "except ImportError:\n"
        "    async def u(): pass\n"
    )
    assert without_hint(source) == [
        "f: b, c, d, g, ->",
        "C.__init__: a",
        "C.s: a",
        "C.p: ->",
        "t: ->",
        "u: ->",
    ]


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_have_hints_on_arguments_and_result(name):
    lacking = without_hint(MODULES[name].read_text())
    assert not lacking, f"{name}: {'; '.join(lacking)}"
