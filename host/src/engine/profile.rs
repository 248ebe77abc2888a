//! How long each op took: what `pretext time` prints. On a device, which works behind the host's back, every call is waited
//! for, at both its ends: a profiled step is slower than others.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::Device;

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

/// The cost of every op, by name. A call inside of another counts for itself only: times add up to the whole.
#[derive(Debug)]
pub struct Profile {
    /// Where the ops run.
    device: Device,
    costs: RefCell<BTreeMap<&'static str, Cost>>,
    /// Time of the calls that ended inside of the one that runs.
    within: Cell<Duration>,
}

impl Profile {
    /// Of ops that run on `device`.
    pub fn on(device: Device) -> Self {
        Self { device, costs: RefCell::default(), within: Cell::default() }
    }

    /// Until everything is done that was enqueued.
    fn wait(&self) {
        // What has failed on the device fails again in the next call.
        drop(self.device.synchronize());
    }

    /// Counts work that the op `name` has done.
    pub(super) fn count(&self, name: &'static str, flops: u64, bytes: u64) {
        let mut costs = self.costs.borrow_mut();
        let cost = costs.entry(name).or_default();
        cost.flops += flops;
        cost.bytes += bytes;
    }

    /// Times `body` as a call of `name`, which may be an op or a part of the step around them.
    pub fn forward<T>(&self, name: &'static str, body: impl FnOnce() -> T) -> T {
        let (result, own) = self.measure(body);
        let mut costs = self.costs.borrow_mut();
        let cost = costs.entry(name).or_default();
        cost.calls += 1;
        cost.forward += own;
        result
    }

    pub(super) fn backward<T>(&self, name: &'static str, body: impl FnOnce() -> T) -> T {
        let (result, own) = self.measure(body);
        self.costs.borrow_mut().entry(name).or_default().backward += own;
        result
    }

    /// What `body` returns, and its time less that of the calls inside of it.
    fn measure<T>(&self, body: impl FnOnce() -> T) -> (T, Duration) {
        self.wait();
        let before = self.within.take();
        let start = Instant::now();
        let result = body();
        self.wait();
        let all = start.elapsed();
        let inner = self.within.replace(before + all);
        (result, all.saturating_sub(inner))
    }

    /// A copy of the costs, by op name.
    pub fn costs(&self) -> BTreeMap<&'static str, Cost> {
        self.costs.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn times_of_calls_inside_of_one_another_add_up_to_the_outermost() {
        let profile = Profile::on(Device::Cpu);
        let work = || (0..1000_u64).map(black_box).sum::<u64>();
        profile.backward("outer", || {
            profile.forward("inner", work);
            profile.backward("inner", || profile.forward("innermost", work));
        });
        let sum: Duration = profile.costs().values().map(|cost| cost.forward + cost.backward).sum();
        assert_eq!(sum, profile.within.get());
        assert_eq!(profile.costs()["inner"].calls, 1);
    }
}
