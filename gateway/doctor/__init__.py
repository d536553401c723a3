"""`wakegate doctor`: says why this installation would not serve or would not scale, before it costs money.

`facts.py` looks at the machine (the only part with I/O), each check decides from facts alone, `report.py` renders.
"""
