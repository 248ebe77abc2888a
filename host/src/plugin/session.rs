//! One method in use: its instance, and what the host keeps for it between and during callbacks.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::rc::Rc;

use candle_core::Tensor;
use pretext_plugin_api::abi::value::{Handle, status};
use pretext_plugin_api::abi::{self, Instance, MethodTableRef, Status};

use super::course::{Course, Parts};
use super::crossing::Refusal;
use super::declare::Thing;
use super::handle::{FIRST, Named};
use super::slots;
use super::view::AskedView;
use crate::config::values::Values;
use crate::engine::Var;
use crate::error::Class;
use crate::module::Forward;
use crate::random::Stream;
use crate::schedule::Progress;
use crate::state::{BufferId, State};
use crate::teacher::Average;
use crate::{Error, Result};

/// What a method made of one batch.
#[derive(Debug)]
pub struct Told {
    /// The loss, one number.
    pub loss: Var,
    /// Named figures, one number each; read only when they are written down.
    pub metrics: Vec<(String, Var)>,
    /// New values of the method's and its modules' buffers; they take effect when the step is accepted.
    pub buffers: Vec<(BufferId, Tensor)>,
    /// Lines that the method wrote; true marks a warning.
    pub log: Vec<(bool, String)>,
}

/// A value of a declaration, copied from the plugin.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A whole number or a flag.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A text.
    Text(String),
    /// Whole numbers, or handles.
    Ints(Vec<i64>),
    /// Real numbers.
    Floats(Vec<f64>),
    /// A handle.
    Handle(Handle),
}

/// Where a step finds its views: a batch of the loader, or recorded tensors.
pub trait ViewSource {
    /// A field of copy `copy` of view number `view`, in the order of [`Session::views`]: a constant,
    /// or a leaf of the step's tape where the gradient with respect to the view is wanted.
    ///
    /// # Errors
    /// When the view has no such copy or field.
    fn field(&self, view: usize, copy: usize, field: &str) -> Result<Var>;

    /// Samples in the batch.
    fn samples(&self) -> usize;
}

/// What `build` declares into.
#[derive(Debug)]
pub struct Building {
    /// Parameters and buffers.
    pub state: State,
    /// Teachers, equal to their students when `build` ends.
    pub averages: Vec<Average>,
    /// Shape of a sample: `[C, H, W]` of an image, `[D]` of a vector.
    pub shape: Vec<usize>,
    /// Kind of backbone.
    pub backbone: String,
    /// The backbone's options.
    pub backbone_options: BTreeMap<String, toml::Value>,
}

/// What the slots need during a step.
pub(super) struct Now {
    forward: NonNull<Forward<'static>>,
    views: NonNull<dyn ViewSource>,
    pub(super) progress: Progress,
    /// Key of this batch's random streams.
    pub(super) draw: u64,
}

impl Now {
    /// The forward pass of the present step.
    pub(super) fn forward(&self) -> &Forward<'_> {
        // SAFETY: `Session::step` keeps it alive until the callback returns, and drops `Now` then.
        unsafe { self.forward.as_ref() }
    }

    /// The views of the present step.
    pub(super) fn views(&self) -> &dyn ViewSource {
        // SAFETY: `Session::step` keeps it alive until the callback returns, and drops `Now` then.
        unsafe { self.views.as_ref() }
    }
}

/// The host's side of a method's calls.
#[derive(Default)]
pub(super) struct Context {
    pub(super) options: Values,
    /// The first error of this callback.
    pub(super) error: Option<Error>,
    pub(super) error_text: String,
    pub(super) things: Vec<(String, Thing)>,
    /// Kinds and names of what was declared.
    pub(super) declared: BTreeSet<(String, String)>,
    /// Tensors that the method keeps, by their numbers.
    pub(super) kept: BTreeMap<usize, Var>,
    /// The number of the next one.
    pub(super) next_kept: usize,
    pub(super) tensors: Vec<Var>,
    pub(super) generation: u32,
    /// The list that the last fact pointed at.
    pub(super) ints: Vec<i64>,
    pub(super) views: Vec<AskedView>,
    /// Whether stages may be declared now, and those that were.
    pub(super) staging: bool,
    pub(super) parts: Parts,
    pub(super) course: Course,
    /// Which training this instance is for.
    pub(super) training: usize,
    pub(super) planning: bool,
    pub(super) building: Option<Building>,
    pub(super) now: Option<Now>,
    pub(super) streams: BTreeMap<usize, Rc<RefCell<Stream>>>,
    pub(super) no_grad: usize,
    pub(super) metrics: Vec<(String, Var)>,
    pub(super) buffers: Vec<(BufferId, Tensor)>,
    pub(super) log: Vec<(bool, String)>,
}

impl Context {
    /// Puts a tensor into the arena of this callback.
    pub(super) fn give(&mut self, tensor: Var) -> Handle {
        self.tensors.push(tensor);
        Named::Tensor(self.tensors.len() - 1, self.generation).handle()
    }

    /// The tensor behind `handle`.
    pub(super) fn tensor(&self, handle: Handle) -> Result<Var, Refusal> {
        let found = match Named::of(handle) {
            Some(Named::Tensor(index, generation)) if generation == self.generation => {
                self.tensors.get(index).cloned()
            }
            Some(Named::Kept(index)) => self.kept.get(&index).cloned(),
            _ => None,
        };
        found.ok_or_else(|| {
            let error =
                Error::failed(format!("handle {handle:#x} names no tensor of this callback"));
            let hint = "keep tensors between steps with `Tensor::keep`, or in a buffer";
            Refusal::handle(error.hint(hint))
        })
    }

    /// Keeps `tensor` until it is released.
    pub(super) fn keep(&mut self, tensor: Var) -> Result<Handle> {
        let index = self.next_kept;
        if u32::try_from(index).is_err() {
            return Err(Error::failed("the method has kept more tensors than there are numbers"));
        }
        self.next_kept += 1;
        self.kept.insert(index, tensor);
        Ok(Named::Kept(index).handle())
    }

    /// The declared thing behind `handle`, and its number.
    pub(super) fn thing(&self, handle: Handle) -> Result<(usize, &Thing), Refusal> {
        match Named::of(handle) {
            Some(Named::Thing(index)) => self.things.get(index).map(|(_, thing)| (index, thing)),
            _ => None,
        }
        .ok_or_else(|| {
            Refusal::handle(Error::failed(format!("handle {handle:#x} names nothing declared")))
        })
    }

    /// The present step.
    pub(super) fn now(&self) -> Result<&Now> {
        self.now.as_ref().ok_or_else(|| {
            Error::failed("this works within `step` only")
                .hint("declare in `build`, compute in `step`")
        })
    }
}

/// A method in use.
pub struct Session {
    method: String,
    table: MethodTableRef,
    instance: *mut Instance,
    /// Behind a pointer that the plugin holds: it stays where it is.
    context: Box<RefCell<Context>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.method)
    }
}

impl Session {
    /// An instance of the method behind `table`, with its resolved options, after its `plan`.
    ///
    /// # Errors
    /// When the method refuses its options or asks for a view that isn't offered.
    pub fn open(method: &str, table: MethodTableRef, options: Values) -> Result<Self> {
        Self::open_training(method, table, options, 0)
    }

    /// The same for training number `training` of the method's course.
    ///
    /// # Errors
    /// As [`Session::open`], and when there is no such training.
    pub fn open_training(
        method: &str,
        table: MethodTableRef,
        options: Values,
        training: usize,
    ) -> Result<Self> {
        let context = Context { options, training, generation: FIRST, ..Context::default() };
        let context = Box::new(RefCell::new(context));
        let mut session =
            Self { method: method.to_owned(), table, instance: std::ptr::null_mut(), context };
        let mut instance = std::ptr::null_mut();
        let create = table.create();
        let pointer = session.pointer();
        session.callback("create", || {
            // SAFETY: table and context live as long as the session; `instance` is a place to write to.
            unsafe { create(slots::table(), pointer, &raw mut instance) }
        })?;
        session.instance = instance;
        session.read_course()?;
        session.context.borrow_mut().planning = true;
        let plan = table.plan();
        // SAFETY: `create` made the instance, and no other call is under way.
        let planned = session.callback("plan", || unsafe { plan(instance) });
        session.context.borrow_mut().planning = false;
        planned?;
        Ok(session)
    }

    /// Lets the method declare its course, where its table has a slot for that: those of contract 1.0
    /// don't.
    fn read_course(&mut self) -> Result<()> {
        let Some(stages) = self.table.stages() else { return Ok(()) };
        self.context.borrow_mut().staging = true;
        let instance = self.instance;
        // SAFETY: `create` made the instance, and no other call is under way.
        let declared = self.callback("stages", || unsafe { stages(instance) });
        let mut context = self.context.borrow_mut();
        context.staging = false;
        declared?;
        context.course = std::mem::take(&mut context.parts).finish()?;
        match context.course.0.len() {
            n if context.training < n => Ok(()),
            n => Err(Error::failed(format!(
                "the method has {n} trainings, so no number {}",
                context.training
            ))),
        }
    }

    /// What the method's run consists of.
    pub fn course(&self) -> Course {
        self.context.borrow().course.clone()
    }

    fn pointer(&self) -> *mut abi::Context {
        std::ptr::from_ref::<RefCell<Context>>(&self.context).cast_mut().cast()
    }

    /// The views that the method asked for.
    pub fn views(&self) -> Vec<AskedView> {
        self.context.borrow().views.clone()
    }

    /// Runs the method's `build` on `building` and gives it back, teachers equal to their students.
    ///
    /// # Errors
    /// When the method or the host refuses a declaration.
    pub fn build(&mut self, building: Building) -> Result<Building> {
        self.context.borrow_mut().building = Some(building);
        let (build, instance) = (self.table.build(), self.instance);
        // SAFETY: `create` made the instance, and no other call is under way.
        let built = self.callback("build", || unsafe { build(instance) });
        let building = self.context.borrow_mut().building.take();
        built?;
        let building = building.ok_or_else(|| Error::failed("`build` lost its state"))?;
        for average in &building.averages {
            average.reset(&building.state)?;
        }
        Ok(building)
    }

    /// The student's backbone, once built: for probes.
    pub fn backbone(&self) -> Option<Rc<dyn crate::module::Module>> {
        self.module(false)
    }

    /// The teacher's backbone, if a teacher has one.
    pub fn teacher_backbone(&self) -> Option<Rc<dyn crate::module::Module>> {
        self.module(true)
    }

    /// What the names of the student's or the teacher's backbone start with in `state`, such as
    /// `student.backbone.`; empty where there is none, or it has no parameters.
    pub fn backbone_prefix(&self, state: &State, teacher: bool) -> String {
        let context = self.context.borrow();
        let mut things = context.things.iter();
        let found = things.find_map(|(name, thing)| match thing {
            Thing::Module(built) if built.backbone && built.teacher == teacher => {
                Some((name, *built.module.parameters().first()?))
            }
            _ => None,
        });
        let Some((name, first)) = found else { return String::new() };
        // `student.NAME.`, or `TEACHER.NAME.`; a name may hold dots itself.
        let (full, own) = (&state.get(first).name, format!(".{name}."));
        full.find(&own).map_or_else(String::new, |at| full[..at + own.len()].to_owned())
    }

    fn module(&self, teacher: bool) -> Option<Rc<dyn crate::module::Module>> {
        let context = self.context.borrow();
        context.things.iter().find_map(|(_, thing)| match thing {
            Thing::Module(built) if built.backbone && built.teacher == teacher => {
                Some(built.module.clone())
            }
            _ => None,
        })
    }

    /// Runs the method's `step` on a batch.
    ///
    /// # Errors
    /// When the method or one of its ops fails, or the method panics.
    pub fn step(
        &mut self,
        forward: &Forward<'_>,
        views: &dyn ViewSource,
        progress: Progress,
    ) -> Result<Told> {
        let draw = forward.stream.borrow_mut().u64();
        // SAFETY: only the lifetime changes; `now` is taken back before the borrows end.
        let views = unsafe {
            std::mem::transmute::<NonNull<dyn ViewSource + '_>, NonNull<dyn ViewSource>>(
                NonNull::from(views),
            )
        };
        self.context.borrow_mut().now =
            Some(Now { forward: NonNull::from(forward).cast(), views, progress, draw });
        let (step, instance) = (self.table.step(), self.instance);
        let mut loss = 0;
        // SAFETY: `create` made the instance, no other call is under way, and `loss` can be written.
        let called = self.callback("step", || unsafe { step(instance, &raw mut loss) });
        let mut context = self.context.borrow_mut();
        let told = called.and_then(|()| self.loss(&context, loss));
        while context.no_grad > 0 {
            context.no_grad -= 1;
            forward.tape.leave_no_grad();
        }
        context.now = None;
        context.streams.clear();
        context.tensors.clear();
        let (metrics, mut buffers, log) = (
            std::mem::take(&mut context.metrics),
            std::mem::take(&mut context.buffers),
            std::mem::take(&mut context.log),
        );
        buffers.extend(forward.vars.take_buffers());
        Ok(Told { loss: told?, metrics, buffers, log })
    }

    /// The loss that `step` returned, if it is one number.
    fn loss(&self, context: &Context, handle: Handle) -> Result<Var> {
        let found = context.tensor(handle).map_err(|refusal| refusal.error);
        let loss = found.and_then(|loss| match loss.value().elem_count() {
            1 => Ok(loss),
            _ => Err(Error::failed(format!(
                "the loss has shape {:?}, not one number",
                loss.value().dims()
            ))
            .hint("end `step` with a mean over all elements, such as `loss.mean(&[], false)`")),
        });
        loss.map_err(|error| {
            error.context(format!("the method `{}` failed in `step`", self.method))
        })
    }

    /// Makes a call into the plugin and turns its status into an error.
    fn callback(&mut self, name: &str, call: impl FnOnce() -> Status) -> Result<()> {
        {
            let mut context = self.context.borrow_mut();
            context.error = None;
            context.tensors.clear();
            context.generation = context.generation.checked_add(1).unwrap_or(FIRST);
        }
        let status = call();
        let error = self.context.borrow_mut().error.take();
        let method = &self.method;
        match (status, error) {
            (status::OK, None) => Ok(()),
            (status::PANIC, error) => {
                let said = error.map_or_else(String::new, |error| format!(": {}", error.message()));
                Err(Error::failed(format!("the method `{method}` panicked in `{name}`{said}"))
                    .hint("this is a bug of the plugin: report it to its authors"))
            }
            (_, Some(error)) => {
                let error = error.context(format!("the method `{method}` failed in `{name}`"));
                Err(hinted(error, method))
            }
            (status, None) => Err(Error::failed(format!(
                "the method `{method}` failed in `{name}` with status {status} and no message"
            ))
            .hint("this is a bug of the plugin: report it to its authors")),
        }
    }
}

/// A method that gives no hint gets one by whose fault its error is.
fn hinted(error: Error, method: &str) -> Error {
    match (error.hint_text(), error.class()) {
        (None, Class::AskedWrongly) => {
            error.hint(format!("`pretext plugin info {method}` explains its options"))
        }
        (None, _) => error.hint("if the recipe can't be the reason, tell the plugin's authors"),
        (Some(_), _) => error,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.instance.is_null() {
            let destroy = self.table.destroy();
            // SAFETY: `create` made the instance and this is its last call.
            let _ = unsafe { destroy(self.instance) };
        }
    }
}
