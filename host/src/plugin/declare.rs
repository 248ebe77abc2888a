//! What a method can declare, by kind and revision, and what the host makes of it.

use std::collections::BTreeMap;
use std::rc::Rc;

use pretext_plugin_api::abi::value::Handle;

use super::crossing::Refusal;
use super::handle::Named;
use super::session::{Building, Context, Setting};
use super::view::AskedView;
use crate::error::did_you_mean;
use crate::module::registry::{Kind, ModuleDef, Options, Role, find};
use crate::module::{Module, declare::Declare};
use crate::schedule::{Schedule, Shape};
use crate::state::{BufferId, Constraint, Frozen, Group, Init, ParamId};
use crate::teacher::Average;
use crate::{Error, Result};

/// The kinds that can be declared.
pub(super) const KINDS: [&str; 9] = [
    "view@1",
    "module@1",
    "parameter@1",
    "buffer@1",
    "teacher@1",
    "schedule@1",
    "stream@1",
    "stage@1",
    "training@1",
];

/// A declared thing.
#[derive(Clone, Debug)]
pub(super) enum Thing {
    View(usize),
    Module(BuiltModule),
    Parameter { id: ParamId },
    Buffer(BufferId),
    Teacher(BTreeMap<usize, usize>),
    Schedule(Schedule),
    Stream(String),
    Stage,
    Training,
}

/// A module, and what it takes to build it again for a teacher.
#[derive(Clone, Debug)]
pub(super) struct BuiltModule {
    pub(super) module: Rc<dyn Module>,
    pub(super) backbone: bool,
    pub(super) teacher: bool,
    kind: String,
    options: BTreeMap<String, toml::Value>,
}

/// The settings of one declaration; each is taken once, and what is left over is refused.
pub(super) struct Settings {
    what: String,
    values: BTreeMap<String, Setting>,
}

impl Settings {
    pub(super) fn new(what: String, values: Vec<(String, Setting)>) -> Self {
        Self { what, values: values.into_iter().collect() }
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::failed(format!("{} needs `{key}`: {expected}", self.what))
    }

    fn int(&mut self, key: &str) -> Result<i64> {
        match self.values.remove(key) {
            Some(Setting::Int(value)) => Ok(value),
            _ => Err(self.wrong(key, "a whole number")),
        }
    }

    fn float(&mut self, key: &str) -> Result<f64> {
        match self.values.remove(key) {
            Some(Setting::Float(value)) => Ok(value),
            Some(Setting::Int(value)) => Ok(value as f64),
            _ => Err(self.wrong(key, "a number")),
        }
    }

    pub(super) fn optional_float(&mut self, key: &str) -> Result<Option<f64>> {
        if self.values.contains_key(key) { self.float(key).map(Some) } else { Ok(None) }
    }

    pub(super) fn text(&mut self, key: &str) -> Result<String> {
        match self.values.remove(key) {
            Some(Setting::Text(value)) => Ok(value),
            _ => Err(self.wrong(key, "a text")),
        }
    }

    fn ints(&mut self, key: &str) -> Result<Vec<i64>> {
        match self.values.remove(key) {
            Some(Setting::Ints(values)) => Ok(values),
            _ => Err(self.wrong(key, "whole numbers")),
        }
    }

    fn handle(&mut self, key: &str) -> Result<Handle> {
        match self.values.remove(key) {
            Some(Setting::Handle(value)) => Ok(value),
            _ => Err(self.wrong(key, "a handle")),
        }
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        let sizes = self.ints("shape")?;
        sizes
            .iter()
            .map(|size| usize::try_from(*size).map_err(|_| self.wrong("shape", "sizes from 0 up")))
            .collect()
    }

    fn init(&mut self) -> Result<Init> {
        let kind = self.text("init")?;
        let (a, b) = (self.float("init_a")?, self.float("init_b")?);
        match kind.as_str() {
            "constant" => Ok(Init::Constant(a)),
            "truncated-normal" => Ok(Init::TruncatedNormal { std: a, cut: 2.0 }),
            "normal" => Ok(Init::Normal { std: a }),
            "uniform" => Ok(Init::Uniform { low: a, high: b }),
            other => Err(Error::failed(format!("{} has an unknown init `{other}`", self.what))),
        }
    }

    fn group(&mut self) -> Result<Group> {
        let (epochs, steps) = (self.float("frozen_epochs")?, self.int("frozen_steps")?);
        Ok(Group {
            lr_multiplier: self.float("lr_multiplier")?,
            weight_decay: self.int("weight_decay")? != 0,
            frozen: match (epochs > 0.0, steps > 0) {
                (true, _) => Frozen::Epochs(epochs),
                (false, true) => Frozen::Steps(steps.cast_unsigned()),
                (false, false) => Frozen::Never,
            },
            constraint: self.constraint()?,
        })
    }

    fn constraint(&mut self) -> Result<Constraint> {
        if !self.values.contains_key("constraint") {
            return Ok(Constraint::None);
        }
        match self.text("constraint")?.as_str() {
            "unit-rows" => Ok(Constraint::UnitRows),
            other => {
                Err(Error::failed(format!("{} has an unknown constraint `{other}`", self.what))
                    .hint("the one there is is `unit-rows`"))
            }
        }
    }

    /// Refuses what nobody took.
    fn finish(self) -> Result<()> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::failed(format!("{} has no setting `{key}`", self.what))),
        }
    }
}

impl Context {
    /// Declares a thing of `kind` called `name`.
    pub(super) fn declare(
        &mut self,
        kind: &str,
        name: &str,
        values: Vec<(String, Setting)>,
    ) -> Result<Handle, Refusal> {
        let once = (kind.to_owned(), name.to_owned());
        if self.declared.contains(&once) {
            return Err(Error::failed(format!("a `{kind}` called `{name}` is declared already"))
                .hint("give each a name of its own")
                .into());
        }
        let mut settings = Settings::new(format!("`{kind}` `{name}`"), values);
        let thing = match kind {
            "view@1" => self.declare_view(name, &mut settings)?,
            "module@1" => self.declare_module(name, &mut settings)?,
            "parameter@1" => self.declare_parameter(name, &mut settings)?,
            "buffer@1" => {
                let (shape, init) = (settings.shape()?, settings.init()?);
                Thing::Buffer(self.building()?.state.buffer(name, &shape, init)?)
            }
            "teacher@1" => self.declare_teacher(name, &mut settings)?,
            "schedule@1" => self.building().and(schedule(&mut settings).map(Thing::Schedule))?,
            "stream@1" => self.building().map(|_| Thing::Stream(name.to_owned()))?,
            "stage@1" => self.declare_stage(name, &mut settings)?,
            "training@1" => self.declare_training(name, &mut settings)?,
            _ => {
                let hint = did_you_mean(kind, KINDS).map_or_else(
                    || "update pretext".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                let error = Error::failed(format!("this host can't declare a `{kind}`"));
                return Err(Refusal::unsupported(error.hint(hint)));
            }
        };
        settings.finish()?;
        self.declared.insert(once);
        self.things.push((name.to_owned(), thing));
        Ok(Named::Thing(self.things.len() - 1).handle())
    }

    fn building(&mut self) -> Result<&mut Building> {
        self.building.as_mut().ok_or_else(|| {
            Error::failed("this works within `build` only")
                .hint("ask for views in `plan`, declare everything else in `build`")
        })
    }

    fn declare_view(&mut self, name: &str, settings: &mut Settings) -> Result<Thing, Refusal> {
        if !self.planning {
            return Err(Error::failed("views are asked for in `plan` only").into());
        }
        let copies = settings.int("copies")?;
        let view = AskedView {
            name: name.to_owned(),
            kind: settings.text("kind")?,
            copies: usize::try_from(copies).map_err(|_| settings.wrong("copies", "0 or more"))?,
            settings: std::mem::take(&mut settings.values),
        };
        let request = view.request()?;
        request.offered().map_err(Refusal::unsupported)?;
        request.resolve()?;
        self.check_stage_of(name, &view.settings)?;
        self.views.push(view);
        Ok(Thing::View(self.views.len() - 1))
    }

    fn declare_module(&mut self, name: &str, settings: &mut Settings) -> Result<Thing, Refusal> {
        let kind = settings.text("kind")?;
        let given = std::mem::take(&mut settings.values);
        let building = self.building()?;
        let backbone = kind == "backbone";
        let (kind, options) = if backbone {
            if let Some(key) = given.keys().next() {
                return Err(Error::failed(format!(
                    "the backbone `{name}` takes no setting `{key}`"
                ))
                .hint("its options are the recipe's: `backbone.KEY=VALUE`")
                .into());
            }
            (building.backbone.clone(), building.backbone_options.clone())
        } else {
            let def = find(Role::Block, &kind).map_err(Refusal::unsupported)?;
            let options = given.into_iter().map(|(key, value)| {
                let value = toml_value(def, &key, value)?;
                Ok((key, value))
            });
            (kind, options.collect::<Result<_>>()?)
        };
        let built = BuiltModule {
            module: build(building, (&kind, &options), backbone, &format!("student.{name}"), true)?,
            backbone,
            teacher: false,
            kind,
            options,
        };
        Ok(Thing::Module(built))
    }

    fn declare_parameter(&mut self, name: &str, settings: &mut Settings) -> Result<Thing> {
        let (shape, init, group) = (settings.shape()?, settings.init()?, settings.group()?);
        let state = &mut self.building()?.state;
        Ok(Thing::Parameter {
            id: state.parameter(&format!("student.{name}"), &shape, init, group)?,
        })
    }

    /// Builds every module and parameter of `of` a second time, under the teacher's name.
    fn declare_teacher(
        &mut self,
        teacher: &str,
        settings: &mut Settings,
    ) -> Result<Thing, Refusal> {
        let kind = settings.text("kind")?;
        if kind != "ema" {
            let error = Error::failed(format!("this host has no teacher of kind `{kind}`"));
            return Err(Refusal::unsupported(error.hint("the one it has is `ema`")));
        }
        let of = settings.ints("of")?;
        let decay = match self.thing(settings.handle("decay")?)?.1 {
            Thing::Schedule(schedule) => *schedule,
            _ => return Err(Refusal::handle(settings.wrong("decay", "a schedule's handle"))),
        };
        let mut average = Average { pairs: Vec::new(), decay };
        let mut copies = BTreeMap::new();
        for handle in of {
            let (index, thing) = self.thing(handle.cast_unsigned())?;
            let (thing, name) = (thing.clone(), self.things[index].0.clone());
            let copy = self.copy(&thing, &format!("{teacher}.{name}"), &mut average)?;
            self.things.push((name, copy));
            copies.insert(index, self.things.len() - 1);
        }
        self.building()?.averages.push(average);
        Ok(Thing::Teacher(copies))
    }

    fn copy(&mut self, thing: &Thing, name: &str, average: &mut Average) -> Result<Thing> {
        let building = self.building()?;
        match thing {
            Thing::Module(student) => {
                let what = (student.kind.as_str(), &student.options);
                let module = build(building, what, student.backbone, name, false)?;
                let pairs = student.module.parameters().iter().zip(module.parameters());
                average.pairs.extend(pairs.map(|(student, teacher)| (*student, *teacher)));
                Ok(Thing::Module(BuiltModule { module, teacher: true, ..student.clone() }))
            }
            Thing::Parameter { id } => {
                let shape = building.state.get(*id).value.dims().to_vec();
                let group = Group { frozen: Frozen::Always, ..Group::default() };
                let copy = building.state.parameter(name, &shape, Init::Constant(0.0), group)?;
                average.pairs.push((*id, copy));
                Ok(Thing::Parameter { id: copy })
            }
            _ => Err(Error::failed("a teacher is made of modules and parameters")),
        }
    }
}

fn build(
    building: &mut Building,
    (kind, options): (&str, &BTreeMap<String, toml::Value>),
    backbone: bool,
    prefix: &str,
    trainable: bool,
) -> Result<Rc<dyn Module>> {
    let (role, shape) =
        if backbone { (Role::Backbone, building.shape.as_slice()) } else { (Role::Block, &[][..]) };
    let def = find(role, kind)?;
    let declare = Declare::new(&mut building.state, prefix, trainable);
    (def.build)(&Options::new(def, options)?, shape, declare)
}

fn schedule(settings: &mut Settings) -> Result<Schedule> {
    let shape = match settings.text("shape")?.as_str() {
        "constant" => Shape::Constant,
        "linear" => Shape::Linear,
        "cosine" => Shape::Cosine,
        other => return Err(Error::failed(format!("a schedule has no shape `{other}`"))),
    };
    Ok(Schedule {
        shape,
        start: settings.float("start")?,
        end: settings.float("end")?,
        warmup_start: settings.float("warmup_start")?,
        warmup_epochs: settings.float("warmup_epochs")?,
        span_epochs: settings.float("span_epochs")?,
        per_epoch: settings.int("per_epoch")? != 0,
    })
}

/// A block's setting as its option has it: the contract carries flags as 0 and 1.
fn toml_value(def: &ModuleDef, key: &str, setting: Setting) -> Result<toml::Value> {
    let mut options = def.options.iter();
    let flag = options.any(|option| option.name == key && matches!(option.kind, Kind::Bool { .. }));
    match setting {
        Setting::Int(value @ (0 | 1)) if flag => Ok(toml::Value::Boolean(value == 1)),
        Setting::Int(value) => Ok(toml::Value::Integer(value)),
        Setting::Float(value) => Ok(toml::Value::Float(value)),
        Setting::Text(value) => Ok(toml::Value::String(value)),
        other => Err(Error::failed(format!("a module takes no setting like {other:?}"))),
    }
}
