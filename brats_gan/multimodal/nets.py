"""The networks of stage 2, and which side trains which."""

from __future__ import annotations

from brats_gan import lesion_components, networks, styles
from brats_gan.multimodal.settings import DISCRIMINATOR_SIDE, GENERATOR_SIDE
from brats_gan.spec import BRATS, Spec


def build(
    image_size: int,
    width: int = 64,
    scheme: str = "multiple",
    conditional_norm: bool = True,
    label_modulation: bool = True,
    category: str = "entropy",
    lesion_width: int | None = None,
    map_modulation: bool = True,
    style: bool = True,
    spectral: bool = True,
    code_game: bool = False,
    spec: Spec = BRATS,
    full_size_norm: bool = False,
    output_norm: bool = False,
    initialization: str = "he_normal",
    leaky_relu: bool = True,
) -> dict:
    """The networks of the stage, by the paper's names.

    Those of the lesion scheme come along under the names that lesion_components.build
    gives them. conditional_norm is D16, label_modulation D19, category D10,
    map_modulation D32, style D33, spectral D31; code_game has FD too (D36).
    full_size_norm is D29; output_norm, initialization and leaky_relu are D11, see
    blocks.Make.
    lesion_width is the base width of the lesion components: a lesion is easier found
    than drawn, and they work on eight images a step. None: as `width`. spec says how
    many modalities and labels there are.
    """
    of_layers = (output_norm, initialization, leaky_relu)
    make = networks.Make(*of_layers)
    categories = spec.num_modalities if category == "entropy" else 1
    nets = {
        "EC_R": networks.build_encoder(
            image_size, width, spec.num_labels, "EC_R", make
        ),
        "EC": networks.build_encoder(image_size, width, 1, "EC", make),
        "DC": networks.build_conditional_decoder(
            image_size // 4,
            width,
            conditional_norm,
            label_modulation,
            map_modulation,
            len(styles.QUANTILES) if style else 0,
            spec=spec,
            full_size_norm=full_size_norm,
            make=make,
        ),
        "D": networks.build_discriminator(
            image_size, width, categories, spectral, make=make
        ),
    }
    if code_game:
        nets["FD"] = networks.build_code_discriminator(
            image_size // 4, width, make=make
        )
    return nets | lesion_components.build(
        scheme, image_size, lesion_width or width, spec, *of_layers
    )


def heaviest_convolution(
    image_size: int,
    width: int,
    batch_size: int,
    all_pairs: bool = False,
    spec: Spec = BRATS,
) -> tuple:
    """(images, kernel), shapes of the heaviest convolution of a step.

    DC's in its first call, see `forward`: x_r, x_t, x_s and x_g. The lesion components
    see a third as many images or fewer, and are narrower.
    """
    count = spec.num_modalities
    rebuilt, ways = (count, count - 1) if all_pairs else (2, 1)
    images = rebuilt * (1 + ways) + 2 * count
    return networks.heaviest_convolution(image_size, width, images * batch_size)


def lesion_nets(nets: dict) -> dict:
    """The lesion components among the networks of the stage."""
    others = GENERATOR_SIDE + DISCRIMINATOR_SIDE
    return {name: net for name, net in nets.items() if name not in others}


def variables(nets: dict) -> dict:
    """Trainable variables by side: generator, discriminator, lesion_component."""
    sides = {
        "generator": [nets[name] for name in GENERATOR_SIDE],
        "discriminator": [nets[name] for name in DISCRIMINATOR_SIDE if name in nets],
        "lesion_component": lesion_nets(nets).values(),
    }
    return {
        side: [v for net in members for v in net.trainable_variables]
        for side, members in sides.items()
    }
