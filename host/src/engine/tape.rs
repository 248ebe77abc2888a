//! The tape: remembers how each value was made, and walks back through it once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};

use super::profile::Profile;
use super::storage;
use crate::{Error, Result};

/// The arithmetic of matrix products; everything else is f32 in both cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 operands.
    #[default]
    F32,
    /// bf16 operands, f32 accumulation, f32 master weights.
    Bf16,
}

/// A tensor that may take part in a backward pass. Cloning is cheap and shares the storage.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// A value that no gradient flows into.
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: None }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The sizes of the value.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// The element type of the value.
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// The device of the value.
    pub fn device(&self) -> &Device {
        self.value.device()
    }

    /// Whether a gradient flows into it.
    pub fn tracked(&self) -> bool {
        self.node.is_some()
    }

    /// The same value, cut from the tape.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }
}

/// What an op's backward does with the gradient of its output.
type Backward = Box<dyn FnOnce(Incoming, &mut Gradients<'_>) -> Result<()>>;

struct Node {
    name: &'static str,
    inputs: Vec<Option<usize>>,
    /// `None` for a leaf.
    backward: Option<Backward>,
}

/// The gradient of an op's output, as its backward receives it: to read, and to hand on (or views of
/// it) by [`Gradients::pass`] or [`Gradients::add_shared`].
#[derive(Debug)]
pub struct Incoming(Tensor);

impl Incoming {
    /// The gradient.
    pub fn into_tensor(self) -> Tensor {
        self.0
    }

    /// The gradient, to read.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }
}

/// One recorded computation. A tape serves one step and is then dropped.
pub struct Tape {
    nodes: RefCell<Vec<Node>>,
    no_grad: Cell<usize>,
    recorded_bytes: Cell<u64>,
    computed_bytes: Cell<u64>,
    repeated_bytes: Cell<u64>,
    precision: Precision,
    device: Device,
    portable: bool,
    profile: Option<Rc<Profile>>,
}

impl Default for Tape {
    fn default() -> Self {
        Self::new(Precision::default())
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes)", self.nodes.borrow().len())
    }
}

impl Tape {
    /// An empty tape on the CPU whose matrix products use `precision`.
    pub fn new(precision: Precision) -> Self {
        Self {
            nodes: RefCell::default(),
            no_grad: Cell::new(0),
            recorded_bytes: Cell::new(0),
            computed_bytes: Cell::new(0),
            repeated_bytes: Cell::new(0),
            precision,
            device: Device::Cpu,
            portable: false,
            profile: None,
        }
    }

    /// Says where ops that are given no tensor (random numbers) put what they make.
    #[must_use]
    pub fn on(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Takes every op's portable form, for tensors on the CPU too: how those forms are tested without
    /// another device.
    #[must_use]
    pub fn portable_only(mut self) -> Self {
        self.portable = true;
        self
    }

    /// Where ops that are given no tensor put what they make.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether an op takes its portable form (`engine/portable`) for `x`, and not its CPU kernel.
    pub fn portable(&self, x: &Var) -> bool {
        self.portable || !x.device().is_cpu()
    }

    /// Measures every op from now on, into `profile` if there is one.
    #[must_use]
    pub fn profiled(mut self, profile: Option<Rc<Profile>>) -> Self {
        self.profile = profile;
        self
    }

    /// Counts floating point operations that the op `name` does in matrix products.
    pub fn count_flops(&self, name: &'static str, flops: usize) {
        if let Some(profile) = &self.profile {
            profile.count(name, flops as u64, 0);
        }
    }

    /// An empty tape of the same precision on the same device, measured into the same profile.
    pub(super) fn another(&self) -> impl Fn() -> Self + 'static {
        let (precision, profile) = (self.precision, self.profile.clone());
        let (device, portable) = (self.device.clone(), self.portable);
        move || Self { portable, ..Self::new(precision).on(&device).profiled(profile.clone()) }
    }

    /// The arithmetic of matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// A value whose gradient is wanted: a parameter, or an input under test.
    pub fn leaf(&self, value: Tensor) -> Var {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { name: "leaf", inputs: Vec::new(), backward: None });
        Var { value, node: Some(nodes.len() - 1) }
    }

    /// Runs `body` without recording: its results are constants.
    pub fn no_grad<T>(&self, body: impl FnOnce() -> T) -> T {
        self.enter_no_grad();
        let result = body();
        self.leave_no_grad();
        result
    }

    /// Stops recording until the matching [`Tape::leave_no_grad`]; calls nest.
    pub fn enter_no_grad(&self) {
        self.no_grad.set(self.no_grad.get() + 1);
    }

    /// Ends the innermost [`Tape::enter_no_grad`].
    pub fn leave_no_grad(&self) {
        self.no_grad.set(self.no_grad.get().saturating_sub(1));
    }

    /// Whether an op on these inputs must save what its backward needs.
    pub fn records(&self, inputs: &[&Var]) -> bool {
        self.no_grad.get() == 0 && inputs.iter().any(|input| input.tracked())
    }

    /// Records that the op `name` made `value` from `inputs`.
    ///
    /// `backward` receives the gradient of `value` and adds one gradient per input, in the order of
    /// `inputs`. It is dropped at once where no input is tracked, so capture only what it needs.
    pub fn record(
        &self,
        name: &'static str,
        inputs: &[&Var],
        value: Tensor,
        backward: impl FnOnce(Incoming, &mut Gradients<'_>) -> Result<()> + 'static,
    ) -> Var {
        let size = |tensor: &Tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
        let bytes = size(&value);
        self.computed_bytes.set(self.computed_bytes.get() + bytes);
        if let Some(profile) = &self.profile {
            let read: u64 = inputs.iter().map(|input| size(&input.value)).sum();
            profile.count(name, 0, read + bytes);
        }
        if !self.records(inputs) {
            return Var::constant(value);
        }
        self.recorded_bytes.set(self.recorded_bytes.get() + bytes);
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node {
            name,
            inputs: inputs.iter().map(|input| input.node).collect(),
            backward: Some(Box::new(backward)),
        });
        Var { value, node: Some(nodes.len() - 1) }
    }

    /// Counts `bytes` that an op keeps for the way back beside its inputs and its value, where it is recorded.
    pub(super) fn keeps(&self, bytes: usize, recorded: bool) {
        let bytes = bytes as u64;
        self.computed_bytes.set(self.computed_bytes.get() + bytes);
        if recorded {
            self.recorded_bytes.set(self.recorded_bytes.get() + bytes);
        }
    }

    /// Bytes of all recorded values and of what ops keep beside them: about what the tape keeps for the way back.
    pub fn recorded_bytes(&self) -> u64 {
        self.recorded_bytes.get()
    }

    /// The same, with the values of the largest checkpoint, which are there again on the way back.
    pub fn peak_bytes(&self) -> u64 {
        self.recorded_bytes.get() + self.repeated_bytes.get()
    }

    /// Runs `body` without recording, and remembers how many bytes a tape will hold when it is run again.
    pub(super) fn to_be_repeated<T>(&self, body: impl FnOnce() -> T) -> T {
        let before = self.computed_bytes.get();
        let result = self.no_grad(body);
        let computed = self.computed_bytes.get() - before;
        self.repeated_bytes.set(self.repeated_bytes.get().max(computed));
        result
    }

    /// Times `body` as a forward call of the op `name` when the tape is profiled.
    pub fn timed<T>(&self, name: &'static str, body: impl FnOnce() -> T) -> T {
        match &self.profile {
            Some(profile) => profile.forward(name, body),
            None => body(),
        }
    }

    /// Walks back from the scalar `loss` and returns the gradient of every leaf that it depends on.
    ///
    /// What the ops saved is freed on the way, so a tape is walked once.
    pub fn backward(&self, loss: &Var) -> Result<LeafGradients> {
        if loss.value.elem_count() != 1 {
            return Err(Error::failed(format!("a loss is one number, not {:?}", loss.dims())));
        }
        self.walk(loss, storage::ones_like(&loss.value)?, true)
    }

    /// Walks back from `output` with `seed` as its gradient (same shape), which is left as it is: the caller may hold it too.
    pub fn backward_from(&self, output: &Var, seed: Tensor) -> Result<LeafGradients> {
        self.walk(output, seed, false)
    }

    /// The same; `owned` says whether nobody else holds the storage of `seed`.
    pub(super) fn walk(&self, output: &Var, seed: Tensor, owned: bool) -> Result<LeafGradients> {
        let Some(root) = output.node else {
            return Err(Error::failed("the loss does not depend on any parameter")
                .hint("check that the method uses the student's output, not only the teacher's"));
        };
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(root + 1, Slot::default);
        slots[root] = if owned { Slot::Owned(seed) } else { Slot::Shared(seed) };
        let mut leaves = LeafGradients::default();
        for id in (0..=root).rev() {
            let Some((gradient, owned)) = slots[id].take() else {
                // Nothing flowed here: free what the op saved all the same.
                self.nodes.borrow_mut()[id].backward = None;
                continue;
            };
            let (name, inputs, backward) = {
                let node = &mut self.nodes.borrow_mut()[id];
                (node.name, std::mem::take(&mut node.inputs), node.backward.take())
            };
            let Some(backward) = backward else {
                leaves.0.push(LeafGradient { id, gradient, owned });
                continue;
            };
            let mut gradients = Gradients { slots: &mut slots, inputs: &inputs, owned };
            match &self.profile {
                Some(p) => p.backward(name, || backward(Incoming(gradient), &mut gradients)),
                None => backward(Incoming(gradient), &mut gradients),
            }?;
        }
        Ok(leaves)
    }
}

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    /// Nobody else holds this storage: later gradients are added in place.
    Owned(Tensor),
    /// Somebody else holds this storage too: the first addition makes a new tensor.
    Shared(Tensor),
}

impl Slot {
    fn take(&mut self) -> Option<(Tensor, bool)> {
        match std::mem::take(self) {
            Self::Empty => None,
            Self::Owned(gradient) => Some((gradient, true)),
            Self::Shared(gradient) => Some((gradient, false)),
        }
    }
}

/// Where a backward puts the gradients of its op's inputs.
pub struct Gradients<'a> {
    slots: &'a mut [Slot],
    inputs: &'a [Option<usize>],
    /// Whether nobody else holds the storage of the incoming gradient.
    owned: bool,
}

impl std::fmt::Debug for Gradients<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gradients({:?})", self.inputs)
    }
}

impl Gradients<'_> {
    /// Whether input `index` wants a gradient; where not, don't compute it.
    pub fn wants(&self, index: usize) -> bool {
        self.inputs[index].is_some()
    }

    /// How many inputs the op has.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Whether nobody else holds the storage of the incoming gradient.
    pub(super) fn owned(&self) -> bool {
        self.owned
    }

    /// Takes out what has already come for input `index`, to add to it in place and give it back by [`Gradients::add`]:
    /// pictures with channels last whose storage nobody else holds.
    pub(super) fn take_pictures(&mut self, index: usize) -> Option<Tensor> {
        let slot = &mut self.slots[self.inputs[index]?];
        let last = |sum: &Tensor| {
            sum.rank() == 4 && sum.permute((0, 2, 3, 1)).is_ok_and(|sum| sum.is_contiguous())
        };
        match std::mem::take(slot) {
            Slot::Owned(sum) if last(&sum) => Some(sum),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Gives input `index` a fresh gradient, whose storage nobody else holds.
    pub fn add(&mut self, index: usize, gradient: Tensor) -> Result<()> {
        self.put(index, gradient, true)
    }

    /// Hands the incoming gradient, or a view of all of it, on to input `index` and to no other.
    pub fn pass(&mut self, index: usize, gradient: Tensor) -> Result<()> {
        self.put(index, gradient, self.owned)
    }

    /// Gives input `index` a gradient whose storage somebody else holds too (the incoming one or a
    /// saved tensor, handed to several inputs).
    pub fn add_shared(&mut self, index: usize, gradient: Tensor) -> Result<()> {
        self.put(index, gradient, false)
    }

    /// Gives input `index` a gradient; `owned` says whether nobody else holds its storage.
    pub(super) fn put(&mut self, index: usize, gradient: Tensor, owned: bool) -> Result<()> {
        let Some(id) = self.inputs[index] else { return Ok(()) };
        let owned = owned && storage::dense(&gradient).is_some();
        let slot = &mut self.slots[id];
        *slot = match std::mem::take(slot) {
            Slot::Empty if owned => Slot::Owned(gradient),
            Slot::Empty => Slot::Shared(gradient),
            Slot::Owned(sum) => Slot::Owned(storage::add_into(sum, &gradient)?),
            Slot::Shared(sum) if owned => Slot::Owned(storage::add_into(gradient, &sum)?),
            Slot::Shared(sum) => Slot::Owned((sum + gradient)?),
        };
        Ok(())
    }
}

#[derive(Debug)]
struct LeafGradient {
    id: usize,
    gradient: Tensor,
    owned: bool,
}

/// The gradients that reached the leaves.
#[derive(Debug, Default)]
pub struct LeafGradients(Vec<LeafGradient>);

impl LeafGradients {
    /// The gradient of `leaf`, if any reached it.
    pub fn get(&self, leaf: &Var) -> Option<&Tensor> {
        Some(&self.0[self.at(leaf)?].gradient)
    }

    /// Takes the gradient of `leaf` out, if any reached it, in storage that nobody else holds: two leaves may share
    /// what reached them.
    ///
    /// # Errors
    /// When there is no memory for a copy.
    pub fn take_own(&mut self, leaf: &Var) -> Result<Option<Tensor>> {
        Ok(match self.take_with_owner(leaf) {
            Some((gradient, false)) => Some(gradient.copy()?),
            Some((gradient, true)) => Some(gradient),
            None => None,
        })
    }

    /// The gradient of `leaf`, and whether nobody else holds its storage.
    pub(super) fn take_with_owner(&mut self, leaf: &Var) -> Option<(Tensor, bool)> {
        let at = self.at(leaf)?;
        let LeafGradient { gradient, owned, .. } = self.0.swap_remove(at);
        Some((gradient, owned))
    }

    fn at(&self, leaf: &Var) -> Option<usize> {
        let node = leaf.node?;
        self.0.iter().position(|reached| reached.id == node)
    }
}

#[cfg(test)]
#[path = "tape_tests.rs"]
mod tests;
