"""Writing files so that a crash, a full disk or a kill leaves either the old file or the new one, never half of one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import OutputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write to; when the block ends well, it takes ``path``'s place at once.

    Raises:
        OutputError: the folder cannot be made or the file not be written (no space, no permission); whatever stood at
            ``path`` is intact and the temporary file is gone.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = checked(path)
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")  # its own for every writer
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"could not write {path}: {reason(error)}; try another place or free some space") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def checked(path: str | Path) -> Path:
    """Returns a path to write to, ``~`` written out. Raises OutputError where it names no file."""
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise OutputError(f"{path}: {error}; give the whole path") from error
    if found.name in ("", "..") or "\0" in str(found):
        raise OutputError(f"got {str(path)!r}, expected the name of a file or folder to write")
    return found


def reason(error: Exception) -> str:
    """Returns why a file operation failed, in a few words, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
