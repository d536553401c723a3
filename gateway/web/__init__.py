"""FACES callers: who may, what is here, and how a refusal sounds.

`wire.py` is the connection (what aiohttp's server leaves open is closed there), `door.py` the way of one request,
`routes.py` the table of paths, `pages.py` what is answered without an upstream, `scrape.py` what Prometheus asks for.
`gate.py` stands before the door: who may come in, from where and how often. It asks `auth.py` (whose key it is),
`quota.py` (what of its limits is left), `peers.py` (the address behind a proxy) and `cors.py` (web pages). The keys in
force are `keyring.py`'s, read from a file by `keydisk.py` and `keyfile.py`. `patience.py` says how long a caller may be
kept waiting, `places.py` keeps what those have who were told to come back. `ports.py` opens the ports, `tls.py` is the
one that speaks TLS. What may be ordered besides requests is `control.py`'s; orders come by `admin.py` (HTTP) and
`control_socket.py` (the command line). `leases.py` is where a rented worker hears how long it may go on.
"""
