//! Values: 24 bytes that hold a number, a handle, a text or a list.

use abi_stable::StableAbi;

/// Names a thing of the host: 32 bits of index, 32 bits of generation; 0 names nothing.
pub type Handle = u64;

/// What every function of the contract returns; 0 is success.
pub type Status = i32;

/// The codes of [`Status`]. Unknown ones count as [`status::FAILED`].
pub mod status {
    use super::Status;

    /// Done.
    pub const OK: Status = 0;
    /// Something failed; the text says what.
    pub const FAILED: Status = 1;
    /// The user's options or recipe are wrong.
    pub const ASKED_WRONGLY: Status = 2;
    /// A handle names nothing, or something of another kind.
    pub const INVALID_HANDLE: Status = 3;
    /// The host doesn't offer what was asked for.
    pub const UNSUPPORTED: Status = 4;
    /// The other side panicked.
    pub const PANIC: Status = 5;
    /// The run is being stopped.
    pub const CANCELLED: Status = 6;
    /// An earlier call of this callback failed; the first error stands.
    pub const STICKY: Status = 7;
}

/// Borrowed UTF-8, sized, not terminated; valid for one call.
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct Text {
    /// First byte; may be null where `len` is 0.
    pub ptr: *const u8,
    /// Bytes.
    pub len: u64,
}

impl Text {
    /// No text.
    pub const EMPTY: Self = Self { ptr: std::ptr::null(), len: 0 };

    /// Borrows `text`.
    pub fn new(text: &str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() as u64 }
    }

    /// The text, where it is valid UTF-8.
    ///
    /// # Safety
    /// `ptr` must be null, or point at `len` bytes that stay valid and unchanged for `'a`.
    pub unsafe fn as_str<'a>(self) -> Option<&'a str> {
        if self.ptr.is_null() {
            return Some("");
        }
        // SAFETY: the caller promises the bytes.
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr, self.len as usize) };
        std::str::from_utf8(bytes).ok()
    }
}

/// The tags of [`Value`].
pub mod tag {
    /// Nothing: an optional argument that was left out.
    pub const NONE: u32 = 0;
    /// A whole number (`i64`) or a flag.
    pub const INT: u32 = 1;
    /// A real number (the bits of an `f64`).
    pub const FLOAT: u32 = 2;
    /// A handle.
    pub const HANDLE: u32 = 3;
    /// A text: `payload` is the address of `len` bytes.
    pub const TEXT: u32 = 4;
    /// Whole numbers: `payload` is the address of `len` `i64`.
    pub const INTS: u32 = 5;
    /// Real numbers: `payload` is the address of `len` `f64`.
    pub const FLOATS: u32 = 6;
}

/// A tagged value; its size is frozen at 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct Value {
    /// What it holds, see [`tag`].
    pub tag: u32,
    /// 0.
    pub pad: u32,
    /// The number, its bits, or an address.
    pub payload: u64,
    /// Elements behind an address.
    pub len: u64,
}

impl Value {
    /// Nothing.
    pub const NONE: Self = Self { tag: tag::NONE, pad: 0, payload: 0, len: 0 };

    /// A whole number.
    pub fn int(value: i64) -> Self {
        Self { tag: tag::INT, payload: value.cast_unsigned(), ..Self::NONE }
    }

    /// A real number.
    pub fn float(value: f64) -> Self {
        Self { tag: tag::FLOAT, payload: value.to_bits(), ..Self::NONE }
    }

    /// A handle.
    pub fn handle(value: Handle) -> Self {
        Self { tag: tag::HANDLE, payload: value, ..Self::NONE }
    }

    /// A borrowed text.
    pub fn text(value: &str) -> Self {
        Self { tag: tag::TEXT, pad: 0, payload: value.as_ptr() as u64, len: value.len() as u64 }
    }

    /// Borrowed whole numbers.
    pub fn ints(value: &[i64]) -> Self {
        Self { tag: tag::INTS, pad: 0, payload: value.as_ptr() as u64, len: value.len() as u64 }
    }

    /// Borrowed real numbers.
    pub fn floats(value: &[f64]) -> Self {
        Self { tag: tag::FLOATS, pad: 0, payload: value.as_ptr() as u64, len: value.len() as u64 }
    }

    /// The whole number, if it holds one.
    pub fn as_int(&self) -> Option<i64> {
        (self.tag == tag::INT).then_some(self.payload.cast_signed())
    }

    /// The real number, if it holds one; a whole number will do.
    pub fn as_float(&self) -> Option<f64> {
        match self.tag {
            tag::FLOAT => Some(f64::from_bits(self.payload)),
            tag::INT => Some(self.payload.cast_signed() as f64),
            _ => None,
        }
    }

    /// The handle, if it holds one.
    pub fn as_handle(&self) -> Option<Handle> {
        (self.tag == tag::HANDLE).then_some(self.payload)
    }

    /// The text, if it holds valid UTF-8.
    ///
    /// # Safety
    /// A text's address must point at `len` bytes that stay valid and unchanged for `'a`.
    pub unsafe fn as_text<'a>(&self) -> Option<&'a str> {
        if self.tag != tag::TEXT {
            return None;
        }
        // SAFETY: the caller promises the bytes.
        unsafe { Text { ptr: self.payload as *const u8, len: self.len }.as_str() }
    }

    /// The whole numbers, if it holds a list of them.
    ///
    /// # Safety
    /// A list's address must point at `len` aligned `i64` that stay valid and unchanged for `'a`.
    pub unsafe fn as_ints<'a>(&self) -> Option<&'a [i64]> {
        match (self.tag, self.len) {
            (tag::INTS, 0) => Some(&[]),
            // SAFETY: the caller promises the elements, and an address of nothing was left out.
            (tag::INTS, len) if self.payload != 0 => Some(unsafe {
                std::slice::from_raw_parts(self.payload as *const i64, len as usize)
            }),
            _ => None,
        }
    }

    /// The real numbers, if it holds a list of them.
    ///
    /// # Safety
    /// A list's address must point at `len` aligned `f64` that stay valid and unchanged for `'a`.
    pub unsafe fn as_floats<'a>(&self) -> Option<&'a [f64]> {
        match (self.tag, self.len) {
            (tag::FLOATS, 0) => Some(&[]),
            // SAFETY: the caller promises the elements, and an address of nothing was left out.
            (tag::FLOATS, len) if self.payload != 0 => Some(unsafe {
                std::slice::from_raw_parts(self.payload as *const f64, len as usize)
            }),
            _ => None,
        }
    }
}

/// A value with a name: an argument of a declaration or of a module.
#[repr(C)]
#[derive(Clone, Copy, Debug, StableAbi)]
pub struct Setting {
    /// Its name.
    pub key: Text,
    /// Its value.
    pub value: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_nothing_that_claims_to_be_long_is_no_list() {
        for tag in [tag::INTS, tag::FLOATS] {
            let value = Value { tag, pad: 0, payload: 0, len: 3 };
            // SAFETY: without an address nothing is read.
            assert!(unsafe { value.as_ints() }.is_none() && unsafe { value.as_floats() }.is_none());
        }
    }
}
