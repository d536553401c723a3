"""Pods at RunPod: one that exists is resumed, or one is created from a spec and terminated again.

`api.py` knows RunPod's API v2 and nothing of us; `provider.py` says it in our words.
"""
