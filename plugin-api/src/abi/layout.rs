//! Sizes and offsets of what crosses, frozen: a change here is a new major version.

use std::mem::{offset_of, size_of};

use super::value::{Setting, Text, Value};

const _: () = {
    assert!(size_of::<Text>() == 16);
    assert!(offset_of!(Text, len) == 8);
    assert!(size_of::<Value>() == 24);
    assert!(offset_of!(Value, payload) == 8);
    assert!(offset_of!(Value, len) == 16);
    assert!(size_of::<Setting>() == 40);
    assert!(offset_of!(Setting, value) == 16);
};
