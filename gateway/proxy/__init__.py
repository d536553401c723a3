"""CARRIES one request: the checked body to the upstream, its answer to the caller, and the right end for both.

`reply.py` owns everything a caller hears, `upstream.py` speaks to the engine behind one call, `pipe(call, reply)`.
Below it `connection.py` is one connection to an engine, whose answer `http1.py` (pure) reads out of its bytes;
`pool.py` opens and keeps them, `alarms.py` is the one timer of them all, and `stream.py` is a chunk's way to the
caller.
`fallback.py` lets somebody else answer, `outgoing.py` (pure) says what of a request leaves for that, and `purse.py`
pays for it.
`bodies.py` reads what came in, `checker.py` checks it by the rules of `checks.py` (of large bodies what `sieve.py`
leaves of them, or all in its helper process, `check_child.py`), `media.py` fetches images that lie elsewhere.
`dialects.py`, `framing.py` and `headers.py` are the pure rules of what the two sides may say to each other,
`loading_text.py` what a chat page is shown while its stream is held, `usage.py`
finds the tokens that the engine counted, `gathered.py` makes one answer of a stream.
"""
