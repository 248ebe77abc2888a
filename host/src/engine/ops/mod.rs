//! The ops: one file each. A new op is a new file, its `mod` line here, a row in `docs/ops.md`, and
//! its case in `tests/reference/ops/make.py`.

pub mod add;
pub mod stop_grad;
