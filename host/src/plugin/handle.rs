//! Handles: an index and a generation, so that a stale or foreign one is an error, never a crash.

use pretext_plugin_api::abi::Handle;

use crate::{Error, Result};

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A declared thing: a module, parameter, buffer, teacher, schedule, stream or view.
    Thing(usize),
    /// A tensor that the method keeps.
    Kept(usize),
    /// A tensor of the callback with this generation.
    Tensor(usize, u32),
}

const THING: u32 = 1;
const KEPT: u32 = 2;
/// The generation of the first callback's tensors.
pub const FIRST: u32 = 3;

impl Named {
    /// The number that crosses.
    pub fn handle(self) -> Handle {
        let (generation, index) = match self {
            Self::Thing(index) => (THING, index),
            Self::Kept(index) => (KEPT, index),
            Self::Tensor(index, generation) => (generation, index),
        };
        Handle::from(generation) << 32 | (index as u64 & u64::from(u32::MAX))
    }

    /// What `handle` names.
    ///
    /// # Errors
    /// When it names nothing: 0, or a generation that was never given out.
    pub fn of(handle: Handle) -> Result<Self> {
        let (generation, index) = ((handle >> 32) as u32, handle as u32 as usize);
        match generation {
            0 => Err(Error::failed(format!("handle {handle:#x} names nothing"))),
            THING => Ok(Self::Thing(index)),
            KEPT => Ok(Self::Kept(index)),
            generation => Ok(Self::Tensor(index, generation)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_come_back_as_what_they_named() {
        for named in [Named::Thing(0), Named::Kept(7), Named::Tensor(3, FIRST)] {
            assert_eq!(Named::of(named.handle()).unwrap(), named);
        }
        assert!(Named::of(0).is_err() && Named::of(77).is_err());
    }
}
