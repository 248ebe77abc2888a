//! `.npy` files, as `numpy.load` reads them.

use std::path::Path;

use super::disk::replace;
use crate::{Error, Result};

/// The header's length is a multiple of this, so that the numbers lie aligned.
const ALIGN: usize = 64;
/// What stands before the header: magic, version 1.0 and the header's length in two bytes.
const START: usize = 10;

/// Replaces the file at `path` by an array `[N, width]` of little-endian f32.
///
/// # Errors
/// When `values` are no whole rows, or the file can't be written.
pub fn write_npy(path: &Path, values: &[f32], width: usize) -> Result<()> {
    if width == 0 || !values.len().is_multiple_of(width) {
        let n = values.len();
        return Err(Error::failed(format!("{n} numbers are no rows of {width}")));
    }
    let rows = values.len() / width;
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let padded = (START + header.len() + 1).next_multiple_of(ALIGN) - START - 1;
    header = format!("{header:padded$}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    replace(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_follow_a_header_of_a_whole_number_of_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        write_npy(&path, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let start = START + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((start % ALIGN, bytes[start - 1]), (0, b'\n'));
        assert!(String::from_utf8_lossy(&bytes[START..start]).contains("'shape': (2, 3)"));
        assert_eq!(bytes[start..start + 4], 1.0_f32.to_le_bytes());
        assert_eq!(bytes.len(), start + 24);
        assert!(write_npy(&path, &[1.0], 2).is_err());
    }
}
