"""Plans a run on TPUs without having them: compiles its program for them and reads what it needs.

Everything here comes from the compiler (libtpu) and from counting; nothing was run on a TPU. The
bound on a step's time assumes that the chip does nothing but multiply, or nothing but move bytes,
whichever takes longer, at the speeds its maker publishes: no run is faster. The estimate is the
compiler's own, of the model by which it schedules, and was not compared with a run.
"""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from deblur_jax.inference.restorer import make_restore_fn
from deblur_jax.models import abstract_model
from deblur_jax.planning.chips import (
    CHIPS,
    KINDS,
    Chip,
    topology_devices,
    usable_devices,
)
from deblur_jax.planning.estimate import Cost, Estimate, estimate_time
from deblur_jax.planning.program_text import parse_program
from deblur_jax.planning.traffic import bytes_moved, collectives_in
from deblur_jax.runtime.devices import batch_sharding, data_mesh, replicated
from deblur_jax.runtime.operations import multiply_accumulates
from deblur_jax.training.config import Config
from deblur_jax.training.losses import make_loss
from deblur_jax.training.optimizer import make_optimizer
from deblur_jax.training.step import init_state, make_train_step

_PASSES = {None: 1, "default": 1, "high": 3, "highest": 6}
"""bfloat16 products that one float32 product is made of, by precision."""

_EXHAUSTED = re.compile(
    r"(?:Used |temporaries \()(?P<needed>[\d.]+)(?P<unit>[KMG])\)? (?:of|exceeds available HBM)"
)
"""The compiler says it in two ways; the second does not count the arguments."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a program needs on each device, unless a field says otherwise.

    Attributes:
        topology, devices: the chips.
        used_devices: how many of them the batch divides over. Where these are not all, the plan is
            for the largest slice that it divides over.
        batch_size: global.
        fits: whether its memory suffices.
        hbm_bytes: available.
        needed_bytes: at the peak; where it does not fit, as the compiler says.
        argument_bytes, temp_bytes: how much of that are arguments, and temporary arrays.
        flops_per_step: of the products, over all devices.
        bytes_per_step: to and from HBM, over all devices, counted in the compiled program.
        collectives: each kind with its number and bytes.
        compile_seconds: on this machine.
        step_seconds_bound: no step can be faster.
        days_bound: for the whole recipe; None for inference.
        estimated_seconds: of a step, by the compiler's estimate; None where the program carries
            none, or does not fit.
        estimated_kernel_seconds: how much of them are Pallas kernels, which the compiler does not
            estimate: by their bytes and operations at the chip's published speed.
        estimated_peak_share: of the chip's published speed, in the estimated time.
        estimated_images_per_second: over all devices.
        estimated_days: for the whole recipe; None for inference.
        not_counted: what the estimate leaves out, and how often it runs in a step.
        costs: the places in the source that take the most of the estimate, the greatest first.
        program: the text of the optimised program; ``to_dict`` leaves it out.
    """

    topology: str
    devices: int
    used_devices: int
    batch_size: int
    fits: bool
    hbm_bytes: int
    needed_bytes: int
    argument_bytes: int | None
    temp_bytes: int | None
    flops_per_step: float
    bytes_per_step: float | None
    collectives: dict[str, dict[str, int]] | None
    compile_seconds: float
    step_seconds_bound: float
    days_bound: float | None
    estimated_seconds: float | None = None
    estimated_kernel_seconds: float | None = None
    estimated_peak_share: float | None = None
    estimated_images_per_second: float | None = None
    estimated_days: float | None = None
    not_counted: dict[str, int] | None = None
    costs: tuple[Cost, ...] = ()
    program: str | None = dataclasses.field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, the text of the program excepted."""
        fields = dataclasses.asdict(dataclasses.replace(self, program=None))
        del fields["program"]
        return fields | {"costs": [cost._asdict() for cost in self.costs]}


def plan_training(config: Config, topology: str) -> Plan:
    """Compiles the train step of a configuration.

    Args:
        config: validated.
        topology: as "v5e:4x4".

    Raises:
        ConfigError: without libtpu, or for a topology that it does not know.
    """
    devices = topology_devices(topology)
    if config.per_device_batch is not None:
        rows = config.per_device_batch * len(devices) * config.accumulation_steps
        config = dataclasses.replace(config, batch_size=rows)
    rows = config.batch_size // config.accumulation_steps
    mesh = data_mesh(rows, usable_devices(topology, devices, rows))
    network = abstract_model(config.model, compute=config.compute, platform="tpu")
    graphdef, params = nnx.split(network)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    loss = make_loss(config.loss)
    step = make_train_step(
        graphdef,
        loss,
        optimizer,
        seed=config.seed,
        mesh=mesh,
        accumulation_steps=config.accumulation_steps,
        ema_decay=config.ema_decay,
        deterministic=config.compute.deterministic,
    )
    with_ema = config.ema_decay is not None
    state = jax.eval_shape(lambda p: init_state(p, optimizer, with_ema=with_ema), params)
    size = config.data.patch_size
    images = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8)
    batch = {"blurred": images, "sharp": images}
    macs = _macs_of_step(config)
    arguments = (_placed(state, replicated(mesh)), _placed(batch, batch_sharding(mesh)))
    return _plan(
        topology,
        step,
        arguments,
        mesh,
        len(devices),
        config,
        macs,
        config.batch_size,
        config.num_steps,
    )


def expected_step_seconds(
    config: Config, kind: str, count: int, program: Callable[[], str | None]
) -> dict[str, float]:
    """What a plan says of the time of a train step that is compiled already.

    Args:
        config: validated, with the global batch size.
        kind: of the devices, as ``jax.Device.device_kind`` says.
        count: how many devices share the batch.
        program: gives the text of the compiled step, if there is one.

    Returns:
        Seconds: ``bound``, that no step is faster than, and ``estimate``, by the compiler, where
        the program carries it. Nothing where the speed of the devices is not known here. Of a text
        that this module can't read, the bound is that of the arithmetic alone.
    """
    chip = CHIPS.get(KINDS.get(kind, ""))
    if chip is None:
        return {}
    arithmetic = _arithmetic(_macs_of_step(config), config, chip, count)
    try:
        parsed = parse_program(program() or "")
        expected = {"bound": _bound(arithmetic, bytes_moved(parsed), chip)}
        estimate = estimate_time(parsed, chip)
    except (LookupError, ValueError):  # another libtpu may write it otherwise; the run goes on
        return {"bound": arithmetic}
    return expected if estimate is None else expected | {"estimate": estimate.seconds}


def plan_inference(config: Config, topology: str, size: tuple[int, int]) -> Plan:
    """Compiles the restoration of one image on each device.

    Args:
        config: of the network.
        topology: as "v5e:4x4".
        size: height and width; rounded up to the network's multiple.

    Raises:
        ConfigError: without libtpu, or for a topology that it does not know.
    """
    devices = topology_devices(topology)
    mesh = data_mesh(1, usable_devices(topology, devices, 1))
    network = abstract_model(config.model, compute=config.compute, platform="tpu")
    graphdef, params = nnx.split(network)
    height, width = (-(-side // network.size_multiple) * network.size_multiple for side in size)
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    restore = make_restore_fn(graphdef)
    plain = make_restore_fn(nnx.graphdef(_plain_network(config)))
    macs = multiply_accumulates(plain, params, image)
    arguments = _placed((params, image), replicated(mesh))
    return _plan(topology, jax.jit(restore), arguments, mesh, len(devices), config, macs, 1, None)


def _plan(
    topology: str,
    function: Any,
    arguments: tuple,
    mesh: Mesh,
    devices: int,
    config: Config,
    macs: int,
    rows: int,
    num_steps: int | None,
) -> Plan:
    chip = CHIPS[topology.partition(":")[0]]
    arithmetic = _arithmetic(macs, config, chip, mesh.size)
    start = time.perf_counter()
    described: dict[str, Any] = {
        "topology": topology,
        "devices": devices,
        "used_devices": mesh.size,
        "batch_size": rows,
        "hbm_bytes": chip.hbm_bytes,
        "flops_per_step": float(2 * macs),
    }
    try:
        program = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _EXHAUSTED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or needed is None:
            raise
        return Plan(
            fits=False,
            needed_bytes=_bytes(*needed.group("needed", "unit")),
            argument_bytes=None,
            temp_bytes=None,
            bytes_per_step=None,
            collectives=None,
            compile_seconds=time.perf_counter() - start,
            step_seconds_bound=arithmetic,
            days_bound=_days(arithmetic, num_steps),
            **described,
        )
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    text = program.as_text()
    parsed = parse_program(text)
    moved = float(bytes_moved(parsed))
    bound = _bound(arithmetic, moved, chip)
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return Plan(
        fits=True,
        needed_bytes=needed,
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        bytes_per_step=moved * mesh.size,
        collectives=collectives_in(parsed),
        compile_seconds=seconds,
        step_seconds_bound=bound,
        days_bound=_days(bound, num_steps),
        program=text,
        **_estimated(estimate_time(parsed, chip), arithmetic, rows, num_steps),
        **described,
    )


def _estimated(
    estimate: Estimate | None, arithmetic: float, rows: int, num_steps: int | None
) -> dict[str, Any]:
    """The fields of a plan that an estimate gives."""
    if estimate is None:
        return {}
    return {
        "estimated_seconds": estimate.seconds,
        "estimated_kernel_seconds": estimate.kernel_seconds,
        "estimated_peak_share": arithmetic / estimate.seconds,
        "estimated_images_per_second": rows / estimate.seconds,
        "estimated_days": _days(estimate.seconds, num_steps),
        "not_counted": estimate.not_counted,
        "costs": tuple(estimate.costs),
    }


def _plain_network(config: Config) -> Any:
    """The network in its plain form: others also multiply with zeros, which is no work to count."""
    compute = dataclasses.replace(config.compute, backend="plain")
    return abstract_model(config.model, compute=compute, platform="tpu")


def _macs_of_step(config: Config) -> int:
    """Multiply-accumulates of a train step, over all devices."""
    graphdef, params = nnx.split(_plain_network(config))
    loss, size = make_loss(config.loss), config.data.patch_size
    one = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def gradient(params: nnx.State, blurred: jax.Array, sharp: jax.Array) -> nnx.State:
        return jax.grad(lambda p: loss(nnx.merge(graphdef, p)(blurred), sharp)[0])(params)

    return multiply_accumulates(gradient, params, one, one) * config.batch_size


def _arithmetic(macs: int, config: Config, chip: Chip, count: int) -> float:
    """Seconds that the products take where nothing else is done."""
    passes = _PASSES[config.compute.precision] if config.compute.dtype == "float32" else 1
    return 2 * macs * passes / count / chip.flops


def _bound(arithmetic: float, moved: float, chip: Chip) -> float:
    """Seconds: of the products, or of the bytes that one device moves, whichever takes longer."""
    return max(arithmetic, moved / chip.bytes_per_second)


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _days(step_seconds: float, num_steps: int | None) -> float | None:
    return None if num_steps is None else step_seconds * num_steps / 86_400


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * {"K": 2**10, "M": 2**20, "G": 2**30}[unit])
