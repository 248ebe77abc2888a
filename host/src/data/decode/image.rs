//! JPEG and PNG bytes to RGB, 8 bits a channel.

use std::io::Cursor;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::data::dataset::Image;
use crate::{Error, Result};

const PNG: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A];

/// File name endings of images that can be decoded, without the dot.
pub const EXTENSIONS: [&str; 3] = ["jpeg", "jpg", "png"];

/// Whether a file of this name is an image, by its ending.
pub fn is_image(name: &str) -> bool {
    let ending = name.rsplit('.').next().unwrap_or_default();
    EXTENSIONS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// Decodes a JPEG or PNG file into `image` as RGB, reusing its buffer; grey becomes three equal
/// channels and transparency is dropped.
///
/// # Errors
/// When the bytes are neither JPEG nor PNG, are truncated, or are broken.
pub fn decode(bytes: &[u8], image: &mut Image) -> Result<()> {
    if bytes.starts_with(&PNG) {
        return png(bytes, image);
    }
    if bytes.starts_with(&[0xFF, 0xD8]) {
        return jpeg(bytes, image);
    }
    Err(Error::failed(if bytes.is_empty() {
        "the file is empty"
    } else {
        "the file is neither a JPEG nor a PNG"
    }))
}

fn jpeg(bytes: &[u8], image: &mut Image) -> Result<()> {
    // Strict mode turns "ran out of data" into an error; otherwise the rest of the picture is grey.
    let options =
        DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let broken = |e| Error::failed("the JPEG is truncated or broken").because(e);
    decoder.decode_headers().map_err(broken)?;
    let (width, height) =
        decoder.dimensions().ok_or_else(|| Error::failed("the JPEG has no size"))?;
    image.width = width;
    image.height = height;
    image.pixels.resize(width * height * 3, 0);
    decoder.decode_into(&mut image.pixels).map_err(broken)
}

fn png(bytes: &[u8], image: &mut Image) -> Result<()> {
    let decoded = ::image::load(Cursor::new(bytes), ::image::ImageFormat::Png)
        .map_err(|e| Error::failed("the PNG is truncated or broken").because(e))?
        .into_rgb8();
    image.width = decoded.width() as usize;
    image.height = decoded.height() as usize;
    image.pixels = decoded.into_raw();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 2 x 1 PNG: red, blue.
    fn tiny_png() -> Vec<u8> {
        let mut bytes = Vec::new();
        let pixels = ::image::RgbImage::from_raw(2, 1, vec![255, 0, 0, 0, 0, 255]).unwrap();
        pixels.write_to(&mut Cursor::new(&mut bytes), ::image::ImageFormat::Png).unwrap();
        bytes
    }

    #[test]
    fn a_png_gives_its_pixels_and_a_truncated_one_an_error() {
        let mut image = Image::default();
        let bytes = tiny_png();
        decode(&bytes, &mut image).unwrap();
        assert_eq!((image.width, image.height), (2, 1));
        assert_eq!(image.pixels, [255, 0, 0, 0, 0, 255]);
        assert!(decode(&bytes[..bytes.len() - 20], &mut image).is_err());
    }

    #[test]
    fn text_and_nothing_are_refused_in_words() {
        let mut image = Image::default();
        assert_eq!(decode(b"", &mut image).unwrap_err().message(), "the file is empty");
        let error = decode(b"hello", &mut image).unwrap_err();
        assert_eq!(error.message(), "the file is neither a JPEG nor a PNG");
    }

    #[test]
    fn images_are_known_by_their_ending() {
        assert!(is_image("a/b.JPG") && is_image("x.jpeg") && is_image("x.png"));
        assert!(!is_image("x.txt") && !is_image("jpg.cls"));
    }
}
