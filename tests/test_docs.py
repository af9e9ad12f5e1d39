"""What the documentation names exists, and what exists is documented."""

import re
import subprocess
from pathlib import Path

import pytest

from r3mes.errors import REGISTRY
from r3mes.node.cli.reference import cli_page
from r3mes.node.metrics.reference import metrics_page
from r3mes.node.reference import errors_page
from r3mes.node.rpc.reference import rpc_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = "node|actors|p2p|chain|config|tests|benchmarks|docs|src|systemd"
PATH = re.compile(rf"`((?:{FOLDERS})/[^`\s*{{}}<>…]*)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    named = {ROOT / name for name in PATH.findall(text)}
    linked = {page.parent / name for name in LINK.findall(text)}
    assert sorted(str(path) for path in named | linked if not path.exists()) == []


def test_every_error_is_documented() -> None:
    assert (ROOT / "docs/errors.md").read_text() == errors_page()


def test_every_command_is_documented() -> None:
    assert (ROOT / "docs/cli.md").read_text() == cli_page(), "run python -m r3mes.node.reference"


def test_every_metric_is_documented() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics_page()


def test_every_method_is_documented() -> None:
    assert (ROOT / "docs/rpc.md").read_text() == rpc_page()


def test_error_ids_and_rpc_codes_are_unique() -> None:
    kinds = [error.kind for error in REGISTRY.values()]
    assert len({kind.id for kind in kinds}) == len(kinds)
    own = [kind.rpc for kind in kinds if kind.rpc <= -32000 and kind.rpc > -32600]
    assert len(set(own)) == len(own)


def test_every_module_has_a_docstring_that_says_why() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        head = (ROOT / name).read_text().lstrip()
        assert not head or head.startswith(('"""', 'r"""')), name
