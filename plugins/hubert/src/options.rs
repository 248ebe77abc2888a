//! HuBERT's options: the authors' values as defaults, and what each does.

use pretext_plugin_api::{OptionSpec, Options, Result};

const SHARE: (f64, f64) = (0.0, 1.0);
const WEIGHT: (f64, f64) = (0.0, 1000.0);
const COUNT: (i64, i64) = (1, 1_000_000);

/// What is learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Modality {
    /// Sound, as waveforms.
    Audio,
    /// Images.
    Image,
}

impl Modality {
    /// As the recipe says.
    pub(crate) fn of(options: Options) -> Result<Self> {
        Ok(if options.choice("modality")? == "image" { Self::Image } else { Self::Audio })
    }
}

/// Every option, in reading order.
pub(crate) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::choice(
        "modality",
        "audio",
        &["audio", "image"],
        "image learns from patches, with `features_first=patches` and `mask=random`",
    ),
    OptionSpec::int(
        "iterations",
        2,
        (1, 8),
        "trainings; each learns from units of what the one before learned",
    ),
    OptionSpec::float(
        "first_share",
        0.625,
        (0.01, 100.0),
        "steps of the first training for each step of a later one",
    ),
    OptionSpec::choice(
        "features_first",
        "mfcc",
        &["mfcc", "patches", "layer"],
        "what the first units come from; layer takes the untrained backbone",
    ),
    OptionSpec::int(
        "layer",
        6,
        (1, 1000),
        "the block whose tokens later units come from; the middle of the network",
    ),
    OptionSpec::int("clusters_first", 100, COUNT, "units of the first iteration"),
    OptionSpec::int("clusters_next", 500, COUNT, "units of later iterations"),
    OptionSpec::float(
        "cluster_share",
        0.1,
        (1e-6, 1.0),
        "share of the data that clusters are sought in; 1 for small data",
    ),
    OptionSpec::flag(
        "cluster_normalise",
        false,
        "gives each sample's features mean 0 and deviation 1 before they are clustered: units say less about the speaker",
    ),
    OptionSpec::int("cluster_batch", 10_000, COUNT, "frames of a batch of k-means"),
    OptionSpec::int("cluster_epochs", 100, COUNT, "times through the frames, at most"),
    OptionSpec::int("cluster_tries", 20, (1, 1000), "starts of k-means that are tried"),
    OptionSpec::int(
        "cluster_patience",
        100,
        (0, 1_000_000),
        "batches without an improvement before k-means stops",
    ),
    OptionSpec::float("max_seconds", 15.625, (0.05, 1e4), "longer sounds are cut at random"),
    OptionSpec::float("min_seconds", 0.1, (0.05, 1e4), "shorter batches go on in silence"),
    OptionSpec::flag(
        "pad",
        false,
        "off cuts every sound of a batch to the shortest, as the authors do; on for short sounds",
    ),
    OptionSpec::flag("normalise", false, "gives each sound mean 0 and variance 1"),
    OptionSpec::int("image_size", 224, (8, 1024), "side of an image, in pixels"),
    OptionSpec::float(
        "image_scale_min",
        1.0,
        (1e-3, 1.0),
        "smallest share of the image's area that is seen; units follow the crop",
    ),
    OptionSpec::float("image_flip", 0.5, SHARE, "probability of a flip; units follow it"),
    OptionSpec::choice(
        "mask",
        "spans",
        &["spans", "random"],
        "spans of frames for sound, single patches for images",
    ),
    OptionSpec::float(
        "mask_probability",
        0.8,
        SHARE,
        "spans times their length as a share of the frames; of patches the share that is hidden",
    ),
    OptionSpec::int("mask_length", 10, (1, 1000), "frames of a span"),
    OptionSpec::int("mask_min_spans", 2, (1, 1000), "spans of a sample, at least"),
    OptionSpec::int("projection", 256, (1, 65_536), "width in which codewords are compared"),
    OptionSpec::float("temperature", 0.1, (1e-4, 10.0), "what cosines are divided by"),
    OptionSpec::int(
        "extra_classes",
        4,
        (0, 1000),
        "classes that are never a target; the authors' dictionary has 4 more than units",
    ),
    OptionSpec::float("weight_masked", 1.0, WEIGHT, "how much hidden frames count"),
    OptionSpec::float(
        "weight_unmasked",
        0.0,
        WEIGHT,
        "how much shown frames count; above 0 is nearer to clustering than to a language model",
    ),
    OptionSpec::float(
        "feature_penalty",
        10.0,
        WEIGHT,
        "weight of the mean square of the first features, for sound; 0 leaves it out",
    ),
];
