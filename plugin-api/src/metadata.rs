//! Descriptors as bytes of a section, made by the compiler: JSON behind a header with a checksum.

use crate::abi;
use crate::descriptor::{Descriptor, OptionKind, OptionSpec};

/// What the library says of itself besides its methods; filled in by the export macro.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// The plugin package's name.
    pub package: &'static str,
    /// The plugin package's version.
    pub version: &'static str,
}

/// The metadata section: a header, then `N` bytes of JSON.
#[repr(C)]
#[derive(Debug)]
pub struct Section<const N: usize> {
    magic: [u8; 8],
    format: u32,
    major: u16,
    minor: u16,
    length: u64,
    checksum: u64,
    json: [u8; N],
}

impl<const N: usize> Section<N> {
    /// The section for `methods`; `N` is their [`length`].
    pub const fn new(library: Library, methods: &[Descriptor]) -> Self {
        let mut writer = Writer::<N>::new();
        writer.library(library, methods);
        Self {
            magic: abi::MAGIC,
            format: abi::METADATA_FORMAT,
            major: abi::MAJOR,
            minor: abi::MINOR,
            length: N as u64,
            checksum: checksum(&writer.bytes),
            json: writer.bytes,
        }
    }
}

/// Bytes of JSON that `methods` take.
pub const fn length(library: Library, methods: &[Descriptor]) -> usize {
    let mut writer = Writer::<0>::new();
    writer.library(library, methods);
    writer.length
}

/// FNV-1a, 64 bits: guards against truncated and damaged files, not against malice.
pub const fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01B3);
        i += 1;
    }
    hash
}

/// Writes JSON into `N` bytes; counts on past their end, so that `Writer<0>` measures.
struct Writer<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Writer<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    const fn byte(&mut self, byte: u8) {
        if self.length < N {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
    }

    const fn raw(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    const fn text(&mut self, text: &str) {
        self.byte(b'"');
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            match bytes[i] {
                b'"' => self.raw("\\\""),
                b'\\' => self.raw("\\\\"),
                b'\n' => self.raw("\\n"),
                b'\t' => self.raw("\\t"),
                b'\r' => {}
                byte => self.byte(byte),
            }
            i += 1;
        }
        self.byte(b'"');
    }

    const fn key(&mut self, key: &str) {
        self.text(key);
        self.byte(b':');
    }

    const fn texts(&mut self, texts: &[&str]) {
        self.byte(b'[');
        let mut i = 0;
        while i < texts.len() {
            self.comma(i);
            self.text(texts[i]);
            i += 1;
        }
        self.byte(b']');
    }

    const fn comma(&mut self, at: usize) {
        if at > 0 {
            self.byte(b',');
        }
    }

    const fn int(&mut self, value: i64) {
        let mut digits = [0_u8; 20];
        let mut n = 0;
        let mut rest = value.unsigned_abs();
        loop {
            digits[n] = b'0' + (rest % 10) as u8;
            n += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            self.byte(b'-');
        }
        while n > 0 {
            n -= 1;
            self.byte(digits[n]);
        }
    }

    /// The exact bits in hexadecimal: decimal digits can't be made at compile time.
    const fn float(&mut self, value: f64) {
        self.raw("{\"f64\":\"");
        let bits = value.to_bits();
        let mut shift = 64;
        while shift > 0 {
            shift -= 4;
            self.byte(b"0123456789abcdef"[(bits >> shift & 15) as usize]);
        }
        self.raw("\"}");
    }

    const fn library(&mut self, library: Library, methods: &[Descriptor]) {
        self.raw("{");
        self.key("package");
        self.text(library.package);
        self.raw(",");
        self.key("version");
        self.text(library.version);
        self.raw(",");
        self.key("sdk");
        self.text(env!("CARGO_PKG_VERSION"));
        self.raw(",");
        self.key("panic");
        self.text(if cfg!(panic = "unwind") { "unwind" } else { "abort" });
        self.raw(",");
        self.key("methods");
        self.raw("[");
        let mut i = 0;
        while i < methods.len() {
            self.comma(i);
            self.method(&methods[i]);
            i += 1;
        }
        self.raw("]}");
    }

    const fn method(&mut self, method: &Descriptor) {
        self.raw("{");
        self.key("name");
        self.text(method.name);
        self.raw(",");
        self.key("summary");
        self.text(method.summary);
        self.raw(",");
        self.key("paper");
        self.text(method.paper);
        self.raw(",");
        self.key("modalities");
        self.texts(method.modalities);
        self.raw(",");
        self.key("views");
        self.texts(method.views);
        self.raw(",");
        self.key("ops");
        self.texts(method.ops);
        self.raw(",");
        self.key("recipes");
        self.raw("{");
        let mut i = 0;
        while i < method.recipes.len() {
            self.comma(i);
            self.key(method.recipes[i].0);
            self.text(method.recipes[i].1);
            i += 1;
        }
        self.raw("},");
        self.key("options");
        self.raw("[");
        let mut i = 0;
        while i < method.options.len() {
            self.comma(i);
            self.option(&method.options[i]);
            i += 1;
        }
        self.raw("]}");
    }

    const fn option(&mut self, option: &OptionSpec) {
        self.raw("{");
        self.key("name");
        self.text(option.name);
        self.raw(",");
        self.key("advice");
        self.text(option.advice);
        self.raw(",");
        match option.kind {
            OptionKind::Bool { default } => {
                self.raw("\"type\":\"bool\",\"default\":");
                self.raw(if default { "true" } else { "false" });
            }
            OptionKind::Int { default, min, max } => {
                self.raw("\"type\":\"int\",\"default\":");
                self.int(default);
                self.raw(",\"min\":");
                self.int(min);
                self.raw(",\"max\":");
                self.int(max);
            }
            OptionKind::Float { default, min, max } => {
                self.raw("\"type\":\"float\",\"default\":");
                self.float(default);
                self.raw(",\"min\":");
                self.float(min);
                self.raw(",\"max\":");
                self.float(max);
            }
            OptionKind::Choice { default, choices } => {
                self.raw("\"type\":\"choice\",\"default\":");
                self.text(default);
                self.raw(",\"choices\":");
                self.texts(choices);
            }
        }
        self.raw("}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: Descriptor = Descriptor {
        name: "toy",
        summary: "a \"toy\"",
        paper: "none",
        modalities: &["vector"],
        options: &[
            OptionSpec::int("n", -3, (-5, 5), "a number"),
            OptionSpec::float("t", 0.5, (0.0, 1.0), "x"),
        ],
        views: &["vector@1"],
        ops: &[],
        recipes: &[("default", "a = 1\n")],
    };
    const LIBRARY: Library = Library { package: "toy", version: "1.2.3" };
    const LENGTH: usize = length(LIBRARY, &[METHOD]);
    static SECTION: Section<LENGTH> = Section::new(LIBRARY, &[METHOD]);

    #[test]
    fn the_section_holds_its_length_its_checksum_and_escaped_json() {
        assert_eq!(SECTION.length, LENGTH as u64);
        assert_eq!(SECTION.checksum, checksum(&SECTION.json));
        let json = std::str::from_utf8(&SECTION.json).unwrap();
        assert!(json.contains(r#""summary":"a \"toy\"""#), "{json}");
        assert!(json.contains(r#""default":-3,"min":-5,"max":5"#));
        assert!(json.contains(r#""default":{"f64":"3fe0000000000000"}"#));
        assert!(json.contains(r#""recipes":{"default":"a = 1\n"}"#));
    }
}
