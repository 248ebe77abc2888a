//! Tensors by name in a safetensors file: recorded batches, weights, features.

use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::checkpoint::NamedTensors;
use super::disk::replace;
use crate::{Error, Result};

/// The tensors in the file at `path`, ordered by name; truth values become u8.
///
/// # Errors
/// When there is no such file, it is no safetensors file, or holds an element type that the host lacks.
pub fn read_tensors(path: &Path) -> Result<NamedTensors> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::asked_wrongly(format!("there is no file `{name}`"))
            .hint("check the path of the safetensors file"),
        _ => Error::asked_wrongly(format!("can't read `{name}`")).because(error),
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::asked_wrongly(format!("`{name}` is no safetensors file, or is truncated"))
            .because(error)
            .hint("write it with `safetensors.torch.save_file(tensors, path)`")
    })?;
    let mut tensors = NamedTensors::new();
    for (tensor, view) in file.iter() {
        let loaded = match view.dtype() {
            Dtype::BOOL => Tensor::from_slice(view.data(), view.shape(), &Device::Cpu),
            _ => view.load(&Device::Cpu),
        };
        let loaded = loaded.map_err(|error| {
            Error::asked_wrongly(format!("`{tensor}` in `{name}` can't be read"))
                .because(error)
                .hint("store it as f32, u32 or u8")
        })?;
        tensors.push((tensor.to_owned(), loaded));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

/// Replaces the file at `path` by one that holds `tensors`.
///
/// # Errors
/// When two tensors have one name, or the file can't be written.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    write_described(path, tensors, &[])
}

/// The same with texts in its metadata, beside the format that PyTorch's readers ask for.
///
/// # Errors
/// As [`write_tensors`].
pub fn write_described(
    path: &Path,
    tensors: &[(String, Tensor)],
    texts: &[(&str, String)],
) -> Result<()> {
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some([twice, _]) = names.array_windows().find(|[one, next]| one == next) {
        return Err(Error::failed(format!("two tensors are called `{twice}`")));
    }
    let views = tensors.iter().map(|(name, tensor)| (name, tensor));
    let format = [("format", "pt".to_owned())];
    let texts = format.iter().chain(texts).map(|(key, text)| ((*key).to_owned(), text.clone()));
    let bytes = safetensors::serialize(views, Some(texts.collect())).map_err(|error| {
        Error::failed(format!("`{}` can't be written", path.display())).because(error)
    })?;
    replace(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_with_their_types_and_truth_values_as_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let indices = Tensor::new(&[[7_u32, 9]], &Device::Cpu).unwrap();
        write_tensors(&path, &[("b".to_owned(), indices.clone())]).unwrap();
        let back = read_tensors(&path).unwrap();
        assert_eq!((back.len(), back[0].0.as_str()), (1, "b"));
        assert_eq!(back[0].1.to_vec2::<u32>().unwrap(), [[7, 9]]);
        let view = safetensors::tensor::TensorView::new(Dtype::BOOL, vec![3], &[1, 0, 1]).unwrap();
        safetensors::serialize_to_file([("mask", view)], None, &path).unwrap();
        assert_eq!(read_tensors(&path).unwrap()[0].1.to_vec1::<u8>().unwrap(), [1, 0, 1]);
    }

    #[test]
    fn what_is_not_a_safetensors_file_is_asked_wrongly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        assert!(read_tensors(&path).unwrap_err().message().starts_with("there is no file"));
        std::fs::write(&path, "hello").unwrap();
        let error = read_tensors(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.message().contains("is no safetensors file"), "{error}");
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let one = Tensor::new(&[1.0_f32], &Device::Cpu).unwrap();
        let twice = [("a".to_owned(), one.clone()), ("a".to_owned(), one)];
        assert!(write_tensors(Path::new("never-written"), &twice).is_err());
    }
}
