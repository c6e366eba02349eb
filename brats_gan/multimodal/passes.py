"""Passes through the networks of stage 2: a training step's, and generation."""

from __future__ import annotations

from typing import NamedTuple

from brats_gan import fusion, networks, replicas, structural_map
from brats_gan.lazy import tf
from brats_gan.multimodal.settings import Options
from brats_gan.parts import over_parts
from brats_gan.spec import BRATS, Spec

# What a lesion map is where it is not 0. Adam moves a weight by about its rate a step,
# so a class seen in few steps reaches its contrast sooner on larger maps (D19).
LESION_LEVEL = 4.0


def merge(x: tf.Tensor) -> tf.Tensor:
    """[B, M, ...] -> [M * B, ...]."""
    return tf.reshape(x, [-1, *x.shape[2:]])


def split(x: tf.Tensor, spec: Spec = BRATS) -> tf.Tensor:
    """[M * B, ...] -> [B, M, ...]."""
    return tf.reshape(x, [-1, spec.num_modalities, *x.shape[1:]])


def all_modalities(batch: int | tf.Tensor, spec: Spec = BRATS) -> tf.Tensor:
    """[M * batch] int32: 0, 1, ..., M - 1, 0, ...; the modality of each merged row."""
    return tf.tile(tf.range(spec.num_modalities), [batch])


def lesion_maps(label: tf.Tensor, modality: tf.Tensor, spec: Spec = BRATS) -> tf.Tensor:
    """What modulates DC (D19): a map for each pair of lesion class and modality.

    [N, H, W] integers, [N] -> [N, H, W, networks.num_lesion_maps]; only the maps of the
    row's modality, one a lesion class, are not 0 but LESION_LEVEL, so that each
    modality learns its own look of each class.
    """
    lesion = tf.one_hot(tf.cast(label, tf.int32), spec.num_labels)[..., 1:]
    which = tf.one_hot(modality, spec.num_modalities)[:, None, None, None, :]
    maps = LESION_LEVEL * lesion[..., None] * which
    return tf.reshape(maps, [-1, *label.shape[1:], networks.num_lesion_maps(spec)])


def decode(
    nets: dict,
    code: tf.Tensor,
    modality: tf.Tensor,
    label: tf.Tensor,
    f: tf.Tensor,
    style: tf.Tensor,
    options: Options,
    training: bool = True,
) -> tf.Tensor:
    """DC(code, i), told the label's lesion (D19), the map (D32) and the style (D33).

    Args:
        nets: of `build`.
        code: [N, h, w, C].
        modality: [N] integers, i.
        label: [N, H, W] integers.
        f: [N, H, W, 1] in {0, 1}.
        style: [N, K] of the image that is to be made, see styles.measure.
        options: Options.

    Returns:
        [N, H, W, 1] in [0, 1].
    """
    count = options.spec.num_modalities
    condition = tf.one_hot(modality, count)
    inputs, maps = [code, condition], []
    if options.label_modulation:
        maps.append(lesion_maps(label, modality, options.spec))
    if options.map_modulation:
        maps.append(without_edges(f, label, options))
    if maps:
        inputs.append(tf.concat(maps, -1))
    if options.style:
        # Each modality learns its own use of each number.
        by_modality = condition[:, :, None] * style[:, None, :]
        inputs.append(tf.reshape(by_modality, [-1, count * style.shape[-1]]))
    return nets["DC"](inputs, training=training)


def without_edges(f: tf.Tensor, label: tf.Tensor, options: Options) -> tf.Tensor:
    """f without edges inside the label that goes with it (D24); else f as it is.

    [B, H, W, 1], [B, H, W] -> [B, H, W, 1].
    """
    if options.lesion_removal and options.label_removal:
        return fusion.remove_lesion(f, label)
    return f


def extract(x: tf.Tensor, label: tf.Tensor, options: Options) -> tf.Tensor:
    """f of real slices without their own lesions (Section 2.5), and no gradient.

    [B, H, W, 1] in [0, 1], [B, H, W] -> [B, H, W, 1] in {0, 1}.
    """
    f = tf.stop_gradient(structural_map.structural_map(x, options.beta))
    return fusion.remove_lesion(f, label) if options.lesion_removal else f


def fuse(f: tf.Tensor, label: tf.Tensor, options: Options) -> tf.Tensor:
    """What EC_R reads: f without edges inside the lesion (D24), and the lesion (D8).

    [B, H, W, 1] in {0, 1}, [B, H, W] integers -> [B, H, W, L].
    """
    return fusion.fuse(
        without_edges(f, label, options),
        label,
        options.structure_weight,
        options.label_weight,
        options.spec.num_labels,
    )


class Pass(NamedTuple):
    """All tensors of one step.

    N = M * B merged rows, R of them go through stage 2a, each translated J times.
    """

    origin: tf.Tensor  # [R], which of the N rows
    targets: tf.Tensor  # [J, R], j of x_{t,i->j}
    label: tf.Tensor  # [N, H, W], of x
    placed: tf.Tensor  # [B, H, W], l of x_g
    source_label: tf.Tensor  # [B, H, W], of the slice f comes from
    f: tf.Tensor  # [B, H, W, 1], of the source
    background: tf.Tensor  # [B, H, W, 1], outside the brain f comes from
    x: tf.Tensor  # [N, H, W, 1]
    x_r: tf.Tensor  # [R, H, W, 1]
    x_t: tf.Tensor  # [J, R, H, W, 1]
    x_cr: tf.Tensor  # [J, R, H, W, 1]
    x_s: tf.Tensor  # [N, H, W, 1], x rebuilt from its own map and label (D21)
    x_g: tf.Tensor  # [N, H, W, 1]
    x_gt: tf.Tensor  # [J, R, H, W, 1], row (j, r): x_g[origin[r]] to targets[j, r]
    code: tf.Tensor  # [R, h, w, C]
    code_t: tf.Tensor  # [J, R, h, w, C]
    code_s: tf.Tensor  # [R, h, w, C], of the map and label of x, as x_s
    code_g: tf.Tensor  # [B, h, w, C]
    code_gi: tf.Tensor  # [N, h, w, C]


def seeds(seed: tf.Tensor) -> list[tf.Tensor]:
    """Of placement, drawn pairs, noise and blur of one step."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, 4))


def translations(
    batch_size: int, all_pairs: bool, seed: tf.Tensor, spec: Spec = BRATS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which rows are translated, [R], and to what, [J, R] (D18).

    Every row to all other modalities, or two rows an example, drawn, to one drawn
    modality each.
    """
    count = spec.num_modalities
    rows = count * batch_size
    if all_pairs:
        origin = tf.range(rows)
        offsets = tf.range(1, count)[:, None] + tf.zeros([1, rows], tf.int32)
    else:
        drawn = replicas.uniform([batch_size, count], seed)
        drawn = tf.argsort(drawn)[:, :2] + count * tf.range(batch_size)[:, None]
        origin = tf.reshape(drawn, [2 * batch_size])
        offsets = replicas.uniform(
            [1, 2 * batch_size], seed, 1, count, tf.int32, axis=1
        )
    return origin, (origin[None] + offsets) % count


def forward(
    nets: dict,
    batch: dict,
    seed: tf.Tensor,
    options: Options = Options(),  # noqa: B008 - immutable
) -> Pass:
    """Stages 2a and 2b on one batch: two calls each of EC and DC, whatever J.

    Args:
        nets: of `build`.
        batch: of data.multimodal_batches.
        seed: [2] int32.
        options: Options.
    """
    x, label = merge(batch["x"]), merge(batch["label"])
    rows = x.shape[0]
    spec, count = options.spec, options.spec.num_modalities
    batch_size = rows // count
    place_seed, pair_seed, *_ = seeds(seed)
    modality = all_modalities(batch_size, spec)
    origin, targets = translations(batch_size, options.all_pairs, pair_seed, spec)
    from_modality = origin % count
    ways, translated = targets.shape

    # Section 2.5: f of a real slice without its lesion, and a label that fits its
    # brain.
    source = batch["source"]
    maps = over_parts(
        lambda images, of_images: extract(images, of_images, options),
        {"source": (source, batch["source_label"]), "x": (x, label)},
    )
    f, f_x = maps["source"], maps["x"]
    background = structural_map.background(source, 0)
    # Where there is no outside, the first candidate fits, wherever it lands.
    outside = background if options.placement_test else tf.zeros_like(background)
    placed, _, _ = fusion.place_label(
        batch["candidates"], outside, place_seed, options.move_labels
    )
    fused_codes = over_parts(
        lambda f, label: nets["EC_R"](fuse(f, label, options), training=True),
        {"g": (f, placed), "s": (f_x, label)},
    )
    code_g, code_s = fused_codes["g"], fused_codes["s"]

    code = nets["EC"](tf.gather(x, origin), training=True)

    def each_way(t):  # [R, ...] -> [J * R, ...]
        return tf.concat([t] * ways, 0)

    def by_way(t):  # [J * R, ...] -> [J, R, ...]
        return tf.reshape(t, [ways, translated, *t.shape[1:]])

    label_t, f_t = tf.gather(label, origin), tf.gather(f_x, origin)
    placed_rows, f_rows = (tf.repeat(t, count, 0) for t in (placed, f))
    to_modality = tf.reshape(targets, [-1])
    # A translation is to look as the batch's own slice of that modality does.
    first_row = origin // count * count
    style = merge(batch["style"])
    style_r = tf.gather(style, origin)
    style_t = tf.gather(style, tf.reshape(first_row[None] + targets, [-1]))

    def decoded(*given):
        return decode(nets, *given, options)

    many_codes = tf.repeat(code_g, count, 0)
    made = over_parts(
        decoded,
        {
            "x_r": (code, from_modality, label_t, f_t, style_r),
            "x_t": (
                *(each_way(code), to_modality),
                *(each_way(label_t), each_way(f_t), style_t),
            ),
            "x_s": (code_s, modality, label, f_x, style),
            "x_g": (many_codes, modality, placed_rows, f_rows, style),
        },
    )
    codes = over_parts(
        lambda images: nets["EC"](images, training=True),
        {"t": made["x_t"], "gi": made["x_g"]},
    )
    placed_t, f_gt = tf.gather(placed_rows, origin), tf.gather(f_rows, origin)
    again = over_parts(
        decoded,
        {
            "x_cr": (
                *(codes["t"], each_way(from_modality)),
                *(each_way(label_t), each_way(f_t), each_way(style_r)),
            ),
            "x_gt": (
                *(each_way(tf.gather(codes["gi"], origin)), to_modality),
                *(each_way(placed_t), each_way(f_gt), style_t),
            ),
        },
    )

    return Pass(
        origin=origin,
        targets=targets,
        label=label,
        placed=placed,
        source_label=batch["source_label"],
        f=f,
        background=background,
        x=x,
        x_r=made["x_r"],
        x_t=by_way(made["x_t"]),
        x_cr=by_way(again["x_cr"]),
        x_s=made["x_s"],
        x_g=made["x_g"],
        x_gt=by_way(again["x_gt"]),
        code=code,
        code_t=by_way(codes["t"]),
        code_s=tf.gather(code_s, origin),
        code_g=code_g,
        code_gi=codes["gi"],
    )


def generate(
    nets: dict,
    f: tf.Tensor,
    label: tf.Tensor,
    style: tf.Tensor,
    options: Options = Options(),  # noqa: B008 - immutable
) -> tf.Tensor:
    """x_{g,i} for all i from one map and label each: they are registered.

    [B, H, W, 1] in {0, 1}, [B, H, W] integers, [B, M, K] (see styles.measure) ->
    [B, M, H, W, 1] in [0, 1].
    """
    fused = fuse(f, label, options)
    code_g = nets["EC_R"](fused, training=False)
    modality = all_modalities(tf.shape(f)[0], options.spec)
    code_rows, label_rows, f_rows = (
        tf.repeat(t, options.spec.num_modalities, 0) for t in (code_g, label, f)
    )
    images = decode(
        nets,
        code_rows,
        modality,
        label_rows,
        f_rows,
        merge(style),
        options,
        training=False,
    )
    return split(images, options.spec)
