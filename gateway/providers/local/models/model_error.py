"""What can be wrong with a MODEL: a sentence with the remedy for the person who set it, a closed one for callers."""

from typing import Literal

Kind = Literal[
    "name",
    "missing",
    "choice",
    "format",
    "broken",
    "unreadable",
    "access",
    "network",
    "hub",
    "space",
    "unwritable",
    "fit",
]

FOR_CALLERS: dict[Kind, str] = {
    "name": "The MODEL setting is not a name that can be understood: set it to a path or to a Hub id (org/name).",
    "missing": "The configured model was not found: check MODEL, and HF_TOKEN where it is a private one.",
    "choice": "The configured model comes in several versions: name one in MODEL (org/name:Q4_K_M).",
    "format": "The configured model is not in a format that this engine reads: choose another MODEL or ENGINE.",
    "broken": "The configured model's files are damaged or incomplete: download or copy them again.",
    "unreadable": "The configured model's files cannot be read: check their rights, and the volume.",
    "access": "The configured model may not be downloaded: set HF_TOKEN to a token whose account may have it, and has "
    "accepted its licence.",
    "network": "The model hub could not be reached: check this machine's network.",
    "hub": "The model hub did not deliver the model; the gateway's log says more.",
    "space": "There is not enough disk space for the model: make room, or set DATA_DIR to a larger volume.",
    "unwritable": "The folder for models cannot be written: change its rights, or set DATA_DIR.",
    "fit": "The configured model cannot run on this machine's GPUs: choose another MODEL, or another GPU.",
}

PASSING: frozenset[Kind] = frozenset({"network", "hub"})


class ModelError(Exception):
    """`sentence` tells the operator what is wrong and what to do, and may name paths; `reason` is closed, for callers.

    `lasting`: another try would fail the same way until somebody changes something.
    """

    def __init__(self, kind: Kind, sentence: str, *, lasting: bool | None = None) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.lasting = kind not in PASSING if lasting is None else lasting

    @property
    def reason(self) -> str:
        return FOR_CALLERS[self.kind]

    def __repr__(self) -> str:
        return f"ModelError({self.kind}{', lasting' if self.lasting else ''}: {self.sentence})"
