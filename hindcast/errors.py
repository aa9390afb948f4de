"""What Hindcast says when something is wrong.

One small hierarchy. Each message tells what was found, what was expected and what to do
next. The errors are click's, so that Feast's command line, which runs our code, prints one as
`Error: ...` and exits with 1, as ours does. Not for bugs of ours: those raise.
"""

import click


class HindcastError(click.ClickException):
    """A mistake in a project, its data or a call that the user can mend."""


class DefinitionError(HindcastError):
    """A dbt definition that Feast cannot register. `faults` lists every one found."""

    def __init__(self, faults: list[str]) -> None:
        """Keep all faults and show them one a line."""
        self.faults = faults
        noun = "fault" if len(faults) == 1 else "faults"
        lines = "\n".join(f"  {fault}" for fault in faults)
        super().__init__(f"{len(faults)} {noun} in the feature definitions:\n{lines}")


class MissingInputError(HindcastError):
    """Something an earlier step makes is not there. The message names the command."""


class RetrievalError(HindcastError):
    """A spine or a feature view that cannot be joined as asked."""


class ReplacedError(RetrievalError):
    """A source's file is another one than when the reading began."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__(
            "a source's file was replaced while it was read. Run again; where that happens often, "
            "publish new files beside the old ones and switch a link, as `dbt build` does."
        )


class EntityKeyError(RetrievalError):
    """An entity key of a request that is not of its type. The message names row and key."""


class OnlineStoreUnavailableError(HindcastError):
    """The online store cannot be read now. The message says why; a later try may succeed."""
