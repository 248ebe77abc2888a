//! Fields of a view: named numbers of one type and shape, for one sample or for a batch.

/// The type of a field's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Pixels, samples of sound, elements of vectors.
    F32,
    /// Places, lengths, units.
    U32,
    /// Masks: 0 and 1.
    U8,
}

/// What one sample has of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// What a method calls it: `pixels`, `samples`, `lengths`.
    pub name: &'static str,
    /// The type of its numbers.
    pub element: Element,
    /// Its shape without the batch; empty for one number.
    pub shape: Vec<usize>,
}

impl Form {
    /// A field of f32 numbers.
    pub fn f32(name: &'static str, shape: &[usize]) -> Self {
        Self { name, element: Element::F32, shape: shape.to_vec() }
    }

    /// A field of u32 numbers.
    pub fn u32(name: &'static str, shape: &[usize]) -> Self {
        Self { name, element: Element::U32, shape: shape.to_vec() }
    }

    /// A field of u8 numbers.
    pub fn u8(name: &'static str, shape: &[usize]) -> Self {
        Self { name, element: Element::U8, shape: shape.to_vec() }
    }

    /// How many numbers one sample has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a sample has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Numbers of one type, contiguous.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// f32.
    F32(Vec<f32>),
    /// u32.
    U32(Vec<u32>),
    /// u8.
    U8(Vec<u8>),
}

impl Values {
    /// None yet, of a type.
    pub fn empty(element: Element) -> Self {
        match element {
            Element::F32 => Self::F32(Vec::new()),
            Element::U32 => Self::U32(Vec::new()),
            Element::U8 => Self::U8(Vec::new()),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::U8(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers, if they are f32; else none.
    pub fn f32(&self) -> &[f32] {
        if let Self::F32(values) = self { values } else { &[] }
    }

    /// The numbers, if they are u32; else none.
    pub fn u32(&self) -> &[u32] {
        if let Self::U32(values) = self { values } else { &[] }
    }

    /// The numbers, if they are u8; else none.
    pub fn u8(&self) -> &[u8] {
        if let Self::U8(values) = self { values } else { &[] }
    }

    /// The numbers to be written over, if they are f32; else none.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        if let Self::F32(values) = self { values } else { &mut [] }
    }

    /// The numbers to be written over, if they are u32; else none.
    pub fn u32_mut(&mut self) -> &mut [u32] {
        if let Self::U32(values) = self { values } else { &mut [] }
    }

    /// The numbers to be written over, if they are u8; else none.
    pub fn u8_mut(&mut self) -> &mut [u8] {
        if let Self::U8(values) = self { values } else { &mut [] }
    }

    /// Makes them `len`, with anything in them; asks for memory only to grow.
    pub(super) fn resize(&mut self, len: usize) {
        match self {
            Self::F32(values) => values.resize(len, 0.0),
            Self::U32(values) => values.resize(len, 0),
            Self::U8(values) => values.resize(len, 0),
        }
    }

    /// Writes `sample`, which is sample number `place` of a batch, to its place.
    pub(super) fn put(&mut self, place: usize, sample: &Self) {
        fn put<T: Copy>(all: &mut [T], place: usize, one: &[T]) {
            all[place * one.len()..][..one.len()].copy_from_slice(one);
        }
        match (self, sample) {
            (Self::F32(all), Self::F32(one)) => put(all, place, one),
            (Self::U32(all), Self::U32(one)) => put(all, place, one),
            (Self::U8(all), Self::U8(one)) => put(all, place, one),
            _ => debug_assert!(false, "a sample's field has the type of the batch's"),
        }
    }
}

/// One field of a view, for all samples of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// What a method calls it.
    pub name: &'static str,
    /// `[B, ...]`.
    pub shape: Vec<usize>,
    /// The numbers, row-major; may be taken out.
    pub values: Values,
}

impl Field {
    /// A field `[B, N]` from equally long rows of u32.
    pub fn u32_rows(name: &'static str, rows: &[Vec<u32>]) -> Self {
        let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
        Self { name, shape, values: Values::U32(rows.concat()) }
    }

    /// A field `[B, N]` from equally long rows of u8.
    pub fn u8_rows(name: &'static str, rows: &[Vec<u8>]) -> Self {
        let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
        Self { name, shape, values: Values::U8(rows.concat()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_written_to_its_place_in_its_own_type() {
        let mut all = Values::U32(vec![0; 6]);
        all.put(1, &Values::U32(vec![7, 8]));
        assert_eq!(all.u32(), [0, 0, 7, 8, 0, 0]);
        assert!(all.f32().is_empty() && all.u8().is_empty());
        let form = Form::u8("mask", &[2, 3]);
        let mut one = Values::empty(form.element);
        one.resize(form.len());
        assert_eq!(one, Values::U8(vec![0; 6]));
    }
}
