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
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")
REFERENCE = re.compile(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
RULES = ROOT / "share/prometheus/r3mes.rules.yml"
ALERT = re.compile(r"- alert: (\w+)\n.*?command: (.+?)\n\s+runbook_url: (\S+)", re.DOTALL)
COMMAND = re.compile(r"(?:^[$#] |`(?:sudo )?)(?:\.venv/bin/)?(r3mes [a-z-][^`\n]*)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
REFERRING = [
    *PAGES,
    *(
        path
        for name in ("systemd", "share")
        for path in ROOT.glob(f"{name}/**/*")
        if path.is_file()
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_a_page_names_exist(page: Path) -> None:
    named = {ROOT / name for name in PATH.findall(page.read_text())}
    assert sorted(str(path) for path in named if not path.exists()) == []


@pytest.mark.parametrize("file", REFERRING, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_and_their_anchors_lead_somewhere(file: Path) -> None:
    text = file.read_text()
    targets = {(ROOT / name, anchor) for name, anchor in REFERENCE.findall(text)}
    if file.suffix == ".md":
        linked = LINK.findall(FENCED.sub("", text))
        targets |= {(file.parent / name if name else file, anchor) for name, anchor in linked}
    assert sorted(f"{path}#{anchor}" for path, anchor in targets if not leads(path, anchor)) == []


def leads(path: Path, anchor: str) -> bool:
    return path.exists() and (not anchor or anchor in sections(path))


def sections(page: Path) -> dict[str, str]:
    """The text under each heading of a page, by the anchor that a browser knows it by."""
    text = FENCED.sub(lambda block: block[0].replace("\n#", "\n #"), page.read_text())
    _, *parts = HEADING.split(text)
    slugs = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in parts[::2]]
    return dict(zip(slugs, parts[1::2], strict=True))


def test_every_alert_has_its_section_that_begins_with_its_command() -> None:
    alerts = ALERT.findall(RULES.read_text())
    assert len(alerts) == RULES.read_text().count("- alert:")
    page = sections(ROOT / "docs/operations.md")
    for name, command, runbook in alerts:
        assert runbook == f"docs/operations.md#{name.lower()}"
        assert f"\n- First: `{command}`" in page[name.lower()]


def test_every_command_of_the_operations_page_and_the_alerts_exists() -> None:
    named = COMMAND.findall((ROOT / "docs/operations.md").read_text())
    named += [command for _, command, _ in ALERT.findall(RULES.read_text())]
    assert [line for line in named if not is_documented(line)] == []


def is_documented(line: str) -> bool:
    """Whether docs/cli.md has this command with these options."""
    commands = sections(ROOT / "docs/cli.md")
    words = re.sub(r" --(config|datadir) \S+", "", line).split()
    prefixes = ["-".join(words[:count]) for count in range(len(words), 1, -1)]
    name = next((prefix for prefix in prefixes if prefix in commands), "every-command")
    options = {
        "--help",
        *OPTION.findall(commands[name]),
        *OPTION.findall(commands["every-command"]),
    }
    is_command = name != "every-command" or words[1].startswith("--")
    return is_command and set(OPTION.findall(line)) <= options


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
