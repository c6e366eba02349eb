"""Registered samples a second, from noise to files, beside latent diffusion of MONAI.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.generate
    python -m benchmarks.generate --image_size=64 --widths=16 --samples=48 --nomonai

Networks are untrained, which costs as much: no attempt is turned away, so every sample
is one attempt. A sample is four registered slices with their label. MASK and segmentors
are of half the width (--parts_width; configs/demo has a third and half): an outline and
a lesion are easier found than drawn. Ours, by width and precision:

forward     code -> map and mask -> four slices, with a label that is there already
networks    and the four segmentors of the last filter
end to end  synthesis.samples and write_volume: Algorithm 3, placement of a label,
            segmentors, index Dice, seven NIfTI files for each 50 samples

MONAI: the networks of the bundle `brats_mri_axial_slices_generative_diffusion`, 50 DDIM
steps and its decoder; an image is one contrast, without a label. Rates are compared in
pixels of a contrast a second. Rounds are interleaved; figures are medians over rounds.
Then --growth more samples are made end to end, and resident memory is looked at.

Prints a table and, last, a line of JSON.
"""

import json
import pathlib
import tempfile
from importlib import util

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks import rig
from brats_gan import (
    data,
    io,
    lesion_components,
    manifest,
    multimodal,
    phantom,
    spec,
    structural,
    styles,
    synthesis,
    synthetic_dataset,
)

_DATA = flags.DEFINE_string("data_dir", None, "BraTS folder; a phantom if unset.")
_SIZE = flags.DEFINE_integer("image_size", spec.BRATS.crop, "Pixels a side.")
_WIDTHS = flags.DEFINE_list("widths", ["32", "64"], "Base widths.")
_PARTS_WIDTH = flags.DEFINE_float(
    "parts_width", 0.5, "Width of MASK and segmentors, of the base width.", 0.01, 1.0
)
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["float32", "mixed_bfloat16"], "Of the convolutions."
)
_BATCH = flags.DEFINE_integer("batch_size", 16, "Attempts in flight.", 1)
_SAMPLES = flags.DEFINE_integer("samples", 16, "Of a round; whole batches are fair.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Interleaved rounds.", 1)
_GROWTH = flags.DEFINE_integer("growth", 0, "Samples to watch memory over.")
_MONAI = flags.DEFINE_bool("monai", True, "Beside MONAI, where it is installed.")
_DDIM = flags.DEFINE_integer("ddim_steps", 50, "Of the diffusion.", 1)


def build_models(size, width, precision):
    """synthesis.Models of untrained networks."""
    tf.keras.mixed_precision.set_global_policy(precision)
    parts = max(round(_PARTS_WIDTH.value * width), 1)
    maps = structural.build(size, width, mask_width=parts)
    nets = multimodal.build(size, width, lesion_width=parts)
    tf.keras.mixed_precision.set_global_policy("float32")
    code_dim = maps["DC_f"].inputs[0].shape[-1]
    identity = structural.Fit(
        np.zeros(code_dim, np.float32), np.eye(code_dim, dtype=np.float32), 0.5
    )

    @tf.function
    def structure(code):
        return structural.generate(maps, code, identity)

    @tf.function
    def images(f, label, style):
        return multimodal.generate(nets, f, label, style)

    @tf.function
    def segment(x):
        probabilities = lesion_components.segment(multimodal.lesion_nets(nets), x)
        return tf.argmax(probabilities, -1, tf.int32)

    numbers = np.zeros([len(spec.BRATS.modalities), len(styles.QUANTILES)], np.float32)
    plain = styles.Styles(numbers, np.eye(numbers.size, dtype=np.float32))
    return synthesis.Models(code_dim, structure, images, segment, plain)


def forward(models, count, with_segmentors=False):
    """Networks alone, for at least `count` samples in full batches."""
    size, batch = _SIZE.value, _BATCH.value
    label = tf.cast(rig.structural_batch(size, batch)["label"], tf.int32)
    rng = np.random.default_rng(0)
    for _ in range(batches_of(count)):
        code = rng.standard_normal([batch, models.code_dim], np.float32)
        f, _ = models.structure(tf.constant(code))
        z = rng.standard_normal([batch, models.styles.mean.size], np.float32)
        made = models.images(f, label, tf.constant(models.styles.sample(z)))
        if with_segmentors:
            made = models.segment(made)
        made.numpy()


def batches_of(count):
    return -(-count // _BATCH.value)


def end_to_end(models, slices, folder, count, first=0):
    """`count` samples on disk, as build_dataset.py makes them.

    Yields the number of samples written so far, after each volume.
    """
    made = synthesis.samples(
        models,
        slices,
        range(first, first + count),
        seed=0,
        mae_threshold=np.inf,
        dice_threshold=-np.inf,
        max_tries=1,
        batch_size=_BATCH.value,
    )
    group = []
    for done, sample in enumerate(made, 1):
        group.append(sample)
        if len(group) == manifest.PER_VOLUME or done == count:
            synthetic_dataset.write_volume(folder, "synth-00001", group)
            group = []
            yield done


def exhaust(iterator):
    for _ in iterator:
        pass


def monai_sampler(size, bfloat16):
    """Returns sample(): one contrast by the bundle's networks, untrained."""
    import torch
    from monai.networks import nets, schedulers

    attention = [False, False, False]
    autoencoder = nets.AutoencoderKL(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        latent_channels=1,
        channels=[64, 128, 256],
        num_res_blocks=2,
        norm_num_groups=32,
        norm_eps=1e-6,
        attention_levels=attention,
        with_encoder_nonlocal_attn=True,
        with_decoder_nonlocal_attn=True,
        include_fc=False,
    ).eval()
    diffusion = nets.DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=[32, 64, 128, 256],
        attention_levels=[False, True, True, True],
        num_head_channels=[0, 32, 32, 32],
        num_res_blocks=2,
        include_fc=False,
        use_combined_linear=False,
    ).eval()
    scheduler = schedulers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        schedule="scaled_linear_beta",
        clip_sample=False,
    )
    scheduler.set_timesteps(num_inference_steps=_DDIM.value)

    @torch.no_grad()
    def sample():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            latent = torch.randn(1, 1, size // 4, size // 4)
            for t in scheduler.timesteps:
                predicted = diffusion(latent, timesteps=torch.tensor([int(t)]))
                latent, _ = scheduler.step(predicted.float(), int(t), latent)
            image = autoencoder.decode_stage_2_outputs(latent)
        assert image.shape == (1, 1, size, size)
        return image.float().numpy()

    return sample


def growth(models, slices, folder, count):
    """Resident memory after the first volumes of `count` samples and at the end."""
    watched = [
        (done, rig.resident_mb())
        for done in end_to_end(models, slices, folder, count, first=10**6)
    ]
    settled = next((each for each in watched if each[0] >= count // 10), watched[-1])
    return {
        "samples": count,
        "resident_mb_early": round(settled[1], 1),
        "resident_mb_late": round(watched[-1][1], 1),
    }


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    size, count = _SIZE.value, _SAMPLES.value
    calls, samples, contrasts, grown = {}, {}, {}, None
    with tempfile.TemporaryDirectory() as scratch:
        if not _DATA.value:
            phantom.write_subjects(f"{scratch}/phantom", 2)
        subjects = io.find_subjects(_DATA.value or f"{scratch}/phantom")[:2]
        slices = data.Slices(subjects, size, cache_dir=f"{scratch}/cache")
        out = pathlib.Path(scratch, "synthetic")
        for width in map(int, _WIDTHS.value):
            for precision in _PRECISIONS.value:
                models = build_models(size, width, precision)
                ours = {
                    "forward": lambda m=models: forward(m, count),
                    "networks": lambda m=models: forward(m, count, True),
                    "end to end": lambda m=models: exhaust(
                        end_to_end(m, slices, out, count)
                    ),
                }
                for part, call in ours.items():
                    name = f"{part}, width {width}, {precision}"
                    calls[name], contrasts[name] = call, len(spec.BRATS.modalities)
                    full = batches_of(count) * _BATCH.value
                    samples[name] = count if part == "end to end" else full
        if _MONAI.value and util.find_spec("monai"):
            import torch

            torch.set_num_threads(rig.threads())
            for precision in _PRECISIONS.value:
                name = f"MONAI, {precision}"
                calls[name] = monai_sampler(size, precision == "mixed_bfloat16")
                samples[name] = contrasts[name] = 1
        seconds = rig.medians(rig.interleaved(calls, _REPEATS.value))
        if _GROWTH.value:
            grown = growth(models, slices, out, _GROWTH.value)

    print(f"\n{size} x {size}, {_REPEATS.value} rounds\n")
    print("| | samples a second | contrast pixels a second |\n|---|---|---|")
    rates, pixels = {}, {}
    for name, each in seconds.items():
        rates[name] = samples[name] / each
        pixels[name] = rates[name] * contrasts[name] * size**2
        print(f"| {name} | {rates[name]:.2f} | {pixels[name]:.3g} |")
    result = {"samples_per_second": {n: round(r, 3) for n, r in rates.items()}}
    for width in map(int, _WIDTHS.value):
        for precision in _PRECISIONS.value:
            of = f"width {width}, {precision}"
            whole = rates[f"end to end, {of}"]
            ratio = {
                "end_to_end_over_forward": whole / rates[f"forward, {of}"],
                "end_to_end_over_networks": whole / rates[f"networks, {of}"],
            }
            for peer in _PRECISIONS.value:
                if f"MONAI, {peer}" in pixels:
                    faster = pixels[f"forward, {of}"] / pixels[f"MONAI, {peer}"]
                    ratio[f"forward_over_monai_{peer}"] = faster
            result[of] = {key: round(value, 3) for key, value in ratio.items()}
    if grown:
        result["growth"] = grown
        print(f"\nmemory over {grown['samples']} samples, MB: {grown}")
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
