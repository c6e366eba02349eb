"""Stage 1: a VAE-GAN that makes structural maps from noise (Section 2.3, Fig. 2)."""

import tensorflow as tf

from brats_gan import fusion, losses, networks, runs, structure

# Weights of the terms each side is trained on, by their names in losses.py (D9, D17).
GENERATOR_WEIGHTS = {
    "reconstruction": 10.0,
    "outside": 1.0,
    "code_adversarial": 0.1,
    "normal": 0.1,
    "divergence": 0.15,
    "map_adversarial": 0.01,
    "mask": 10.0,
    "mask_edges": 1.0,
}
DISCRIMINATOR_WEIGHTS = {"code_discriminator": 1.0, "map_discriminator": 1.0}
WEIGHTS = GENERATOR_WEIGHTS | DISCRIMINATOR_WEIGHTS

GENERATOR_SIDE = ("EC_f", "DC_f", "MASK")
DISCRIMINATOR_SIDE = ("D_f", "FD_f")


def build(image_size, width=64, code_dim=4096, mask_width=None):
    """The five networks of the stage, by the paper's names.

    mask_width is MASK's own width: an outline is easily learnt, and MASK works on twice
    the images at full size, so a narrow one saves much of the step. None: as `width`.
    """
    return {
        "EC_f": networks.build_map_encoder(image_size, width, code_dim),
        "DC_f": networks.build_map_decoder(image_size, width, code_dim),
        "MASK": networks.build_mask(image_size, mask_width or width),
        "D_f": networks.build_map_discriminator(image_size, width),
        "FD_f": networks.build_map_code_discriminator(width, code_dim),
    }


def variables(nets, side):
    """Trainable variables of the networks named in `side`."""
    return [v for name in side for v in nets[name].trainable_variables]


def extract(batch, beta=structure.BETA):
    """f without its lesion, and the mask of Algorithm 2, of a batch of stage 1.

    {"x": [B, H, W, 1], "label": [B, H, W]} -> two of [B, H, W, 1] in {0, 1}.
    """
    f = tf.stop_gradient(structure.structural_map(batch["x"], beta))
    return fusion.remove_lesion(f, batch["label"]), structure.background(batch["x"])


def terms(nets, batch, seed, beta=structure.BETA, edge_weight=1.5):
    """Every loss of the stage on one batch, by name.

    Args:
        nets: of `build`.
        batch: {"x": [B, H, W, 1] in [0, 1], "label": [B, H, W]}.
        seed: [2] int32, of code_n and z.
        beta: threshold of Algorithm 1.
        edge_weight: see losses.reconstruction_f.
    """
    f, background = extract(batch, beta)
    mean, logvar = nets["EC_f"](f, training=True)
    noise_seed, prior_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    noise = tf.random.stateless_normal(tf.shape(mean), noise_seed)  # code_n
    z = tf.random.stateless_normal(tf.shape(mean), prior_seed)  # code_{f,g}
    code = mean + tf.exp(0.5 * logvar) * noise
    f_r, f_g = tf.split(nets["DC_f"](tf.concat([code, z], 0), training=True), 2)
    # Probabilities go on from here, so that gradients reach DC_f (D5).
    background_r, background_g = tf.split(
        nets["MASK"](tf.stop_gradient(tf.concat([f, f_g], 0)), training=True), 2
    )
    real_score, generated_score = tf.split(
        nets["D_f"](tf.concat([f, f_g], 0), training=True), 2
    )
    prior_score, code_score = tf.split(
        nets["FD_f"](tf.concat([z, code], 0), training=True), 2
    )
    return {
        **losses.reconstruction_f(f, f_r, background, edge_weight),
        **losses.normal(mean, logvar),
        **losses.divergence(mean, logvar),
        **losses.generator_f(code_score, generated_score),
        **losses.reconstruction_mask(
            background,
            background_r,
            background_g,
            f,
            tf.stop_gradient(f_r),
            tf.stop_gradient(f_g),
        ),
        **losses.code_discriminator_f(prior_score, code_score),
        **losses.discriminator_f(real_score, generated_score),
    }


def make_train_step(nets, optimizers, weights=None, beta=structure.BETA, **options):
    """Returns step(batch, seed) -> {name: scalar}, one update of each side.

    Args:
        nets: of `build`.
        optimizers: {"generator": ..., "discriminator": ...}, built.
        weights: by the names of WEIGHTS.
        beta, options: see `terms`.
    """
    weights = WEIGHTS | (weights or {})
    sides = {
        "generator": (GENERATOR_WEIGHTS, variables(nets, GENERATOR_SIDE)),
        "discriminator": (DISCRIMINATOR_WEIGHTS, variables(nets, DISCRIMINATOR_SIDE)),
    }

    @tf.function
    def train_step(batch, seed):
        with tf.GradientTape(persistent=True) as tape:
            named = terms(nets, batch, seed, beta, **options)
            totals = {
                side: losses.total(named, weights, names)
                for side, (names, _) in sides.items()
            }
        runs.update(optimizers, tape, totals, {s: v for s, (_, v) in sides.items()})
        return {**named, **totals}

    return train_step


def generate(nets, code):
    """f_g = DC_f(code) and its background, as the hard maps that are shown and
    filtered.

    [B, code_dim] -> two of [B, H, W, 1] in {0, 1} (D5).
    """
    f = tf.cast(nets["DC_f"](code, training=False) > 0.5, tf.float32)
    return f, tf.cast(nets["MASK"](f, training=False) > 0.5, tf.float32)
