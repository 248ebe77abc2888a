//! DINO's options: the authors' values as defaults, and what each does.

use pretext_plugin_api::OptionSpec;

const SHARE: (f64, f64) = (0.0, 1.0);
const AREA: (f64, f64) = (1e-3, 1.0);
const TEMPERATURE: (f64, f64) = (1e-4, 10.0);
const STRENGTH: (f64, f64) = (0.0, 10.0);
const SIDE: (i64, i64) = (8, 1024);

/// Every option, in reading order.
pub(crate) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::choice(
        "modality",
        "image",
        &["image", "vector"],
        "vector takes plain vectors with noise as views, for backbone `identity`",
    ),
    OptionSpec::int("global_size", 224, SIDE, "side of the two global crops, in pixels"),
    OptionSpec::float(
        "global_scale_min",
        0.4,
        AREA,
        "smallest share of the image's area in a global crop",
    ),
    OptionSpec::float(
        "global_scale_max",
        1.0,
        AREA,
        "largest share of the image's area in a global crop",
    ),
    OptionSpec::int(
        "local_crops",
        8,
        (0, 64),
        "local crops per image; each adds its cost, more of them help",
    ),
    OptionSpec::int("local_size", 96, SIDE, "side of the local crops, in pixels"),
    OptionSpec::float(
        "local_scale_min",
        0.05,
        AREA,
        "smallest share of the image's area in a local crop",
    ),
    OptionSpec::float(
        "local_scale_max",
        0.4,
        AREA,
        "largest share of the image's area in a local crop",
    ),
    OptionSpec::float("jitter", 0.8, SHARE, "probability of colour jitter"),
    OptionSpec::float("brightness", 0.4, STRENGTH, "how far jitter changes the brightness"),
    OptionSpec::float("contrast", 0.4, STRENGTH, "how far jitter changes the contrast"),
    OptionSpec::float("saturation", 0.2, STRENGTH, "how far jitter changes the saturation"),
    OptionSpec::float("hue", 0.1, (0.0, 0.5), "how far jitter turns the hue; 0.5 forgets colours"),
    OptionSpec::float("grayscale", 0.2, SHARE, "probability of losing all colour"),
    OptionSpec::float(
        "blur_global_1",
        1.0,
        SHARE,
        "probability of blur in the first global crop; 0 for small images",
    ),
    OptionSpec::float("blur_global_2", 0.1, SHARE, "probability of blur in the second global crop"),
    OptionSpec::float("blur_local", 0.5, SHARE, "probability of blur in a local crop"),
    OptionSpec::float(
        "solarize_global_2",
        0.2,
        SHARE,
        "probability of solarizing the second global crop",
    ),
    OptionSpec::float(
        "vector_noise",
        0.1,
        (0.0, 100.0),
        "standard deviation of the noise on vector views",
    ),
    OptionSpec::flag("head", true, "off compares features themselves: for tests on plain logits"),
    OptionSpec::int(
        "prototypes",
        65_536,
        (2, 1_048_576),
        "classes without a name; 256 to 4,096 do for small data",
    ),
    OptionSpec::int("head_layers", 3, (1, 8), "linear layers before the prototypes"),
    OptionSpec::int("head_hidden", 2048, (1, 16_384), "width inside the head"),
    OptionSpec::int("head_bottleneck", 256, (1, 4096), "width before the prototypes"),
    OptionSpec::flag(
        "normalize_last_layer",
        true,
        "keeps every prototype at length 1; off learns more and is less stable",
    ),
    OptionSpec::float(
        "freeze_last_layer_epochs",
        1.0,
        (0.0, 1000.0),
        "epochs before the prototypes move; raise it if the loss does not fall",
    ),
    OptionSpec::float("temperature_student", 0.1, TEMPERATURE, "the student's temperature"),
    OptionSpec::float(
        "temperature_teacher_start",
        0.04,
        TEMPERATURE,
        "the teacher's temperature at first; lower if the loss does not fall",
    ),
    OptionSpec::float(
        "temperature_teacher_end",
        0.04,
        TEMPERATURE,
        "the teacher's temperature after its warm-up; above 0.07 is unstable",
    ),
    OptionSpec::float(
        "temperature_teacher_warmup_epochs",
        0.0,
        (0.0, 1000.0),
        "epochs from the first to the last temperature; 30 in the authors' longer runs",
    ),
    OptionSpec::float(
        "teacher_decay_start",
        0.996,
        SHARE,
        "how slowly the teacher follows at first; 0.99 to 0.9995, higher with small batches",
    ),
    OptionSpec::float("teacher_decay_end", 1.0, SHARE, "how slowly the teacher follows at the end"),
    OptionSpec::float(
        "center_decay",
        0.9,
        SHARE,
        "how slowly the center follows the teacher's outputs",
    ),
];
