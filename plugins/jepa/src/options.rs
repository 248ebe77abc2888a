//! I-JEPA's options: the authors' values as defaults, and what each does.

use pretext_plugin_api::OptionSpec;

const SHARE: (f64, f64) = (0.0, 1.0);
const AREA: (f64, f64) = (1e-3, 1.0);
const RATIO: (f64, f64) = (0.1, 10.0);

/// Every option, in reading order.
pub(crate) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::int("size", 224, (8, 1024), "side of the image that is seen, in pixels"),
    OptionSpec::float("scale_min", 0.3, AREA, "smallest share of the image's area that is seen"),
    OptionSpec::float(
        "flip",
        0.0,
        SHARE,
        "probability of a flip; the authors have none, small data profits from 0.5",
    ),
    OptionSpec::float(
        "grayscale",
        0.0,
        SHARE,
        "probability of losing all colour; the authors have none, 1 where colour tells nothing",
    ),
    OptionSpec::int(
        "target_blocks",
        4,
        (1, 32),
        "blocks to predict in each image; each costs one pass of the predictor",
    ),
    OptionSpec::float(
        "target_scale_min",
        0.15,
        AREA,
        "smallest share of the patches in a target block; much smaller ones teach texture",
    ),
    OptionSpec::float(
        "target_scale_max",
        0.2,
        AREA,
        "largest share of the patches in a target block",
    ),
    OptionSpec::float("target_ratio_min", 0.75, RATIO, "smallest rows / columns of a target block"),
    OptionSpec::float("target_ratio_max", 1.5, RATIO, "largest rows / columns of a target block"),
    OptionSpec::float(
        "context_scale_min",
        0.85,
        AREA,
        "smallest share of the patches in the context block, before targets are taken out",
    ),
    OptionSpec::float(
        "context_scale_max",
        1.0,
        AREA,
        "largest share of the patches in the context block, before targets are taken out",
    ),
    OptionSpec::int(
        "min_keep",
        10,
        (0, 4096),
        "every block holds more patches than this; lower it on grids of less than 10 x 10",
    ),
    OptionSpec::choice(
        "mask_sampling",
        "official",
        &["official", "corrected"],
        "official leaves the last row and column out and thins out lower rows, as the authors' code; corrected doesn't",
    ),
    OptionSpec::int("predictor_depth", 12, (1, 64), "blocks of the predictor; 6 with a ViT-B"),
    OptionSpec::int(
        "predictor_width",
        384,
        (4, 4096),
        "width of the predictor; narrower than the backbone",
    ),
    OptionSpec::int(
        "predictor_heads",
        0,
        (0, 64),
        "attention heads of the predictor; 0 for as many as the backbone has",
    ),
    OptionSpec::float(
        "teacher_decay_start",
        0.996,
        SHARE,
        "how slowly the teacher follows at first; 0.99 to 0.998, lower for short runs",
    ),
    OptionSpec::float(
        "teacher_decay_end",
        1.0,
        SHARE,
        "how slowly the teacher follows at the end, on a straight line from the start",
    ),
    OptionSpec::float(
        "loss_beta",
        1.0,
        (0.0, 100.0),
        "distances below this count as squares, larger ones as they are",
    ),
];
