"""What the machine can do, what a stage-2 step asks of it, and the fraction reached.

    python -m benchmarks.roofline --width=32 --image_size=96

Operations are counted in the traced graph, those that reach no output left out: every
convolution with its two gradients by its shapes, and the bytes that all other
operations would move if each read and wrote memory. The convolutions that weigh most
are then timed one by one on the same shapes (oneDNN, in the step's precision), in
rounds interleaved with the step itself; medians. From these:

mix rate    of the timed shapes in the proportion in which the step has them
best rate   of the fastest shape
bandwidth   of adding two arrays that are larger than the caches
fraction    of the mix rate, and of the best, that the whole step reaches; the first is
            also the share of the step's time that its convolutions account for
share       of the step's time in which the memory could move all other bytes: more than
            it has to, for TensorFlow fuses

Then, from TensorFlow's profiler, where the time of a step goes by kind of operation.
Prints tables and, last, a line of JSON.
"""

import collections
import functools
import json
import pathlib
import tempfile
from importlib import import_module

import tensorflow as tf
from absl import app, flags, logging

from benchmarks import operations, rig
from brats_gan import multimodal

_WIDTH = flags.DEFINE_integer("width", 32, "Base width.", 1)
_SIZE = flags.DEFINE_integer("image_size", 96, "Pixels a side.", 32)
_BATCH = flags.DEFINE_integer("batch_size", 1, "Samples a step.", 1)
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["float32", "mixed_bfloat16"], "Of the convolutions."
)
_LAYERS = flags.DEFINE_integer("layers", 24, "Convolutions timed one by one.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 9, "Interleaved rounds.", 1)
_PROFILE = flags.DEFINE_integer("profile", 5, "Profiled steps; 0: no profile.", 0)
_MEGABYTES = flags.DEFINE_integer("megabytes", 256, "An array of the bandwidth test.")

SHOWN_OPERATIONS = 14
LEAST_FLOPS, MOST_TIMES = 5 * 10**8, 32  # of a timed call


def alone(each, dtype):
    """(call, times): does one convolution that many times, one after the other.

    Small ones more often, so that what a call costs besides does not count.
    """
    times = min(max(LEAST_FLOPS // each.flops, 1), MOST_TIMES)
    x, filters, y = (
        [tf.cast(tf.random.normal(shape), dtype) for _ in range(times)]
        for shape in (each.x, each.filters, each.y)
    )
    settings = {
        "strides": [1, each.stride, each.stride, 1],
        "padding": each.padding,
    }

    def once(x, filters, y):
        if each.kind == "Conv2D":
            return tf.nn.conv2d(x, filters, **settings)
        if each.kind == "Conv2DBackpropInput":
            return tf.raw_ops.Conv2DBackpropInput(
                input_sizes=each.x, filter=filters, out_backprop=y, **settings
            )
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=each.filters, out_backprop=y, **settings
        )

    @tf.function
    def run(*listed):
        done = []
        for arguments in zip(*listed, strict=True):
            with tf.control_dependencies(done[-1:]):
                done.append(once(*arguments))
        return done

    return functools.partial(run, x, filters, y), times


def build_step(precision):
    """(step without arguments, its traced function)."""
    networks = rig.multimodal_networks(_SIZE.value, _WIDTH.value, precision)
    train_step = multimodal.make_train_step(*networks)
    arguments = (
        rig.multimodal_batch(_SIZE.value, _BATCH.value),
        tf.constant([0, 1], tf.int32),
    )
    concrete = train_step.get_concrete_function(*arguments)
    return functools.partial(train_step, *arguments), concrete


def addition():
    """(call, bytes it moves): two arrays read, one written."""
    size = _MEGABYTES.value * 2**20 // 4
    one, other = tf.random.normal([size]), tf.random.normal([size])
    return functools.partial(tf.function(tf.add), one, other), 3 * 4 * size


def seconds_by_operation(step, calls):
    """{type of operation: seconds a step, over all threads} from the profiler.

    Empty where TensorFlow brings no reader of its own profiles.
    """
    for name in ("tensorflow.tsl", "tsl", "tensorflow.core"):
        try:
            reader = import_module(f"{name}.profiler.protobuf.xplane_pb2")
            break
        except ImportError:
            continue
    else:
        return collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(calls):
            step()
        tf.profiler.experimental.stop()
        (path,) = pathlib.Path(folder).glob("**/*.xplane.pb")
        space = reader.XSpace.FromString(path.read_bytes())
    found = collections.Counter()
    for plane in space.planes:
        if plane.name != "/host:CPU":
            continue
        names = {key: value.name for key, value in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                # An operation's event is called NAME:TYPE, another may be A::B.
                name, _, kind = names[event.metadata_id].rpartition(":")
                if name and not name.endswith(":") and kind.isidentifier():
                    found[kind] += event.duration_ps / 1e12 / calls
    return found


def measure(precision):
    """Everything about the step in one precision, and prints its tables."""
    step, concrete = build_step(precision)
    times, networks, others = operations.count(concrete)
    weigh_most = sorted(times, key=lambda c: -c.flops * times[c])[: _LAYERS.value]
    dtype = tf.float32 if precision == "float32" else tf.bfloat16
    add, add_bytes = addition()
    calls = {"step": step, "add": add}
    repeated = {each: alone(each, dtype) for each in weigh_most}
    calls |= {each: call for each, (call, _) in repeated.items()}
    seconds = rig.medians(rig.interleaved(calls, _REPEATS.value, warm=2))
    for each, (_, number) in repeated.items():
        seconds[each] /= number

    total = sum(each.flops * n for each, n in times.items())
    timed = sum(each.flops * times[each] for each in weigh_most)
    predicted = sum(seconds[each] * times[each] for each in weigh_most)
    mix = timed / predicted
    best = max(each.flops / seconds[each] for each in weigh_most)
    bandwidth = add_bytes / seconds["add"]
    reached = total / seconds["step"]

    print(f"\n## {precision}: the {len(weigh_most)} heaviest of {len(times)} shapes\n")
    print("| | of | x | filters | times | GFLOP | share | GFLOP/s | ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for each in weigh_most:
        flops, n = each.flops, times[each]
        print(
            f"| {each.kind.removeprefix('Conv2D') or 'Forward'} | "
            f"{', '.join(sorted(networks[each]))} | {'x'.join(map(str, each.x))} | "
            f"{'x'.join(map(str, each.filters))} /{each.stride} | {n} | "
            f"{flops * n / 1e9:.2f} | {flops * n / total:.3f} | "
            f"{flops / seconds[each] / 1e9:.0f} | {1e3 * seconds[each] * n:.1f} |"
        )
    result = {
        "step_seconds": seconds["step"],
        "step_gflop": total / 1e9,
        "timed_share": timed / total,
        "mix_gflops": mix / 1e9,
        "best_gflops": best / 1e9,
        "reached_gflops": reached / 1e9,
        "fraction_of_mix": reached / mix,
        "fraction_of_best": reached / best,
        "bandwidth_gb_s": bandwidth / 1e9,
        "other_gb": others / 1e9,
        "share_of_other_bytes": others / bandwidth / seconds["step"],
    }
    result = {name: round(value, 4) for name, value in result.items()}
    print("\n| | |\n|---|---|")
    for name, value in result.items():
        print(f"| {name} | {value} |")
    if _PROFILE.value:
        by_kind = seconds_by_operation(step, _PROFILE.value)
        whole = sum(by_kind.values())
        shares = {
            kind: round(each / whole, 4)
            for kind, each in by_kind.most_common(SHOWN_OPERATIONS)
        }
        print("\n| operation | share of the operations' time |\n|---|---|")
        for kind, share in shares.items():
            print(f"| {kind} | {share:.3f} |")
        result["shares"] = shares
    return result


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    print(f"width {_WIDTH.value}, {_SIZE.value} x {_SIZE.value}, {_BATCH.value} a step")
    print(json.dumps({each: measure(each) for each in _PRECISIONS.value}))


if __name__ == "__main__":
    app.run(main)
