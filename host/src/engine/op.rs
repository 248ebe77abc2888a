//! What an op is: a name with a revision, a formula, a call by dynamic arguments, and the samples
//! that its gradient check runs on. `docs/ops.md` is the catalogue.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{Device, Tensor};

use super::tape::{Tape, Var};
use crate::random::Stream;
use crate::{Error, Result};

/// One argument of a dynamic call.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A tensor.
    Tensor(Var),
    /// A whole number, a dimension or a flag.
    Int(i64),
    /// A real number.
    Float(f64),
    /// Sizes or dimensions.
    Ints(Vec<i64>),
    /// A source of randomness, which the call moves on.
    Stream(Rc<RefCell<Stream>>),
    /// An optional argument that was left out.
    None,
}

/// The arguments of a dynamic call, with errors that name the op and the place.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    op: &'static str,
    args: &'a [Arg],
}

impl<'a> Args<'a> {
    /// The arguments `args` of a call to `op`.
    pub fn new(op: &'static str, args: &'a [Arg]) -> Self {
        Self { op, args }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    fn wrong(&self, index: usize, expected: &str) -> Error {
        let got = match self.args.get(index) {
            None => "nothing".to_owned(),
            Some(arg) => format!("{arg:?}").chars().take(60).collect(),
        };
        Error::failed(format!("`{}` expects {expected} as argument {index}, got {got}", self.op))
    }

    /// The tensor at `index`.
    pub fn tensor(&self, index: usize) -> Result<&'a Var> {
        match self.args.get(index) {
            Some(Arg::Tensor(var)) => Ok(var),
            _ => Err(self.wrong(index, "a tensor")),
        }
    }

    /// The tensor at `index`, or none where it was left out.
    pub fn optional_tensor(&self, index: usize) -> Result<Option<&'a Var>> {
        match self.args.get(index) {
            Some(Arg::Tensor(var)) => Ok(Some(var)),
            Some(Arg::None) | None => Ok(None),
            _ => Err(self.wrong(index, "a tensor or nothing")),
        }
    }

    /// The tensors from `index` to the end.
    pub fn tensors_from(&self, index: usize) -> Result<Vec<&'a Var>> {
        (index..self.args.len()).map(|i| self.tensor(i)).collect()
    }

    /// The whole number at `index`.
    pub fn int(&self, index: usize) -> Result<i64> {
        match self.args.get(index) {
            Some(Arg::Int(value)) => Ok(*value),
            _ => Err(self.wrong(index, "a whole number")),
        }
    }

    /// The size at `index`: a whole number of at least 0.
    pub fn size(&self, index: usize) -> Result<usize> {
        usize::try_from(self.int(index)?).map_err(|_| self.wrong(index, "a size of at least 0"))
    }

    /// The flag at `index`: 0 or 1.
    pub fn flag(&self, index: usize) -> Result<bool> {
        match self.int(index)? {
            flag @ (0 | 1) => Ok(flag == 1),
            _ => Err(self.wrong(index, "a flag, 0 or 1,")),
        }
    }

    /// The dimension at `index` of a tensor of rank `rank`; negative ones count from the end.
    pub fn dim(&self, index: usize, rank: usize) -> Result<usize> {
        resolve_dim(self.int(index)?, rank).ok_or_else(|| self.wrong(index, "a dimension"))
    }

    /// The real number at `index`; a whole number will do.
    pub fn float(&self, index: usize) -> Result<f64> {
        match self.args.get(index) {
            Some(Arg::Float(value)) => Ok(*value),
            Some(Arg::Int(value)) => Ok(*value as f64),
            _ => Err(self.wrong(index, "a number")),
        }
    }

    /// The whole numbers at `index`.
    pub fn ints(&self, index: usize) -> Result<&'a [i64]> {
        match self.args.get(index) {
            Some(Arg::Ints(values)) => Ok(values),
            _ => Err(self.wrong(index, "a list of whole numbers")),
        }
    }

    /// The dimensions at `index` of a tensor of rank `rank`; negative ones count from the end.
    pub fn dims(&self, index: usize, rank: usize) -> Result<Vec<usize>> {
        self.ints(index)?
            .iter()
            .map(|dim| resolve_dim(*dim, rank).ok_or_else(|| self.wrong(index, "dimensions")))
            .collect()
    }

    /// The random stream at `index`.
    pub fn stream(&self, index: usize) -> Result<&'a RefCell<Stream>> {
        match self.args.get(index) {
            Some(Arg::Stream(stream)) => Ok(stream),
            _ => Err(self.wrong(index, "a random stream")),
        }
    }
}

fn resolve_dim(dim: i64, rank: usize) -> Option<usize> {
    let rank = rank as i64;
    let dim = if dim < 0 { dim + rank } else { dim };
    (0..rank).contains(&dim).then_some(dim as usize)
}

/// What the catalogue promises about an op's gradient.
#[derive(Clone, Copy, Debug)]
pub enum Gradient {
    /// Checked in f64 against central differences on every sample.
    Checked,
    /// Flows, but by a definition of its own that no difference can check; see the op's tests.
    Defined(&'static str),
    /// Cut from the tape, for the reason given.
    None(&'static str),
}

/// Arguments to check an op with. Float tensors that are tracked leaves get their gradient checked.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The arguments; a gradient is wanted for every `f64` tensor among them not in `constant`.
    pub args: Vec<Arg>,
    /// Positions of tensors that take no gradient.
    pub constant: Vec<usize>,
}

impl Sample {
    /// A sample in which every `f64` tensor takes a gradient.
    pub fn new(args: Vec<Arg>) -> Self {
        Self { args, constant: Vec::new() }
    }

    /// Says that the tensors at `positions` take no gradient.
    #[must_use]
    pub fn constant(mut self, positions: &[usize]) -> Self {
        self.constant = positions.to_vec();
        self
    }
}

/// An op of the catalogue.
#[derive(Debug)]
pub struct OpDef {
    /// Its name, such as `softmax`.
    pub name: &'static str,
    /// Its revision; what `(name, revision)` means never changes.
    pub revision: u32,
    /// What it computes, and its arguments in order.
    pub formula: &'static str,
    /// Calls it.
    pub call: fn(&Tape, &Args<'_>) -> Result<Vec<Var>>,
    /// Whether gradients flow through it.
    pub gradient: Gradient,
    /// Arguments in f64 for the gradient check: random shapes, among them sizes of 1 and tensors
    /// that aren't contiguous.
    pub samples: fn(&mut Stream) -> Vec<Sample>,
}

inventory::collect!(OpDef);

impl OpDef {
    /// Calls it with `arguments`.
    ///
    /// # Errors
    /// When the op can't be computed of them; the message names the op.
    pub fn run(&self, tape: &Tape, arguments: &[Arg]) -> Result<Vec<Var>> {
        (self.call)(tape, &Args::new(self.name, arguments)).map_err(|error| {
            if error.message().contains(&format!("`{}`", self.name)) {
                return error;
            }
            let shapes = arguments.iter().filter_map(|argument| match argument {
                Arg::Tensor(tensor) => Some(format!("{:?}", tensor.dims())),
                _ => None,
            });
            let shapes = shapes.collect::<Vec<_>>().join(", ");
            error.context(format!("`{}` failed on tensors of shapes {shapes}", self.name))
        })
    }
}

/// Every op, ordered by name and revision.
pub fn catalogue() -> Vec<&'static OpDef> {
    let mut ops: Vec<&OpDef> = inventory::iter::<OpDef>.into_iter().collect();
    ops.sort_by_key(|op| (op.name, op.revision));
    ops
}

/// The op `name` at `revision`.
pub fn find(name: &str, revision: u32) -> Option<&'static OpDef> {
    inventory::iter::<OpDef>.into_iter().find(|op| op.name == name && op.revision == revision)
}

/// A random f64 tensor of `shape` with values around 0, for samples and tests.
pub fn random_tensor(stream: &mut Stream, shape: &[usize]) -> Result<Tensor> {
    let elements: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Ok(Tensor::from_vec(elements, shape, &Device::Cpu)?)
}

/// Like [`random_tensor`], but a transposed view: its last two dimensions aren't contiguous.
pub fn strided_tensor(stream: &mut Stream, shape: &[usize]) -> Result<Tensor> {
    let mut stored = shape.to_vec();
    let rank = shape.len();
    stored.swap(rank - 1, rank - 2);
    Ok(random_tensor(stream, &stored)?.transpose(rank - 1, rank - 2)?)
}

/// An argument of a sample: a contiguous random f64 tensor of `shape`.
///
/// # Panics
/// When candle can't make a tensor of that shape, which no sample asks for.
#[expect(
    clippy::expect_used,
    reason = "samples are built by tests, from shapes that are written out"
)]
pub fn sample_tensor(stream: &mut Stream, shape: &[usize]) -> Arg {
    Arg::Tensor(Var::constant(random_tensor(stream, shape).expect("a valid shape")))
}

/// An argument of a sample: a strided random f64 tensor of `shape`, of rank 2 or more.
///
/// # Panics
/// When candle can't make a tensor of that shape, which no sample asks for.
#[expect(
    clippy::expect_used,
    reason = "samples are built by tests, from shapes that are written out"
)]
pub fn sample_strided(stream: &mut Stream, shape: &[usize]) -> Arg {
    Arg::Tensor(Var::constant(strided_tensor(stream, shape).expect("a valid shape")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize]) -> Arg {
        sample_tensor(&mut Stream::new(0, "op", 0, 0), shape)
    }

    #[test]
    fn every_op_names_itself_in_what_it_refuses() {
        let tape = Tape::default();
        for op in catalogue() {
            let odd = [tensor(&[2, 3, 5]), tensor(&[7, 2]), tensor(&[3]), Arg::Int(99)];
            let Err(error) = op.run(&tape, &odd) else { continue };
            assert!(error.to_string().contains(&format!("`{}`", op.name)), "{error}");
            let error = op.run(&tape, &[]).unwrap_err();
            assert!(error.to_string().contains(&format!("`{}`", op.name)), "{error}");
        }
        let add = find("add", 1).unwrap();
        let error = add.run(&tape, &[tensor(&[2, 3]), tensor(&[4])]).unwrap_err();
        assert!(
            error.to_string().contains("[2, 3]") && error.to_string().contains("[4]"),
            "{error}"
        );
    }

    #[test]
    fn a_flag_is_zero_or_one() {
        let all_reduce = find("all_reduce", 1).unwrap();
        for (flag, fine) in [(Arg::Int(0), true), (Arg::Int(1), true), (Arg::Int(2), false)] {
            assert_eq!(all_reduce.run(&Tape::default(), &[tensor(&[2]), flag]).is_ok(), fine);
        }
        assert!(all_reduce.run(&Tape::default(), &[tensor(&[2])]).is_err());
    }
}
