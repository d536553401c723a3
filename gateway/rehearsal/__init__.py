"""REHEARSES what costs money, before it does: `wakegate rehearse`.

`vendor.py` is a small honest RunPod: one pod, its states, its price, its bill; no faults (those are in
tests/emulators/). `stage.py` gives it a port, and gives the pod a body: a real WakeGate worker in a process of its own
(`children.py`). `engine.py` is what that worker runs where there is no engine. `play.py` is the story: a gateway, a
request, the start, the answer, the silence, the stop; `real.py` is the same with the user's own settings and a bound on
what it may cost.
"""
