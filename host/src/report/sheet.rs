//! Sheets of pictures: the views that a method saw, and samples with their nearest neighbours.

use std::io::Cursor;

use image::{ImageFormat, RgbImage, imageops};

use super::text::{add, escape};
use super::{Labelled, Picture, Query, ViewSheet};
use crate::{Error, Result};

/// Larger pictures are shrunk to this side: the page stays small.
const LARGEST: u32 = 128;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The views of each sample in a row; empty without samples.
pub(super) fn views(sheet: &ViewSheet) -> Result<String> {
    if sheet.samples.is_empty() {
        return Ok(String::new());
    }
    let columns = sheet.names.len();
    let mut out = format!("<div class=\"sheet\" style=\"--columns:{columns}\">");
    for name in &sheet.names {
        add(&mut out, format_args!("<span>{}</span>", escape(name)));
    }
    for (row, sample) in sheet.samples.iter().enumerate() {
        for (name, picture) in sheet.names.iter().zip(sample) {
            let about = format!("{} view of sample {}", escape(name), row + 1);
            let (source, side) = (data_url(picture)?, picture.width);
            add(
                &mut out,
                format_args!(
                    "<img src=\"{source}\" alt=\"{about}\" title=\"{about}, {side} pixels wide\">"
                ),
            );
        }
    }
    out.push_str("</div>");
    Ok(out)
}

/// Each query with its neighbours; empty without queries.
pub(super) fn neighbours(queries: &[Query]) -> Result<String> {
    let mut out = String::new();
    for query in queries {
        out.push_str("<div class=\"query\">");
        out.push_str(&tile(&query.sample, "asked", "query")?);
        out.push_str("<span class=\"arrow\" aria-hidden=\"true\">→</span>");
        for (near, similarity) in &query.neighbours {
            let (class, mark) = match (&query.sample.class, &near.class) {
                (Some(a), Some(b)) if a == b => ("same", "✓ "),
                (Some(_), Some(_)) => ("other", "✗ "),
                _ => ("plain", ""),
            };
            out.push_str(&tile(near, class, &format!("{mark}{similarity:.2}"))?);
        }
        out.push_str("</div>");
    }
    Ok(out)
}

fn tile(sample: &Labelled, class: &str, below: &str) -> Result<String> {
    let name = escape(sample.class.as_deref().unwrap_or_default());
    Ok(format!(
        "<figure class=\"tile {class}\"><img src=\"{}\" alt=\"{name}\" title=\"{name}\">\
         <figcaption><b>{below}</b><span>{name}</span></figcaption></figure>",
        data_url(&sample.picture)?
    ))
}

/// The picture as a PNG inside of a `data:` address.
fn data_url(picture: &Picture) -> Result<String> {
    let wrong = || {
        let Picture { width, height, rgb } = picture;
        Error::failed(format!("a picture of {width} x {height} pixels has {} bytes", rgb.len()))
    };
    let (width, height) = (picture.width as u32, picture.height as u32);
    let mut image = RgbImage::from_raw(width, height, picture.rgb.clone())
        .filter(|_| width > 0 && height > 0)
        .ok_or_else(wrong)?;
    if width.max(height) > LARGEST {
        let shrink = |side: u32| (side * LARGEST / width.max(height)).max(1);
        image = imageops::thumbnail(&image, shrink(width), shrink(height));
    }
    let mut png = Cursor::new(Vec::new());
    image
        .write_to(&mut png, ImageFormat::Png)
        .map_err(|error| Error::failed("a picture has no PNG form").because(error))?;
    Ok(format!("data:image/png;base64,{}", base64(png.get_ref())))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let letter = BASE64[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i > group.len() { '=' } else { char::from(letter) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(side: usize) -> Picture {
        Picture { width: side, height: side, rgb: (0..side * side * 3).map(|i| i as u8).collect() }
    }

    #[test]
    fn base64_gives_the_standards_answers() {
        for (bytes, want) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), want);
        }
    }

    #[test]
    fn a_large_picture_is_shrunk_and_one_without_its_bytes_refused() {
        let (small, large) = (data_url(&picture(128)).unwrap(), data_url(&picture(512)).unwrap());
        assert!(small.starts_with("data:image/png;base64,iVBOR") && large.len() < 4 * small.len());
        assert!(data_url(&Picture { width: 9, height: 9, rgb: vec![0; 5] }).is_err());
    }

    #[test]
    fn equal_and_other_classes_are_marked_in_sign_and_colour() {
        let with = |class: &str| Labelled { picture: picture(4), class: Some(class.to_owned()) };
        let query = Query {
            sample: with("cat"),
            neighbours: vec![(with("cat"), 0.91), (with("dog"), 0.4)],
        };
        let html = neighbours(&[query]).unwrap();
        assert!(html.contains("tile same") && html.contains("✓ 0.91"));
        assert!(html.contains("tile other") && html.contains("✗ 0.40"));
    }

    #[test]
    fn a_sheet_has_a_column_per_view() {
        let names = vec!["global".to_owned(), "local".to_owned()];
        let sheet = ViewSheet { names, samples: vec![vec![picture(4), picture(2)]; 3] };
        let html = views(&sheet).unwrap();
        assert!(html.contains("--columns:2") && html.matches("<img").count() == 6);
        assert_eq!(views(&ViewSheet::default()).unwrap(), "");
    }
}
