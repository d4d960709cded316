"""``tidegate models export | register | key``: sealed models as files, and the key that seals them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from domain.errors import Fatal
from lifecycle.artefact import unseal
from lifecycle.model_keys import ModelKey
from tidegate.commands.models_context import (
    JsonOption,
    PipelineOption,
    ReasonOption,
    VersionArgument,
    checked,
    opened,
    print_json,
)
from tidegate.settings import Settings

__all__ = ["export", "key", "register"]


def export(
    version: VersionArgument,
    file: Annotated[Path, typer.Argument(help="Where to write the sealed model.")],
    pipeline: PipelineOption = None,
) -> None:
    """Write a sealed model to a file, for another deployment.

    Example: tidegate models export m-3f2a9c01d4e5 champion.tgm
    """
    with opened(pipeline) as context:
        sealed = context.registry.artefact(version)
    try:
        file.write_bytes(sealed)
    except OSError as error:
        raise Fatal(f"{file} was not written: {error.strerror}", remedy="choose another file") from error
    typer.echo(f"{file}: {len(sealed):,} bytes, signed")


def register(
    file: Annotated[Path, typer.Argument(help="A sealed model, as `models export` writes it.")],
    reason: ReasonOption,
    as_json: JsonOption = False,
    pipeline: PipelineOption = None,
) -> None:
    """Take a sealed model into the registry, as a candidate, if someone trusted signed it for this pipeline.

    Example: tidegate models register champion.tgm --reason "trained in the other region"
    """
    with opened(pipeline) as context:
        try:
            sealed = file.read_bytes()
        except OSError as error:
            raise Fatal(f"{file} can not be read: {error.strerror}", remedy="check its name") from error
        manifest, _ = unseal(sealed, context.settings.trusted_models(), pipeline=context.pipeline.name)
        model = context.registry.register(sealed, manifest, by=context.by, reason=checked(reason))
    if as_json:
        print_json(msgspec.to_builtins(model))
    else:
        typer.echo(f"{model.version} is registered as {model.stage.value}")


def key(
    new: Annotated[
        bool, typer.Option("--new", help="Make a new pair and print it; nothing is kept here.")
    ] = False,
) -> None:
    """The public key of those who sign models here, for TIDEGATE_MODEL_TRUSTED of the workers.

    Example: tidegate models key --new
    """
    if new:
        pair = ModelKey.generate()
        typer.echo(f"TIDEGATE_MODEL_KEY={pair.secret()}\nTIDEGATE_MODEL_TRUSTED={pair.public}")
    else:
        typer.echo(Settings().signing_key().public)
