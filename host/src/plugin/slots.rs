//! The host's table: one C function per slot. Each copies what it is given, does its work in Rust behind
//! `guard`, and turns errors and panics into a status.

use std::cell::RefCell;
use std::rc::Rc;

use abi_stable::prefix_type::PrefixTypeTrait;
use pretext_plugin_api::abi::value::{Handle, Status, Text, Value, status, tag};
use pretext_plugin_api::abi::{self, HostTable, HostTableRef, Instance};

use super::crossing::{copied, guard, list, put, settings, text};
use super::declare::Thing;
use super::handle::Named;
use super::session::{Context, Setting};
use crate::engine::op::{Arg, Args, catalogue};
use crate::engine::{OpDef, Var, storage};
use crate::error::did_you_mean;
use crate::module::{Forward, Input};
use crate::random::Stream;
use crate::{Error, Result};

/// The table; made once, it lives as long as the process.
pub(super) fn table() -> HostTableRef {
    static TABLE: std::sync::OnceLock<HostTableRef> = std::sync::OnceLock::new();
    *TABLE.get_or_init(|| {
        HostTable {
            set_error,
            error,
            log,
            metric,
            option,
            op_find,
            op_call,
            tensor_from,
            tensor_read,
            retain,
            release,
            no_grad,
            declare,
            fact,
            module_call,
            teacher_of,
            buffer_set,
            view,
            random,
            cancelled,
            extension,
        }
        .leak_into_prefix()
    })
}

unsafe extern "C" fn set_error(
    context: *mut abi::Context,
    code: Status,
    message: Text,
    hint: Text,
) -> Status {
    guard(context, |context| {
        let (message, hint) = (text(message)?, text(hint)?);
        let error = match code {
            status::ASKED_WRONGLY => Error::asked_wrongly(message),
            _ => Error::failed(message),
        };
        context.error = Some(if hint.is_empty() { error } else { error.hint(hint) });
        Ok(())
    })
}

unsafe extern "C" fn error(context: *mut abi::Context, out: *mut Text) -> Status {
    // SAFETY: the plugin passes on the pointer that `Session` gave it, on the same thread.
    let Some(cell) = (unsafe { context.cast::<RefCell<Context>>().as_ref() }) else {
        return status::INVALID_HANDLE;
    };
    let Ok(mut context) = cell.try_borrow_mut() else { return status::FAILED };
    context.error_text = context.error.as_ref().map_or_else(String::new, Error::to_string);
    match put(out, Text::new(&context.error_text)) {
        Ok(()) => status::OK,
        Err(_) => status::FAILED,
    }
}

unsafe extern "C" fn log(context: *mut abi::Context, level: u32, message: Text) -> Status {
    guard(context, |context| {
        context.log.push((level > 0, text(message)?));
        Ok(())
    })
}

unsafe extern "C" fn metric(context: *mut abi::Context, name: Text, tensor: Handle) -> Status {
    guard(context, |context| {
        let (name, value) = (text(name)?, context.tensor(tensor)?);
        if value.value().elem_count() != 1 {
            return Err(Error::failed(format!(
                "the metric `{name}` has shape {:?}, not one number",
                value.dims()
            )));
        }
        context.metrics.push((name, value.detach()));
        Ok(())
    })
}

unsafe extern "C" fn option(context: *mut abi::Context, name: Text, out: *mut Value) -> Status {
    guard(context, |context| {
        let name = text(name)?;
        let value = match context.options.get(&name) {
            Some(toml::Value::Boolean(flag)) => Value::int(i64::from(*flag)),
            Some(toml::Value::Integer(value)) => Value::int(*value),
            Some(toml::Value::Float(value)) => Value::float(*value),
            Some(toml::Value::String(value)) => Value::text(value),
            _ => {
                let near = did_you_mean(&name, context.options.iter().map(|(known, _)| known));
                let error = Error::failed(format!("the method has no option `{name}`"));
                return Err(match near {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint("add it to the descriptor's `options`"),
                });
            }
        };
        put(out, value)
    })
}

/// The catalogue, in the order that numbers ops.
fn ops() -> &'static [&'static OpDef] {
    static OPS: std::sync::OnceLock<Vec<&'static OpDef>> = std::sync::OnceLock::new();
    OPS.get_or_init(catalogue)
}

unsafe extern "C" fn op_find(
    context: *mut abi::Context,
    name: Text,
    revision: u32,
    out: *mut u32,
) -> Status {
    guard(context, |_| {
        let name = text(name)?;
        let found = ops().iter().position(|op| op.name == name && op.revision == revision);
        match found {
            Some(number) => put(out, number as u32),
            None => Err(Error::failed(format!("this host has no op `{name}@{revision}`"))
                .hint("see `docs/ops.md`, or update pretext")),
        }
    })
}

unsafe extern "C" fn op_call(
    context: *mut abi::Context,
    op: u32,
    arguments: *const Value,
    n: u64,
    results: *mut Handle,
    room: u64,
) -> Status {
    guard(context, |context| {
        let op =
            ops().get(op as usize).ok_or_else(|| Error::failed(format!("no op number {op}")))?;
        // SAFETY: the plugin lends the list for the length of the call.
        let arguments = unsafe { list(arguments, n) }?;
        let arguments: Vec<Arg> =
            arguments.iter().map(|value| argument(context, value)).collect::<Result<_>>()?;
        let tape = context.now()?.forward().tape;
        let made = (op.call)(tape, &Args::new(op.name, &arguments))?;
        for (i, tensor) in made.into_iter().take(room as usize).enumerate() {
            let handle = context.give(tensor);
            put(results.wrapping_add(i), handle)?;
        }
        Ok(())
    })
}

fn argument(context: &mut Context, value: &Value) -> Result<Arg> {
    Ok(match value.tag {
        tag::NONE => Arg::None,
        tag::INT => Arg::Int(value.payload.cast_signed()),
        tag::FLOAT => Arg::Float(f64::from_bits(value.payload)),
        tag::HANDLE => match Named::of(value.payload)? {
            Named::Thing(index) => Arg::Stream(stream(context, index)?),
            _ => Arg::Tensor(context.tensor(value.payload)?),
        },
        _ => match copied(value)? {
            Setting::Ints(ints) => Arg::Ints(ints),
            other => return Err(Error::failed(format!("an op takes no {other:?}"))),
        },
    })
}

/// The stream that was declared as thing `index`, as it stands in this step.
fn stream(context: &mut Context, index: usize) -> Result<Rc<RefCell<Stream>>> {
    let Some((_, Thing::Stream(name))) = context.things.get(index) else {
        return Err(Error::failed("an op takes tensors and streams, no other handles"));
    };
    let (name, now) = (name.clone(), context.now()?);
    let (draw, step) = (now.draw, now.progress.step);
    let made = context.streams.entry(index);
    Ok(made.or_insert_with(|| Rc::new(RefCell::new(Stream::new(draw, &name, step, 0)))).clone())
}

unsafe extern "C" fn tensor_from(
    context: *mut abi::Context,
    sizes: *const u64,
    rank: u64,
    elements: *const f32,
    n: u64,
    out: *mut Handle,
) -> Status {
    guard(context, |context| {
        // SAFETY: the plugin lends the sizes for the length of the call.
        let sizes = unsafe { list(sizes, rank) }?;
        // SAFETY: the plugin lends the elements for the length of the call.
        let elements = unsafe { list(elements, n) }?;
        let shape: Vec<usize> = sizes.iter().map(|size| *size as usize).collect();
        if shape.iter().product::<usize>() != elements.len() {
            return Err(Error::failed(format!("{n} elements don't fill a shape of {shape:?}")));
        }
        let tensor = Var::constant(storage::tensor(elements.to_vec(), shape)?);
        put(out, context.give(tensor))
    })
}

unsafe extern "C" fn tensor_read(
    context: *mut abi::Context,
    tensor: Handle,
    out: *mut f64,
    n: u64,
) -> Status {
    guard(context, |context| {
        let elements = storage::to_f64(context.tensor(tensor)?.value())?;
        if elements.len() as u64 != n {
            return Err(Error::failed(format!("room for {n} of {} elements", elements.len())));
        }
        for (i, element) in elements.into_iter().enumerate() {
            put(out.wrapping_add(i), element)?;
        }
        Ok(())
    })
}

unsafe extern "C" fn retain(
    context: *mut abi::Context,
    tensor: Handle,
    out: *mut Handle,
) -> Status {
    guard(context, |context| {
        let kept = context.tensor(tensor)?.detach();
        let free = context.kept.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            context.kept.push(None);
            context.kept.len() - 1
        });
        context.kept[index] = Some(kept);
        put(out, Named::Kept(index).handle())
    })
}

unsafe extern "C" fn release(context: *mut abi::Context, tensor: Handle) -> Status {
    guard(context, |context| {
        if let Named::Kept(index) = Named::of(tensor)?
            && let Some(slot) = context.kept.get_mut(index)
        {
            *slot = None;
        }
        Ok(())
    })
}

unsafe extern "C" fn no_grad(context: *mut abi::Context, on: u32) -> Status {
    guard(context, |context| {
        let tape = context.now()?.forward().tape;
        match (on, context.no_grad) {
            (0, 0) => return Err(Error::failed("`no_grad` ended more often than it began")),
            (0, _) => {
                tape.leave_no_grad();
                context.no_grad -= 1;
            }
            _ => {
                tape.enter_no_grad();
                context.no_grad += 1;
            }
        }
        Ok(())
    })
}

unsafe extern "C" fn declare(
    context: *mut abi::Context,
    kind: Text,
    name: Text,
    values: *const abi::Setting,
    n: u64,
    out: *mut Handle,
) -> Status {
    guard(context, |context| {
        let (kind, name) = (text(kind)?, text(name)?);
        let handle = context.declare(&kind, &name, settings(values, n)?)?;
        put(out, handle)
    })
}

unsafe extern "C" fn fact(
    context: *mut abi::Context,
    of: Handle,
    name: Text,
    out: *mut Value,
) -> Status {
    guard(context, |context| {
        let name = text(name)?;
        let unknown = || Error::failed(format!("there is no fact `{name}` of this"));
        if of == 0 {
            let now = context.now()?;
            let value = match name.as_str() {
                "step" => now.progress.step,
                "epoch" => now.progress.epoch() as u64,
                "steps_per_epoch" => now.progress.steps_per_epoch,
                "total_steps" => now.progress.total_steps,
                "batch" => now.views().samples() as u64,
                "world" => 1,
                "rank" => 0,
                _ => return Err(unknown()),
            };
            return put(out, Value::int(value.cast_signed()));
        }
        if !matches!(Named::of(of)?, Named::Thing(_)) {
            let tensor = context.tensor(of)?;
            if name != "shape" {
                return Err(unknown());
            }
            context.ints = tensor.dims().iter().map(|size| *size as i64).collect();
            return put(out, Value::ints(&context.ints));
        }
        let value = match context.thing(of)?.1 {
            Thing::Module(built) => built.module.fact(&name).map(Value::int),
            Thing::Schedule(schedule) if name == "value" => {
                Some(Value::float(schedule.at(context.now()?.progress)))
            }
            _ => None,
        };
        put(out, value.ok_or_else(unknown)?)
    })
}

unsafe extern "C" fn module_call(
    context: *mut abi::Context,
    module: Handle,
    inputs: *const abi::Setting,
    n: u64,
    outputs: *const Text,
    n_outputs: u64,
    results: *mut Handle,
) -> Status {
    guard(context, |context| {
        let inputs = settings(inputs, n)?
            .into_iter()
            .map(|(name, value)| match value {
                Setting::Handle(handle) => Ok(Input { name, value: context.tensor(handle)? }),
                _ => Err(Error::failed(format!("the module's input `{name}` is no tensor"))),
            })
            .collect::<Result<Vec<Input>>>()?;
        // SAFETY: the plugin lends the list for the length of the call.
        let outputs = unsafe { list(outputs, n_outputs) }?;
        let outputs: Vec<String> = outputs.iter().map(|name| text(*name)).collect::<Result<_>>()?;
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let Thing::Module(built) = context.thing(module)?.1 else {
            return Err(Error::failed("this handle names no module"));
        };
        let now = context.now()?.forward();
        // Drop path and dropout act on the student only.
        let forward = Forward {
            tape: now.tape,
            vars: now.vars,
            training: now.training && !built.teacher,
            stream: now.stream.clone(),
        };
        let made = built.module.call(&forward, &inputs, &outputs)?;
        for (i, tensor) in made.into_iter().enumerate() {
            let handle = context.give(tensor);
            put(results.wrapping_add(i), handle)?;
        }
        Ok(())
    })
}

unsafe extern "C" fn teacher_of(
    context: *mut abi::Context,
    teacher: Handle,
    of: Handle,
    out: *mut Handle,
) -> Status {
    guard(context, |context| {
        let (student, _) = context.thing(of)?;
        let Thing::Teacher(copies) = context.thing(teacher)?.1 else {
            return Err(Error::failed("this handle names no teacher"));
        };
        let copy = copies.get(&student).ok_or_else(|| {
            Error::failed(format!("the teacher has no copy of `{}`", context.things[student].0))
                .hint("declare the teacher with it")
        })?;
        put(out, Named::Thing(*copy).handle())
    })
}

unsafe extern "C" fn buffer_set(
    context: *mut abi::Context,
    buffer: Handle,
    value: Handle,
) -> Status {
    guard(context, |context| {
        let Thing::Buffer(id) = *context.thing(buffer)?.1 else {
            return Err(Error::failed("this handle names no buffer"));
        };
        let value = context.tensor(value)?.value().contiguous()?;
        let expected = context.now()?.forward().vars.state().get_buffer(id).dims().to_vec();
        if expected != value.dims() {
            return Err(Error::failed(format!(
                "a buffer of shape {expected:?} can't hold a value of shape {:?}",
                value.dims()
            )));
        }
        context.buffers.push((id, value));
        Ok(())
    })
}

unsafe extern "C" fn view(
    context: *mut abi::Context,
    of: Handle,
    index: u64,
    field: Text,
    out: *mut Handle,
) -> Status {
    guard(context, |context| {
        let field = text(field)?;
        let now = context.now()?;
        let tensor = match (context.thing(of)?.1, field.as_str()) {
            (Thing::View(view), field) => now.views().field(*view, index as usize, field)?,
            (Thing::Parameter { id }, "value") => now.forward().param(*id),
            (Thing::Buffer(id), "value") => {
                Var::constant(now.forward().vars.state().get_buffer(*id).clone())
            }
            _ => return Err(Error::failed(format!("there is no field `{field}` of this"))),
        };
        put(out, context.give(tensor))
    })
}

unsafe extern "C" fn random(
    context: *mut abi::Context,
    of: Handle,
    out: *mut u64,
    n: u64,
) -> Status {
    guard(context, |context| {
        let (index, _) = context.thing(of)?;
        let stream = stream(context, index)?;
        for i in 0..n as usize {
            let number = stream.borrow_mut().u64();
            put(out.wrapping_add(i), number)?;
        }
        Ok(())
    })
}

unsafe extern "C" fn cancelled(context: *mut abi::Context) -> Status {
    // A step is never cut short on this host: it ends, and the checkpoint holds it.
    guard(context, |_| Ok(()))
}

unsafe extern "C" fn extension(
    context: *mut abi::Context,
    _id: Text,
    out: *mut *const Instance,
) -> Status {
    guard(context, |_| put(out, std::ptr::null()))
}
