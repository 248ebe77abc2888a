//! DINO: self-distillation with no labels.
//! Caron et al. 2021, <https://arxiv.org/abs/2104.14294>
//!
//! A student sees every view, a teacher only the global ones; the student learns to say what the
//! teacher says about the other views. Centering and a low temperature keep them from agreeing on
//! one answer for everything.
#![forbid(unsafe_code)]

mod head;
mod objective;
mod options;

use pretext_plugin_api::{
    Buffer, Builder, Curve, Descriptor, Init, Method, Module, Options, Parameter, Result, Schedule,
    Step, Tensor, ViewPlan, ViewRequest, Views, export_methods, no_grad,
};

use head::Head;
use objective::Terms;

/// A student, its teacher, and the teacher's center.
#[derive(Debug)]
pub struct Dino {
    student: Network,
    teacher: Network,
    center: Buffer,
    center_decay: f64,
    temperature_student: f64,
    temperature_teacher: Schedule,
    /// The field of a view that the backbone reads: `images` of crops, `vectors` otherwise.
    input: Input,
}

/// What sees a view: a backbone with a head on it.
#[derive(Debug)]
struct Network {
    backbone: Module,
    head: Option<Head>,
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

impl Network {
    /// Embeds groups of equal resolution, `[n_i B, ...]` each; the head runs once, on all of them:
    /// `[sum n_i B, K]`.
    fn embed(&self, groups: &[Tensor], input: Input) -> Tensor {
        let features: Vec<Tensor> = groups
            .iter()
            .map(|group| {
                let [pooled] = self.backbone.call(&[(input.names().1, *group)], ["pooled"]);
                pooled
            })
            .collect();
        let features = if let [one] = features[..] { one } else { Tensor::cat(0, &features) };
        match &self.head {
            Some(head) => head.embed(features),
            None => features,
        }
    }
}

impl Method for Dino {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "dino",
        summary: "self-distillation with no labels: a student predicts a centred, sharpened teacher",
        paper: "https://arxiv.org/abs/2104.14294",
        modalities: &["image", "vector"],
        options: options::OPTIONS,
        views: &["crop@1", "vector@1"],
        ops: &["softmax@1", "soft_cross_entropy@1", "weight_norm@1", "all_reduce@1"],
        recipes: &[
            ("default", include_str!("../recipes/default.toml")),
            ("cifar10-vit", include_str!("../recipes/cifar10-vit.toml")),
            ("vit-small", include_str!("../recipes/vit-small.toml")),
        ],
    };

    fn plan(options: Options, plan: &mut ViewPlan) -> Result<()> {
        let locals = options.size("local_crops")?;
        if Input::of(options)? == Input::Vectors {
            plan.ask(vector("global_1", 1, options)?)?;
            plan.ask(vector("global_2", 1, options)?)?;
            return if locals > 0 { plan.ask(vector("local", locals, options)?) } else { Ok(()) };
        }
        plan.ask(crop("global_1", "global", 1, options)?)?;
        plan.ask(crop("global_2", "global", 1, options)?)?;
        if locals > 0 {
            plan.ask(crop("local", "local", locals, options)?)?;
        }
        Ok(())
    }

    fn build(options: Options, host: &mut Builder) -> Result<Self> {
        let backbone = host.backbone("backbone")?;
        let head = if options.flag("head")? {
            Some(Head::declare(options, host, backbone.fact("dim")?)?)
        } else {
            None
        };
        let modules: Vec<Module> =
            std::iter::once(backbone).chain(head.iter().map(|head| head.layers)).collect();
        let parameters: Vec<Parameter> = head.iter().flat_map(Head::parameters).collect();
        let decay = Curve::cosine(
            options.float("teacher_decay_start")?,
            options.float("teacher_decay_end")?,
        );
        let decay = host.schedule("teacher_decay", decay)?;
        let copies = host.teacher("teacher", &modules, &parameters, decay)?;
        let teacher = Network {
            backbone: copies.module(backbone)?,
            head: head.as_ref().map(|head| head.of(copies)).transpose()?,
        };
        let width = match &head {
            Some(head) => head.prototypes,
            None => backbone.fact("dim")?,
        };
        let temperature = Curve::constant(options.float("temperature_teacher_end")?)
            .warmup(
                options.float("temperature_teacher_start")?,
                options.float("temperature_teacher_warmup_epochs")?,
            )
            .per_epoch();
        Ok(Self {
            student: Network { backbone, head },
            teacher,
            center: host.buffer("center", &[1, width], Init::Constant(0.0))?,
            center_decay: options.float("center_decay")?,
            temperature_student: options.float("temperature_student")?,
            temperature_teacher: host.schedule("temperature_teacher", temperature)?,
            input: Input::of(options)?,
        })
    }

    fn step(&mut self, views: &Views<'_>, step: &Step) -> Result<Tensor> {
        let field = self.input.names().0;
        let globals =
            Tensor::cat(0, &[views.get("global_1")?.all(field), views.get("global_2")?.all(field)]);
        let told = no_grad(|| self.teacher.embed(&[globals], self.input));
        let groups: Vec<Tensor> = std::iter::once(globals)
            .chain(views.find("local").map(|local| local.all(field)))
            .collect();
        let said = self.student.embed(&groups, self.input);
        let temperature = self.temperature_teacher.value()?;
        let center = self.center.tensor();
        let terms = Terms {
            crops: 2 + views.find("local").map_or(0, pretext_plugin_api::View::copies),
            batch: step.batch()?,
        };
        let targets = no_grad(|| objective::sharpen(told, center, temperature));
        let loss = objective::cross_view(said, targets, self.temperature_student, terms);
        self.center.set(objective::recenter(center, told, self.center_decay))?;
        step.metric("teacher_entropy", objective::entropy(targets))?;
        step.metric("prototypes_used", objective::used(targets))?;
        Ok(loss)
    }
}

/// A crop of `size`, `scale` and augmentation as the options with this prefix have it.
fn crop(name: &str, prefix: &str, copies: usize, options: Options) -> Result<ViewRequest> {
    let get = |key: &str| options.float(&format!("{prefix}_{key}"));
    // The authors blur the first global view always, the second rarely, and solarize only that.
    let (blur, solarize) = match name {
        "global_1" => (options.float("blur_global_1")?, 0.0),
        "global_2" => (options.float("blur_global_2")?, options.float("solarize_global_2")?),
        _ => (options.float("blur_local")?, 0.0),
    };
    Ok(ViewRequest::new(name, "crop@1", copies)
        .int("size", options.int(&format!("{prefix}_size"))?)
        .float("scale_min", get("scale_min")?)
        .float("scale_max", get("scale_max")?)
        .float("flip", 0.5)
        .float("jitter", options.float("jitter")?)
        .float("brightness", options.float("brightness")?)
        .float("contrast", options.float("contrast")?)
        .float("saturation", options.float("saturation")?)
        .float("hue", options.float("hue")?)
        .float("grayscale", options.float("grayscale")?)
        .float("blur", blur)
        .float("blur_min", 0.1)
        .float("blur_max", 2.0)
        .float("solarize", solarize))
}

/// A copy of a vector with noise.
fn vector(name: &str, copies: usize, options: Options) -> Result<ViewRequest> {
    Ok(ViewRequest::new(name, "vector@1", copies).float("noise", options.float("vector_noise")?))
}

export_methods!(Dino);
