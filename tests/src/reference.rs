//! The values stored in `tests/reference`, and how far computed ones lie from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

/// The folder of the stored values.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference")
}

/// One stored file.
#[derive(Debug)]
pub struct Reference {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Reference {
    /// Reads `path`, given below `tests/reference`.
    ///
    /// # Panics
    /// When the file is missing or is not one that a script there wrote.
    pub fn open(path: &str) -> Self {
        Self::open_at(folder().join(path))
    }

    /// Reads the file `path`: one too large to be kept, which a script wrote elsewhere.
    ///
    /// # Panics
    /// When the file is missing or is not one that a script there wrote.
    pub fn open_at(path: PathBuf) -> Self {
        let fail = |why: &dyn std::fmt::Display| -> ! { panic!("{}: {why}", path.display()) };
        let bytes = std::fs::read(&path).unwrap_or_else(|error| fail(&error));
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .unwrap_or_else(|error| fail(&error));
        let (_, metadata) =
            safetensors::SafeTensors::read_metadata(&bytes).unwrap_or_else(|error| fail(&error));
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Self {
            tensors: tensors.into_iter().collect(),
            metadata: metadata.into_iter().collect(),
            path,
        }
    }

    /// The tensor `name`.
    ///
    /// # Panics
    /// When there is none.
    pub fn tensor(&self, name: &str) -> &Tensor {
        let Some(tensor) = self.tensors.get(name) else {
            panic!("{} has no tensor `{name}`", self.path.display())
        };
        tensor
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensors whose names start with `prefix`, by the rest of their names.
    pub fn below(&self, prefix: &str) -> Vec<(&str, &Tensor)> {
        self.tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
            .collect()
    }

    /// The metadata `key`, which is JSON.
    ///
    /// # Panics
    /// When there is none.
    pub fn json(&self, key: &str) -> serde_json::Value {
        let parsed = self.metadata.get(key).map(|text| serde_json::from_str(text));
        let Some(Ok(value)) = parsed else {
            panic!("{} has no metadata `{key}`", self.path.display())
        };
        value
    }
}

/// The largest difference between `got` and `want`, each relative to the value wanted, or to the root
/// mean square of all values wanted where that is larger (a small value made by cancellation has the
/// error of its large parts), or to `least`, the size of what was added up to make them. Infinite
/// where the shapes differ or a value is not a number.
///
/// # Panics
/// When a tensor can't be read as f64.
pub fn difference(got: &Tensor, want: &Tensor, least: f64) -> f64 {
    if got.dims() != want.dims() {
        return f64::INFINITY;
    }
    let (got, want) = (elements(got), elements(want));
    let size = (want.iter().map(|x| x * x).sum::<f64>() / want.len().max(1) as f64).sqrt();
    let worst = got.iter().zip(&want).map(|(g, w)| {
        let difference = if g == w { 0.0 } else { (g - w).abs() / w.abs().max(size).max(least) };
        if difference.is_nan() { f64::INFINITY } else { difference }
    });
    worst.fold(0.0, f64::max)
}

/// The elements of `tensor` in row-major order, as f64.
///
/// # Panics
/// When candle can't convert them.
pub fn elements(tensor: &Tensor) -> Vec<f64> {
    let read = || tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    read().unwrap_or_else(|error| panic!("can't read {:?}: {error}", tensor.dims()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_difference_is_relative_to_the_value_or_to_the_size_of_all_or_to_the_least_size() {
        assert!((difference(&tensor(&[101.0]), &tensor(&[100.0]), 0.1) - 0.01).abs() < 1e-12);
        assert!(difference(&tensor(&[100.0, 0.1]), &tensor(&[100.0, 0.0]), 0.1) < 0.0015);
        assert_eq!(difference(&tensor(&[0.5]), &tensor(&[0.0]), 2.0), 0.25);
        assert_eq!(difference(&tensor(&[0.0]), &tensor(&[0.0]), 0.0), 0.0);
    }

    #[test]
    fn another_shape_or_a_nan_is_infinitely_far() {
        assert_eq!(difference(&tensor(&[1.0, 1.0]), &tensor(&[1.0]), 0.1), f64::INFINITY);
        assert_eq!(difference(&tensor(&[f64::NAN]), &tensor(&[1.0]), 0.1), f64::INFINITY);
    }
}
