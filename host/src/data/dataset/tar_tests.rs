//! Tests of the tar dataset, on tars made in place.

use super::*;
use crate::data::open;

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixels = ::image::RgbImage::from_pixel(2, 2, ::image::Rgb([shade; 3]));
    pixels.write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write(path: &Path, members: &[(&str, Vec<u8>)]) {
    let mut builder = ::tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.finish().unwrap();
}

fn shade(dataset: &dyn Dataset, index: usize) -> u8 {
    let Sample::Image(image) = dataset.sample(index).unwrap() else { panic!("a picture") };
    image.pixels[0]
}

fn open_split(source: &Path, split: Split) -> Result<Arc<dyn Dataset>> {
    open(source.to_str().unwrap(), &OpenOptions { split, ..Default::default() })
}

#[test]
fn a_tar_of_a_folder_gives_classes_splits_and_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pets.tar");
    let long = format!("pets/train/cat/{}.png", "x".repeat(150));
    write(
        &path,
        &[
            ("pets/train/dog/0.png", png(3)),
            ("pets/train/dog/._0.png", b"shadow".to_vec()),
            ("pets/README", b"words".to_vec()),
            (&long, png(2)),
            ("pets/test/dog/0.png", png(4)),
        ],
    );
    let train = open_split(&path, Split::Train).unwrap();
    assert_eq!(train.class_names(), ["cat", "dog"]);
    assert_eq!((train.len(), train.label(0), shade(train.as_ref(), 0)), (2, Some(0), 2));
    assert!(train.name(0).ends_with(&long));
    let test = open_split(&path, Split::Test).unwrap();
    assert_eq!((test.len(), test.label(0), shade(test.as_ref(), 0)), (1, Some(1), 4));
}

#[test]
fn webdataset_shards_are_read_by_pattern_and_by_folder() {
    let folder = tempfile::tempdir().unwrap();
    for shard in 0..2_u8 {
        let path = folder.path().join(format!("shard-{shard:03}.tar"));
        let label = shard.to_string().into_bytes();
        let json = br#"{"label": 2}"#.to_vec();
        write(
            &path,
            &[("a.png", png(shard)), ("a.cls", label), ("b.json", json), ("b.png", png(9))],
        );
    }
    for source in [folder.path().join("shard-{000..001}.tar"), folder.path().to_path_buf()] {
        let train = open_split(&source, Split::Train).unwrap();
        assert_eq!(train.len(), 4);
        let labels: Vec<_> = (0..4).map(|index| train.label(index)).collect();
        assert_eq!(labels, [Some(0), Some(2), Some(1), Some(2)]);
        assert_eq!(train.class_names(), ["0", "1", "2"]);
        assert_eq!(shade(train.as_ref(), 2), 1);
    }
}

#[test]
fn shards_named_after_splits_are_kept_apart() {
    let folder = tempfile::tempdir().unwrap();
    for (name, label) in [("birds-train-0.tar", "owl"), ("birds-test-0.tar", "auk")] {
        let label = label.as_bytes().to_vec();
        write(&folder.path().join(name), &[("k.png", png(1)), ("k.cls", label)]);
    }
    let train = open_split(folder.path(), Split::Train).unwrap();
    assert_eq!((train.len(), train.label(0)), (1, Some(1)));
    let test = open_split(folder.path(), Split::Test).unwrap();
    assert_eq!((test.label(0), test.class_names()[0].as_str()), (Some(0), "auk"));
}

#[test]
fn a_truncated_tar_and_a_file_that_is_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.tar");
    write(&path, &[("a.png", png(1)), ("b.png", png(2)), ("c.png", vec![7; 5000])]);
    let length = std::fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(length - 4096).unwrap();
    let error = open_split(&path, Split::Train).unwrap_err();
    assert!(error.message().contains("is truncated"), "{error}");
    // In what fills up the first file, which the reader takes for the end.
    write(&path, &[("a.png", png(1)), ("b.png", png(2))]);
    let inside = 512 + png(1).len() as u64 + 1;
    File::options().write(true).open(&path).unwrap().set_len(inside).unwrap();
    let error = open_split(&path, Split::Train).unwrap_err();
    assert!(error.message().contains("is truncated"), "{error}");
    std::fs::write(&path, vec![b'x'; 2000]).unwrap();
    let error = open_split(&path, Split::Train).unwrap_err();
    assert!(error.message().contains("is no tar file"), "{error}");
    std::fs::write(&path, vec![0xC3; 2000]).unwrap();
    let error = open_split(&path, Split::Train).unwrap_err();
    assert!(error.to_string().is_ascii(), "{error}");
}

#[test]
fn a_tar_without_the_zeros_at_its_end_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bare.tar");
    write(&path, &[("a.png", png(1)), ("b.png", png(2))]);
    let blocks = 2 * (512 + png(1).len().next_multiple_of(512) as u64);
    File::options().write(true).open(&path).unwrap().set_len(blocks).unwrap();
    assert_eq!(open_split(&path, Split::Train).unwrap().len(), 2);
}

#[test]
fn a_tar_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(open_split(&folder.path().join("none.tar"), Split::Train).is_err());
}

#[test]
fn brace_patterns_expand_with_their_zeros() {
    assert_eq!(expand("a{08..10}.tar").unwrap(), ["a08.tar", "a09.tar", "a10.tar"]);
    assert_eq!(expand("{x,y}{0..1}").unwrap(), ["x0", "x1", "y0", "y1"]);
    assert!(expand("a{3..1}").is_err() && expand("a{3").is_err());
}
