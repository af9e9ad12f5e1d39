"""Routes in the configuration: examples from files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomlkit

from r3mes.config.editing import with_table
from r3mes.config.load import load
from r3mes.config.schema import Route
from r3mes.errors import ConfigError

ONE = '[[routes]]\nname = "a"\nmodel = "m"\n'


def loaded(folder: Path, text: str) -> tuple[Route, ...]:
    file = folder / "config.toml"
    file.write_text(text)
    return load(file=file, env={}, flags={}).config.routes


def test_examples_of_a_file_come_behind_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("second\n\n  third \n")
    (route,) = loaded(tmp_path, ONE + 'examples = ["first"]\nfile = "a.txt"')
    assert route.examples == ("first", "second", "third")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ONE, "has no examples"),
        (ONE + 'examples = [" "]', "has no examples"),
        (ONE + 'examples = [""]', r"routes\[0\].examples"),
        ((ONE + 'examples = ["x"]\n') * 2, "two routes are called 'a'"),
        ('[[routes]]\nname = "a"\nexamples = ["x"]', "has no model"),
        ('[[routes]]\nname = "a"\nmodel = "auto"\nexamples = ["x"]', "leads to 'auto'"),
        (ONE + 'file = "missing.txt"', "missing.txt cannot be read"),
        (ONE + f"examples = {['x'] * 4097}", "may have 4096 together"),
        ('[routing]\ndefault = "auto"', "routing.default"),
        ('[[models]]\nid = "x"\nname = "auto"', "stands for the router"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        loaded(tmp_path, text)


def test_a_table_is_added_replaced_and_removed_and_comments_stay() -> None:
    text = "# ours\n[log]\nlevel = 'info' # quiet\n"
    one = with_table(text, "routes", "a", {"name": "a", "model": "m", "examples": ["x"]})
    two = with_table(one, "routes", "b", {"name": "b", "model": "m", "examples": ["y"]})
    new = with_table(two, "routes", "a", {"name": "a", "model": "n", "examples": ["z"]})
    assert new.startswith(text)
    assert new.count("[[routes]]") == 2
    assert '"n"' in new
    assert '"x"' not in new
    assert with_table(with_table(new, "routes", "a", None), "routes", "b", None).strip() == (
        text.strip()
    )


COMMENTED = """\
# of a
[[routes]]
name = "a"
model = "m"

# of b
[[routes]]
name = "b"
model = "m"

# of the log
[log]
level = "info"
"""


def test_comments_about_what_follows_a_table_stay_where_they_are() -> None:
    without_a = with_table(COMMENTED, "routes", "a", None)
    assert '# of b\n[[routes]]\nname = "b"' in without_a
    without = with_table(without_a, "routes", "b", None)
    assert "[[routes]]" not in without
    for new in (
        without,
        with_table(COMMENTED, "routes", "b", None),
        with_table(COMMENTED, "routes", "b", {"name": "b", "model": "n"}),
        with_table(COMMENTED, "routes", "c", {"name": "c", "model": "n"}),
    ):
        assert "\n# of the log\n[log]\n" in new
        assert new.count("# of") == 3
        tomlkit.parse(new)


def test_a_list_in_one_line_is_not_changed() -> None:
    with pytest.raises(ConfigError, match="tables of its own"):
        with_table('routes = [{name = "a", model = "m"}]', "routes", "a", None)
