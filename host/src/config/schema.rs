//! The host's own keys: name, type, default, range and one line of advice each. Help and documents
//! are printed from here.

use toml::Value;

use super::option::{Kind, OptionSpec};

/// One key of the host.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name inside its section.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default as TOML; a leading `=` names the key of the same section that it follows.
    pub default: &'static str,
    /// Smallest value.
    pub min: Option<f64>,
    /// Largest value.
    pub max: Option<f64>,
    /// The words allowed, for a choice.
    pub choices: &'static [&'static str],
    /// One line: what it does and what to take.
    pub advice: &'static str,
}

/// The keys of one section.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name; empty for the top of the file.
    pub name: &'static str,
    /// What it is about, in one line.
    pub about: &'static str,
    /// Its keys, in the order in which they are printed.
    pub keys: &'static [Key],
}

impl Key {
    /// This key as an option; the default of a key that follows another is none.
    pub fn spec(&self) -> OptionSpec {
        OptionSpec {
            name: self.name.to_owned(),
            kind: self.kind,
            default: self.default.parse::<Value>().ok(),
            min: self.min,
            max: self.max,
            choices: self.choices.iter().map(|&choice| choice.to_owned()).collect(),
            advice: self.advice.to_owned(),
        }
    }

    /// The key of the same section whose value this one takes where no layer gives one.
    pub fn follows(&self) -> Option<&'static str> {
        self.default.strip_prefix('=')
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, advice: &'static str) -> Key {
    Key { name, kind, default, min: None, max: None, choices: &[], advice }
}

const fn int(name: &'static str, default: &'static str, min: f64, advice: &'static str) -> Key {
    Key { min: Some(min), ..key(name, Kind::Int, default, advice) }
}

const fn float(name: &'static str, default: &'static str, min: f64, advice: &'static str) -> Key {
    Key { min: Some(min), ..key(name, Kind::Float, default, advice) }
}

const fn flag(name: &'static str, default: &'static str, advice: &'static str) -> Key {
    Key { kind: Kind::Bool, ..text(name, default, advice) }
}

const fn text(name: &'static str, default: &'static str, advice: &'static str) -> Key {
    key(name, Kind::Text, default, advice)
}

const fn choice(
    name: &'static str,
    default: &'static str,
    choices: &'static [&'static str],
    advice: &'static str,
) -> Key {
    Key { choices, ..key(name, Kind::Choice, default, advice) }
}

const fn up_to(max: f64, key: Key) -> Key {
    Key { max: Some(max), ..key }
}

/// Every section of a recipe; `[backbone]` takes the options of its kind besides, and `[options]` those
/// of the method.
pub const SECTIONS: &[Section] = &[
    Section { name: "", about: "the run as a whole", keys: TOP },
    Section { name: "data", about: "what is trained on, and what probes ask about", keys: DATA },
    Section { name: "backbone", about: "the network that is kept", keys: BACKBONE },
    Section { name: "train", about: "how long, in which steps, with which optimiser", keys: TRAIN },
    Section {
        name: "probe",
        about: "probes of frozen features: nearest neighbours and a logistic regression",
        keys: PROBE,
    },
    Section { name: "options", about: "the method's own options", keys: &[] },
];

const TOP: &[Key] = &[
    text("method", "\"\"", "name of the method; `pretext plugin list` shows those found"),
    int("seed", "0", 0.0, "seed of all randomness: weights, data order, views"),
    text("run", "\"\"", "name of the run folder; empty chooses one from method and data"),
    text("runs", "\"runs\"", "folder in which runs lie"),
    text(
        "init",
        "\"\"",
        "weights that the backbone starts from: a safetensors file, a Hugging Face folder or a run",
    ),
    text(
        "device",
        "\"cpu\"",
        "where the network is computed: `cpu`, or `cuda` or `cuda:N` in a build with CUDA",
    ),
    choice(
        "precision",
        "\"f32\"",
        &["f32", "bf16"],
        "operands of matrix products; bf16 is faster on processors with AVX512-BF16",
    ),
    up_to(1024.0, int("threads", "0", 0.0, "threads of the engine; 0 takes every core")),
];

const DATA: &[Key] = &[
    text("source", "\"shapes\"", "built-in set or path of a folder, tar or file"),
    text("split", "\"train\"", "the part of the source to train on"),
    text("test_source", "\"\"", "where probe queries come from; empty takes the same source"),
    text("test_split", "\"test\"", "the part of the test source that probes ask about"),
    text(
        "label",
        "\"folder\"",
        "where a file's class stands: folder, or name:0 for the first part of its name",
    ),
    text(
        "include",
        "\"\"",
        "only samples whose names match, such as `*_anna_*,*_bob_*`; empty takes all",
    ),
    text("exclude", "\"\"", "no samples whose names match, neither for training nor for probes"),
    text(
        "test_include",
        "\"\"",
        "probes ask about samples whose names match, and training leaves them out; empty goes by split",
    ),
    int("limit", "0", 0.0, "train on the first so many samples; 0 takes all"),
    int("size", "0", 0.0, "image side of built-in sets and probes; 0 takes the dataset's own"),
    up_to(1e8, int("n", "4096", 1.0, "samples of a built-in set")),
    up_to(192_000.0, int("rate", "16000", 1000.0, "values a second that sounds are brought to")),
    float(
        "max_seconds",
        "0.0",
        0.0,
        "longer sounds are cut to a random part of this length; 0 cuts none",
    ),
    up_to(
        1024.0,
        int("workers", "0", 0.0, "threads that decode and make views; 0 chooses by cores"),
    ),
    up_to(1024.0, int("prefetch", "2", 1.0, "batches made ahead")),
    choice(
        "cache",
        "\"auto\"",
        &["auto", "memory", "off"],
        "keep decoded samples in memory; auto does where they fit",
    ),
    up_to(
        1.0,
        float(
            "max_broken_share",
            "0.01",
            0.0,
            "share of broken samples above which a run stops, if over ten; others are skipped",
        ),
    ),
];

const BACKBONE: &[Key] = &[text("kind", "\"vit\"", "kind of network; its options go beside it")];

const TRAIN: &[Key] = &[
    up_to(1e7, float("epochs", "10.0", 0.0, "times through the data")),
    up_to(1e12, int("steps", "0", 0.0, "updates in all; 0 goes by epochs")),
    int("batch", "64", 1.0, "samples per batch"),
    int("accumulate", "1", 1.0, "batches whose gradients are averaged before one update"),
    choice(
        "optimizer",
        "\"adamw\"",
        &["adamw", "sgd", "larc"],
        "rule of the update; larc is sgd with gradients scaled by layer",
    ),
    float("lr", "0.0005", 0.0, "peak learning rate for a batch of `lr_batch`"),
    int(
        "lr_batch",
        "256",
        0.0,
        "lr is scaled by batch x accumulate / lr_batch; 0 takes lr as it is",
    ),
    float("lr_final", "1e-6", 0.0, "learning rate of the last step; not scaled"),
    float("warmup_epochs", "0.0", 0.0, "epochs in which lr rises from 0"),
    float("weight_decay", "0.05", 0.0, "weight decay of the first step"),
    float(
        "weight_decay_end",
        "=weight_decay",
        0.0,
        "weight decay of the last step; a cosine between",
    ),
    up_to(
        0.999_999,
        Key {
            min: Some(0.0),
            ..key("betas", Kind::Numbers, "[0.9, 0.999]", "decay of AdamW's two moments")
        },
    ),
    float("eps", "1e-8", 1e-16, "added to the root of AdamW's second moment"),
    up_to(1.0, float("momentum", "0.9", 0.0, "share of the last update that sgd and larc keep")),
    float("trust", "0.001", 0.0, "larc: change of a tensor at lr 1, as a share of its norm"),
    key("trust_clip", Kind::Bool, "false", "larc: only lower learning rates, never raise them"),
    key(
        "decay_vectors",
        Kind::Bool,
        "false",
        "weight decay, and larc's scaling, for biases and norms too",
    ),
    float("clip", "0.0", 0.0, "largest norm of gradients; 0 clips nothing"),
    choice(
        "clip_mode",
        "\"global\"",
        &["tensor", "global"],
        "norm of each tensor alone or of all together",
    ),
    int("checkpoint_every", "0", 0.0, "steps between checkpoints; 0 writes one each epoch"),
    int("keep", "3", 1.0, "checkpoints kept"),
    int("log_every", "10", 1.0, "steps between lines where output is no terminal"),
];

const PROBE: &[Key] = &[
    float("every", "5.0", 0.0, "epochs between probes; 0 probes at the end only"),
    int("bank", "10000", 1.0, "training samples that neighbours are taken from"),
    int("queries", "2000", 1.0, "test samples that are asked about"),
    int("k", "20", 1.0, "neighbours that vote"),
    float("temperature", "0.07", 1e-6, "a vote weighs exp(cosine / temperature)"),
    flag("linear", "true", "a logistic regression is asked too, at the start and the end"),
    int(
        "layer",
        "0",
        0.0,
        "ask the mean of the tokens after this block; 0 asks what the backbone pools",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_in_the_range_of_its_key() {
        for section in SECTIONS {
            for key in section.keys {
                match key.follows() {
                    Some(other) => assert!(section.keys.iter().any(|key| key.name == other)),
                    None => {
                        let default = key.spec().default.expect(key.name);
                        assert_eq!(key.spec().check(key.name, &default).unwrap(), default);
                    }
                }
            }
        }
    }

    #[test]
    fn every_key_has_a_line_of_advice() {
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            assert!(!key.advice.is_empty() && key.advice.len() < 100, "{}", key.name);
        }
    }
}
