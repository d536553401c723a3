"""A rented worker's own machine, seen from inside: how it is stopped when nobody else will do it.

`vendors.py` says what a machine's own key may be used for, at which vendor, in which words. `watchdog.py` keeps the
lease (policy/lease.py) and stops the machine when it is over; web/leases.py is where leases come in.
"""
