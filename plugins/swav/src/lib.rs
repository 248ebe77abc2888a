//! SwAV: unsupervised learning of visual features by contrasting cluster assignments.
//! Caron et al. 2020, <https://arxiv.org/abs/2006.09882>
//!
//! Crops are compared with prototypes. Two large crops of each picture are assigned to the prototypes so that
//! all of these are used equally, and every other crop of the picture must predict the assignment.
#![forbid(unsafe_code)]

mod head;
mod objective;
mod options;
mod queue;

use pretext_plugin_api::{
    Builder, Descriptor, Method, Module, Options, Result, Step, Tensor, ViewPlan, ViewRequest,
    Views, export_methods,
};

use head::{Head, Prototypes};
use objective::{Assign, Terms};
use queue::Queue;

/// Crops that are assigned to prototypes: the large ones.
const ASSIGNED: usize = 2;

/// A network, its prototypes, and embeddings of past batches.
#[derive(Debug)]
pub struct Swav {
    backbone: Module,
    /// None where the backbone's features are the scores already.
    head: Option<Head>,
    queue: Option<Queue>,
    assign: Assign,
    temperature: f64,
    /// The field of a view that the backbone reads: `images` of crops, `vectors` otherwise.
    input: Input,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Images,
    Vectors,
}

impl Input {
    /// Images, unless the recipe's backbone takes vectors.
    fn of(options: Options) -> Result<Self> {
        Ok(if options.choice("modality")? == "vector" { Self::Vectors } else { Self::Images })
    }

    /// The view's field and the backbone's input of that name.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Images => ("pixels", "images"),
            Self::Vectors => ("values", "vectors"),
        }
    }
}

impl Swav {
    /// Embeddings `[sum n_i B, D]` of groups of equal resolution, `[n_i B, ...]` each; the head runs once, on all
    /// of them.
    fn embed(&self, groups: &[Tensor]) -> Tensor {
        let features: Vec<Tensor> = groups
            .iter()
            .map(|group| {
                let [pooled] = self.backbone.call(&[(self.input.names().1, *group)], ["pooled"]);
                pooled
            })
            .collect();
        let features = if let [one] = features[..] { one } else { Tensor::cat(0, &features) };
        self.head.as_ref().map_or(features, |head| head.embed(features))
    }

    fn prototypes(&self) -> Option<Prototypes> {
        self.head.as_ref().map(|head| head.prototypes)
    }
}

impl Method for Swav {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "swav",
        summary: "swapped prediction: crops predict the balanced cluster assignment of other crops",
        paper: "https://arxiv.org/abs/2006.09882",
        modalities: &["image", "vector"],
        options: options::OPTIONS,
        views: &["crop@1", "vector@1"],
        ops: &["sinkhorn@1", "soft_cross_entropy@1", "l2_normalize@1", "queue_push@1"],
        recipes: &[
            ("default", include_str!("../recipes/default.toml")),
            ("cifar10-small", include_str!("../recipes/cifar10-small.toml")),
            ("cifar10-vit", include_str!("../recipes/cifar10-vit.toml")),
            ("resnet50", include_str!("../recipes/resnet50.toml")),
            ("vit-small", include_str!("../recipes/vit-small.toml")),
        ],
    };

    fn plan(options: Options, plan: &mut ViewPlan) -> Result<()> {
        let locals = options.size("local_crops")?;
        let views = [("global", ASSIGNED), ("local", locals)];
        for (name, copies) in views.into_iter().filter(|(_, copies)| *copies > 0) {
            plan.ask(match Input::of(options)? {
                Input::Images => crop(name, copies, options)?,
                Input::Vectors => ViewRequest::new(name, "vector@1", copies)
                    .float("noise", options.float("vector_noise")?),
            })?;
        }
        Ok(())
    }

    fn build(options: Options, host: &mut Builder) -> Result<Self> {
        let backbone = host.backbone("backbone")?;
        let width = backbone.fact("dim")?;
        let head =
            if options.flag("head")? { Some(Head::declare(options, host, width)?) } else { None };
        let width = head.as_ref().map_or(width, |head| head.prototypes.dim);
        Ok(Self {
            backbone,
            head,
            queue: Queue::declare(options, host, width)?,
            assign: Assign {
                epsilon: options.float("epsilon")?,
                iterations: options.size("sinkhorn_iterations")?,
            },
            temperature: options.float("temperature")?,
            input: Input::of(options)?,
        })
    }

    fn step(&mut self, views: &Views<'_>, step: &Step) -> Result<Tensor> {
        let field = self.input.names().0;
        let locals = views.find("local");
        let groups: Vec<Tensor> = std::iter::once(views.get("global")?)
            .chain(locals)
            .map(|view| view.all(field))
            .collect();
        let embedded = self.embed(&groups);
        let scores = self.prototypes().map_or(embedded, |prototypes| prototypes.scores(embedded));
        let batch = step.batch()?;
        let mut codes = Vec::with_capacity(ASSIGNED);
        for crop in 0..ASSIGNED {
            let own = scores.narrow(0, crop * batch, batch);
            let past = match &self.queue {
                Some(queue) => queue.scores(crop, self.prototypes(), step)?,
                None => None,
            };
            codes.push(objective::assign(own, past, self.assign));
            if let Some(queue) = &self.queue {
                queue.push(crop, embedded.narrow(0, crop * batch, batch), step)?;
            }
        }
        let crops = ASSIGNED + locals.map_or(0, pretext_plugin_api::View::copies);
        let terms = Terms { crops, batch };
        step.metric("prototypes_used", objective::used(scores, self.temperature))?;
        step.metric("assignment_entropy", objective::entropy(codes[0], batch))?;
        Ok(objective::swapped(scores, [codes[0], codes[1]], self.temperature, terms))
    }
}

/// A crop of size, scale and augmentation as the options have it.
fn crop(name: &str, copies: usize, options: Options) -> Result<ViewRequest> {
    let get = |key: &str| options.float(&format!("{name}_{key}"));
    let view = ViewRequest::new(name, "crop@1", copies)
        .int("size", options.int(&format!("{name}_size"))?)
        .float("scale_min", get("scale_min")?)
        .float("scale_max", get("scale_max")?)
        .float("flip", 0.5)
        .float("jitter", options.float("jitter")?)
        .float("brightness", options.float("brightness")?)
        .float("contrast", options.float("contrast")?)
        .float("saturation", options.float("saturation")?)
        .float("hue", options.float("hue")?)
        .float("grayscale", options.float("grayscale")?)
        .float("blur", options.float("blur")?)
        .float("blur_min", 0.1)
        .float("blur_max", 2.0);
    // The authors divide red by 0.228 where everyone else takes 0.229.
    Ok(if options.flag("authors_std")? { view.floats("std", &[0.228, 0.224, 0.225]) } else { view })
}

export_methods!(Swav);
