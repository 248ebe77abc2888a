//! How long each op took: what `pretext time` prints.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The cost of one op over a measured stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Forward calls.
    pub calls: u64,
    /// Time in forward calls.
    pub forward: Duration,
    /// Time in backward calls.
    pub backward: Duration,
    /// Floating point operations of matrix products, forward and backward.
    pub flops: u64,
    /// Bytes of inputs and results of forward calls.
    pub bytes: u64,
}

/// The cost of every op, by name.
#[derive(Debug, Default)]
pub struct Profile(RefCell<BTreeMap<&'static str, Cost>>);

impl Profile {
    /// Counts work that the op `name` has done.
    pub(super) fn count(&self, name: &'static str, flops: u64, bytes: u64) {
        let mut costs = self.0.borrow_mut();
        let cost = costs.entry(name).or_default();
        cost.flops += flops;
        cost.bytes += bytes;
    }

    /// Times `body` as a call of `name`, which may be an op or a part of the step around them.
    pub fn forward<T>(&self, name: &'static str, body: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = body();
        let mut costs = self.0.borrow_mut();
        let cost = costs.entry(name).or_default();
        cost.calls += 1;
        cost.forward += start.elapsed();
        result
    }

    pub(super) fn backward<T>(&self, name: &'static str, body: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = body();
        self.0.borrow_mut().entry(name).or_default().backward += start.elapsed();
        result
    }

    /// A copy of the costs, by op name.
    pub fn costs(&self) -> BTreeMap<&'static str, Cost> {
        self.0.borrow().clone()
    }
}
