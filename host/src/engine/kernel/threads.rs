//! Work in parallel on rayon's pool, in pieces whose size depends on the shape alone.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::Float;

/// How many elements one piece of elementwise work has: 64 KiB of f32.
pub const ELEMENTS_PER_TASK: usize = 16 * 1024;

/// The most pieces of a sum over rows; each has a partial sum of its own.
const MOST_PARTIAL_SUMS: usize = 64;

/// How many rows of `width` elements make one piece of work.
pub fn rows_per_task(width: usize) -> usize {
    (ELEMENTS_PER_TASK / width.max(1)).max(1)
}

/// How many of `rows` rows of `width` elements make one piece of a sum over rows.
pub fn rows_per_partial_sum(rows: usize, width: usize) -> usize {
    rows_per_task(width).max(rows.div_ceil(MOST_PARTIAL_SUMS)).max(1)
}

/// How many of `units` make one piece of work, `size` or fewer. Pieces come in fours, so that few large ones don't leave one
/// of two or four threads with more of them than the others.
pub(super) fn units_per_task(units: usize, size: usize) -> usize {
    let tasks = units.div_ceil(size.max(1)).next_multiple_of(4);
    units.div_ceil(tasks.max(1))
}

/// A vector of `n` elements, made in pieces of `len` with scratch space that one thread uses again and
/// again. `body` gets the number of its piece and the piece itself, zeroed by the thread that fills it
/// and so in that thread's cache: zeroing the whole first costs a pass over memory.
pub fn made<T: Float, S>(
    (n, len): (usize, usize),
    scratch: impl Fn() -> S + Send + Sync,
    body: impl Fn(&mut S, usize, &mut [T]) + Send + Sync,
) -> Vec<T> {
    let zeroed = |scratch: &mut S, i: usize, room: &mut [MaybeUninit<T>]| {
        room.fill(MaybeUninit::new(T::ZERO));
        // SAFETY: every element was written just now.
        body(scratch, i, unsafe { room.assume_init_mut() });
    };
    // SAFETY: every piece is filled.
    unsafe { filled((n, len), scratch, zeroed) }
}

/// As [`made`], but `body` gets its piece as it is: zeroing what is written over in any case costs a few percent of an op
/// that memory bounds.
///
/// # Safety
/// `body` writes every element of its piece.
pub(super) unsafe fn filled<T: Float, S>(
    (n, len): (usize, usize),
    scratch: impl Fn() -> S + Send + Sync,
    body: impl Fn(&mut S, usize, &mut [MaybeUninit<T>]) + Send + Sync,
) -> Vec<T> {
    let mut made = Vec::with_capacity(n);
    let room: &mut [MaybeUninit<T>] = &mut made.spare_capacity_mut()[..n];
    let pieces = room.par_chunks_mut(len.max(1)).enumerate();
    pieces.for_each_init(scratch, |scratch, (i, room)| body(scratch, i, room));
    // SAFETY: the pieces, all of them written, are the first `n` elements.
    unsafe { made.set_len(n) };
    made
}

/// `numbers` as room for others.
///
/// # Safety
/// Nothing but numbers is written to it.
pub(super) unsafe fn room<T: Float>(numbers: &mut [T]) -> &mut [MaybeUninit<T>] {
    // SAFETY: both have one layout; the rest is the caller's promise.
    unsafe { &mut *(std::ptr::from_mut(numbers) as *mut [MaybeUninit<T>]) }
}

/// Changes `all` in pieces of `len`, as [`filled`] makes them; `body` reads what is there.
///
/// # Safety
/// `body` writes nothing but numbers.
pub(super) unsafe fn refilled<T: Float, S>(
    (all, len): (&mut [T], usize),
    scratch: impl Fn() -> S + Send + Sync,
    body: impl Fn(&mut S, usize, &mut [MaybeUninit<T>]) + Send + Sync,
) {
    all.par_chunks_mut(len.max(1)).enumerate().for_each_init(scratch, |scratch, (i, piece)| {
        // SAFETY: the caller's promise.
        let piece = unsafe { room(piece) };
        body(scratch, i, piece);
    });
}

/// `n` zeros, written by all threads.
pub fn zeros<T: Float>(n: usize) -> Vec<T> {
    made((n, ELEMENTS_PER_TASK * 8), || (), |(), _, _| {})
}

/// A vector of `n` elements, which `body` puts in their places: zeroing them first would cost a pass over memory.
///
/// # Safety
/// `body` puts every element, and takes no part of what it hasn't put.
pub(super) unsafe fn put<T: Copy>(n: usize, body: impl FnOnce(&Shared<'_, T>)) -> Vec<T> {
    let mut made = Vec::with_capacity(n);
    let room = &mut made.spare_capacity_mut()[..n];
    body(&Shared { start: room.as_mut_ptr().cast(), len: n, owner: PhantomData });
    // SAFETY: the caller promises that all of them were written.
    unsafe { made.set_len(n) };
    made
}

/// Calls `body` with every number below `count`, in parallel, and with scratch space made by `make`
/// that one thread uses again and again.
pub fn for_each<S>(
    count: usize,
    make: impl Fn() -> S + Send + Sync,
    body: impl Fn(&mut S, usize) + Send + Sync,
) {
    match count {
        0 => {}
        1 => body(&mut make(), 0),
        _ => (0..count).into_par_iter().for_each_init(make, body),
    }
}

/// Calls `body` with every chunk of `len` elements of `a` and its number, in parallel.
pub fn chunks<T: Send>(a: &mut [T], len: usize, body: impl Fn(usize, &mut [T]) + Sync) {
    if a.len() <= len {
        body(0, a);
        return;
    }
    a.par_chunks_mut(len).enumerate().for_each(|(i, a)| body(i, a));
}

/// Calls `body` with the chunks of `a` and `b` side by side, each slice cut by its own length.
pub fn chunks2<A: Send, B: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    body: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    if a.len() <= a_len {
        body(0, a, b);
        return;
    }
    a.par_chunks_mut(a_len)
        .zip(b.par_chunks_mut(b_len))
        .enumerate()
        .for_each(|(i, (a, b))| body(i, a, b));
}

/// Calls `body` with the chunks of three slices side by side, each cut by its own length.
pub fn chunks3<A: Send, B: Send, C: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    (c, c_len): (&mut [C], usize),
    body: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
) {
    if a.len() <= a_len {
        body(0, a, b, c);
        return;
    }
    a.par_chunks_mut(a_len)
        .zip(b.par_chunks_mut(b_len))
        .zip(c.par_chunks_mut(c_len))
        .enumerate()
        .for_each(|(i, ((a, b), c))| body(i, a, b, c));
}

/// Adds the partial sums (rows of `out.len()` elements) to `out`, first to last.
pub fn add_partial_sums<T: Float>(partials: &[T], out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    for partial in partials.chunks_exact(out.len()) {
        for (sum, value) in out.iter_mut().zip(partial) {
            *sum += *value;
        }
    }
}

/// A slice whose disjoint, interleaved parts are written by several threads.
#[derive(Debug)]
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` and `put` are the only accesses, and their callers promise that no two overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares `slice`.
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// Writes `from` to the elements from `offset` on.
    ///
    /// # Safety
    /// No part that is alive overlaps them, and nobody else writes them at the same time.
    pub(super) unsafe fn put(&self, offset: usize, from: &[T])
    where
        T: Copy,
    {
        let len = from.len();
        assert!(offset <= self.len && len <= self.len - offset, "a part outside of its slice");
        // SAFETY: the assertion above keeps the pointer inside of the slice.
        let to = unsafe { self.start.add(offset) };
        // SAFETY: the elements lie in the slice borrowed for 'a, apart from `from`, and nobody else has them.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, len) };
    }

    /// The `len` elements from `offset`.
    ///
    /// # Safety
    /// No other part that is alive overlaps it.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint, as the caller promises")]
    pub(super) unsafe fn part(&self, offset: usize, len: usize) -> &mut [T] {
        assert!(offset <= self.len && len <= self.len - offset, "a part outside of its slice");
        // SAFETY: the assertion above keeps the pointer inside of the slice.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: the elements lie in the slice borrowed for 'a, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_side_by_side_meet_in_order() {
        let mut a = vec![0_usize; 103];
        let mut b = vec![0_usize; 11];
        chunks2((&mut a, 10), (&mut b, 1), |i, a, b| {
            a.fill(i);
            b[0] = a.len();
        });
        assert!(a.iter().enumerate().all(|(i, v)| *v == i / 10));
        assert_eq!(b, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 3]);
    }

    #[test]
    fn units_are_shared_out_in_fours() {
        // 11 pieces of 48 would leave one of two threads with one more.
        assert_eq!(units_per_task(512, 48), 43);
        assert_eq!(units_per_task(2, 48), 1);
        assert_eq!(units_per_task(0, 48), 0);
    }

    #[test]
    fn every_number_is_visited_once() {
        let seen: Vec<_> = (0..57).map(|_| std::sync::atomic::AtomicUsize::new(0)).collect();
        for_each(
            seen.len(),
            || (),
            |(), i| {
                seen[i].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            },
        );
        assert!(seen.into_iter().all(|n| n.into_inner() == 1));
    }

    #[test]
    fn empty_slices_are_visited_once_without_elements() {
        chunks(&mut Vec::<f32>::new(), 4, |i, a| assert!(i == 0 && a.is_empty()));
    }
}
