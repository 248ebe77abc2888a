//! A recipe as TOML text that gives the same recipe when it is read again.

use std::fmt::Write;

use toml::{Table, Value};

/// `value` as TOML on one line, with the shortest digits that read back as the same number.
pub(super) fn value_text(value: &Value) -> String {
    match value {
        Value::Float(x) => format!("{x:?}"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(value_text).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// The keys of the top, then each section with its keys, in order.
pub(super) fn recipe_text(table: &Table) -> String {
    let mut text = String::new();
    for (key, value) in table.iter().filter(|(_, value)| !value.is_table()) {
        let _ = writeln!(text, "{key} = {}", value_text(value));
    }
    for (name, section) in table {
        let Some(section) = section.as_table().filter(|section| !section.is_empty()) else {
            continue;
        };
        let _ = writeln!(text, "\n[{name}]");
        for (key, value) in section {
            let _ = writeln!(text, "{key} = {}", value_text(value));
        }
    }
    text
}
