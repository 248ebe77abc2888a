//! Text of the page: escaping, and numbers as people write them.

use std::fmt::Write;

/// `text` with the characters that HTML gives a meaning replaced.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// `value` with about four digits: `0.0123`, `3.142`, `12,345`, `2.5e-6`.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if size >= 1000.0 {
        return grouped(value.round() as i64);
    }
    if size == 0.0 {
        return "0".to_owned();
    }
    if size < 1e-3 {
        let text = format!("{value:.2e}");
        return match text.split_once('e') {
            Some((digits, power)) => format!("{}e{power}", trimmed(digits)),
            None => text,
        };
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 4) as usize;
    trimmed(&format!("{value:.decimals$}"))
}

/// A share between 0 and 1 as a percentage with one decimal.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Seconds as `42 s`, `3 min 20 s`, `2 h 05 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{} s", number(seconds.max(0.0))),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// A key of a record as words: `teacher_decay` is "teacher decay".
pub(super) fn words(key: &str) -> String {
    key.replace(['_', '.'], " ")
}

fn trimmed(digits: &str) -> String {
    if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        digits.to_owned()
    }
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0 { format!("-{out}") } else { out }
}

/// Appends formatted text; writing to a `String` can't fail.
pub(super) fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        for (value, want) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (3.345_67, "3.346"),
            (61.0, "61"),
            (123.456, "123.5"),
            (12_345.6, "12,346"),
            (-1_234_567.0, "-1,234,567"),
            (2.5e-6, "2.5e-6"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), want);
        }
        assert_eq!(percent(0.6123), "61.2 %");
    }

    #[test]
    fn times_get_the_unit_that_fits() {
        assert_eq!(duration(42.0), "42 s");
        assert_eq!(duration(200.4), "3 min 20 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
    }

    #[test]
    fn markup_in_names_stays_text() {
        assert_eq!(escape("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
    }
}
