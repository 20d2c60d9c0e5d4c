"""The program: its commands, and what becomes of errors."""

import io
import traceback
from collections.abc import Sequence
from typing import Any

import click

import lm_plugins
from lm_plugins.cli.audit import audit
from lm_plugins.cli.calibrate import calibrate
from lm_plugins.cli.coverage import coverage
from lm_plugins.cli.exit_codes import ExitCode, is_out_of_memory
from lm_plugins.cli.explain import explain
from lm_plugins.cli.methods import methods
from lm_plugins.cli.models import models
from lm_plugins.cli.output import as_options, examples, note, warnings_noted
from lm_plugins.cli.removals import removals
from lm_plugins.cli.termination import Terminated, termination_raised
from lm_plugins.cli.train import train
from lm_plugins.errors import (
    ImageFileError,
    LabelFileError,
    LMPluginsError,
    MissingDependencyError,
    ModelLoadingError,
    UnsupportedOperatorError,
)

__all__ = ["program", "run"]

_EXIT_CODES = "\n".join(f"  {code.value:<4} {code.meaning}" for code in ExitCode)


class _Program(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except SystemExit as error:  # none of ours: click ends commands in other ways
            raise ModelLoadingError(
                f"the code of the model left the program with sys.exit({error.code!r}): nothing is finished."
            ) from error


@click.group(
    cls=_Program,
    epilog=examples(
        "lm-plugins audit --images photos/ --quick",
        "lm-plugins explain photo.jpg --method occlusion --compare layer_masking,grey",
    )
    + f"\n\n\b\nExit codes:\n{_EXIT_CODES}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(lm_plugins.__version__, prog_name="lm-plugins")
def program() -> None:
    """Find out which way to remove pixels you can trust, and explain images with it."""


for command in (audit, explain, calibrate, train, models, methods, removals, coverage):
    program.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Without the name of the program; None for those of this process.

    Returns:
        The exit code, see `lm_plugins.cli.exit_codes.ExitCode`.
    """
    try:
        with termination_raised(), warnings_noted():
            result = program.main(
                args=None if arguments is None else list(arguments), prog_name="lm-plugins", standalone_mode=False
            )
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _failed(ExitCode.INTERRUPTED, "stopped. The same command goes on where it stopped.")
    except Terminated:
        return _failed(ExitCode.TERMINATED, "stopped. The same command goes on where it stopped.")
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        note(shown.getvalue().rstrip())
        return ExitCode.USAGE
    except MissingDependencyError as error:
        return _failed(ExitCode.MISSING_PACKAGE, error)
    except (ImageFileError, LabelFileError, ModelLoadingError) as error:
        return _failed(ExitCode.INPUT, error)
    except UnsupportedOperatorError as error:
        return _failed(ExitCode.NOT_COVERED, error)
    except LMPluginsError as error:
        return _failed(ExitCode.USAGE, error)
    except SystemExit:
        # click leaves like this when the reader of the output, such as `head`, has seen enough: no error of ours.
        return ExitCode.DONE
    except OSError as error:
        return _failed(ExitCode.OUTPUT, f"{error}. What was finished before is kept; nothing half-written is.")
    except Exception as error:
        if is_out_of_memory(error):
            return _failed(
                ExitCode.MEMORY, f"the memory does not suffice ({error}). A smaller --size or --batch-size needs less."
            )
        traceback.print_exc()
        return _failed(ExitCode.FAILED, "this should not have happened. Please report it with the lines above.")
    return result if isinstance(result, int) else ExitCode.DONE


def _failed(code: ExitCode, message: object) -> ExitCode:
    note(f"lm-plugins: {as_options(str(message))}")
    return code
