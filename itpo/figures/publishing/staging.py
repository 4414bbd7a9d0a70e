"""Files that belong together are replaced together: whenever a process ends, readers find those of before, or the new ones.

They are written into a folder beside their places, which one renaming declares complete; from then on every reader moves them
into their places (:func:`finish`), and one that is interrupted leaves the rest to the next.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from itpo.runs.files import IN_WORK, explain_full_disk, sync

READY, STALE = ".ready", "stale"


@contextmanager
def replacing(folder: Path, name: str, old: Collection[str] = ()) -> Iterator[Path]:
    """A new folder to write into; at the end of the block its files replace those in ``folder``.

    ``name`` (letters, digits, _ and -) tells sets of files apart. Of the files ``old`` those that were not written again are
    removed. If the block fails, nothing has changed. Errors: OSError if the disk is full, with what to do.

    >>> with tempfile.TemporaryDirectory() as place:
    ...     for text in ("before", "after"):
    ...         with replacing(Path(place), "T1") as new:
    ...             written = (new / "T1.md").write_text(text)
    ...     [(path.name, path.read_text()) for path in Path(place).iterdir()]
    [('T1.md', 'after')]
    """
    finish(folder)
    for left in folder.glob(f"{IN_WORK}.{name}.*"):
        shutil.rmtree(left)
    with explain_full_disk(folder):
        new = Path(tempfile.mkdtemp(prefix=f"{IN_WORK}.{name}.", dir=folder))
        try:
            yield new
            stale = [file for file in old if not (new / file).exists()]
            (new / STALE).write_text("\n".join(stale), encoding="utf-8")
            for path in [*new.iterdir(), new]:
                sync(path)
            new.rename(folder / f"{READY}.{name}")
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        finish(folder)


def finish(folder: Path) -> None:
    """Move what was written completely into its place, records (JSON) last; without such files nothing is done."""
    for ready in folder.glob(f"{READY}.*"):
        with suppress(FileNotFoundError):  # another process is doing the same
            for file in (ready / STALE).read_text(encoding="utf-8").splitlines():
                (folder / file).unlink(missing_ok=True)
            moved = [path for path in ready.iterdir() if path.name != STALE]
            for path in sorted(moved, key=lambda path: path.suffix == ".json"):
                path.replace(folder / path.name)
            sync(folder)
            (ready / STALE).unlink()
            ready.rmdir()
