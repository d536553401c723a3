"""An instance that is rented at Vast.ai: started when somebody asks, stopped when nobody does.

`api.py` knows the vendor and nothing of ours; `provider.py` says it in our words.
"""
