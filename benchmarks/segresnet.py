"""Trains MONAI's SegResNet on volumes and says what it finds in others.

    PYTHON segresnet.py TRAINING.npz TEST.npz FOUND.npz SEED STEPS CLASSES

PYTHON is one of an environment of its own that has torch and monai; nothing here is of
brats_gan, so that no one here wrote the segmentor that is judged. Both files have
`images` [N, M, S, H, W] and TRAINING has `labels` [N, S, H, W]; FOUND is written with
`labels` of the test volumes. Run by benchmarks.segment_volumes.
"""

import sys
import time

import monai
import numpy as np
import torch

FILTERS = 8  # of the first level; MONAI's example for BraTS has 16
BATCH = 1
PATCH = 24, 40, 40  # voxels; a third of them around a lesion, as nnU-Net has it
AROUND = 1 / 3
RATE, DECAY = 3e-3, 1e-5  # of AdamW; the rate falls to 0 by a cosine


def normalised(images):
    """Each contrast of mean 0 and sd 1 where it is not 0, as nnU-Net does."""
    inside = images != 0
    count = inside.sum((-3, -2, -1), keepdims=True).clip(1)
    mean = (images * inside).sum((-3, -2, -1), keepdims=True) / count
    variance = (((images - mean) * inside) ** 2).sum((-3, -2, -1), keepdims=True)
    return ((images - mean) * inside / np.sqrt(variance / count + 1e-8)).astype("f4")


def patch(x, y, rng):
    """A patch of a batch of volumes [B, C, S, H, W], the same of both."""
    middle = [rng.integers(side) for side in y.shape[2:]]
    if rng.random() < AROUND and y.any():
        lesion = np.argwhere(y[:, 0].any(0))
        middle = lesion[rng.integers(len(lesion))]
    start = [
        np.clip(at - size // 2, 0, max(side - size, 0))
        for at, size, side in zip(middle, PATCH, y.shape[2:], strict=True)
    ]
    box = tuple(slice(at, at + size) for at, size in zip(start, PATCH, strict=True))
    inside = (slice(None), slice(None), *box)
    return x[inside], y[inside]


def main(training, test, found, seed, steps, classes):
    """Trains, and writes the labels of the test volumes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    with np.load(training) as file:
        images, labels = normalised(file["images"]), file["labels"]
    net = monai.networks.nets.SegResNet(
        in_channels=images.shape[1], out_channels=classes, init_filters=FILTERS
    )
    loss_of = monai.losses.DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start, mean = time.monotonic(), 0.0
    for step in range(steps):
        picked = rng.integers(len(images), size=BATCH)
        x, y = patch(images[picked], labels[picked][:, None], rng)
        for axis in (-1, -2, -3):
            if rng.random() < 0.5:
                x, y = np.flip(x, axis), np.flip(y, axis)
        gain = rng.uniform(0.9, 1.1, (BATCH, x.shape[1], 1, 1, 1))
        x = (x * gain + rng.uniform(-0.1, 0.1, gain.shape)).astype("f4")
        loss = loss_of(net(torch.from_numpy(x)), torch.from_numpy(y.astype("f4")))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += (float(loss.detach()) - mean) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            left = (time.monotonic() - start) / (step + 1) * (steps - step - 1)
            print(
                f"  {step + 1}/{steps}, loss {mean:.3f}, {left:.0f} s left", flush=True
            )
    net.eval()
    with np.load(test) as file, torch.no_grad():
        batches = torch.from_numpy(normalised(file["images"]))
        labels = [net(each[None]).argmax(1)[0].numpy() for each in batches]
    np.savez_compressed(found, labels=np.stack(labels).astype(np.uint8))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]))
