"""What happens in simulated worlds: of one seed as a story, of many whether an invariant breaks.

python -m tests.simulation --seed 17          the story; where something breaks, the shortest that was found
python -m tests.simulation --seed 17 --whole  all of it
python -m tests.simulation --seeds 10000      each of so many; the first that breaks is told, and the exit is 1
"""

import argparse
import multiprocessing
import os
import sys
from collections import Counter

from tests.simulation.planted import FAULTS
from tests.simulation.simulate import command, explain, is_bad, unchanged


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, help="tell the story of this one")
    parser.add_argument("--whole", action="store_true", help="the whole story, not the shortest that breaks")
    parser.add_argument("--seeds", type=int, default=300, help="try so many")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    parser.add_argument("--planted", choices=sorted(FAULTS), help="with this fault in it")
    args = parser.parse_args()
    change = FAULTS[args.planted].change if args.planted else unchanged
    if args.seed is not None:
        print(explain(args.seed, change, whole=args.whole))
        return 0
    bad: dict[int, str] = {}
    seeds = range(args.first, args.first + args.seeds)
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        tried = pool.imap(_try, ((seed, args.planted) for seed in seeds), chunksize=10)
        for done, (seed, invariant) in enumerate(tried, 1):
            if invariant:
                bad[seed] = invariant
                print(f"seed {seed}: {invariant}   {command(seed)}", flush=True)
            if done % 500 == 0:
                print(f"{done} of {args.seeds}", flush=True)
    print(f"{args.seeds} worlds, {len(bad)} in which something breaks: {dict(Counter(bad.values()))}")
    if bad:
        print(explain(min(bad), change))
    return 1 if bad else 0


def _try(what: tuple[int, str | None]) -> tuple[int, str]:
    seed, planted = what
    try:
        return seed, is_bad(seed, FAULTS[planted].change if planted else unchanged)
    except Exception as error:
        return seed, f"the simulation itself: {error!r}"


if __name__ == "__main__":
    sys.exit(main())
