"""What an engine is told about this machine before it starts: will the model fit, with which context, on which GPUs.

`planner` gathers the facts and tells what was chosen, `plan` (pure) decides by the model's shape, what its `cache`
(pure) takes, the GPUs and the memory that is free (`free_memory`).
"""
