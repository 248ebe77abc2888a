//! Vectors for the backbone `identity`: a `.npy` file `[N, D]`, or a safetensors file with `x` `[N, D]` and
//! maybe labels `y` `[N]` (test split: `x_test`, `y_test`).

use std::path::Path;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};

use super::{Certainty, Content, Dataset, Kind, OpenOptions, Sample, Split, counted, layout, npy};
use crate::{Error, Result};

inventory::submit! {
    Kind {
        name: "vectors",
        opens: "FILE.npy or FILE.safetensors",
        help: "f32 vectors [N, D]: an array, or tensors `x` and labels `y` (`x_test`, `y_test` for the test split)",
        recognise: |source| {
            let ending = Path::new(source).extension().unwrap_or_default();
            if Path::new(source).is_file() && (ending == "npy" || ending == "safetensors") {
                Certainty::Yes
            } else {
                Certainty::No
            }
        },
        open: |source, options| Ok(Arc::new(Vectors::open(source, options)?)),
    }
}

#[derive(Debug)]
struct Vectors {
    source: String,
    /// `[N, D]`.
    values: Vec<f32>,
    dim: usize,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    split: Split,
}

impl Vectors {
    fn open(source: &str, options: &OpenOptions) -> Result<Self> {
        let bytes = std::fs::read(source).map_err(|e| {
            Error::asked_wrongly(format!("can't read `{source}`"))
                .because(e)
                .hint("check the path and its permissions")
        })?;
        let split = options.split;
        let (values, dim, labels) =
            if Path::new(source).extension().is_some_and(|ending| ending == "npy") {
                if split == Split::Test {
                    return Err(layout::no_split(source, split).hint(
                        "a .npy has one split: use a safetensors file with `x` and `x_test`",
                    ));
                }
                let (values, dim) = npy::parse(&bytes, source)?;
                (values, dim, None)
            } else {
                from_safetensors(&bytes, split, source)?
            };
        if dim == 0 {
            return Err(Error::asked_wrongly(format!("the vectors of `{source}` have no element"))
                .hint("give an array of shape [N, D] with D of at least 1"));
        }
        let classes = labels.as_ref().and_then(|labels| labels.iter().max()).map_or(0, |m| m + 1);
        let class_names = (0..classes).map(|class| class.to_string()).collect();
        Ok(Self { source: source.to_owned(), values, dim, labels, class_names, split })
    }
}

type Parsed = (Vec<f32>, usize, Option<Vec<u32>>);

fn from_safetensors(bytes: &[u8], split: Split, source: &str) -> Result<Parsed> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        Error::failed(format!("`{source}` is no safetensors file, or is truncated"))
            .because(e)
            .hint("write it with `safetensors.torch.save_file({\"x\": vectors}, path)`")
    })?;
    let (x, y) = match split {
        Split::Train => ("x", "y"),
        Split::Test => ("x_test", "y_test"),
    };
    let tensor = file.tensor(x).map_err(|_| {
        Error::asked_wrongly(format!("`{source}` has no tensor `{x}` for the {split} split"))
            .hint(format!("name the vectors `{x}`, of shape [N, D] and type F32"))
    })?;
    let (Dtype::F32, [rows, dim]) = (tensor.dtype(), tensor.shape()) else {
        return Err(Error::asked_wrongly(format!(
            "`{x}` in `{source}` is {:?} {:?}",
            tensor.dtype(),
            tensor.shape()
        ))
        .hint("it must be F32 [N, D]"));
    };
    let labels = file.tensor(y).ok().map(|tensor| labels(&tensor, y, source)).transpose()?;
    if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != *rows) {
        return Err(Error::asked_wrongly(format!(
            "`{source}` has {rows} vectors `{x}` and {} labels `{y}`",
            labels.len()
        ))
        .hint(format!("give as many `{y}` as `{x}`, or leave `{y}` out")));
    }
    Ok((npy::floats(tensor.data()), *dim, labels))
}

fn labels(
    tensor: &safetensors::tensor::TensorView<'_>,
    name: &str,
    source: &str,
) -> Result<Vec<u32>> {
    let (data, wide) = (tensor.data(), tensor.dtype());
    let values: Option<Vec<u32>> = match wide {
        Dtype::U8 => Some(data.iter().map(|byte| u32::from(*byte)).collect()),
        Dtype::U32 | Dtype::I32 => {
            Some(data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
        }
        Dtype::U64 | Dtype::I64 => data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u32::try_from(u64::from_le_bytes(*bytes)).ok())
            .collect(),
        _ => None,
    };
    // Class names are made up to the largest label, so a stray negative number must not pass.
    values.filter(|values| values.iter().all(|label| *label < 1 << 24)).ok_or_else(|| {
        Error::asked_wrongly(format!("`{name}` in `{source}` is {wide:?} with unusable values"))
            .hint("labels are whole numbers from 0: U8, U32, I32, U64 or I64 [N]")
    })
}

impl Dataset for Vectors {
    fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    fn content(&self) -> Content {
        Content::Vectors { dim: self.dim }
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        let vector = sample.vector_mut();
        vector.clear();
        vector.extend_from_slice(&self.values[index * self.dim..][..self.dim]);
        Ok(())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref().map(|labels| labels[index])
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self, index: usize) -> String {
        format!("{}:{index}", self.source)
    }

    fn split(&self) -> Split {
        self.split
    }

    fn describe(&self) -> String {
        format!("vectors `{}`: {}", self.source, counted(self, &format!("of {}", self.dim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;
    use safetensors::tensor::TensorView;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn a_safetensors_file_gives_rows_labels_and_a_test_split() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.safetensors");
        let (x, y, t) = (bytes(&[1., 2., 3., 4.]), 1_i64.to_le_bytes(), bytes(&[5., 6.]));
        let y = [y, 0_i64.to_le_bytes()].concat();
        let tensors = [
            ("x", TensorView::new(Dtype::F32, vec![2, 2], &x).unwrap()),
            ("y", TensorView::new(Dtype::I64, vec![2], &y).unwrap()),
            ("x_test", TensorView::new(Dtype::F32, vec![1, 2], &t).unwrap()),
        ];
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        let source = path.to_str().unwrap();
        let train = open(source, &OpenOptions::default()).unwrap();
        assert_eq!(train.content(), Content::Vectors { dim: 2 });
        assert_eq!(train.sample(1).unwrap(), Sample::Vector(vec![3., 4.]));
        assert_eq!((train.label(0), train.class_names().len()), (Some(1), 2));
        let test = open(source, &OpenOptions { split: Split::Test, ..Default::default() }).unwrap();
        assert_eq!((test.len(), test.label(0)), (1, None));
    }

    #[test]
    fn a_broken_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.safetensors");
        std::fs::write(&path, "words").unwrap();
        let error = open(path.to_str().unwrap(), &OpenOptions::default()).unwrap_err();
        assert!(error.message().contains("is no safetensors file"));
    }
}
