"""Records of the compacted topic ``models``: which trained models there are for the workers, and their bytes.

Two kinds of key. :data:`CURRENT_KEY` holds a :class:`ModelsInForce`; ``artefact/<sha256>/<number>`` holds one part of a
sealed artefact, as it is (parts, because brokers limit the size of a record). Whoever publishes writes the parts
first and the state that names them last, in one transaction; so a reader that sees the state has the parts before it.
"""

from __future__ import annotations

import msgspec

__all__ = ["CURRENT_KEY", "PART_BYTES", "ModelRef", "ModelsInForce", "part_key"]

CURRENT_KEY = "current"
PART_BYTES = 4 * 1024 * 1024
"""Half of what the topics take as one message."""


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed artefact: the model's version, the SHA-256 (hex) of all its bytes, and in how many parts it lies."""

    version: str
    sha256: str
    parts: int


class ModelsInForce(msgspec.Struct, frozen=True, kw_only=True):
    """What every worker should run, from ``changed_at`` (UTC microseconds) on.

    ``epoch`` grows by one with each change; a reader ignores a state that is older than what it runs. Without a
    ``champion`` the pipeline's own ensemble decides. The ``challenger`` scores beside the champion and decides nothing,
    except for the ``split`` (0 to 1) of key entities, chosen by hash, for which it decides instead of the champion.
    """

    epoch: int
    champion: ModelRef | None = None
    challenger: ModelRef | None = None
    split: float = 0.0
    changed_at: int
    changed_by: str
    reason: str


def part_key(sha256: str, number: int) -> bytes:
    """The key of part ``number`` (from 0) of the artefact with that hash.

    >>> part_key("ab12", 0)
    b'artefact/ab12/0'
    """
    return f"artefact/{sha256}/{number}".encode()
