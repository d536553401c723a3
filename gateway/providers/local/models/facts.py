"""What is known of a model without its weights: all that a plan goes by, before a download too. Pure."""

from dataclasses import dataclass, field
from typing import Protocol

from gateway.providers.local.models.model_names import Format
from gateway.providers.local.models.shape import Shape


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model, without its weights."""

    name: str
    format: Format
    size: int
    """Bytes of its weights."""
    shape: Shape = field(default_factory=lambda: Shape(unknown="nothing was read of it"))


class KnownModel(Protocol):
    """A model on the disk (model_files.Model)."""

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> Format: ...
    @property
    def size(self) -> int: ...
    @property
    def shape(self) -> Shape: ...


def facts_of(model: KnownModel) -> ModelFacts:
    return ModelFacts(model.name, model.format, model.size, model.shape)
