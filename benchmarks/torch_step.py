"""The stage-2 step in PyTorch: the networks and losses of brats_gan.multimodal.

Networks have the same layers and so the same number of weights, and with weights copied
from Keras and the draws of one seed every loss is equal (`require_equal`). Written as
one would write it in PyTorch: one backward pass, in which D, FD and the segmentors are
called once more where their weights are not to learn. [N, C, H, W] throughout.
"""

import contextlib
import math

import numpy as np
import tensorflow as tf
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks import loops
from brats_gan import (
    data,
    fusion,
    multimodal,
    networks,
    spec,
    structural_map,
    styles,
)

COUNT = spec.BRATS.num_modalities
LABELS = spec.BRATS.num_labels
MAPS = networks.num_maps(label_modulation=True, map_modulation=True)
STYLE = COUNT * len(styles.QUANTILES)
EPSILON = 1e-5


class Conv(nn.Conv2d):
    """A convolution that keeps the size, or halves it with stride 2.

    like_keras pads a stride of 2 as Keras' "same" does, more on the far side: a copy of
    the input more. It is for comparing numbers; the shapes are equal without.
    """

    like_keras = False

    def __init__(self, inputs, filters, kernel=3, stride=1, bias=False):
        super().__init__(inputs, filters, kernel, stride, (kernel - 1) // 2, bias=bias)
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x):
        return self.convolve(x, self.weight)

    def convolve(self, x, weight):
        if self.like_keras and self.stride[0] == 2:
            size, kernel = x.shape[-1], self.kernel_size[0]
            total = max((math.ceil(size / 2) - 1) * 2 + kernel - size, 0)
            before, after = total // 2, total - total // 2
            x = F.pad(x, (before, after, before, after))
            return F.conv2d(x, weight, self.bias, 2)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class SpectralConv(Conv):
    """Divided by its spectral norm, as layers.SpectralConv2D."""

    def __init__(self, inputs, filters, kernel=3, stride=1):
        super().__init__(inputs, filters, kernel, stride, bias=True)
        self.register_buffer("direction", torch.randn(filters))

    def forward(self, x):
        matrix = self.weight.float().flatten(1).T  # [all inputs, filters]
        with torch.no_grad():
            v = F.normalize(matrix @ self.direction, dim=0)
            u = F.normalize(v @ matrix, dim=0)
            if torch.is_grad_enabled():
                self.direction.copy_(u)
        return self.convolve(x, self.weight / (v @ matrix @ u))


def spectral_block(inputs, filters, kernel, stride):
    return nn.Sequential(
        SpectralConv(inputs, filters, kernel, stride), nn.LeakyReLU(0.2, inplace=True)
    )


def normalise(x, gain=None, offset=None):
    """Instance norm; PyTorch has a kernel for channels-last in its group norm only."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return F.group_norm(x, x.shape[1], gain, offset, EPSILON)
    return F.instance_norm(x, weight=gain, bias=offset, eps=EPSILON)


class InstanceNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return normalise(x, self.gain, self.offset)


def block(inputs, filters, kernel=3, stride=1, leak=0.0):
    """Conv, instance norm, ReLU or leaky ReLU."""
    last = nn.LeakyReLU(leak, inplace=True) if leak else nn.ReLU(inplace=True)
    conv = Conv(inputs, filters, kernel, stride)
    return nn.Sequential(conv, InstanceNorm(filters), last)


def encoder(width, channels=1):
    n = width
    return nn.Sequential(
        block(channels, n),
        block(n, n),
        block(n, 2 * n, stride=2),
        block(2 * n, 4 * n),
        block(4 * n, 4 * n),
        block(4 * n, 8 * n, stride=2),
        block(8 * n, 8 * n),
    )


# (inputs, filters, level) of a decoder's blocks in widths; True: the last of its level.
TRUNK = (
    (8, 8, 0, True),
    (8, 4, 1, False),
    (4, 4, 1, False),
    (4, 4, 1, True),
    (4, 2, 2, False),
    (2, 2, 2, False),
    (2, 2, 2, False),
    (2, 1, 2, True),
)


def decoder(width, channels):
    parts, level_before = [], 0
    for inputs, filters, level, _ in TRUNK:
        if level > level_before:
            parts.append(nn.Upsample(scale_factor=2))
            level_before = level
        parts.append(block(inputs * width, filters * width))
    return nn.Sequential(*parts, Conv(width, channels, bias=True))


def segmentor(width):
    return nn.Sequential(encoder(width), decoder(width, LABELS))


class ConditionalBlock(nn.Module):
    """Conv, instance norm below the image's size, gain and offset, ReLU (D16, D19,
    D32, D33)."""

    def __init__(self, inputs, filters, norm, modulated):
        super().__init__()
        self.norm = norm
        self.conv = Conv(inputs, filters)
        self.gain = nn.Linear(COUNT, filters, bias=False)
        self.offset = nn.Linear(COUNT, filters, bias=False)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.offset.weight)
        self.style_gain = nn.Linear(STYLE, filters, bias=False)
        self.style_offset = nn.Linear(STYLE, filters, bias=False)
        nn.init.zeros_(self.style_gain.weight)
        nn.init.zeros_(self.style_offset.weight)
        self.local = nn.ModuleList()
        if modulated:
            for _ in range(2):
                conv = Conv(MAPS, filters, bias=True)
                nn.init.zeros_(conv.weight)
                nn.init.zeros_(conv.bias)
                self.local.append(conv)

    def forward(self, x, condition, maps, style):
        x = self.conv(x)
        gain = self.gain(condition) + self.style_gain(style)
        offset = self.offset(condition) + self.style_offset(style)
        if self.norm:
            x = normalise(x)
        x = x * gain[:, :, None, None] + offset[:, :, None, None]
        if self.local:
            local_gain, local_offset = (conv(maps) for conv in self.local)
            x = x + x * local_gain + local_offset
        return F.relu(x)


class ConditionalDecoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = nn.ModuleList()
        self.levels = [level for _, _, level, _ in TRUNK]
        for index, (inputs, filters, level, last) in enumerate(TRUNK):
            beside = COUNT if index == 0 else 0
            self.blocks.append(
                ConditionalBlock(
                    inputs * width + beside, filters * width, level < 2, last and level
                )
            )
        self.output = Conv(width, 1, bias=True)
        self.straight = Conv(MAPS, 1, 1, bias=True)
        nn.init.zeros_(self.straight.weight)
        nn.init.zeros_(self.straight.bias)

    def forward(self, code, condition, maps, style):
        by_level = {0: None, 1: F.avg_pool2d(maps, 2), 2: maps}
        beside = condition[:, :, None, None].expand(-1, -1, *code.shape[2:])
        x, level_before = torch.cat([code, beside.to(code.dtype)], 1), 0
        for each, level in zip(self.blocks, self.levels, strict=True):
            if level > level_before:
                x, level_before = F.interpolate(x, scale_factor=2), level
            x = each(x, condition, by_level[level], style)
        return torch.sigmoid((self.output(x) + self.straight(maps)).float())


class Discriminator(nn.Module):
    def __init__(self, width):
        super().__init__()
        n = width
        self.trunk = nn.Sequential(
            spectral_block(1, n, 4, 2),
            spectral_block(n, 2 * n, 4, 2),
            spectral_block(2 * n, 4 * n, 4, 2),
            spectral_block(4 * n, 4 * n, 3, 1),
        )
        self.score = nn.Sequential(spectral_block(4 * n, n, 3, 1), SpectralConv(n, 1))
        self.category = nn.Sequential(
            block(4 * n, n, 3, 1, 0.2), Conv(n, COUNT, bias=True)
        )

    def forward(self, x):
        x = self.trunk(x)
        return self.score(x).float(), self.category(x).float()


def code_discriminator(width):
    n = width
    return nn.Sequential(
        block(8 * n, n, 7, 2, 0.2),
        block(n, n, 5, 2, 0.2),
        block(n, n, 3, 1, 0.2),
        block(n, n, 3, 1, 0.2),
        Conv(n, 1, bias=True),
    )


def build(width):
    """The networks of multimodal.build with the default scheme, by the same names."""
    return nn.ModuleDict(
        {
            "EC_R": encoder(width, LABELS),
            "EC": encoder(width),
            "DC": ConditionalDecoder(width),
            "D": Discriminator(width),
            "FD": code_discriminator(width),
            **{f"SEG_{name}": segmentor(width) for name in spec.BRATS.modalities},
        }
    )


def count_weights(net):
    """Number of weights of a PyTorch or a Keras network."""
    if isinstance(net, nn.Module):
        return sum(p.numel() for p in net.parameters())
    return sum(int(np.prod(v.shape)) for v in net.trainable_variables)


def copy_weights(source, target):
    """Gives networks of `build` the weights of those of multimodal.build.

    Layers come in the same order in both, seen kind by kind.
    """
    for name, net in target.items():
        given = [v.numpy() for v in source[name].trainable_variables]
        # [h, w, i, o] -> [o, i, h, w]; [i, o] -> [o, i]; a vector stays.
        turned = [v.transpose(3, 2, 0, 1) if v.ndim == 4 else v.T for v in given]
        for rank in (1, 2, 4):
            here = [p for p in net.parameters() if p.ndim == rank]
            there = [v for v in turned if v.ndim == rank]
            for parameter, value in zip(here, there, strict=True):
                if tuple(parameter.shape) != value.shape:
                    raise ValueError(f"{name}: {parameter.shape} and {value.shape}")
                parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        directions = [
            np.ravel(v)
            for v in (np.array(v) for v in source[name].non_trainable_variables)
        ]
        for buffer, value in zip(net.buffers(), directions, strict=True):
            buffer.copy_(torch.from_numpy(value))


# --- Images ---------------------------------------------------------------------------


def _sobel(x):
    """[N, 1, H, W] -> [N, 2, H, W], as tf.image.sobel_edges."""
    down = x.new_tensor([[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
    kernel = torch.stack([down, down.T])[:, None]
    return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), kernel)


def _scale_to_unit(edges):
    low, high = edges.amin((1, 2, 3), True), edges.amax((1, 2, 3), True)
    span = high - low
    return torch.where(span > 0, (edges - low) / span.clamp_min(1e-30), 0.0)


def extract_map(x, beta):
    """Algorithm 1, as structural_map.structural_map."""
    with torch.autocast("cpu", enabled=False):
        edges = _sobel(x.float())
    f1 = _scale_to_unit(edges.amin(1, True))
    f2 = _scale_to_unit(edges.amax(1, True))
    f1 = f1.mean((1, 2, 3), True) - f1
    f2 = f2 - f2.mean((1, 2, 3), True)
    margin = torch.maximum(f1, f2) - beta
    soft = torch.sigmoid(margin / structural_map.TEMPERATURE)
    return soft + ((margin > 0).float() - soft).detach()


def place_label(candidates, background, transforms):
    """fusion.place_label: [B, K, H, W] moved by [B * K, 8], the first that fits."""
    batch, count, height, width = candidates.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    a0, a1, a2, b0, b1, b2 = (transforms[:, k, None, None] for k in range(6))
    column = torch.round(a0 * x + a1 * y + a2).long()
    row = torch.round(b0 * x + b1 * y + b2).long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = candidates.reshape(batch * count, -1)
    where = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    moved = flat.gather(1, where.reshape(batch * count, -1)).reshape(inside.shape)
    moved = torch.where(inside, moved, 0).reshape(candidates.shape)
    brain = background <= 0.5  # [B, 1, H, W]
    outside = ((moved > 0) & ~brain).sum((2, 3))
    label = moved[torch.arange(batch), outside.argmin(1)]
    return torch.where(brain[:, 0], label, 0)


def fuse(f, label, options):
    onehot = F.one_hot(label, LABELS).permute(0, 3, 1, 2).float()
    f = f * (label == 0)[:, None]
    return options.structure_weight * f + options.label_weight * onehot


def lesion_maps(label, modality):
    lesion = F.one_hot(label, LABELS)[..., 1:].permute(0, 3, 1, 2)
    which = F.one_hot(modality, COUNT)[:, None, :, None, None]
    maps = multimodal.LESION_LEVEL * lesion[:, :, None] * which
    return maps.flatten(1, 2).float()


def gaussian_blur(x, sigma=0.8):
    line = torch.softmax(-(x.new_tensor([-1.0, 0.0, 1.0]) ** 2) / (2 * sigma**2), 0)
    kernel = (line[:, None] * line)[None, None]
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), kernel)


# --- Losses ---------------------------------------------------------------------------


def squared(x):
    return x.float().square().mean()


def image_distance(x, y, label):
    weight = x.new_tensor(spec.BRATS.image_weights)[label]
    return ((x - y).abs() * weight[:, None]).mean()


def category_entropy(scores, modality):
    target = modality[:, None, None].expand(-1, *scores.shape[2:])
    return F.cross_entropy(scores, target)


def label_weighted(label, logits):
    """[B, 4, H, W], list of four [B, 5, H, W] -> scalar, as losses.label_weighted."""
    logits = torch.stack(logits, 1).float()  # [B, 4, 5, H, W]
    p = torch.softmax(logits, 2)
    onehot = F.one_hot(label, LABELS).movedim(-1, 2).float()
    entropy = F.cross_entropy(logits.transpose(1, 2), label, reduction="none")
    weight = p.new_tensor(spec.BRATS.label_weights)[label]
    axes = (0, 1, 3, 4)
    overlap, total = (onehot * p).sum(axes)[1:], (onehot + p).sum(axes)[1:]
    dice = (2.0 * overlap + 1.0) / (total + 1.0)
    return (weight * entropy).mean() + 1.0 - dice.mean()


# --- The step -------------------------------------------------------------------------


def draw(batch_size, size, options):
    """The random numbers of a step: moves, drawn translations, noise, blur."""
    rows, moves = COUNT * batch_size, batch_size * data.CANDIDATES
    low, high = fusion.SCALES
    draws = 2.0 * torch.rand(5, moves) - 1.0
    angle = draws[0] * fusion.MAX_ANGLE
    scale = (low + high) / 2.0 + draws[1] * (high - low) / 2.0
    shift_y, shift_x = draws[2:4] * fusion.MAX_SHIFT * size
    sign = 1.0 - 2.0 * (draws[4] > 0)
    cosine, sine, centre = angle.cos() / scale, angle.sin() / scale, (size - 1) / 2
    a0, a1, b0, b1 = sign * cosine, -sign * sine, sine, cosine
    a2 = centre - a0 * (centre + shift_x) - a1 * (centre + shift_y)
    b2 = centre - b0 * (centre + shift_x) - b1 * (centre + shift_y)
    none = torch.zeros_like(a0)
    if options.all_pairs:
        origin = torch.arange(rows)
        offsets = torch.arange(1, COUNT)[:, None].expand(-1, rows)
    else:
        first = COUNT * torch.arange(batch_size)[:, None]
        origin = (torch.rand(batch_size, COUNT).argsort(1)[:, :2] + first).flatten()
        offsets = torch.randint(1, COUNT, (1, 2 * batch_size))
    return {
        "transforms": torch.stack([a0, a1, a2, b0, b1, b2, none, none], 1),
        "origin": origin,
        "targets": (origin + offsets) % COUNT,
        "noise": torch.randn(2 * rows + offsets.numel(), 1, size, size),
        "share": torch.rand(rows, 1, 1, 1),
    }


def _fixed(net, *inputs):
    """net(*inputs) without learning: gradients pass through to the inputs."""
    weights = {name: p.detach() for name, p in net.named_parameters()}
    weights |= {name: each.clone() for name, each in net.named_buffers()}
    return functional_call(net, weights, inputs)


def terms(nets, batch, draws, options):
    """Every loss of multimodal.terms by name; batch and draws are dicts of tensors."""
    x, label = batch["x"].flatten(0, 1), batch["label"].flatten(0, 1)
    source, rows = batch["source"], len(x)
    batch_size = rows // COUNT
    origin, targets = draws["origin"], draws["targets"]
    ways, translated = targets.shape
    modality = torch.arange(COUNT).repeat(batch_size)
    four = range(COUNT)

    with torch.no_grad():
        f, f_x = extract_map(torch.cat([source, x]), options.beta).split(
            [batch_size, rows]
        )
        source_label = batch["source_label"]
        f = f * (source_label == 0)[:, None]
        background = (source <= 0).float()
        placed = place_label(batch["candidates"], background, draws["transforms"])
        fused = fuse(torch.cat([f, f_x]), torch.cat([placed, label]), options)
    code_g, code_s = nets["EC_R"](fused).split([batch_size, rows])
    x_i, label_i = x[origin], label[origin]
    code = nets["EC"](x_i)

    def each_way(t):
        return torch.cat([t] * ways)

    def decode(code, modality, label, f, style):
        condition = F.one_hot(modality, COUNT).float()
        f = f * (label == 0)[:, None]
        maps = torch.cat([lesion_maps(label, modality), f], 1)
        style = (condition[:, :, None] * style[:, None]).flatten(1)
        return nets["DC"](code, condition, maps, style)

    from_modality, to_modality = origin % COUNT, targets.flatten()
    placed_rows, f_rows = (t.repeat_interleave(COUNT, 0) for t in (placed, f))
    f_i = f_x[origin]
    style = batch["style"].flatten(0, 1)
    style_i = style[origin]
    style_t = style[(origin // COUNT * COUNT + targets).flatten()]
    images = decode(
        torch.cat([code, each_way(code), code_s, code_g.repeat_interleave(COUNT, 0)]),
        torch.cat([from_modality, to_modality, modality, modality]),
        torch.cat([label_i, each_way(label_i), label, placed_rows]),
        torch.cat([f_i, each_way(f_i), f_x, f_rows]),
        torch.cat([style_i, style_t, style, style]),
    )
    x_r, x_t, x_s, x_g = images.split([translated, ways * translated, rows, rows])
    code_t, code_gi = nets["EC"](torch.cat([x_t, x_g])).split([len(x_t), rows])
    images = decode(
        torch.cat([code_t, each_way(code_gi[origin])]),
        torch.cat([each_way(from_modality), to_modality]),
        torch.cat([each_way(label_i), each_way(placed_rows[origin])]),
        torch.cat([each_way(f_i), each_way(f_rows[origin])]),
        torch.cat([each_way(style_i), style_t]),
    )
    x_cr, x_gt = images.chunk(2)

    seen = torch.cat([x, x_g, x_t]) + options.input_noise * draws["noise"]
    seen = options.input_gain * seen
    parts = [rows, rows, len(x_t)]
    scores, categories = nets["D"](seen.detach())
    real, generated, translated_score = scores.split(parts)
    wanted = (modality, modality, to_modality)
    d_category = [
        category_entropy(*each)
        for each in zip(categories.split(parts), wanted, strict=True)
    ]
    g_scores, g_categories = _fixed(nets["D"], seen[rows:])
    g_generated, g_translated = g_scores.split(parts[1:])
    g_category = [
        category_entropy(*each)
        for each in zip(g_categories.split(parts[1:]), wanted[1:], strict=True)
    ]
    codes = torch.cat([code, code_g]).detach()
    code_score, code_g_score = nets["FD"](codes).split([translated, batch_size])

    same_map = x_g[(origin // COUNT * COUNT)[None] + targets].flatten(0, 1)
    had_lesion = source_label.repeat_interleave(COUNT, 0)
    no_lesion = ((placed_rows == 0) & (had_lesion == 0))[:, None].float()
    f_g = extract_map(x_g, options.beta)
    guided = x_g
    if options.guidance_blur:
        guided = x_g + draws["share"] * (gaussian_blur(x_g) - x_g)
    components = [nets[f"SEG_{name}"] for name in spec.BRATS.modalities]
    label_r = [components[i](x[i::COUNT]) for i in four]
    label_g = [_fixed(components[i], guided[i::COUNT]) for i in four]
    back = x_cr.unflatten(0, (ways, translated))
    pairs = [
        image_distance(back[j], back[k], label_i)
        for j in range(ways)
        for k in range(j + 1, ways)
    ]
    of_four = code_gi.float().unflatten(0, (batch_size, COUNT))
    deviation = of_four - of_four.mean(1, True)
    return {
        "reconstruction": image_distance(x_i, x_r, label_i),
        "cycle": sum(image_distance(x_i, each, label_i) for each in back) / ways,
        "cycle_pairs": sum(pairs) / len(pairs) if pairs else torch.zeros(()),
        "self_reconstruction": image_distance(x, x_s, label),
        "registration": image_distance(same_map, x_gt, each_way(placed_rows[origin])),
        "code_translated": squared(each_way(code) - code_t),
        "code_generated": squared(code_g.float()[:, None] - of_four),
        "code_pairs": 2.0 * COUNT / (COUNT - 1.0) * squared(deviation),
        "code_tie": squared(code_s[origin].float() - code.detach().float()),
        "structure": squared(f_rows * no_lesion - f_g * no_lesion),
        "background": squared(x_g * background.repeat_interleave(COUNT, 0)),
        "adversarial_translated": squared(g_translated - 1.0),
        "category_translated": g_category[1],
        "adversarial_generated": squared(g_generated - 1.0),
        "category_generated": g_category[0],
        "code_adversarial": squared(_fixed(nets["FD"], code_g) - 1.0),
        "lesion": label_weighted(placed_rows.unflatten(0, (-1, COUNT)), label_g),
        "lesion_component": label_weighted(batch["label"], label_r),
        "d_translated": squared(translated_score),
        "d_category_translated": d_category[2],
        "d_code_real": squared(code_score - 1.0),
        "d_real": squared(real - 1.0),
        "d_generated": squared(generated),
        "d_category_real": d_category[0],
        "d_category_generated": d_category[1],
        "d_code_generated": squared(code_g_score),
    }


def to_torch(batch):
    """A batch of the project as PyTorch reads it: channels second, labels int64."""
    images = {
        name: torch.from_numpy(np.moveaxis(np.asarray(batch[name]), -1, -3).copy())
        for name in ("x", "source")
    }
    labels = {
        name: torch.from_numpy(np.asarray(batch[name]).astype(np.int64))
        for name in ("label", "source_label", "candidates")
    }
    style = torch.from_numpy(np.asarray(batch["style"]).copy())
    return {**images, **labels, "style": style}


def make_train_step(
    width, size, batch, options, compiled=False, bfloat16=False, channels_last=True
):
    """Returns step() -> {name: scalar} on one batch of the project.

    Args:
        width, size: of the networks and images.
        batch: of rig.multimodal_batch.
        options: multimodal.Options.
        compiled: torch.compile of networks and losses.
        bfloat16: autocast.
        channels_last: memory format of weights and images.
    """
    nets, batch = build(width), to_torch(batch)
    if channels_last:
        for parameter in nets.parameters():
            if parameter.ndim == 4:  # .to() leaves those of one channel as they are
                turned = parameter.data.permute(0, 2, 3, 1).contiguous()
                parameter.data = turned.permute(0, 3, 1, 2)
    adam = torch.optim.Adam(
        nets.parameters(), 5e-4, betas=(0.5, 0.999), eps=1e-7, fused=True
    )

    def total(draws):
        named = terms(nets, batch, draws, options)
        return sum(multimodal.WEIGHTS[name] * named[name] for name in named), named

    forward = torch.compile(total, dynamic=False) if compiled else total

    def step():
        draws = draw(len(batch["x"]), size, options)
        adam.zero_grad(set_to_none=True)
        precision = torch.autocast("cpu", torch.bfloat16)
        with precision if bfloat16 else contextlib.nullcontext():
            loss, named = forward(draws)
        loss.backward()
        adam.step()
        return named

    return step


def require_equal(batch, width=4, tolerance=1e-3):
    """Raises unless weights are as many and losses as large as the project's.

    By default and with all pairs, in float32, from the same weights and draws.

    Returns:
        The largest relative difference of a loss.
    """
    size = batch["x"].shape[2]
    ours, theirs = multimodal.build(size, width, code_game=True), build(width)
    for name in ours:
        counts = count_weights(ours[name]), count_weights(theirs[name])
        if counts[0] != counts[1]:
            raise AssertionError(f"{name}: {counts[0]} weights here, {counts[1]} there")
    loops.shake(ours)
    copy_weights(ours, theirs)
    seed, worst = tf.constant([3, 4]), 0.0
    Conv.like_keras = True
    try:
        for all_pairs in (False, True):
            options = multimodal.Options(all_pairs=all_pairs)
            expected = multimodal.terms(ours, batch, seed, options)
            draws = _draws_of(seed, batch, options)
            with torch.no_grad():
                found = terms(theirs, to_torch(batch), draws, options)
            for name in multimodal.WEIGHTS:
                value = float(expected[name])
                difference = abs(float(found[name]) - value) / max(abs(value), 1e-6)
                if not difference <= tolerance:
                    raise AssertionError(f"{name}: {value} here, {found[name]} there")
                worst = max(worst, difference)
    finally:
        Conv.like_keras = False
    return worst


def _draws_of(seed, batch, options):
    """What multimodal draws from this seed, as `draw` gives it."""
    place_seed, pair_seed, noise_seed, blur_seed = multimodal.seeds(seed)
    batch_size, moves = batch["candidates"].shape[:2]
    rows, size = COUNT * batch_size, batch["x"].shape[2]
    origin, targets = multimodal.translations(batch_size, options.all_pairs, pair_seed)
    seen = 2 * rows + int(tf.size(targets))
    noise = tf.random.stateless_normal([seen, size, size, 1], noise_seed)
    drawn = {
        "transforms": fusion.random_transforms(
            batch_size * moves, (size, size), place_seed
        ),
        "origin": tf.cast(origin, tf.int64),
        "targets": tf.cast(targets, tf.int64),
        "noise": tf.transpose(noise, [0, 3, 1, 2]),
        "share": tf.random.stateless_uniform([rows, 1, 1, 1], blur_seed),
    }
    return {name: torch.from_numpy(value.numpy()) for name, value in drawn.items()}
