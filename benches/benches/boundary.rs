//! The boundary: one op call of a method through the contract's `op_call`, against the same op called
//! by the host itself.
//!
//! The ops are as small as ops get, so nearly all of the time is the way there and back. The method is
//! in this program; host and method meet through the same tables of function pointers as a plugin's.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::BenchmarkId;
use pretext::config::Values;
use pretext::engine::op::find;
use pretext::engine::ops::add::add;
use pretext::engine::{Arg, Args, Precision, Tape, Var};
use pretext::module::Forward;
use pretext::plugin::{Building, Session};
use pretext::random::Stream;
use pretext::schedule::Progress;
use pretext::state::{State, StepVars};
use pretext::train::views::BatchViews;
use pretext::{Error, Result};
use pretext_benches::{measure, tensors};
use pretext_plugin_api as api;
use pretext_plugin_api::export::{Registered, inventory, root_module};

/// Calls of one step: a step of DINO has some hundred, and their results live to its end.
const CALLS: u64 = 1000;

/// Elements of the tensors: one, where the way is everything, and a row of a small network.
const ELEMENTS: [usize; 2] = [1, 192];

/// What the method shall do in its next step, and how long that took.
static ASKED: AtomicU64 = AtomicU64::new(0);
static WIDTH: AtomicUsize = AtomicUsize::new(1);
static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// A method whose step adds two tensors, again and again.
#[derive(Debug)]
struct Adder;

inventory::submit! { Registered::of::<Adder>() }

impl api::Method for Adder {
    const DESCRIPTOR: api::Descriptor = api::Descriptor {
        name: "adder",
        summary: "adds two tensors, again and again",
        paper: "",
        modalities: &["vector"],
        options: &[],
        views: &[],
        ops: &["add@1", "mean@1"],
        recipes: &[("default", "")],
    };

    fn plan(_: api::Options, _: &mut api::ViewPlan) -> api::Result<()> {
        Ok(())
    }

    fn build(_: api::Options, _: &mut api::Builder) -> api::Result<Self> {
        Ok(Self)
    }

    fn step(&mut self, _: &api::Views<'_>, _: &api::Step) -> api::Result<api::Tensor> {
        let width = WIDTH.load(Ordering::Relaxed);
        let [a, b] = [1.0, 2.0].map(|value| api::Tensor::from_slice(&[width], &vec![value; width]));
        let mut sum = a.add(b);
        let started = Instant::now();
        for _ in 0..ASKED.load(Ordering::Relaxed) {
            sum = black_box(a.add(b));
        }
        NANOSECONDS.store(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Ok(sum.mean(&[], false))
    }
}

/// The method behind its tables, and what its steps need.
struct Adding {
    session: Session,
    state: State,
}

impl Adding {
    fn open() -> Result<Self> {
        let table = (root_module().method())(0);
        let mut session = Session::open("adder", table, Values::default())?;
        let building = Building {
            state: State::new(0),
            averages: Vec::new(),
            shape: vec![1],
            backbone: "identity".to_owned(),
            backbone_options: std::collections::BTreeMap::new(),
        };
        let Building { state, .. } = session.build(building)?;
        Ok(Self { session, state })
    }

    /// Seconds that `calls` calls of one step take, on the method's side.
    fn step(&mut self, calls: u64) -> Result<Duration> {
        ASKED.store(calls, Ordering::Relaxed);
        let tape = Tape::new(Precision::F32);
        let vars = StepVars::new(&self.state);
        let stream = Rc::new(RefCell::new(Stream::new(0, "forward", 0, 0)));
        let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
        let at = Progress { step: 0, steps_per_epoch: 1, total_steps: 1 };
        let told = self.session.step(&forward, &BatchViews::recorded(Vec::new()), at)?;
        drop(told);
        Ok(Duration::from_nanos(NANOSECONDS.load(Ordering::Relaxed)))
    }
}

/// Seconds of `calls` calls of `call`, whose results are kept for as long as a step would keep them.
fn direct(calls: u64, call: impl Fn(&Tape) -> Result<Var>) -> Result<Duration> {
    let tape = Tape::new(Precision::F32);
    let mut kept = Vec::new();
    let started = Instant::now();
    for _ in 0..calls {
        kept.push(black_box(call(&tape)?));
    }
    Ok(started.elapsed())
}

/// `n` calls in steps of at most [`CALLS`].
fn in_steps(n: u64, mut step: impl FnMut(u64) -> Result<Duration>) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    let mut left = n;
    while left > 0 {
        let calls = left.min(CALLS);
        sum += step(calls)?;
        left -= calls;
    }
    Ok(sum)
}

fn main() -> Result<()> {
    measure::run(|criterion| {
        let op = find("add", 1).ok_or_else(|| Error::failed("there is no op `add@1`"))?;
        let mut adding = Adding::open()?;
        let mut group = criterion.benchmark_group("boundary");
        for width in ELEMENTS {
            WIDTH.store(width, Ordering::Relaxed);
            let [a, b] = ["a", "b"].map(|name| tensors::normal(name, &[width], 1.0));
            let (a, b) = (Var::constant(a?), Var::constant(b?));
            let args = [a.clone(), b.clone()].map(Arg::Tensor);
            let id = |who: &str| BenchmarkId::new(who, width);
            measure::time_rounds(&mut group, id("plugin"), |n| {
                in_steps(n, |calls| adding.step(calls))
            })?;
            measure::time_rounds(&mut group, id("host-dynamic"), |n| {
                let call = |tape: &Tape| {
                    let made = (op.call)(tape, &Args::new(op.name, &args))?;
                    made.into_iter().next().ok_or_else(|| Error::failed("`add` gave nothing"))
                };
                in_steps(n, |calls| direct(calls, call))
            })?;
            measure::time_rounds(&mut group, id("host"), |n| {
                in_steps(n, |calls| direct(calls, |tape| add(tape, &a, &b)))
            })?;
        }
        group.finish();
        Ok(())
    })
}
