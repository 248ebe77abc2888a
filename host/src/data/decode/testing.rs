//! Sound files for tests, made in place.

use std::io::Cursor;

use hound::{SampleFormat, WavSpec, WavWriter};

/// What a PCM file says of itself.
pub(crate) fn spec(channels: u16, sample_rate: u32, bits_per_sample: u16) -> WavSpec {
    WavSpec { channels, sample_rate, bits_per_sample, sample_format: SampleFormat::Int }
}

/// A WAV file with what `write` writes.
pub(crate) fn wav_of(
    spec: WavSpec,
    write: impl FnOnce(&mut WavWriter<Cursor<&mut Vec<u8>>>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = WavWriter::new(Cursor::new(&mut bytes), spec).unwrap();
    write(&mut writer);
    writer.finalize().unwrap();
    bytes
}

/// A WAV file of one channel of 32-bit floats.
pub(crate) fn wav(rate: u32, wave: &[f32]) -> Vec<u8> {
    let float = WavSpec { sample_format: SampleFormat::Float, ..spec(1, rate, 32) };
    wav_of(float, |writer| {
        for value in wave {
            writer.write_sample(*value).unwrap();
        }
    })
}

/// A FLAC file of one channel of 16 bits: blocks of 256 values, stored as they are.
pub(crate) fn flac(rate: u32, values: &[i16]) -> Vec<u8> {
    let mut bytes = b"fLaC".to_vec();
    // Only block: stream information, 34 bytes. Smallest and largest block: 16 and 256 values.
    bytes.extend([0x80, 0, 0, 34, 0, 16, 1, 0, 0, 0, 0, 0, 0, 0]);
    // 20 bits rate, 3 bits channels - 1, 5 bits width - 1, 36 bits number of values; no checksum.
    let packed = u64::from(rate) << 44 | 15 << 36 | values.len() as u64;
    bytes.extend(packed.to_be_bytes());
    bytes.extend([0; 16]);
    for (number, block) in values.chunks(256).enumerate() {
        let start = bytes.len();
        // Fixed block size; size in 16 bits behind the number, rate as said above; one channel of 16 bits.
        bytes.extend([0xFF, 0xF8, 0x70, 0x08, number as u8]);
        bytes.extend((block.len() as u16 - 1).to_be_bytes());
        bytes.push(crc8(&bytes[start..]));
        bytes.push(0x02);
        bytes.extend(block.iter().flat_map(|value| value.to_be_bytes()));
        let check = crc16(&bytes[start..]);
        bytes.extend(check.to_be_bytes());
    }
    bytes
}

fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| crc << 1 ^ if crc & 0x80 == 0 { 0 } else { 0x07 })
    })
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { 0x8005 }
        })
    })
}
