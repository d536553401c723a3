"""WakeGate's gateway: the map of the house.

A request comes in through `web` (who may), is carried by `proxy` (one `Reply` per caller), and asks `conductor` for an
upstream. The conductor tells facts to `policy`, which is pure and decides, and carries its orders out through a
`provider`, which is the only room that touches compute. `records` writes down what happened.

    web ──► proxy ──► conductor ── orders ──► providers
                        │   ▲                    │
                        ▼   └────── news ◄───────┘
                      policy

Imports go downward only: `__main__ → cli → commands → doctor → process → app → web → proxy → conductor → providers |
records → policy → errors → surroundings → config`. `commands` are the words of the command line, `doctor` says why an
installation would not serve or would not scale, `rehearsal` plays what costs money before it does. `process` is the
process around it all, `telling` tells what happens, `app` builds the rooms (`assembly` knows with what, `renting` what
costs money, and `treasury` keeps the books of that), `warmth` keeps up what is to be up without being asked, `config`
is every setting once (`kinds` how their texts are read), `gpus` what NVIDIA's library tells (`gpu` in values), `orders`
how the command line finds a gateway that runs.
`health/`, beside this package, is the second port: a process of its own that imports nothing of ours.
"""
