"""Every loss of the paper: one function each, unweighted, by the paper's name.

A function returns the scalar terms of its loss by name; the paper's loss is their sum,
and a stage weights each term by a flag of the same name (D9). ||x||_2^2 is read as a
mean over every axis (D2). Modalities ride on the batch axis, so the paper's sums over
i, and over i and j, are means too: a constant factor, which the weights absorb.

Scores are patch maps [B, h, w, 1], images [B, H, W, 1], codes [B, h, w, C], logits of
labels [B, H, W, L] and labels [B, H, W] integers 0..L-1, unless said otherwise; L
counts the labels, background included.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from brats_gan import replicas
from brats_gan.lazy import tf
from brats_gan.spec import BRATS


def squared(x: tf.Tensor) -> tf.Tensor:
    """||x||_2^2: mean square of a tensor of any shape, in float32."""
    return tf.reduce_mean(tf.square(tf.cast(x, tf.float32)))


def difference(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """||a - b||_2^2 of two tensors of one shape; anything else is an error."""
    a.shape.assert_is_compatible_with(b.shape)
    return squared(a - b)


def taken_as_real(score: tf.Tensor) -> tf.Tensor:
    """||score - 1||_2^2, the least-squares GAN's pull towards `real`."""
    return squared(score - 1.0)


# --- Stage 1 (Section 2.3) ------------------------------------------------------------


def code_discriminator_f(prior_score: tf.Tensor, code_score: tf.Tensor) -> dict:
    """L_code,d,f = |FD_f(z) - 1|^2 + |FD_f(code_f)|^2."""
    return {"code_discriminator": taken_as_real(prior_score) + squared(code_score)}


def discriminator_f(real_score: tf.Tensor, generated_score: tf.Tensor) -> dict:
    """L_d,f = |D_f(f) - 1|^2 + |D_f(f_g)|^2."""
    return {"map_discriminator": taken_as_real(real_score) + squared(generated_score)}


def _played(name, score, loss=taken_as_real):
    """{name: loss(score)}; nothing where there is no such game and no score (D36)."""
    return {} if score is None else {name: loss(score)}


def generator_f(code_score: tf.Tensor | None, generated_score: tf.Tensor) -> dict:
    """L_g,f = |FD_f(code_f) - 1|^2 + |D_f(f_g) - 1|^2."""
    named = {"map_adversarial": taken_as_real(generated_score)}
    return _played("code_adversarial", code_score) | named


def normal(mean: tf.Tensor, logvar: tf.Tensor) -> dict:
    """L_normal = |mean(mu)|^2 + |mean(exp(logvar / 2)) - 1|^2, of [B, code_dim].

    The means are of one code: a code far above 0 is not made good by another far below.
    """
    mu, sigma = (tf.reduce_mean(x, -1) for x in (mean, tf.exp(0.5 * logvar)))
    return {"normal": squared(mu) + squared(sigma - 1.0)}


def divergence(mean: tf.Tensor, logvar: tf.Tensor) -> dict:
    """KL(N(mu, sigma^2) || N(0, 1)), mean over the dimensions of [B, code_dim].

    Not in the paper, whose moments are over all dimensions at once (D17).
    """
    kl = 0.5 * (tf.square(mean) + tf.exp(logvar) - logvar - 1.0)
    return {"divergence": tf.reduce_mean(kl)}


def map_entropy(f: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of an edge at each pixel, mean; default of D27.

    Both [B, H, W, 1], f in [0, 1]. Of logits: a probability that is sure and wrong has
    a gradient then.
    """
    f.shape.assert_is_compatible_with(logits.shape)
    return tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(labels=f, logits=logits)
    )


def map_squared(f: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """|f - f_r|^2, the paper's, with f_r = sigmoid(logits); both [B, H, W, 1]."""
    return difference(f, tf.sigmoid(logits))


MAP_LOSSES = {"entropy": map_entropy, "squared": map_squared}


def reconstruction_f(
    f: tf.Tensor, logits: tf.Tensor, background: tf.Tensor, map_loss: str = "entropy"
) -> dict:
    """L_rec,f = |f - f_r|^2 + |f_r * mask|^2, with f_r = sigmoid(logits).

    Args:
        f, logits: [B, H, W, 1], the first in [0, 1].
        background: [B, H, W, 1], 1 outside the brain.
        map_loss: a name in MAP_LOSSES, how |f - f_r|^2 is read (D27).
    """
    return {
        "reconstruction": MAP_LOSSES[map_loss](f, logits),
        "outside": squared(tf.sigmoid(logits) * background),
    }


def feature_matching(real: list, rebuilt: list) -> dict:
    """Mean of |h(f) - h(f_r)| over layers h of a discriminator (D30).

    Two lists of [B, h, w, C], of pairs that should be alike.
    """
    distances = [
        tf.reduce_mean(tf.abs(one - other))
        for one, other in zip(real, rebuilt, strict=True)
    ]
    return {"feature": tf.add_n(distances) / len(real)}


def accuracy(real_score: tf.Tensor, *made_scores: tf.Tensor) -> tf.Tensor:
    """Share of patches that a least-squares discriminator puts on the right side.

    The mean of the share of real scores above one half and of the share of all others
    below: 0.5 is chance, 1 a game that is won. Not trained on.
    """
    made = tf.concat([tf.reshape(score, [-1]) for score in made_scores], 0)
    right = (real_score > 0.5, made < 0.5)
    return tf.add_n([tf.reduce_mean(tf.cast(each, tf.float32)) for each in right]) / 2.0


def reconstruction_mask(
    background: tf.Tensor,
    background_r: tf.Tensor,
    background_g: tf.Tensor,
    f: tf.Tensor,
    f_r: tf.Tensor,
    f_g: tf.Tensor,
) -> dict:
    """L_rec,mask = |mask - mask_r|^2 + |f mask_r|^2 + |f_r mask_r|^2 + |f_g mask_g|^2.

    All [B, H, W, 1]; MASK alone learns from it, so the caller stops the gradient of f_r
    and f_g.
    """
    return {
        "mask": difference(background, background_r),
        "mask_edges": squared(f * background_r)
        + squared(f_r * background_r)
        + squared(f_g * background_g),
    }


# --- Stage 2 (Sections 2.4, 2.6) ------------------------------------------------------


def category_entropy(scores: tf.Tensor, modality: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the category head, default of D10.

    [B, h, w, M] logits, [B] integers -> scalar.
    """
    shape = tf.shape(scores)
    target = tf.broadcast_to(modality[:, None, None], shape[:3])
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=scores)
    )


def category_regression(scores: tf.Tensor, modality: tf.Tensor) -> tf.Tensor:
    """|c - i|^2, the paper's: [B, h, w, 1] regressed to the modality's index (D10)."""
    return squared(scores - tf.cast(modality, scores.dtype)[:, None, None, None])


def discriminator_1(
    translated_score: tf.Tensor,
    translated_category: tf.Tensor,
    code_score: tf.Tensor | None = None,
) -> dict:
    """L_d,1 = |d(x_t)|^2 + |c(x_t) - i|^2 + |FD(code_i) - 1|^2.

    `translated_category` is the scalar of one of the two category losses.
    """
    return {
        "d_translated": squared(translated_score),
        "d_category_translated": translated_category,
        **_played("d_code_real", code_score),
    }


def generator_1(translated_score: tf.Tensor, translated_category: tf.Tensor) -> dict:
    """L_g,1 = |d(x_t) - 1|^2 + |c(x_t) - i|^2."""
    return {
        "adversarial_translated": taken_as_real(translated_score),
        "category_translated": translated_category,
    }


def discriminator_2(
    real_score: tf.Tensor,
    generated_score: tf.Tensor,
    real_category: tf.Tensor,
    generated_category: tf.Tensor,
    code_g_score: tf.Tensor | None = None,
) -> dict:
    """L_d,2 = |d(x) - 1|^2 + |d(x_g)|^2 + |c(x) - i|^2 + |c(x_g) - i|^2 +
    |FD(code_g)|^2.

    The two categories are scalars of one of the two category losses.
    """
    return {
        "d_real": taken_as_real(real_score),
        "d_generated": squared(generated_score),
        "d_category_real": real_category,
        "d_category_generated": generated_category,
        **_played("d_code_generated", code_g_score, squared),
    }


def generator_2(
    generated_score: tf.Tensor,
    generated_category: tf.Tensor,
    code_g_score: tf.Tensor | None = None,
) -> dict:
    """L_g,2 = |d(x_g) - 1|^2 + |c(x_g) - i|^2 + |FD(code_g) - 1|^2."""
    return {
        "adversarial_generated": taken_as_real(generated_score),
        "category_generated": generated_category,
        **_played("code_adversarial", code_g_score),
    }


def image_distance(
    x: tf.Tensor,
    y: tf.Tensor,
    label: tf.Tensor | None = None,
    norm: str = "absolute",
    class_weights: Sequence[float] = BRATS.image_weights,
) -> tf.Tensor:
    """How far two images are apart, the norm of L_rec, L_cycle and L_reg.

    Args:
        x, y: [B, H, W, 1], same shape.
        label: [B, H, W] integers; given, a pixel counts by its class
            (D9). None: all pixels count 1, as in the paper.
        norm: "absolute", or "squared" as in the paper (D9).
        class_weights: weight of a pixel by its label, see spec.Spec.image_weights.
    """
    x.shape.assert_is_compatible_with(y.shape)
    distance = tf.square(x - y) if norm == "squared" else tf.abs(x - y)
    if label is not None:
        distance *= tf.gather(class_weights, tf.cast(label, tf.int32))[..., None]
    return tf.reduce_mean(distance)


def reconstruction(
    x: tf.Tensor,
    x_r: tf.Tensor,
    label: tf.Tensor | None = None,
    norm: str = "absolute",
    class_weights: Sequence[float] = BRATS.image_weights,
) -> dict:
    """L_rec = |x_i - x_{r,i}|^2."""
    return {"reconstruction": image_distance(x, x_r, label, norm, class_weights)}


def cycle(
    x: tf.Tensor,
    x_cr: tf.Tensor,
    label: tf.Tensor | None = None,
    norm: str = "absolute",
    class_weights: Sequence[float] = BRATS.image_weights,
) -> dict:
    """L_cycle = |x_i - x_cr,i(j)|^2 + |x_cr,i(j) - x_cr,i(k)|^2 over all j, k != i.

    Args:
        x: [B, H, W, 1].
        x_cr: [J, B, H, W, 1], x translated to J other modalities and back. With J = 1
            (D18) there is no pair to compare: the second term is 0 and trains nothing.
        label, norm, class_weights: see image_distance.
    """
    ways = x_cr.shape[0]
    how = label, norm, class_weights
    terms = [image_distance(x, x_cr[j], *how) for j in range(ways)]
    pairs = [
        image_distance(x_cr[j], x_cr[k], *how)
        for j in range(ways)
        for k in range(j + 1, ways)
    ]
    return {
        "cycle": tf.add_n(terms) / ways,
        "cycle_pairs": tf.add_n(pairs) / len(pairs) if pairs else tf.zeros([]),
    }


def code_1(code: tf.Tensor, code_t: tf.Tensor) -> dict:
    """L_code,1 = |code_i - code_{t,i->j}|^2."""
    return {"code_translated": difference(code, code_t)}


def code_2(code_g: tf.Tensor, code_gi: tf.Tensor) -> dict:
    """L_code,2 = |code_g - code_{g,i}|^2 + |code_{g,i} - code_{g,j}|^2.

    [B, h, w, C], [B, M, h, w, C]: the codes of the M generated images of one map.
    The pairs i != j need no loop: the mean of |a_i - a_j|^2 over all of them is twice
    the variance, times n / (n - 1).
    """
    count = code_gi.shape[1]
    code_g, code_gi = tf.cast(code_g, tf.float32), tf.cast(code_gi, tf.float32)
    deviation = code_gi - tf.reduce_mean(code_gi, 1, keepdims=True)
    return {
        "code_generated": squared(code_g[:, None] - code_gi),
        "code_pairs": 2.0 * count / (count - 1.0) * squared(deviation),
    }


def code_tie(code: tf.Tensor, code_s: tf.Tensor) -> dict:
    """|code_{s,i} - code_i|^2: the code of a slice's own map and label, drawn to EC's.

    Both [B, h, w, C]. EC is not drawn along: it would forget what no map knows (D34).
    """
    code = tf.stop_gradient(tf.cast(code, tf.float32))
    return {"code_tie": difference(tf.cast(code_s, tf.float32), code)}


def structure(f: tf.Tensor, f_g: tf.Tensor) -> dict:
    """L_f = |f - f_{g,i}|^2 with f_{g,i} = Alg1(x_{g,i}).

    Both [B, H, W, 1]; inside lesions the caller sets both to 0 (D24).
    """
    return {"structure": difference(f, f_g)}


def registration(
    x_g: tf.Tensor,
    x_gt: tf.Tensor,
    label: tf.Tensor | None = None,
    norm: str = "absolute",
    class_weights: Sequence[float] = BRATS.image_weights,
) -> dict:
    """L_reg = |x_{g,i} - x_{gt,j->i}|^2, all [B, H, W, 1]."""
    return {"registration": image_distance(x_g, x_gt, label, norm, class_weights)}


def label_squared(
    label: tf.Tensor, logits: tf.Tensor, _: object = None, sigmoid: bool = False
) -> tf.Tensor:
    """|label - label_r|^2 on one-hot classes: the paper's lesion loss (D12).

    [...], [..., L] -> scalar; label_r is softmax(logits), or with `sigmoid` that of
    each class, as the authors'. It is L_les,1, L_les,2 and L_seg; all classes weigh
    alike, whatever weights of classes the third argument has.
    """
    onehot = tf.one_hot(tf.cast(label, tf.int32), logits.shape[-1])
    return difference(onehot, (tf.sigmoid if sigmoid else tf.nn.softmax)(logits))


def label_weighted(
    label: tf.Tensor,
    logits: tf.Tensor,
    class_weights: Sequence[float] = BRATS.label_weights,
) -> tf.Tensor:
    """Class-weighted cross-entropy plus Dice: the lesion loss by default (D12).

    The Dice part is 1 - soft Dice of the lesion classes over the batch of all replicas,
    so that a class that is nowhere in it is not divided by. The entropy is of logits: a
    network that is sure and wrong has a gradient then. class_weights is
    spec.Spec.label_weights; [..., H, W], [..., H, W, L] -> scalar.
    """
    label = tf.cast(label, tf.int32)
    onehot = tf.one_hot(label, logits.shape[-1])
    onehot.shape.assert_is_compatible_with(logits.shape)
    probabilities = tf.nn.softmax(logits)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    weight = tf.gather(class_weights, label)
    axes = list(range(onehot.shape.rank - 1))
    parts = [onehot * probabilities, onehot + probabilities]
    sums = replicas.summed(tf.stack([tf.reduce_sum(x, axes)[1:] for x in parts]))
    dice = (2.0 * sums[0] + 1.0) / (sums[1] + 1.0)
    return tf.reduce_mean(weight * entropy) + 1.0 - tf.reduce_mean(dice)


LABEL_LOSSES = {
    "weighted": label_weighted,
    "squared": label_squared,
    "squared_sigmoid": functools.partial(label_squared, sigmoid=True),
}
CATEGORY_LOSSES = {"entropy": category_entropy, "regression": category_regression}


def total(named: dict, weights: dict, names: Iterable[str]) -> tf.Tensor:
    """Weighted sum of the terms in `names`; KeyError for one that is missing."""
    return tf.add_n([weights[name] * named[name] for name in names])
