//! A plugin that does one thing wrong, chosen by an option, and leaves a trace when its code runs.

use pretext_plugin_api::{
    Builder, Descriptor, Method, Module, OptionSpec, Options, Result, Step, Tensor, ViewPlan,
    ViewRequest, Views, export_methods,
};

/// Runs when the library is opened, before anything in it is called: writes the file that the
/// variable names, so that a test can tell whether a host ran any code of this library.
#[used]
#[unsafe(link_section = ".init_array")]
static TRACE: extern "C" fn() = trace;

extern "C" fn trace() {
    if let Some(path) = std::env::var_os("PRETEXT_TEST_TRACE") {
        std::fs::write(path, "ran").ok();
    }
}

/// Pulls two crops of a picture together, until it fails.
#[derive(Debug)]
pub struct Faults {
    backbone: Module,
    fault: String,
    at: u64,
    /// A tensor of the first step, which names nothing in the second.
    stale: Option<Tensor>,
}

impl Method for Faults {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "faults",
        summary: "fails on demand",
        paper: "none",
        modalities: &["image"],
        options: &[
            OptionSpec::choice(
                "fault",
                "none",
                &[
                    "none",
                    "plan_panic",
                    "plan_error",
                    "plan_asked_wrongly",
                    "build_panic",
                    "build_error",
                    "build_unknown_block",
                    "step_panic",
                    "step_error",
                    "step_unchecked_error",
                    "step_stale_handle",
                    "step_vector_loss",
                    "step_nan",
                    "drop_panic",
                ],
                "what goes wrong",
            ),
            OptionSpec::int("at", 3, (1, 1000), "the step in which it goes wrong"),
        ],
        views: &["crop@1"],
        ops: &["sub@1", "square@1", "mean@1"],
        recipes: &[("default", include_str!("default.toml"))],
    };

    fn plan(options: Options, plan: &mut ViewPlan) -> Result<()> {
        fail("plan", &options.choice("fault")?)?;
        plan.ask(ViewRequest::new("crop", "crop@1", 2).int("size", 16))
    }

    fn build(options: Options, host: &mut Builder) -> Result<Self> {
        let fault = options.choice("fault")?;
        fail("build", &fault)?;
        if fault == "build_unknown_block" {
            host.module("head", "mpl", &[("in", 16.into()), ("out", 16.into())])?;
        }
        let (backbone, at) = (host.backbone("backbone")?, options.size("at")? as u64);
        Ok(Self { backbone, fault, at, stale: None })
    }

    fn step(&mut self, views: &Views<'_>, step: &Step) -> Result<Tensor> {
        let crop = views.get("crop")?;
        let [one, other] = [0, 1].map(|copy| {
            let [pooled] =
                self.backbone.call(&[("images", crop.field(copy, "pixels"))], ["pooled"]);
            pooled
        });
        let distance = one.sub(other).square();
        let stale = *self.stale.get_or_insert(one);
        if step.number()? + 1 == self.at {
            fail("step", &self.fault)?;
            match self.fault.as_str() {
                "step_unchecked_error" => drop(step.metric("all", distance)),
                "step_stale_handle" => return Ok(distance.add(stale).mean(&[], false)),
                "step_vector_loss" => return Ok(distance),
                "step_nan" => return Ok(distance.affine(0.0, f64::NAN).mean(&[], false)),
                _ => {}
            }
        }
        Ok(distance.mean(&[], false))
    }
}

/// What the callback `within` does where it is the one to fail.
fn fail(within: &str, fault: &str) -> Result<()> {
    use pretext_plugin_api::Error;
    match fault.strip_prefix(within) {
        Some("_panic") => panic!("a panic in {within}"),
        Some("_error") => {
            Err(Error::failed(format!("an error in {within}")).hint("try another fault"))
        }
        Some("_asked_wrongly") => Err(Error::asked_wrongly("`fault` doesn't fit the rest")),
        _ => Ok(()),
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        if self.fault == "drop_panic" {
            panic!("a panic in drop");
        }
    }
}

export_methods!(Faults);
