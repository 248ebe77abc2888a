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
        return if is_whole(bytes) {
            jpeg(bytes, image)
        } else {
            Err(Error::failed("the JPEG is truncated"))
        };
    }
    Err(Error::failed(if bytes.is_empty() {
        "the file is empty"
    } else {
        "the file is neither a JPEG nor a PNG"
    }))
}

/// Whether a JPEG reaches its end marker. A decoder alone doesn't notice when the last few bytes are gone.
fn is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xFF, 0xDA];
    const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];
    // Compressed data never look like a marker, so the last of the two markers decides.
    let last = bytes.windows(2).rev().find(|two| *two == START_OF_SCAN || *two == END_OF_IMAGE);
    last.is_some_and(|marker| marker == END_OF_IMAGE)
}

fn jpeg(bytes: &[u8], image: &mut Image) -> Result<()> {
    // Strict mode turns broken data into an error; otherwise the rest of the picture is grey.
    let options =
        DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let broken = |e| Error::failed("the JPEG is broken").because(e);
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

    const COLOUR: &[u8] = include_bytes!("tiny/colour.jpg");
    const PROGRESSIVE: &[u8] = include_bytes!("tiny/progressive.jpg");
    const GREY: &[u8] = include_bytes!("tiny/grey.jpg");

    /// The tiny JPEGs show red growing to the right and green growing downwards, 16 a pixel.
    #[test]
    fn a_jpeg_gives_its_pixels_whatever_its_kind() {
        let mut image = Image::default();
        for bytes in [COLOUR, PROGRESSIVE] {
            decode(bytes, &mut image).unwrap();
            assert_eq!((image.width, image.height, image.pixels.len()), (16, 16, 768));
            let pixel = |x: usize, y: usize| &image.pixels[(y * 16 + x) * 3..][..2];
            for (x, y) in [(3, 3), (12, 4), (5, 11)] {
                let near = |got: u8, want: usize| usize::from(got).abs_diff(want) < 16;
                assert!(near(pixel(x, y)[0], 16 * x) && near(pixel(x, y)[1], 16 * y));
            }
        }
        decode(GREY, &mut image).unwrap();
        assert!(image.pixels.as_chunks::<3>().0.iter().all(|[r, g, b]| r == g && g == b));
    }

    #[test]
    fn a_jpeg_cut_anywhere_is_an_error() {
        let mut image = Image::default();
        for bytes in [COLOUR, PROGRESSIVE, GREY] {
            for length in 0..bytes.len() {
                assert!(decode(&bytes[..length], &mut image).is_err(), "cut to {length}");
            }
            let trailing = [bytes, b"more"].concat();
            assert!(decode(&trailing, &mut image).is_ok());
        }
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
