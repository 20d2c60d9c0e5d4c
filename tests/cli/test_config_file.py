import pytest

from lm_plugins.cli.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[audit\n", "is no TOML file"),
        ("[explain]\n", "has no table"),
        ("[audit]\ncolour = 3\nimages = 'x'\n", "knows no colour; there are .*batch_size"),
        ("[audit]\nremovals = ['grey', 'gray']\n", "no removal is called 'gray'"),
        ("[audit]\nimages = 'does-not-exist'\n", "does-not-exist"),
    ],
)
def test_mistakes_in_a_config_file(lm_plugins_command, tmp_path, text, message):
    import re

    (tmp_path / "run.toml").write_text(text)
    code, _, err = lm_plugins_command("audit", "--config", tmp_path / "run.toml")
    assert code == ExitCode.USAGE
    assert re.search(message, " ".join(err.split())), err


def test_the_command_line_has_precedence(lm_plugins_command, tmp_path):
    (tmp_path / "audit.toml").write_text("[audit]\nremovals = ['gray']\n")
    code, _, err = lm_plugins_command("audit", "--config", tmp_path / "audit.toml", "--removals", "grey")
    assert code == ExitCode.USAGE
    assert "--images DIR" in err
