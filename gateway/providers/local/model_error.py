"""What can be wrong with a MODEL: a sentence with the remedy for the person who set it, a closed one for callers."""

from typing import Literal

Kind = Literal[
    "name", "missing", "choice", "format", "broken", "unreadable", "access", "network", "hub", "space", "unwritable"
]

_FOR_CALLERS: dict[Kind, str] = {
    "name": "The MODEL setting is not a name that can be understood.",
    "missing": "The configured model was not found.",
    "choice": "The configured model comes in several versions and none was chosen.",
    "format": "The configured model is not in a format that this engine reads.",
    "broken": "The configured model's files are damaged or incomplete.",
    "unreadable": "The configured model's files cannot be read.",
    "access": "The configured model may not be downloaded with this machine's token.",
    "network": "The model hub could not be reached.",
    "hub": "The model hub did not deliver the model.",
    "space": "There is not enough disk space for the model.",
    "unwritable": "The folder for models cannot be written.",
}

_PASSING: frozenset[Kind] = frozenset({"network", "hub"})


class ModelError(Exception):
    """`sentence` tells the operator what is wrong and what to do, and may name paths; `reason` is closed, for callers.

    `lasting`: another try would fail the same way until somebody changes something.
    """

    def __init__(self, kind: Kind, sentence: str, *, lasting: bool | None = None) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.lasting = kind not in _PASSING if lasting is None else lasting

    @property
    def reason(self) -> str:
        return _FOR_CALLERS[self.kind]

    def __repr__(self) -> str:
        return f"ModelError({self.kind}{', lasting' if self.lasting else ''}: {self.sentence})"
