"""Where published vectors come from: a package that is always there, and a folder that may be.

The folder holds Wycheproof's files (`wycheproof/`) and those of NIST's ACVP server (`acvp/`). $HSMBRIDGE_VECTORS names
it; without that, `../shared/vectors` beside the checkout is taken where it is there. A folder that somebody names must
exist. What it lacks is not skipped: such sets are not part of the run, and the summary names them.
"""

import os
from dataclasses import dataclass
from enum import StrEnum, unique
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

FOLDER_VARIABLE = "HSMBRIDGE_VECTORS"
_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"


@unique
class Source(StrEnum):
    """A collection of vectors; `files` says what its files are named by."""

    PACKAGE = "cryptography-vectors"
    WYCHEPROOF = "wycheproof"
    ACVP = "acvp"


@dataclass(frozen=True, slots=True)
class Sources:
    """The collections of this run.

    Attributes:
        folder: holds the optional collections; None where there is none.
        package: that of the collection which is always there.
    """

    folder: Path | None
    package: Path

    @classmethod
    def found(cls) -> "Sources":
        """Look for them. Raises FileNotFoundError for a folder that is named and not there."""
        named = os.environ.get(FOLDER_VARIABLE, "")
        folder = Path(named) if named else _BESIDE
        if not folder.is_dir():
            if named:
                raise FileNotFoundError(f"{FOLDER_VARIABLE} names {named}, which is no folder")
            return cls(None, _package())
        return cls(folder, _package())

    def path(self, source: Source, name: str) -> Path | None:
        """A file of a collection, or None where the run lacks it."""
        if source is Source.PACKAGE:
            return self.package / name
        path = None if self.folder is None else self.folder / source / name
        return path if path is not None and path.is_file() else None

    def __str__(self) -> str:
        package = f"cryptography-vectors {version('cryptography-vectors')}"
        return f"{package}; {self.folder or f'no folder of others ({FOLDER_VARIABLE} can name one)'}"


def _package() -> Path:
    return Path(str(files("cryptography_vectors")))
