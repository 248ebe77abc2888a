//! I-JEPA: an image-based joint-embedding predictive architecture.
//! Assran et al. 2023, <https://arxiv.org/abs/2301.08243>
//!
//! A student sees the patches of a context block only. From its features a predictor says which features a
//! teacher, that sees the whole image, has at the hidden patches of several target blocks. Nothing is
//! augmented: what is to be predicted is what lies elsewhere in the same image.
#![forbid(unsafe_code)]

mod objective;
mod options;
mod predictor;

use pretext_plugin_api::{
    Builder, Curve, Descriptor, Method, Module, Options, Result, Step, Tensor, ViewPlan,
    ViewRequest, Views, export_methods, no_grad,
};

use predictor::{Blocks, Predictor};

/// A student, its teacher, and the predictor between them.
#[derive(Debug)]
pub struct Jepa {
    student: Module,
    teacher: Module,
    predictor: Predictor,
    /// Below this distance the loss is a square.
    beta: f64,
}

impl Method for Jepa {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "jepa",
        summary: "I-JEPA: a predictor says a teacher's features of hidden blocks from visible patches",
        paper: "https://arxiv.org/abs/2301.08243",
        modalities: &["image"],
        options: options::OPTIONS,
        views: &["crop@1", "block-mask@1"],
        ops: &["gather_tokens@1", "layer_norm@1", "smooth_l1@1"],
        recipes: &[
            ("default", include_str!("../recipes/default.toml")),
            ("cifar10-small", include_str!("../recipes/cifar10-small.toml")),
            ("cifar10-vit", include_str!("../recipes/cifar10-vit.toml")),
            ("vit-huge", include_str!("../recipes/vit-huge.toml")),
        ],
    };

    fn plan(options: Options, plan: &mut ViewPlan) -> Result<()> {
        let crop = ViewRequest::new("image", "crop@1", 1)
            .int("size", options.int("size")?)
            .float("scale_min", options.float("scale_min")?)
            .float("scale_max", 1.0)
            .float("flip", options.float("flip")?)
            .float("grayscale", options.float("grayscale")?);
        plan.ask(crop)?;
        plan.ask(blocks(options)?)
    }

    fn build(options: Options, host: &mut Builder) -> Result<Self> {
        let backbone = host.backbone("backbone")?;
        let decay = Curve::linear(
            options.float("teacher_decay_start")?,
            options.float("teacher_decay_end")?,
        );
        let decay = host.schedule("teacher_decay", decay)?;
        let teacher = host.teacher("teacher", &[backbone], &[], decay)?;
        Ok(Self {
            student: backbone,
            teacher: teacher.module(backbone)?,
            predictor: Predictor::declare(options, host, backbone)?,
            beta: options.float("loss_beta")?,
        })
    }

    fn step(&mut self, views: &Views<'_>, step: &Step) -> Result<Tensor> {
        let images = views.get("image")?.field(0, "pixels");
        let masks = views.get("blocks")?;
        let blocks = Blocks {
            context: masks.field(0, "context"),
            targets: masks.all("target"),
            count: masks.copies(),
        };
        let targets = no_grad(|| {
            let [tokens] = self.teacher.call(&[("images", images)], ["tokens"]);
            let tokens = objective::normalize(tokens);
            let each: Vec<Tensor> = (0..blocks.count)
                .map(|block| tokens.gather_tokens(masks.field(block, "target")))
                .collect();
            Tensor::cat(0, &each)
        });
        let inputs = [("images", images), ("keep", blocks.context)];
        let [context] = self.student.call(&inputs, ["tokens"]);
        let predicted = self.predictor.predict(context, blocks)?;
        step.metric("target_spread", objective::spread(targets)?)?;
        step.metric("prediction_spread", objective::spread(predicted)?)?;
        Ok(objective::distance(predicted, targets, self.beta))
    }
}

/// The blocks to predict and the one to predict them from.
fn blocks(options: Options) -> Result<ViewRequest> {
    let corrected = options.choice("mask_sampling")? == "corrected";
    Ok(ViewRequest::new("blocks", "block-mask@1", options.size("target_blocks")?)
        .text("of", "image")
        .float("context_scale_min", options.float("context_scale_min")?)
        .float("context_scale_max", options.float("context_scale_max")?)
        .float("target_scale_min", options.float("target_scale_min")?)
        .float("target_scale_max", options.float("target_scale_max")?)
        .float("target_ratio_min", options.float("target_ratio_min")?)
        .float("target_ratio_max", options.float("target_ratio_max")?)
        .int("min_keep", options.int("min_keep")?)
        .int("shared_draw", i64::from(!corrected))
        .int("touch_edges", i64::from(corrected))
        .text("cut", if corrected { "random" } else { "raster" }))
}

export_methods!(Jepa);
