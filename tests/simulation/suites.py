"""Which vendor a world has, and what its house is built of: one entry for each vendor that is simulated."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.providers.base import Renter
from gateway.providers.renting.rented import RentedProvider
from gateway.providers.runpod_pod.provider import RunPodPod, Spec, Wishes
from gateway.providers.vast.provider import VastProvider
from tests.simulation.house import PREFIX, Look, Parts
from tests.simulation.loop import Process
from tests.simulation.plain import PlainVendor
from tests.simulation.vendors import A40, CONTRACT, L4, POD, Plain, RunPod, Vast, Vendor
from tests.simulation.world import World


@dataclass(frozen=True)
class Suite:
    vendor: Callable[[World], Vendor]
    parts: Parts


def plain_provider(world: World, process: Process, look: Look) -> Renter:
    own = world.setup.strategy == "resume"
    cloud = world.vendor.cloud  # type: ignore[attr-defined]
    vendor = PlainVendor(world.network.way(process), own=own, prefix=PREFIX, price=lambda: cloud.price)
    return RentedProvider(vendor, look=look, now=world.wall)


SPEC = {"image": "x", "gpu": {"id": [L4, A40]}, "ports": ["8000/http"]}


def runpod_provider(world: World, process: Process, look: Look) -> Renter:
    pod = POD if world.setup.strategy == "resume" else Spec.of(SPEC)
    wishes = Wishes(pod, PREFIX, key="upstream-key")
    return RunPodPod(wishes, transport=world.network.way(process), look=look, now=world.wall)


def vast_provider(world: World, process: Process, look: Look) -> Renter:
    way = world.network.way(process)
    return VastProvider(
        str(CONTRACT), transport=way, look=look, now=world.wall, key="k", plain_http=True, public_only=False
    )


SUITES = {
    "plain": Suite(Plain, Parts(plain_provider)),
    "runpod-pod": Suite(RunPod, Parts(runpod_provider)),
    "vast": Suite(Vast, Parts(vast_provider)),
}
