"""FACES callers: who may, what is here, and how a refusal sounds.

`wire.py` is the connection (what aiohttp's server leaves open is closed there), `door.py` the way of one request,
`routes.py` the table of paths, `auth.py` the keys, `pages.py` what is answered without an upstream.
"""
