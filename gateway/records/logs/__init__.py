"""LOGS: what happened, on the console and in files that outlive the worker, without ever holding up a request.

`Logs` (writer.py) is what others see: `request` and `say` only append to a list; a thread makes lines of it, and two
others write them, each behind a bounded queue (outlet.py): one to the console (stdout.py), one to the files (files.py).
A fourth, of low priority (keeper.py), compresses what was rotated and keeps all logs of the volume under their cap.
names.py says which files are ours, room.py which of them have to go, volume.py how a folder is reached, plan.py what
the settings come to.
"""

from gateway.records.logs.plan import Formats, LogFacts, LogPlan
from gateway.records.logs.writer import Logs

__all__ = ["Formats", "LogFacts", "LogPlan", "Logs"]
