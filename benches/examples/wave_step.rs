//! A training step of the backbone `wave` under masked prediction, with every op's cost: what
//! `benches/peer/hubert_torch.py` does in PyTorch. Prints one JSON line, and the table on stderr.
//!
//! `MIMALLOC_PURGE_DELAY=-1 cargo run --release -p pretext-benches --example wave_step -- bf16 OPTION=VALUE ...`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use pretext::engine::ops::add::add;
use pretext::engine::ops::affine::affine;
use pretext::engine::ops::choose::choose;
use pretext::engine::ops::cross_entropy::cross_entropy;
use pretext::engine::ops::l2_normalize::l2_normalize;
use pretext::engine::ops::linear::linear;
use pretext::engine::ops::mean::mean;
use pretext::engine::ops::reshape::reshape;
use pretext::engine::ops::square::square;
use pretext::engine::ops::sum::sum;
use pretext::engine::profile::Profile;
use pretext::engine::{Precision, Var, storage};
use pretext::module::declare::Declare;
use pretext::module::linear::Linear;
use pretext::module::registry::{Options, Role, find};
use pretext::module::{Forward, Input, Module};
use pretext::plugin::Told;
use pretext::random::Stream;
use pretext::schedule::{Progress, Schedule};
use pretext::state::{Init, ParamId, State};
use pretext::train::optimizer::{Clip, Optimizer, Rule};
use pretext::train::step::{Learner, Rules, Trainer};
use pretext::{Error, Result};
use pretext_benches::tensors;
use toml::Value;

/// What stands in the peer's arguments.
const STEPS: usize = 8;
const WARM_UP: usize = 3;
const CLASSES: usize = 100;

/// Masked prediction of units.
struct Masked {
    backbone: Rc<dyn Module>,
    head: Linear,
    codewords: ParamId,
}

/// Waveforms, mask, and units of every frame.
struct Batch {
    waveforms: Var,
    mask: Var,
    units: Var,
    hidden: usize,
}

impl Learner for Masked {
    type Batch = Rc<Batch>;

    fn learn(&mut self, f: &Forward<'_>, batch: &Rc<Batch>, _: Progress) -> Result<Told> {
        let tape = f.tape;
        let input = |name: &str, value: &Var| Input { name: name.to_owned(), value: value.clone() };
        let inputs = [input("waveforms", &batch.waveforms), input("mask", &batch.mask)];
        let out = self.backbone.call(f, &inputs, &["tokens", "frames"])?;
        let rows = batch.units.dims()[0];
        let projected = self.head.apply(f, &out[0])?;
        let width = projected.dims()[2];
        let projected = reshape(tape, &projected, &[rows, width])?;
        let queries = l2_normalize(tape, &projected, 1, 1e-8)?;
        let codewords = l2_normalize(tape, &f.param(self.codewords), 1, 1e-8)?;
        let logits = linear(tape, &queries, &codewords, None)?;
        let losses = cross_entropy(tape, &logits, &batch.units, 0.1)?;
        let zeros = Var::constant(losses.value().zeros_like()?);
        let mask = reshape(tape, &batch.mask, &[rows])?;
        let total = sum(tape, &choose(tape, &mask, &losses, &zeros)?, &[], false)?;
        let predicted = affine(tape, &total, 1.0 / batch.hidden as f64, 0.0)?;
        let penalty = mean(tape, &square(tape, &out[1])?, &[], false)?;
        let loss = add(tape, &predicted, &affine(tape, &penalty, 10.0, 0.0)?)?;
        Ok(Told { loss, metrics: Vec::new(), buffers: Vec::new(), log: Vec::new() })
    }
}

/// The words of the command line: a precision, `batch`, `samples`, and the backbone's options.
struct Asked {
    bf16: bool,
    batch: usize,
    samples: usize,
    options: BTreeMap<String, Value>,
}

fn asked() -> Result<Asked> {
    let mut asked = Asked { bf16: false, batch: 8, samples: 32_000, options: BTreeMap::new() };
    let usual = "size = \"small\"\nmask_token = true\nlayer_drop = 0.0";
    asked.options = toml::from_str(usual).map_err(|error| Error::failed(error.to_string()))?;
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some(("batch", n)) => asked.batch = n.parse().unwrap_or(8),
            Some(("samples", n)) => asked.samples = n.parse().unwrap_or(32_000),
            Some((name, value)) => {
                let value = value.parse().unwrap_or_else(|_| Value::String(value.to_owned()));
                asked.options.insert(name.to_owned(), value);
            }
            None => asked.bf16 = word == "bf16",
        }
    }
    Ok(asked)
}

fn batch(asked: &Asked, frames: usize) -> Result<Batch> {
    let mut stream = Stream::new(0, "wave_step", 0, 0);
    let rows = asked.batch * frames;
    let mask: Vec<u8> = (0..rows).map(|_| u8::from(stream.chance(0.5))).collect();
    let hidden = mask.iter().map(|hidden| usize::from(*hidden)).sum();
    let units: Vec<u32> = (0..rows).map(|_| stream.below(CLASSES) as u32).collect();
    Ok(Batch {
        waveforms: Var::constant(tensors::normal("sound", &[asked.batch, asked.samples], 1.0)?),
        mask: Var::constant(storage::tensor(mask, (asked.batch, frames))?),
        units: Var::constant(storage::tensor(units, rows)?),
        hidden,
    })
}

fn trainer(asked: &Asked) -> Result<(Trainer, Masked)> {
    let mut state = State::new(0);
    let def = find(Role::Backbone, "wave")?;
    let options = Options::new(def, &asked.options)?;
    let declare = Declare::new(&mut state, "student.backbone", true);
    let backbone = (def.build)(&options, &[asked.samples], declare)?;
    let width = backbone.fact("dim").unwrap_or(0) as usize;
    let mut declare = Declare::new(&mut state, "student", true);
    let head = Linear::declare(&mut declare, "projection", (width, 256), true)?;
    let init = Init::Uniform { low: 0.0, high: 1.0 };
    let codewords = declare.parameter("codewords", &[CLASSES, 256], init)?;
    let optimizer = Optimizer::new(Rule::AdamW { betas: (0.9, 0.98), eps: 1e-8 }, &state);
    let rules = Rules {
        seed: 0,
        precision: if asked.bf16 { Precision::Bf16 } else { Precision::F32 },
        accumulate: 1,
        lr: Schedule::constant(5e-4),
        weight_decay: Schedule::constant(0.01),
        clip: Clip::Global(10.0),
    };
    let trainer = Trainer { state, optimizer, averages: Vec::new(), rules, profile: None };
    Ok((trainer, Masked { backbone, head, codewords }))
}

fn steps(
    trainer: &mut Trainer,
    learner: &mut Masked,
    batch: &Rc<Batch>,
    count: usize,
) -> Result<Vec<f64>> {
    let progress = Progress { step: 0, steps_per_epoch: 100, total_steps: 100 };
    (0..count)
        .map(|_| {
            let started = Instant::now();
            trainer.step(learner, progress, || Ok(Rc::clone(batch)))?;
            Ok(started.elapsed().as_secs_f64())
        })
        .collect()
}

fn table(profile: &Profile, steps: usize) {
    let mut costs: Vec<_> = profile.costs().into_iter().collect();
    costs.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.forward + cost.backward));
    eprintln!(
        "{:20} {:>6} {:>11} {:>12} {:>9}",
        "op", "calls", "forward ms", "backward ms", "GFLOP/s"
    );
    for (name, cost) in costs {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3 / steps as f64;
        let seconds = (cost.forward + cost.backward).as_secs_f64();
        let rate = cost.flops as f64 / seconds / 1e9;
        let calls = cost.calls as usize / steps;
        let (forward, backward) = (ms(cost.forward), ms(cost.backward));
        eprintln!("{name:20} {calls:6} {forward:11.2} {backward:12.2} {rate:9.0}");
    }
}

fn main() -> Result<()> {
    let asked = asked()?;
    let (mut trainer, mut learner) = trainer(&asked)?;
    let frames = learner.backbone.fact("tokens").unwrap_or(0) as usize;
    let batch = Rc::new(batch(&asked, frames)?);
    steps(&mut trainer, &mut learner, &batch, WARM_UP)?;
    let mut seconds = steps(&mut trainer, &mut learner, &batch, STEPS)?;
    seconds.sort_by(f64::total_cmp);
    let middle = seconds[seconds.len() / 2];
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    println!(
        "{{\"dtype\": \"{}\", \"batch\": {}, \"samples\": {}, \"step_ms\": {:.1}, \"seconds_per_s\": {:.1}, \
         \"peak_rss_mib\": {:.0}}}",
        if asked.bf16 { "bf16" } else { "f32" },
        asked.batch,
        asked.samples,
        middle * 1e3,
        (asked.batch * asked.samples) as f64 / 16e3 / middle,
        peak.unwrap_or(0.0) / 1024.0
    );
    let profile = Rc::new(Profile::default());
    trainer.profile = Some(Rc::clone(&profile));
    steps(&mut trainer, &mut learner, &batch, STEPS)?;
    table(&profile, STEPS);
    Ok(())
}
