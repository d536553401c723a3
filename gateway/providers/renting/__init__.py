"""What vendors of rented machines share: one way to ask them politely, one shell that turns their words into ours.

`vendor.py`: an answer, an error, and the line to a vendor that keeps its pauses. `transport.py`: the same over HTTPS.
`prices.py`: which of two figures counts. `verbs.py`: what a vendor is asked for, and the words in which it answers.
`rented.py`: the provider that these few verbs are put into.
`readiness.py`: whether what runs in such a machine serves.
`leases.py`: leave for the worker in it to go on, sent for as long as it is followed.
`certificates.py`: what a worker in it shows instead of one that an authority signed.
`several.py`: several of them in order, as one.
`shared.py`: one of them for several gateways: `page.py` is what they agree on, `seat.py` who of them decides.
"""
