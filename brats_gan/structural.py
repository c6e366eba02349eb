"""Stage 1: a VAE-GAN that makes structural maps from noise (Section 2.3, Fig. 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from brats_gan import (
    code_bank,
    code_flow,
    fusion,
    losses,
    networks,
    replicas,
    runs,
    structural_map,
)
from brats_gan.lazy import tf
from brats_gan.parts import over_parts
from brats_gan.spec import BRATS, Spec
from brats_gan.stacks import Stacks

# Weights of the terms each side is trained on, by their names in losses.py (D9, D17).
GENERATOR_WEIGHTS = {
    "reconstruction": 2.5,
    "outside": 1.0,
    "code_adversarial": 0.1,
    "normal": 0.1,
    "divergence": 0.01,
    "map_adversarial": 0.5,
    "feature": 10.0,
    "mask": 10.0,
    "mask_edges": 1.0,
}
DISCRIMINATOR_WEIGHTS = {"code_discriminator": 1.0, "map_discriminator": 1.0}
WEIGHTS = GENERATOR_WEIGHTS | DISCRIMINATOR_WEIGHTS
SHOWN = ("accuracy_D_f", "accuracy_FD_f")  # of the games, logged beside the losses
CODE_GAME = ("code_adversarial", "code_discriminator")  # terms of FD_f (D36)

GENERATOR_SIDE = ("EC_f", "DC_f", "MASK")
DISCRIMINATOR_SIDE = ("D_f", "FD_f")
FLOW = "CF_f"  # trained by itself once the others are (D52)


class Options(NamedTuple):
    """What a run chooses beside the weights; each is a flag of train_structural.py."""

    beta: float = structural_map.BETA
    map_loss: str = "entropy"  # or "squared", see losses.reconstruction_f (D27)
    soft_maps: bool = True  # D30: DC_f and D_f learn from f before its threshold
    input_noise: float = 0.05  # sd of the noise on what D_f sees
    judge_rebuilt: bool = True  # D30: D_f judges f_r too, not only f_g
    code_fit: bool = True  # D25: f_g is of codes as training maps have, not of z


def build(
    image_size: int,
    width: int = 64,
    code_channels: int = 4,
    mask_width: int | None = None,
    spectral: bool = True,
    code_game: bool = False,
    code_dim: int | None = None,
    code_norm: bool = False,
    output_norm: bool = False,
    initialization: str = "he_normal",
    leaky_relu: bool = True,
    flow: bool = False,
    spec: Spec = BRATS,
) -> dict:
    """The networks of the stage, by the paper's names.

    mask_width is MASK's own width: an outline is easily learnt, and MASK works on twice
    the images at full size, so a narrow one saves much of the step. None: as `width`.
    spectral is D31; code_game has FD_f too (D36). code_dim is D26, code_norm of DC_f
    and FD_f D17; flow has CF_f too, of a code that is a grid (D52), which is told the
    contrast of spec; the rest is D11, see blocks.Make.
    """
    make = networks.Make(output_norm, initialization, leaky_relu)
    of_code = {"code_channels": code_channels, "code_dim": code_dim, "make": make}
    nets = {
        "EC_f": networks.build_map_encoder(image_size, width, **of_code),
        "DC_f": networks.build_map_decoder(
            image_size, width, code_norm=code_norm, **of_code
        ),
        "MASK": networks.build_mask(image_size, mask_width or width, make=make),
        "D_f": networks.build_map_discriminator(image_size, width, spectral, make=make),
    }
    if code_game:
        nets["FD_f"] = networks.build_map_code_discriminator(
            image_size, width, code_norm=code_norm, **of_code
        )
    if flow:
        side = image_size // networks.CODE_STRIDE
        nets[FLOW] = code_flow.build(side, code_channels, spec.num_modalities)
    return nets


def heaviest_convolution(
    image_size: int, width: int, batch_size: int, mask_width: int | None = None
) -> tuple:
    """(images, kernel), shapes of the heaviest convolution of a step.

    DC_f's or MASK's, the wider of the two: each sees a real and a drawn map an example.
    """
    widest = max(width, mask_width or width)
    return networks.heaviest_convolution(image_size, widest, 2 * batch_size)


def variables(nets: dict, side: tuple[str, ...]) -> list[tf.Variable]:
    """Trainable variables of the networks named in `side`, of those that there are."""
    return [v for n in side if n in nets for v in nets[n].trainable_variables]


def drawing(nets: dict) -> list[str]:
    """Names of the networks, of all of `build`, that make maps: no discriminators."""
    return [name for name in nets if name not in DISCRIMINATOR_SIDE]


def extract(
    batch: dict, beta: float = structural_map.BETA
) -> tuple[tf.Tensor, tf.Tensor]:
    """f without its lesion, and the mask of Algorithm 2, of a batch of stage 1.

    {"x": [B, H, W, 1], "label": [B, H, W]} -> two of [B, H, W, 1] in {0, 1}.
    """
    f = tf.stop_gradient(structural_map.structural_map(batch["x"], beta))
    background = structural_map.background(batch["x"])
    return fusion.remove_lesion(f, batch["label"]), background


def terms(
    nets: dict,
    batch: dict,
    seed: tf.Tensor,
    codes: code_bank.Codes,
    options: Options = Options(),  # noqa: B008 - immutable
) -> dict:
    """Every loss of the stage on one batch, by name, and how often D_f and, where
    there is one, FD_f are right (accuracy_D_f, accuracy_FD_f).

    Args:
        nets: of `build`.
        batch: {"x": [B, H, W, 1] in [0, 1], "label": [B, H, W]}.
        seed: [2] int32, of code_n, z, code_{f,g} and the noise.
        codes: code_bank.Codes; those of the batch are added, but for the paper's way.
        options: Options.
    """
    f, background = extract(batch, options.beta)
    shown = f
    if options.soft_maps:
        soft = tf.stop_gradient(
            structural_map.soft_structural_map(batch["x"], options.beta)
        )
        shown = fusion.remove_lesion(soft, batch["label"])
    mean, logvar = nets["EC_f"](f, training=True)
    code_seed, prior_seed, drawn_seed, noise_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 4)
    )
    code_n = replicas.normal(tf.shape(mean), code_seed)
    z = replicas.normal(tf.shape(mean), prior_seed)
    code = mean + tf.exp(0.5 * logvar) * code_n
    drawn = z
    if options.code_fit:
        # f_g is what D_f judges, so its codes must lie where codes of maps do (D25).
        codes.add(tf.stop_gradient(code))
        drawn = codes.sample(tf.shape(code)[0], drawn_seed)

    def decoded(codes):
        logits = nets["DC_f"](codes, training=True)
        return logits, tf.sigmoid(logits)

    # Probabilities go on from here, so that gradients reach DC_f (D5).
    made = over_parts(decoded, {"rebuilt": code, "generated": drawn})
    (logits_r, f_r), (_, f_g) = made["rebuilt"], made["generated"]
    background_of = over_parts(
        lambda maps: nets["MASK"](tf.stop_gradient(maps), training=True),
        {"real": f, "generated": f_g},
    )

    def judge(maps):
        # Real, generated and rebuilt.
        noise = replicas.normal(tf.shape(maps), noise_seed, [f.shape[0]] * 3)
        return nets["D_f"](maps + options.input_noise * noise, training=True)

    judged = over_parts(judge, {"real": shown, "generated": f_g, "rebuilt": f_r})
    real_score, *real_features = judged["real"]
    generated_score = judged["generated"][0]
    rebuilt_score, *rebuilt_features = judged["rebuilt"]
    if options.judge_rebuilt:
        generated_score = tf.concat([generated_score, rebuilt_score], 0)
    of_codes, code_score = {}, None
    if "FD_f" in nets:
        codes_judged = over_parts(
            lambda codes: nets["FD_f"](codes, training=True), {"prior": z, "code": code}
        )
        code_score = codes_judged["code"]
        of_codes = {
            **losses.code_discriminator_f(codes_judged["prior"], code_score),
            "accuracy_FD_f": losses.accuracy(codes_judged["prior"], code_score),
        }
    return {
        **losses.reconstruction_f(shown, logits_r, background, options.map_loss),
        **losses.normal(mean, logvar),
        **losses.divergence(mean, logvar),
        **losses.generator_f(code_score, generated_score),
        **losses.feature_matching(real_features, rebuilt_features),
        **losses.reconstruction_mask(
            background,
            background_of["real"],
            background_of["generated"],
            f,
            tf.stop_gradient(f_r),
            tf.stop_gradient(f_g),
        ),
        **losses.discriminator_f(real_score, generated_score),
        "accuracy_D_f": losses.accuracy(real_score, generated_score),
        **of_codes,
    }


def make_train_step(
    nets: dict,
    optimizers: dict,
    codes: code_bank.Codes,
    weights: dict | None = None,
    options: Options = Options(),  # noqa: B008 - an immutable tuple
) -> Callable:
    """Returns step(batch, seed) -> {name: scalar}, one update of each side.

    Args:
        nets: of `build`.
        optimizers: {"generator": ..., "discriminator": ...}, built.
        codes: code_bank.Codes.
        weights: by the names of WEIGHTS.
        options: Options.
    """
    weights = WEIGHTS | (weights or {})
    left_out = () if "FD_f" in nets else CODE_GAME
    sides = {
        side: ([name for name in of_side if name not in left_out], variables(nets, who))
        for side, of_side, who in (
            ("generator", GENERATOR_WEIGHTS, GENERATOR_SIDE),
            ("discriminator", DISCRIMINATOR_WEIGHTS, DISCRIMINATOR_SIDE),
        )
    }

    @tf.function(autograph=False)  # half the time of tracing
    def train_step(batch, seed):
        batch = replicas.own_rows(batch)
        with tf.GradientTape(persistent=True) as tape:
            named = terms(nets, batch, seed, codes, options)
            totals = {
                side: losses.total(named, weights, names)
                for side, (names, _) in sides.items()
            }
        moved = {side: of_side for side, (_, of_side) in sides.items()}
        return runs.update(optimizers, tape, totals, moved, named)

    return train_step


class Fit(NamedTuple):
    """How noise becomes a map once the stage is trained (D25)."""

    mean: np.ndarray  # [code_dim], of the codes of training maps
    # [code_dim, code_dim], lower triangular, of their covariance; [code_dim]: diagonal
    factor: np.ndarray
    threshold: float  # of DC_f's probability
    stacks: Stacks | None = None  # of whole volumes; None: single slices alone
    # [S], share of training maps at each height: CF_f carries codes on (D52)
    heights: np.ndarray | None = None


def unfitted(code_dim: int) -> Fit:
    """The paper's way from noise to a map: z as it is, and an edge above one half."""
    return Fit(np.zeros(code_dim, np.float32), np.ones(code_dim, np.float32), 0.5)


def fit(nets: dict, f: np.ndarray, seed: int = 0) -> Fit:
    """Fits where codes lie, and which probability is an edge, to real maps.

    The codes of maps are not N(0, 1) to the last, and DC_f has not learnt what lies
    between; so z is moved to the Gaussian of the codes. The threshold makes drawn maps
    as dense as real ones on the average: 0.5 makes the edges of an unsure decoder
    thicker.

    Args:
        nets: of `build`.
        f: [N, H, W, 1] in {0, 1}, maps of training slices; some hundreds do.
        seed: of the codes the threshold is chosen on.
    """
    means, sds = encode(nets, f)
    means = means.astype(np.float64)
    covariance = np.atleast_2d(np.cov(means, rowvar=False))
    covariance += np.diag(np.square(sds).mean(0) + 1e-6)
    factor = np.linalg.cholesky(covariance).astype(np.float32)
    found = Fit(means.mean(0).astype(np.float32), factor, 0.5)
    return found._replace(threshold=threshold(nets, found, float(np.mean(f)), seed))


def encode(nets: dict, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and sds of the codes of maps: [N, H, W, 1] -> two of [N, code_dim]."""
    means, sds = [], []
    for start in range(0, len(f), 50):
        mean, logvar = nets["EC_f"](f[start : start + 50], training=False)
        means.append(mean.numpy())
        sds.append(np.exp(0.5 * logvar.numpy()))
    return np.concatenate(means), np.concatenate(sds)


def threshold(nets: dict, found: Fit, density: float, seed: int = 0) -> float:
    """The probability above which 200 drawn maps have this share of edges."""
    code = np.random.default_rng(seed).standard_normal(
        (200, len(found.mean)), np.float32
    )
    drawn = []
    for part in np.split(code, 4):
        origin = origin_of(nets, tf.constant(part), found)
        drawn.append(decode(nets, moved(part, found), found, origin).numpy())
    return as_dense(np.concatenate(drawn), density)


def as_dense(edge: np.ndarray, density: float) -> float:
    """The threshold above which this share of probabilities, of any shape, lies."""
    threshold = float(np.quantile(edge, 1.0 - density))
    # Not 0 or 1, where a decoder that has learnt nothing is the same everywhere.
    return min(max(threshold, 0.01), 0.99)


def moved(code: tf.Tensor, found: Fit) -> tf.Tensor:
    """Noise to where codes of training maps lie: [B, code_dim] -> the same shape."""
    if found.factor.ndim == 1:
        return found.mean + code * found.factor
    return found.mean + tf.matmul(code, found.factor, transpose_b=True)


def origin_of(nets: dict, noise: tf.Tensor, found: Fit) -> code_flow.Origin | None:
    """Of which slices the maps of noise [B, code_dim] are; None without CF_f."""
    if found.heights is None:
        return None
    modalities = code_flow.num_modalities_of(nets[FLOW])
    return code_flow.origin_of(noise, found.heights, modalities)


def decode(
    nets: dict, code: tf.Tensor, found: Fit, origin: code_flow.Origin | None
) -> tf.Tensor:
    """Probability of an edge, [B, H, W, 1], of codes [B, code_dim] of the Gaussian.

    CF_f, where there is one, carries them first to where codes of maps of their
    origin lie (D52). They may be correlated, as those of a volume are.
    """
    if found.heights is not None:
        scale = code_flow.scale(found.factor)
        code = (code - found.mean) / scale
        code = found.mean + scale * code_flow.carry(nets[FLOW], code, origin)
    return tf.sigmoid(tf.cast(nets["DC_f"](code, training=False), tf.float32))


def generate(nets: dict, code: tf.Tensor, found: Fit) -> tuple[tf.Tensor, tf.Tensor]:
    """f_g and its background, as the hard maps that are shown and filtered (D5).

    Args:
        nets: of `build`.
        code: [B, code_dim], z of N(0, 1).
        found: of `fit`.

    Returns:
        Two of [B, H, W, 1] in {0, 1}.
    """
    edge = decode(nets, moved(code, found), found, origin_of(nets, code, found))
    f = tf.cast(edge > found.threshold, tf.float32)
    return f, tf.cast(nets["MASK"](f, training=False) > 0.5, tf.float32)


def reconstruct(nets: dict, f: tf.Tensor, found: Fit) -> tf.Tensor:
    """f_r of real maps, hard: [B, H, W, 1] -> the same shape in {0, 1}."""
    mean, _ = nets["EC_f"](f, training=False)
    edge = tf.sigmoid(nets["DC_f"](mean, training=False))
    return tf.cast(edge > found.threshold, tf.float32)
