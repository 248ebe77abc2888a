//! Handles: an index and a generation, so that a stale or foreign one is an error, never a crash.

use pretext_plugin_api::abi::Handle;

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A declared thing: a module, parameter, buffer, teacher, schedule, stream or view.
    Thing(usize),
    /// A tensor that the method keeps; its number is never given out twice.
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

    /// What `handle` names; none of generation 0.
    pub fn of(handle: Handle) -> Option<Self> {
        let (generation, index) = ((handle >> 32) as u32, handle as u32 as usize);
        match generation {
            0 => None,
            THING => Some(Self::Thing(index)),
            KEPT => Some(Self::Kept(index)),
            generation => Some(Self::Tensor(index, generation)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_come_back_as_what_they_named() {
        for named in [Named::Thing(0), Named::Kept(7), Named::Tensor(3, FIRST)] {
            assert_eq!(Named::of(named.handle()), Some(named));
        }
        assert_eq!((Named::of(0), Named::of(77)), (None, None));
    }
}
