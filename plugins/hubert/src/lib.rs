//! HuBERT: masked prediction of hidden units.
//! Hsu et al. 2021, <https://arxiv.org/abs/2106.07447>
//!
//! Clustering gives every frame a unit; the backbone sees the sample with spans of frames hidden, and
//! learns to say the units of the hidden ones. What it learned is clustered again, which gives better
//! units to learn from. Nothing of it is about sound alone: units of patches make it work on images.
#![forbid(unsafe_code)]

mod head;
mod objective;
mod options;

use pretext_plugin_api::{
    Builder, Clustering, Descriptor, Features, Method, Module, Options, Result, StagePlan, Step,
    Tensor, ViewPlan, ViewRequest, Views, export_methods,
};

use head::Head;
use objective::Weights;
use options::Modality;

/// A backbone that sees what is not hidden, and a head that says units.
#[derive(Debug)]
pub struct Hubert {
    backbone: Module,
    head: Head,
    modality: Modality,
    weights: Weights,
    temperature: f64,
    /// Weight of the mean square of the first features; 0 leaves them alone.
    penalty: f64,
}

impl Method for Hubert {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "hubert",
        summary: "masked prediction: the backbone says the units of hidden frames, which clustering found",
        paper: "https://arxiv.org/abs/2106.07447",
        modalities: &["audio", "image"],
        options: options::OPTIONS,
        views: &["waveform@1", "crop@1", "span-mask@1", "random-mask@1", "units@1"],
        ops: &["cross_entropy@1", "l2_normalize@1", "linear@1", "where@1"],
        recipes: &[
            ("default", include_str!("../recipes/default.toml")),
            ("cifar10-vit", include_str!("../recipes/cifar10-vit.toml")),
            ("fsdd", include_str!("../recipes/fsdd.toml")),
            ("patches", include_str!("../recipes/patches.toml")),
        ],
    };

    fn stages(options: Options, run: &mut StagePlan) -> Result<()> {
        for iteration in 0..options.size("iterations")? {
            let features = features(options, iteration)?;
            let how = Clustering {
                share: options.float("cluster_share")?,
                batch: options.size("cluster_batch")?,
                epochs: options.size("cluster_epochs")?,
                tries: options.size("cluster_tries")?,
                patience: options.size("cluster_patience")?,
                normalise: options.flag("cluster_normalise")?,
                ..Clustering::new(clusters(options, iteration)?)
            };
            run.units(&stage(iteration), features, how)?;
            let share = if iteration == 0 { options.float("first_share")? } else { 1.0 };
            run.training(&format!("iteration-{}", iteration + 1), share)?;
        }
        Ok(())
    }

    fn plan(options: Options, plan: &mut ViewPlan) -> Result<()> {
        let input = match Modality::of(options)? {
            Modality::Audio => ViewRequest::new("input", "waveform@1", 1)
                .float("max_seconds", options.float("max_seconds")?)
                .float("min_seconds", options.float("min_seconds")?)
                .int("pad", i64::from(options.flag("pad")?))
                .int("normalise", i64::from(options.flag("normalise")?)),
            Modality::Image => ViewRequest::new("input", "crop@1", 1)
                .int("size", options.int("image_size")?)
                .float("scale_min", options.float("image_scale_min")?)
                .float("flip", options.float("image_flip")?),
        };
        plan.ask(input)?;
        plan.ask(mask(options)?)?;
        let units = stage(plan.training()?);
        plan.ask(ViewRequest::new("units", "units@1", 1).text("stage", &units).text("of", "input"))
    }

    fn build(options: Options, host: &mut Builder) -> Result<Self> {
        let backbone = host.backbone("backbone")?;
        let classes = clusters(options, host.training()?)? + options.size("extra_classes")?;
        Ok(Self {
            backbone,
            head: Head::declare(options, host, backbone.fact("dim")?, classes)?,
            modality: Modality::of(options)?,
            weights: Weights {
                masked: options.float("weight_masked")?,
                unmasked: options.float("weight_unmasked")?,
            },
            temperature: options.float("temperature")?,
            penalty: options.float("feature_penalty")?,
        })
    }

    fn step(&mut self, views: &Views<'_>, step: &Step) -> Result<Tensor> {
        let (mask, units) = (views.get("mask")?.all("mask"), views.get("units")?);
        let (tokens, frames) = self.see(views, mask)?;
        let (units, known) = (units.all("units").reshape(&[-1]), units.all("known").reshape(&[-1]));
        let mask = mask.reshape(&[-1]);
        let logits = self.head.logits(tokens);
        let rows = logits.cross_entropy(units, self.temperature);
        let loss = objective::predict(rows, mask, known, self.weights);
        step.metric("accuracy_masked", objective::accuracy(logits, units, mask, known))?;
        step.metric("units_said", objective::said(logits, known, self.temperature))?;
        let Some(frames) = frames else { return Ok(loss) };
        let penalty = objective::penalty(frames);
        step.metric("prediction", loss)?;
        step.metric("feature_penalty", penalty)?;
        Ok(loss + penalty.scale(self.penalty))
    }
}

impl Hubert {
    /// Tokens `[B, F, D]` of the input with hidden frames, and the first features `[B, F, C]` where they
    /// are penalised.
    fn see(&self, views: &Views<'_>, mask: Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let input = views.get("input")?;
        match self.modality {
            Modality::Image => {
                let inputs = [("images", input.all("pixels")), ("mask", mask)];
                let [tokens] = self.backbone.call(&inputs, ["tokens"]);
                Ok((tokens, None))
            }
            Modality::Audio => {
                let inputs = [
                    ("waveforms", input.all("samples")),
                    ("lengths", input.all("lengths")),
                    ("mask", mask),
                ];
                if self.penalty > 0.0 {
                    let [tokens, frames] = self.backbone.call(&inputs, ["tokens", "frames"]);
                    return Ok((tokens, Some(frames)));
                }
                let [tokens] = self.backbone.call(&inputs, ["tokens"]);
                Ok((tokens, None))
            }
        }
    }
}

/// The name of the stage whose units iteration number `iteration`, from 0, learns from.
fn stage(iteration: usize) -> String {
    format!("units-{}", iteration + 1)
}

/// How many clusters that stage seeks.
fn clusters(options: Options, iteration: usize) -> Result<usize> {
    options.size(if iteration == 0 { "clusters_first" } else { "clusters_next" })
}

/// What it clusters.
fn features(options: Options, iteration: usize) -> Result<Features> {
    let layer = Features::Layer(options.size("layer")?);
    if iteration > 0 {
        return Ok(layer);
    }
    Ok(match options.choice("features_first")?.as_str() {
        "mfcc" => Features::Mfcc,
        "patches" => Features::Patches,
        _ => layer,
    })
}

/// What is hidden.
fn mask(options: Options) -> Result<ViewRequest> {
    Ok(match options.choice("mask")?.as_str() {
        "random" => ViewRequest::new("mask", "random-mask@1", 1)
            .float("ratio", options.float("mask_probability")?)
            .text("of", "input"),
        _ => ViewRequest::new("mask", "span-mask@1", 1)
            .float("probability", options.float("mask_probability")?)
            .int("length", options.int("mask_length")?)
            .int("min_spans", options.int("mask_min_spans")?)
            .text("of", "input"),
    })
}

export_methods!(Hubert);
