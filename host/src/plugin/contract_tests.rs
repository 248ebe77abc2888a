//! Tests of the boundary from both ends: a method of this test binary, and bare calls of slots.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use pretext_plugin_api as sdk;
use pretext_plugin_api::abi::value::{Handle, Text, Value, status};
use sdk::export::{Registered, inventory, root_module};
use sdk::{Builder, Clustering, Curve, Features, Kept, StagePlan, ViewPlan, ViewRequest};

use super::session::Context;
use super::{Building, Course, Session, Told, ViewSource, slots};
use crate::config::values::Values;
use crate::engine::{Tape, Var};
use crate::module::Forward;
use crate::random::Stream;
use crate::schedule::Progress;
use crate::state::{State, StepVars};
use crate::{Error, Result};

/// What the method of these tests does in its callbacks.
#[derive(Clone, Copy)]
struct Acts {
    stages: fn(&mut StagePlan) -> sdk::Result<()>,
    plan: fn(&mut ViewPlan) -> sdk::Result<()>,
    build: fn(&mut Builder) -> sdk::Result<()>,
    step: fn(&mut Option<Kept>) -> sdk::Result<sdk::Tensor>,
}

const NOTHING: Acts = Acts {
    stages: |_| Ok(()),
    plan: |_| Ok(()),
    build: |_| Ok(()),
    step: |_| Ok(sdk::Tensor::scalar(0.0)),
};

thread_local! {
    static ACTS: Cell<Acts> = const { Cell::new(NOTHING) };
}

struct Actor(Option<Kept>);

impl sdk::Method for Actor {
    const DESCRIPTOR: sdk::Descriptor = sdk::Descriptor {
        name: "actor",
        summary: "does what a test says",
        paper: "none",
        modalities: &["vector"],
        options: &[],
        views: &[],
        ops: &[],
        recipes: &[],
    };

    fn stages(_: sdk::Options, run: &mut StagePlan) -> sdk::Result<()> {
        (ACTS.get().stages)(run)
    }

    fn plan(_: sdk::Options, plan: &mut ViewPlan) -> sdk::Result<()> {
        (ACTS.get().plan)(plan)
    }

    fn build(_: sdk::Options, host: &mut Builder) -> sdk::Result<Self> {
        (ACTS.get().build)(host)?;
        Ok(Self(None))
    }

    fn step(&mut self, _: &sdk::Views<'_>, _: &sdk::Step) -> sdk::Result<sdk::Tensor> {
        (ACTS.get().step)(&mut self.0)
    }
}

inventory::submit! { Registered::of::<Actor>() }

fn open(acts: Acts) -> Result<Session> {
    ACTS.set(acts);
    let table = (root_module().method())(0);
    Session::open("actor", table, Values::default())
}

/// What `build` starts with: no parameters, and vectors of 4 numbers.
fn empty() -> Building {
    Building {
        state: State::new(0),
        averages: Vec::new(),
        shape: vec![4],
        backbone: "identity".to_owned(),
        backbone_options: BTreeMap::new(),
    }
}

fn planned(plan: fn(&mut ViewPlan) -> sdk::Result<()>) -> Result<Session> {
    open(Acts { plan, ..NOTHING })
}

fn built(build: fn(&mut Builder) -> sdk::Result<()>) -> Result<Building> {
    open(Acts { build, ..NOTHING })?.build(empty())
}

struct NoViews;

impl ViewSource for NoViews {
    fn field(&self, _: usize, _: usize, _: &str) -> Result<Var> {
        Err(Error::failed("there are no views"))
    }

    fn samples(&self) -> usize {
        1
    }
}

/// Takes `steps` steps and gives what the last one told.
fn stepped(steps: u64, step: fn(&mut Option<Kept>) -> sdk::Result<sdk::Tensor>) -> Result<Told> {
    let mut session = open(Acts { step, ..NOTHING })?;
    let state = session.build(empty())?.state;
    let (tape, vars) = (Tape::default(), StepVars::new(&state));
    let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
    let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
    let mut told = Err(Error::failed("no step was taken"));
    for step in 0..steps {
        let progress = Progress { step, steps_per_epoch: 9, total_steps: 9 };
        told = session.step(&forward, &NoViews, progress);
    }
    told
}

#[test]
fn a_block_takes_flags_numbers_and_words() {
    let building = built(|host| {
        let words = [("activation", "relu".into()), ("bias", false.into()), ("layers", 2.into())];
        let sizes = [("in", 4_usize.into()), ("out", 3_i64.into()), ("hidden", 5.into())];
        host.module("head", "mlp", &[sizes, words].concat())?;
        let sizes = [("dim", 4.into()), ("depth", 1.into()), ("heads", 1.into())];
        let more = [("mlp_ratio", 2.5.into()), ("norm", false.into()), ("qkv_bias", true.into())];
        host.module("blocks", "transformer", &[sizes, more].concat()).map(|_| ())
    });
    let state = building.unwrap().state;
    let names: Vec<&str> = state.parameters().iter().map(|p| p.name.as_str()).collect();
    assert!(names.iter().any(|name| name.starts_with("student.head.")));
    assert!(!names.iter().any(|name| name.starts_with("student.head.") && name.ends_with("bias")));
    assert!(names.iter().any(|name| name.ends_with("qkv.bias")), "{names:?}");
    let error = built(|host| {
        let settings = [("in", 4.into()), ("out", 3.into()), ("bias", 2.into())];
        host.module("head", "linear", &settings).map(|_| ())
    });
    assert!(
        error.unwrap_err().to_string().ends_with("`bias` of `linear` is true or false, not `2`")
    );
}

#[test]
fn settings_of_a_backbone_are_refused_by_name() {
    let error =
        built(|host| host.module("backbone", "backbone", &[("width", 3.into())]).map(|_| ()));
    let error = error.unwrap_err();
    assert!(
        error.to_string().ends_with("the backbone `backbone` takes no setting `width`"),
        "{error}"
    );
    assert!(built(|host| host.backbone("backbone").map(|_| ())).is_ok());
}

#[test]
fn two_things_of_a_kind_can_not_have_one_name() {
    let twice: [fn(&mut Builder) -> sdk::Result<()>; 3] = [
        |host| {
            host.schedule("s", Curve::constant(1.0))?;
            host.schedule("s", Curve::constant(1.0)).map(|_| ())
        },
        |host| {
            host.stream("s")?;
            host.stream("s").map(|_| ())
        },
        |host| {
            let decay = host.schedule("decay", Curve::constant(1.0))?;
            host.teacher("s", &[], &[], decay)?;
            host.teacher("s", &[], &[], decay).map(|_| ())
        },
    ];
    for build in twice {
        let error = built(build).unwrap_err();
        assert!(error.to_string().ends_with("called `s` is declared already"), "{error}");
    }
    let view = |plan: &mut ViewPlan| plan.ask(ViewRequest::new("s", "vector@1", 1));
    assert!(planned(view).is_ok());
    let error = planned(|plan| {
        plan.ask(ViewRequest::new("s", "vector@1", 1))?;
        plan.ask(ViewRequest::new("s", "vector@1", 1))
    });
    let error = error.unwrap_err();
    assert!(error.to_string().ends_with("a `view@1` called `s` is declared already"), "{error}");
    let different = built(|host| {
        host.stream("s")?;
        host.schedule("s", Curve::constant(1.0)).map(|_| ())
    });
    assert!(different.is_ok());
}

#[test]
fn a_view_that_is_not_offered_is_refused_where_it_is_asked_for() {
    type Request = fn() -> ViewRequest;
    let refused: [(Request, &str); 4] = [
        (|| ViewRequest::new("v", "crop@9", 1), "this host offers no view kind `crop@9`"),
        (|| ViewRequest::new("v", "crop", 1), "`crop` is no kind of view with a revision"),
        (|| ViewRequest::new("v", "vector@1", 1).float("nois", 0.1), "has no parameter `nois`"),
        (|| ViewRequest::new("v", "crop@1", 1).int("size", 0), "`size` of the view `v` is 0"),
    ];
    thread_local! {
        static REQUEST: Cell<Option<Request>> = const { Cell::new(None) };
        static HEARD: Cell<bool> = const { Cell::new(false) };
    }
    for (request, words) in refused {
        REQUEST.set(Some(request));
        HEARD.set(false);
        let error = planned(|plan| {
            let asked = REQUEST.take().map_or(Ok(()), |request| plan.ask(request()));
            HEARD.set(asked.is_err());
            Ok(())
        });
        let error = error.unwrap_err();
        assert!(HEARD.get() && error.to_string().ends_with(words), "{error}");
    }
    assert!(planned(|plan| plan.ask(ViewRequest::new("i", "sample-index@1", 1))).is_ok());
}

#[test]
fn a_kept_tensor_lives_until_it_is_released_and_its_handle_names_nothing_after() {
    let lives = stepped(3, |kept| match kept {
        None => {
            *kept = Some(sdk::Tensor::scalar(2.5).keep()?);
            Ok(sdk::Tensor::scalar(0.0))
        }
        Some(kept) => Ok(kept.tensor()),
    });
    assert_eq!(lives.unwrap().loss.value().to_vec1::<f32>().unwrap(), [2.5]);
    let stale = stepped(1, |_| {
        let first = sdk::Tensor::scalar(1.0).keep()?;
        let tensor = first.tensor();
        first.release();
        let second = sdk::Tensor::scalar(2.0).keep()?;
        assert_eq!(second.tensor().read()?, [2.0]);
        Ok(tensor)
    });
    let error = stale.unwrap_err();
    assert!(error.to_string().ends_with("names no tensor of this callback"), "{error}");
}

/// A context as a plugin holds it during `build`.
fn context() -> RefCell<Context> {
    let mut context = Context { generation: super::handle::FIRST, ..Context::default() };
    context.building = Some(empty());
    RefCell::new(context)
}

fn pointer(context: &RefCell<Context>) -> *mut sdk::abi::Context {
    std::ptr::from_ref(context).cast_mut().cast()
}

/// Declares a thing without settings; gives the status and what became of the handle's place.
fn declare(context: &RefCell<Context>, kind: &str, name: &str) -> (i32, Handle) {
    let mut handle = 77;
    let (kind, name) = (Text::new(kind), Text::new(name));
    let declare = slots::table().declare();
    // SAFETY: the context lives, there are no settings, and `handle` is a place to write to.
    let status =
        unsafe { declare(pointer(context), kind, name, std::ptr::null(), 0, &raw mut handle) };
    (status, handle)
}

fn tensor(context: &RefCell<Context>) -> Handle {
    let (size, element, mut handle) = (1_u64, 0.5_f32, 0);
    let make = slots::table().tensor_from();
    // SAFETY: the context lives, both lists have one element, and `handle` is a place to write to.
    let _ = unsafe {
        make(pointer(context), &raw const size, 1, &raw const element, 1, &raw mut handle)
    };
    handle
}

fn retain(context: &RefCell<Context>, tensor: Handle) -> (i32, Handle) {
    let mut kept = 77;
    let retain = slots::table().retain();
    // SAFETY: the context lives, and `kept` is a place to write to.
    let status = unsafe { retain(pointer(context), tensor, &raw mut kept) };
    (status, kept)
}

fn release(context: &RefCell<Context>, tensor: Handle) -> i32 {
    let release = slots::table().release();
    // SAFETY: the context lives.
    unsafe { release(pointer(context), tensor) }
}

#[test]
fn a_status_says_why_a_slot_failed_and_its_handle_is_zero() {
    assert_eq!(declare(&context(), "graph@1", "s"), (status::UNSUPPORTED, 0));
    assert_eq!(declare(&context(), "stage@1", "s"), (status::FAILED, 0));
    assert_eq!(declare(&context(), "module@1", "s"), (status::FAILED, 0));
    assert_eq!(declare(&context(), "view@1", "s"), (status::FAILED, 0));
    assert_eq!(retain(&context(), 0), (status::INVALID_HANDLE, 0));
    assert_eq!(retain(&context(), 0xffff_0000_0001), (status::INVALID_HANDLE, 0));
    let context = context();
    let (done, stream) = declare(&context, "stream@1", "s");
    assert!(done == status::OK && stream != 0);
    assert_eq!(retain(&context, stream), (status::INVALID_HANDLE, 0));
    assert_eq!(retain(&context, stream), (status::STICKY, 0));
    assert_eq!(declare(&context, "stream@1", "t"), (status::STICKY, 0));
}

#[test]
fn an_op_that_is_not_there_is_unsupported_and_numbers_cross_as_values() {
    let (context, mut number) = (context(), 0);
    let find = slots::table().op_find();
    // SAFETY: the context lives, and `number` is a place to write to.
    let status = unsafe { find(pointer(&context), Text::new("soft"), 1, &raw mut number) };
    assert_eq!(status, status::UNSUPPORTED);
    assert_eq!(Value::float(0.5).as_float(), Some(0.5));
}

#[test]
fn a_kept_tensor_is_given_back_once_even_after_a_failure() {
    let context = context();
    let (done, kept) = retain(&context, tensor(&context));
    assert_eq!(done, status::OK);
    let (done, other) = retain(&context, kept);
    assert!(done == status::OK && other != kept);
    assert_eq!(release(&context, other), status::OK);
    assert_eq!(release(&context, other), status::INVALID_HANDLE);
    assert_eq!(context.borrow().kept.len(), 1);
    assert_eq!(release(&context, kept), status::OK);
    assert!(context.borrow().kept.is_empty() && context.borrow().error.is_some());
}

#[test]
fn schedules_and_streams_are_declared_in_build_only() {
    for kind in ["schedule@1", "stream@1"] {
        let context = context();
        context.borrow_mut().building = None;
        assert_eq!(declare(&context, kind, "s"), (status::FAILED, 0));
        let error = context.borrow_mut().error.take().unwrap();
        assert_eq!(error.message(), "this works within `build` only");
    }
}

/// Two trainings, each on units of its own.
fn two_rounds(run: &mut StagePlan) -> sdk::Result<()> {
    run.units("units-1", Features::Patches, Clustering::new(8))?;
    run.training("one", 1.0)?;
    run.units(
        "units-2",
        Features::TeacherLayer(2),
        Clustering { share: 0.5, ..Clustering::new(16) },
    )?;
    run.training("two", 3.0)
}

#[test]
fn a_method_without_stages_is_trained_once() {
    let course = open(NOTHING).unwrap().course();
    assert_eq!(course, Course::default());
    assert_eq!(course.spans(10).unwrap(), [(0, 10)]);
}

#[test]
fn stages_and_trainings_come_in_their_order_with_their_settings() {
    let course = open(Acts { stages: two_rounds, ..NOTHING }).unwrap().course();
    let names: Vec<&str> = course.0.iter().map(|training| training.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(course.spans(8).unwrap(), [(0, 2), (2, 8)]);
    let stage = &course.0[1].stages[0];
    assert_eq!((stage.name.as_str(), stage.clusters, stage.share), ("units-2", 16, 0.5));
    assert_eq!(stage.features.to_string(), "teacher.layer.2");
    assert_eq!((stage.batch, stage.epochs, stage.tries, stage.patience), (10_000, 100, 20, 100));
    assert_eq!(course.stages_before(0).count(), 1);
}

#[test]
fn an_instance_is_told_which_training_it_is_for() {
    ACTS.set(Acts {
        stages: two_rounds,
        plan: |plan| if plan.training()? == 1 { Ok(()) } else { Err(sdk::Error::failed("zero")) },
        build: |host| {
            assert_eq!(host.training()?, 1);
            Ok(())
        },
        ..NOTHING
    });
    let table = (root_module().method())(0);
    let open = |training| Session::open_training("actor", table, Values::default(), training);
    open(1).unwrap().build(empty()).unwrap();
    assert!(open(0).unwrap_err().to_string().ends_with("zero"));
    assert_eq!(open(2).unwrap_err().message(), "the method has 2 trainings, so no number 2");
}

#[test]
fn a_stage_that_can_not_be_run_is_refused_in_words() {
    type Declares = fn(&mut StagePlan) -> sdk::Result<()>;
    let refused = |stages: Declares| open(Acts { stages, ..NOTHING }).unwrap_err().to_string();
    let said = refused(|run| run.units("u", Features::Mfcc, Clustering::new(0)));
    assert!(said.contains("`clusters` is 0"), "{said}");
    let said = refused(|run| run.units("a/b", Features::Mfcc, Clustering::new(2)));
    assert!(said.contains("can't name a stage's files"), "{said}");
    let said = refused(|run| run.units("u", Features::Mfcc, Clustering::new(2)));
    assert_eq!(said, "the stage `u` serves no training");
    let said = refused(|run| run.training("t", 1.0).and_then(|()| run.training("t", 1.0)));
    assert!(said.contains("declared already"), "{said}");
    let said = refused(|run| run.units("u", Features::Layer(0), Clustering::new(2)));
    assert!(said.contains("no features `layer.0`"), "{said}");
    let normalised = |run: &mut StagePlan| {
        let how = Clustering { normalise: true, ..Clustering::new(2) };
        run.units("u", Features::Values, how)
    };
    let said = refused(normalised);
    assert!(said.contains("can't `normalise` `values`"), "{said}");
}
