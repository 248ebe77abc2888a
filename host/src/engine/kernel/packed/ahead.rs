//! Memory that is asked for ahead of its use, so that it is on its way while something else is computed.
//!
//! Processors guess what a plain loop over memory wants next. They don't where a kernel makes 32 columns of a wide row,
//! or where one task ends and the next begins; there the first touch of each line waits for memory.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Bytes that come and go together.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks for what will be written soon. A line that no other processor has comes ready to be written.
#[inline(always)]
pub(super) fn to_write<T>(room: &[T]) {
    #[cfg(target_arch = "x86_64")]
    ask::<_MM_HINT_T0, T>(room);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = room;
}

/// As [`to_write`], for the one line that `place` lies in.
#[inline(always)]
pub(super) fn line_to_write(place: *const f32) {
    #[cfg(target_arch = "x86_64")]
    line::<_MM_HINT_T0>(place.cast());
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Asks for what will be read a while later: it goes to the second level, past what is used now.
#[inline(always)]
pub(super) fn to_read<T>(slice: &[T]) {
    #[cfg(target_arch = "x86_64")]
    ask::<_MM_HINT_T1, T>(slice);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slice;
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ask<const HINT: i32, T>(slice: &[T]) {
    let start = slice.as_ptr().cast::<i8>();
    let bytes = size_of_val(slice);
    // A slice that begins inside of a line ends in one more.
    for at in (0..bytes).step_by(LINE).chain(bytes.checked_sub(1)) {
        line::<HINT>(start.wrapping_add(at));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line<const HINT: i32>(at: *const i8) {
    // SAFETY: every processor with this instruction set has it, and it changes nothing but what lies in the cache.
    unsafe { _mm_prefetch::<HINT>(at) };
}
