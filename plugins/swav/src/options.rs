//! SwAV's options: the authors' values for small batches as defaults, and what each does.

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
        0.14,
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
        6,
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
        0.14,
        AREA,
        "largest share of the image's area in a local crop",
    ),
    OptionSpec::float("jitter", 0.8, SHARE, "probability of colour jitter"),
    OptionSpec::float("brightness", 0.8, STRENGTH, "how far jitter changes the brightness"),
    OptionSpec::float("contrast", 0.8, STRENGTH, "how far jitter changes the contrast"),
    OptionSpec::float("saturation", 0.8, STRENGTH, "how far jitter changes the saturation"),
    OptionSpec::float("hue", 0.2, (0.0, 0.5), "how far jitter turns the hue; 0.5 forgets colours"),
    OptionSpec::float("grayscale", 0.2, SHARE, "probability of a crop without colour"),
    OptionSpec::float("blur", 0.5, SHARE, "probability of blur; 0 for pictures of some 32 pixels"),
    OptionSpec::flag(
        "authors_std",
        true,
        "divide red by 0.228, as the authors' code does, and not by 0.229",
    ),
    OptionSpec::float(
        "vector_noise",
        0.1,
        (0.0, 100.0),
        "standard deviation of the noise on vector views",
    ),
    OptionSpec::flag("head", true, "off takes features as scores: for tests on plain numbers"),
    OptionSpec::int(
        "prototypes",
        3000,
        (2, 1_048_576),
        "clusters; some times as many as there are classes, 128 to 512 for small data",
    ),
    OptionSpec::int("head_layers", 2, (1, 8), "linear layers of the head"),
    OptionSpec::int("head_hidden", 2048, (1, 16_384), "width inside the head"),
    OptionSpec::int("head_dim", 128, (1, 4096), "width of an embedding"),
    OptionSpec::choice(
        "head_norm",
        "batch",
        &["batch", "none"],
        "what stands between the head's layers and their activation",
    ),
    OptionSpec::int(
        "freeze_prototypes_steps",
        5005,
        (0, 1_000_000_000),
        "steps before the prototypes move: an epoch; raise it if the loss does not fall",
    ),
    OptionSpec::float("temperature", 0.1, TEMPERATURE, "temperature of the predictions"),
    OptionSpec::float(
        "epsilon",
        0.05,
        TEMPERATURE,
        "weight of entropy in the assignments; raise it if they collapse, 0.03 is sharper",
    ),
    OptionSpec::int("sinkhorn_iterations", 3, (0, 100), "iterations that balance the assignments"),
    OptionSpec::int(
        "queue_length",
        0,
        (0, 1_048_576),
        "past embeddings that take part in assignments; 3840 where a batch is far smaller",
    ),
    OptionSpec::int(
        "queue_start_epoch",
        15,
        (0, 1_000_000),
        "epochs before the queue fills: early embeddings change too fast",
    ),
];
