//! The host's table: one C function per slot, here and in `compute`. Each copies what it is given, does
//! its work in Rust behind `guard`, and turns errors and panics into a status.

use std::cell::RefCell;

use abi_stable::prefix_type::PrefixTypeTrait;
use pretext_plugin_api::abi::value::{Handle, Status, Text, Value, status};
use pretext_plugin_api::abi::{self, HostTable, HostTableRef, Instance};

use super::compute::{
    buffer_set, module_call, no_grad, op_call, op_find, random, release, retain, teacher_of,
    tensor_from, tensor_read, view,
};
use super::crossing::{Refusal, clear, guard, put, settings, text};
use super::declare::Thing;
use super::handle::Named;
use super::session::Context;
use crate::Error;
use crate::error::did_you_mean;

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
        context.now()?;
        let (name, value) = (text(name)?, context.tensor(tensor)?);
        if value.value().elem_count() != 1 {
            return Err(Error::failed(format!(
                "the metric `{name}` has shape {:?}, not one number",
                value.dims()
            ))
            .into());
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
                }
                .into());
            }
        };
        Ok(put(out, value)?)
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
    clear(out, 1);
    guard(context, |context| {
        let (kind, name) = (text(kind)?, text(name)?);
        let handle = context.declare(&kind, &name, settings(values, n)?)?;
        Ok(put(out, handle)?)
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
        let unknown = || Refusal::from(Error::failed(format!("there is no fact `{name}` of this")));
        if of == 0 {
            let course = match name.as_str() {
                "training" => Some(context.training),
                "trainings" => Some(context.course.0.len()),
                _ => None,
            };
            if let Some(number) = course {
                return Ok(put(out, Value::int(number as i64))?);
            }
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
            return Ok(put(out, Value::int(value.cast_signed()))?);
        }
        if !matches!(Named::of(of), Some(Named::Thing(_))) {
            let tensor = context.tensor(of)?;
            if name != "shape" {
                return Err(unknown());
            }
            context.ints = tensor.dims().iter().map(|size| *size as i64).collect();
            return Ok(put(out, Value::ints(&context.ints))?);
        }
        let value = match context.thing(of)?.1 {
            Thing::Module(built) => built.module.fact(&name).map(Value::int),
            Thing::Schedule(schedule) if name == "value" => {
                Some(Value::float(schedule.at(context.now()?.progress)))
            }
            _ => None,
        };
        Ok(put(out, value.ok_or_else(unknown)?)?)
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
    guard(context, |_| Ok(put(out, std::ptr::null())?))
}
