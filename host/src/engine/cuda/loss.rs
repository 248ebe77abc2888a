//! Launches of `loss.cu`: cross-entropy of rows.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fresh};
use crate::Result;

const FILE: File = file!("loss");

/// What a row is compared with.
#[derive(Clone, Debug)]
pub enum Targets {
    /// `[R, K]`
    Shares(Tensor),
    /// u32 `[R]`; a class that is out of range makes NaN.
    Classes(Tensor),
}

impl Targets {
    /// As the kernels' two arguments, of which one is null.
    fn args(&self, rows: usize, width: usize) -> [Arg<'_>; 2] {
        match self {
            Self::Shares(shares) => [Arg::F32(shares, rows * width), Arg::Null],
            Self::Classes(classes) => [Arg::Null, Arg::U32(classes, rows)],
        }
    }
}

/// Losses of rows of logits, and what their gradient needs.
#[derive(Debug)]
pub struct Losses {
    /// `[R]`
    pub loss: Tensor,
    logits: Tensor,
    targets: Targets,
    temperature: f64,
    /// Largest logit, sum of powers and sum of targets of each row, `[R]` each.
    kept: [Tensor; 3],
}

impl Losses {
    /// The cross-entropy of each row of `logits` `[R, K]`, divided by `temperature`.
    ///
    /// # Errors
    /// When the device has no room, or the launch is refused.
    pub fn new(logits: &Tensor, targets: Targets, temperature: f64) -> Result<Self> {
        let (rows, width) = logits.dims2()?;
        let logits = logits.contiguous()?;
        let targets = match targets {
            Targets::Shares(shares) => Targets::Shares(shares.contiguous()?),
            Targets::Classes(classes) => Targets::Classes(classes.contiguous()?),
        };
        let row = || fresh(rows, DType::F32, &logits);
        let (loss, kept) = (row()?, [row()?, row()?, row()?]);
        let [shares, classes] = targets.args(rows, width);
        let [max, sum, total] = kept.each_ref().map(|kept| Arg::F32(kept, rows));
        let args = [
            Arg::F32(&logits, rows * width),
            shares,
            classes,
            Arg::F32(&loss, rows),
            max,
            sum,
            total,
            Arg::Int(width),
            Arg::Float(1.0 / temperature),
        ];
        launch("cross_entropy_forward", [rows, 1]).run(&logits, &args)?;
        Ok(Self { loss, logits, targets, temperature, kept })
    }

    /// The gradient of the logits from that of the losses, `[R]`.
    ///
    /// # Errors
    /// As [`Losses::new`].
    pub fn gradient(&self, dloss: &Tensor) -> Result<Tensor> {
        let (rows, width) = self.logits.dims2()?;
        let dloss = dloss.contiguous()?;
        let dx = fresh((rows, width), DType::F32, &self.logits)?;
        let [shares, classes] = self.targets.args(rows, width);
        let [max, sum, total] = self.kept.each_ref().map(|kept| Arg::F32(kept, rows));
        let args = [
            Arg::F32(&self.logits, rows * width),
            shares,
            classes,
            Arg::F32(&dloss, rows),
            max,
            sum,
            total,
            Arg::F32(&dx, rows * width),
            Arg::Int(width),
            Arg::Float(1.0 / self.temperature),
        ];
        launch("cross_entropy_backward", [rows, width.div_ceil(1024)]).run(&dx, &args)?;
        Ok(dx)
    }
}

fn launch(kernel: &'static str, grid: [usize; 2]) -> Launch {
    Launch { file: FILE, kernel, grid, threads: 256, shared: 0 }
}
