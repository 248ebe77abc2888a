//! A `.npy` file, as `numpy.save` writes it, of a 2-D little-endian f32 array.

use crate::{Error, Result};

/// Parses the file's bytes into rows `[N, D]`; returns the values and D.
///
/// # Errors
/// When it is no `.npy` file, truncated, or not a 2-D C-ordered `<f4` array.
pub(super) fn parse(bytes: &[u8], name: &str) -> Result<(Vec<f32>, usize)> {
    let broken = || {
        Error::failed(format!("`{name}` is no .npy file, or is truncated"))
            .hint("write it with `numpy.save(path, x)`")
    };
    let version = *bytes.get(6).filter(|_| bytes.starts_with(b"\x93NUMPY")).ok_or_else(broken)?;
    let (start, length) = match version {
        1 => (10, u16::from_le_bytes(array(bytes, 8).ok_or_else(broken)?) as usize),
        _ => (12, u32::from_le_bytes(array(bytes, 8).ok_or_else(broken)?) as usize),
    };
    let header = bytes.get(start..start + length).ok_or_else(broken)?;
    let header = String::from_utf8_lossy(header);
    let (rows, dim) = shape(&header).filter(|_| fits(&header)).ok_or_else(|| {
        Error::asked_wrongly(format!("`{name}` is not a 2-D f32 array, its header says `{}`", header.trim()))
            .hint("save it as `numpy.save(path, numpy.ascontiguousarray(x, dtype=\"<f4\"))` with x of shape [N, D]")
    })?;
    let values = bytes.get(start + length..start + length + rows * dim * 4).ok_or_else(broken)?;
    Ok((floats(values), dim))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn fits(header: &str) -> bool {
    let header: String = header.split_whitespace().collect();
    header.contains("'descr':'<f4'") && header.contains("'fortran_order':False")
}

fn shape(header: &str) -> Option<(usize, usize)> {
    let (_, rest) = header.split_once("'shape':")?;
    let (inside, _) = rest.split_once('(')?.1.split_once(')')?;
    let (rows, dim) = inside.split_once(',')?;
    Some((rows.trim().parse().ok()?, dim.trim().parse().ok()?))
}

/// Little-endian bytes as f32.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, values: &[f32]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    }

    #[test]
    fn rows_are_read_and_other_arrays_refused() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
        let good = npy(header, &[1., 2., 3., 4., 5., 6.]);
        assert_eq!(parse(&good, "x").unwrap(), (vec![1., 2., 3., 4., 5., 6.], 3));
        assert!(parse(&good[..good.len() - 1], "x").unwrap_err().message().contains("truncated"));
        let doubles = npy(&header.replace("<f4", "<f8"), &[0.0; 12]);
        assert!(parse(&doubles, "x").unwrap_err().message().contains("<f8"));
        let flat = npy(&header.replace("(2, 3)", "(6,)"), &[0.0; 6]);
        assert!(parse(&flat, "x").is_err());
        assert!(parse(b"hello", "x").is_err());
    }
}
