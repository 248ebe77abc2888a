//! InfoNCE: two crops of a picture find each other among the crops of the batch.
//! Chen et al. 2020, <https://arxiv.org/abs/2002.05709>
#![forbid(unsafe_code)]

use pretext_plugin_api::{
    Builder, Descriptor, Method, Module, OptionSpec, Options, Result, Step, Tensor, ViewPlan,
    ViewRequest, Views, export_methods,
};

/// A backbone and a projection in which crops are compared.
#[derive(Debug)]
pub struct Contrast {
    backbone: Module,
    projection: Module,
    temperature: f64,
}

impl Method for Contrast {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "contrast",
        summary: "two crops of a picture find each other among the crops of the batch",
        paper: "https://arxiv.org/abs/2002.05709",
        modalities: &["image"],
        options: &[
            OptionSpec::float(
                "temperature",
                0.2,
                (0.01, 10.0),
                "lower looks at near pictures only",
            ),
            OptionSpec::int(
                "width",
                32,
                (2, 4096),
                "width of the space in which crops are compared",
            ),
        ],
        views: &["crop@1"],
        ops: &["l2_normalize@1", "matmul@1", "permute@1", "soft_cross_entropy@1", "mean@1"],
        recipes: &[("default", include_str!("default.toml"))],
    };

    fn plan(_: Options, plan: &mut ViewPlan) -> Result<()> {
        plan.ask(ViewRequest::new("crop", "crop@1", 2).int("size", 16).float("scale_min", 0.5))
    }

    fn build(options: Options, host: &mut Builder) -> Result<Self> {
        let backbone = host.backbone("backbone")?;
        let (dim, width) = (backbone.fact("dim")?, options.int("width")?);
        let shape = [
            ("in", dim.into()),
            ("hidden", dim.into()),
            ("out", width.into()),
            ("layers", 2.into()),
            ("activation", "relu".into()),
            ("bias", true.into()),
        ];
        let projection = host.module("projection", "mlp", &shape)?;
        Ok(Self { backbone, projection, temperature: options.float("temperature")? })
    }

    /// `mean_i -log softmax(z_i z'^T / temperature)_i`, both ways.
    fn step(&mut self, views: &Views<'_>, step: &Step) -> Result<Tensor> {
        let crop = views.get("crop")?;
        let [one, other] = [0, 1].map(|copy| {
            let [pooled] =
                self.backbone.call(&[("images", crop.field(copy, "pixels"))], ["pooled"]);
            self.projection.forward(pooled).l2_normalize(-1, 1e-12)
        });
        let batch = step.batch()?;
        let mut same = vec![0.0; batch * batch];
        same.iter_mut().step_by(batch + 1).for_each(|cell| *cell = 1.0);
        let same = Tensor::from_slice(&[batch, batch], &same);
        let likeness = one.matmul(other.permute(&[1, 0]));
        let there = likeness.soft_cross_entropy(same, self.temperature);
        let back = likeness.permute(&[1, 0]).soft_cross_entropy(same, self.temperature);
        Ok(there.add(back).mean(&[], false).scale(0.5))
    }
}

export_methods!(Contrast);
