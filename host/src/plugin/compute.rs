//! The slots that compute: ops, tensors, modules, and what a step reads and sets.

use std::cell::RefCell;
use std::rc::Rc;

use pretext_plugin_api::abi;
use pretext_plugin_api::abi::value::{Handle, Status, Text, Value, tag};

use super::crossing::{Refusal, clear, copied, guard, guard_always, list, put, settings, text};
use super::declare::Thing;
use super::handle::Named;
use super::session::{Context, Setting};
use crate::engine::cuda::upload::upload;
use crate::engine::op::{Arg, catalogue};
use crate::engine::{OpDef, Var, storage};
use crate::module::{Forward, Input};
use crate::random::Stream;
use crate::{Error, Result};

/// The catalogue, in the order that numbers ops.
fn ops() -> &'static [&'static OpDef] {
    static OPS: std::sync::OnceLock<Vec<&'static OpDef>> = std::sync::OnceLock::new();
    OPS.get_or_init(catalogue)
}

pub(super) unsafe extern "C" fn op_find(
    context: *mut abi::Context,
    name: Text,
    revision: u32,
    out: *mut u32,
) -> Status {
    guard(context, |_| {
        let name = text(name)?;
        let found = ops().iter().position(|op| op.name == name && op.revision == revision);
        match found {
            Some(number) => Ok(put(out, number as u32)?),
            None => {
                let error = Error::failed(format!("this host has no op `{name}@{revision}`"));
                Err(Refusal::unsupported(error.hint("see `docs/ops.md`, or update pretext")))
            }
        }
    })
}

pub(super) unsafe extern "C" fn op_call(
    context: *mut abi::Context,
    op: u32,
    arguments: *const Value,
    n: u64,
    results: *mut Handle,
    room: u64,
) -> Status {
    clear(results, room);
    guard(context, |context| {
        let no_op = || Refusal::unsupported(Error::failed(format!("no op number {op}")));
        let op = ops().get(op as usize).ok_or_else(no_op)?;
        // SAFETY: the plugin lends the list for the length of the call.
        let arguments = unsafe { list(arguments, n) }?;
        let arguments: Vec<Arg> = arguments
            .iter()
            .map(|value| argument(context, value))
            .collect::<Result<_, Refusal>>()?;
        let tape = context.now()?.forward().tape;
        let made = op.run(tape, &arguments)?;
        for (i, tensor) in made.into_iter().take(room as usize).enumerate() {
            let handle = context.give(tensor);
            put(results.wrapping_add(i), handle)?;
        }
        Ok(())
    })
}

fn argument(context: &mut Context, value: &Value) -> Result<Arg, Refusal> {
    Ok(match value.tag {
        tag::NONE => Arg::None,
        tag::INT => Arg::Int(value.payload.cast_signed()),
        tag::FLOAT => Arg::Float(f64::from_bits(value.payload)),
        tag::HANDLE => match Named::of(value.payload) {
            Some(Named::Thing(index)) => Arg::Stream(stream(context, index)?),
            _ => Arg::Tensor(context.tensor(value.payload)?),
        },
        _ => match copied(value)? {
            Setting::Ints(ints) => Arg::Ints(ints),
            other => return Err(Error::failed(format!("an op takes no {other:?}")).into()),
        },
    })
}

/// The stream that was declared as thing `index`, as it stands in this step.
fn stream(context: &mut Context, index: usize) -> Result<Rc<RefCell<Stream>>, Refusal> {
    let Some((_, Thing::Stream(name))) = context.things.get(index) else {
        let error = Error::failed("this handle names no stream");
        return Err(Refusal::handle(error.hint("an op takes tensors and streams")));
    };
    let (name, now) = (name.clone(), context.now()?);
    let (draw, step) = (now.draw, now.progress.step);
    let made = context.streams.entry(index);
    Ok(made.or_insert_with(|| Rc::new(RefCell::new(Stream::new(draw, &name, step, 0)))).clone())
}

pub(super) unsafe extern "C" fn tensor_from(
    context: *mut abi::Context,
    sizes: *const u64,
    rank: u64,
    elements: *const f32,
    n: u64,
    out: *mut Handle,
) -> Status {
    clear(out, 1);
    guard(context, |context| {
        // SAFETY: the plugin lends the sizes for the length of the call.
        let sizes = unsafe { list(sizes, rank) }?;
        // SAFETY: the plugin lends the elements for the length of the call.
        let elements = unsafe { list(elements, n) }?;
        let shape: Vec<usize> = sizes.iter().map(|size| *size as usize).collect();
        let filled = shape.iter().try_fold(1_usize, |n, size| n.checked_mul(*size));
        if filled != Some(elements.len()) {
            let error = Error::failed(format!("{n} elements don't fill a shape of {shape:?}"));
            return Err(error.into());
        }
        let mut tensor = storage::tensor(elements.to_vec(), shape)?;
        if let Ok(now) = context.now() {
            tensor = upload(&tensor, now.forward().tape.device())?;
        }
        let tensor = Var::constant(tensor);
        Ok(put(out, context.give(tensor))?)
    })
}

pub(super) unsafe extern "C" fn tensor_read(
    context: *mut abi::Context,
    tensor: Handle,
    out: *mut f64,
    n: u64,
) -> Status {
    guard(context, |context| {
        let elements = storage::to_f64(context.tensor(tensor)?.value())?;
        if elements.len() as u64 != n {
            let error = Error::failed(format!("room for {n} of {} elements", elements.len()));
            return Err(error.into());
        }
        for (i, element) in elements.into_iter().enumerate() {
            put(out.wrapping_add(i), element)?;
        }
        Ok(())
    })
}

pub(super) unsafe extern "C" fn retain(
    context: *mut abi::Context,
    tensor: Handle,
    out: *mut Handle,
) -> Status {
    clear(out, 1);
    guard(context, |context| {
        let tensor = context.tensor(tensor)?.detach();
        let kept = context.keep(tensor)?;
        Ok(put(out, kept)?)
    })
}

pub(super) unsafe extern "C" fn release(context: *mut abi::Context, tensor: Handle) -> Status {
    // After a failure too: what is given back then is as good as any.
    guard_always(context, |context| match Named::of(tensor) {
        Some(Named::Kept(index)) if context.kept.remove(&index).is_none() => {
            let error = Error::failed(format!("handle {tensor:#x} names no kept tensor any more"));
            Err(Refusal::handle(error.hint("release a tensor once")))
        }
        Some(_) => Ok(()),
        None => Err(Refusal::handle(Error::failed(format!("handle {tensor:#x} names nothing")))),
    })
}

pub(super) unsafe extern "C" fn no_grad(context: *mut abi::Context, on: u32) -> Status {
    guard(context, |context| {
        let tape = context.now()?.forward().tape;
        match (on, context.no_grad) {
            (0, 0) => {
                return Err(Error::failed("`no_grad` ended more often than it began").into());
            }
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

pub(super) unsafe extern "C" fn module_call(
    context: *mut abi::Context,
    module: Handle,
    inputs: *const abi::Setting,
    n: u64,
    outputs: *const Text,
    n_outputs: u64,
    results: *mut Handle,
) -> Status {
    clear(results, n_outputs);
    guard(context, |context| {
        let inputs = settings(inputs, n)?
            .into_iter()
            .map(|(name, value)| match value {
                Setting::Handle(handle) => Ok(Input { name, value: context.tensor(handle)? }),
                _ => {
                    let error = Error::failed(format!("the module's input `{name}` is no tensor"));
                    Err(error.into())
                }
            })
            .collect::<Result<Vec<Input>, Refusal>>()?;
        // SAFETY: the plugin lends the list for the length of the call.
        let outputs = unsafe { list(outputs, n_outputs) }?;
        let outputs: Vec<String> = outputs.iter().map(|name| text(*name)).collect::<Result<_>>()?;
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let Thing::Module(built) = context.thing(module)?.1 else {
            return Err(Refusal::handle(Error::failed("this handle names no module")));
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

pub(super) unsafe extern "C" fn teacher_of(
    context: *mut abi::Context,
    teacher: Handle,
    of: Handle,
    out: *mut Handle,
) -> Status {
    clear(out, 1);
    guard(context, |context| {
        let (student, _) = context.thing(of)?;
        let Thing::Teacher(copies) = context.thing(teacher)?.1 else {
            return Err(Refusal::handle(Error::failed("this handle names no teacher")));
        };
        let copy = copies.get(&student).ok_or_else(|| {
            Error::failed(format!("the teacher has no copy of `{}`", context.things[student].0))
                .hint("declare the teacher with it")
        })?;
        Ok(put(out, Named::Thing(*copy).handle())?)
    })
}

pub(super) unsafe extern "C" fn buffer_set(
    context: *mut abi::Context,
    buffer: Handle,
    value: Handle,
) -> Status {
    guard(context, |context| {
        let Thing::Buffer(id) = *context.thing(buffer)?.1 else {
            return Err(Refusal::handle(Error::failed("this handle names no buffer")));
        };
        let value = context.tensor(value)?.value().contiguous().map_err(Error::from)?;
        let expected = context.now()?.forward().vars.state().get_buffer(id).dims().to_vec();
        if expected != value.dims() {
            return Err(Error::failed(format!(
                "a buffer of shape {expected:?} can't hold a value of shape {:?}",
                value.dims()
            ))
            .into());
        }
        context.buffers.push((id, value));
        Ok(())
    })
}

pub(super) unsafe extern "C" fn view(
    context: *mut abi::Context,
    of: Handle,
    index: u64,
    field: Text,
    out: *mut Handle,
) -> Status {
    clear(out, 1);
    guard(context, |context| {
        let field = text(field)?;
        let now = context.now()?;
        let tensor = match (context.thing(of)?.1, field.as_str()) {
            (Thing::View(view), field) => now.views().field(*view, index as usize, field)?,
            (Thing::Parameter { id }, "value") => now.forward().param(*id),
            (Thing::Buffer(id), "value") => {
                Var::constant(now.forward().vars.state().get_buffer(*id).clone())
            }
            (Thing::Parameter { .. } | Thing::Buffer(_), _) => {
                let error = Error::failed(format!("there is no field `{field}` of this"));
                return Err(error.hint("a parameter and a buffer have `value`").into());
            }
            _ => {
                let error = Error::failed("this handle names no view, parameter or buffer");
                return Err(Refusal::handle(error));
            }
        };
        Ok(put(out, context.give(tensor))?)
    })
}

pub(super) unsafe extern "C" fn random(
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
