"""Check that the example of a gate for GitHub gives `mlpbench ab` options that exist."""

import shlex

from mlpbench.cli.main import _parser
from tests.paths import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "gate.yml"


def command() -> list[str]:
    """Return the words of the command that compares, as the shell of the runner joins its lines."""
    text = EXAMPLE.read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = (line.strip() for line in text.splitlines() if line.strip().startswith("mlpbench ab"))
    return shlex.split(line.replace('$(git merge-base "origin/$BASE" HEAD)', "main"))


def test_gate_of_the_example_fails_if_nothing_can_be_said():
    words = command()[1:]
    parsed = _parser(words).parse_args(words)
    assert list(parsed.fail_on) == ["inconclusive"]
    assert 1.03 == parsed.margin < parsed.must_find
    assert parsed.pairs >= 12
    assert parsed.time_limit < 45 * 60
    assert "mlpbench check" in EXAMPLE.read_text(encoding="utf-8")


def test_name_of_a_branch_never_becomes_part_of_a_script():
    """A branch can be named as a command."""
    scripts = EXAMPLE.read_text(encoding="utf-8").split("run:")[1:]
    assert not any("${{" in script.partition("- name:")[0].partition("- uses:")[0] for script in scripts)
