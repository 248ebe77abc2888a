//! Certificates: what the tests compare with another program's values, and how far the product lies from
//! them. A test declares each comparison once with [`claims!`](crate::claims) and tells a [`Seen`] what it
//! saw; the claims are the rows of `docs/parity.md`, which `tests/it/parity.rs` writes and checks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::binary::profile_folder;

pub use inventory;

/// One comparison with another program's values: a row of the page.
#[derive(Debug)]
pub struct Claim {
    /// Of what: a method's name, or a part of the host, such as `ops`.
    pub of: &'static str,
    /// What is compared: `loss`, `center`, `ten whole steps: student`.
    pub what: &'static str,
    /// Whose values it is compared with.
    pub against: &'static str,
    /// The largest difference allowed, as [`difference`](crate::reference::difference) measures it where
    /// `what` says nothing else; 0 where the values must be equal.
    pub tolerance: f64,
    /// The file of the test, from the root.
    pub file: &'static str,
}

/// A claim among all.
#[derive(Debug)]
pub struct Row(pub &'static Claim);

inventory::collect!(Row);

/// Declares claims: `NAME = of, what, against, tolerance;` each, with a comment that gives the
/// tolerance's reason. Each becomes a static [`Claim`](crate::parity::Claim) and a row of the page.
#[macro_export]
macro_rules! claims {
    ($($(#[$doc:meta])* $name:ident = $of:expr, $what:expr, $against:expr, $tolerance:expr;)+) => {$(
        $(#[$doc])*
        static $name: $crate::parity::Claim = $crate::parity::Claim {
            of: $of,
            what: $what,
            against: $against,
            tolerance: $tolerance,
            file: file!(),
        };
        $crate::parity::inventory::submit! { $crate::parity::Row(&$name) }
    )+};
}

/// The largest difference seen of each claim, and those above their tolerance.
#[derive(Debug, Default)]
#[must_use = "`finish` fails where a difference is too large"]
pub struct Seen {
    largest: BTreeMap<&'static str, (&'static Claim, f64, String)>,
    wrong: Vec<String>,
}

impl Seen {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a difference of `claim`, found at `place`.
    pub fn compare(&mut self, claim: &'static Claim, place: &str, far: f64) {
        if far > claim.tolerance || far.is_nan() {
            self.wrong.push(format!("{} of {place}: {far:.1e}", claim.what));
        }
        let largest = self.largest.entry(claim.what).or_insert((claim, far, place.to_owned()));
        if far > largest.1 {
            *largest = (claim, far, place.to_owned());
        }
    }

    /// How many claims something was seen of.
    pub fn claims(&self) -> usize {
        self.largest.len()
    }

    /// Prints and keeps what was seen.
    ///
    /// # Panics
    /// When nothing was compared, or a difference is above its tolerance.
    #[expect(
        clippy::print_stdout,
        reason = "it is shown with a test's own output, where one asks for it"
    )]
    pub fn finish(self) {
        assert!(!self.largest.is_empty(), "nothing was compared");
        for (claim, far, place) in self.largest.values() {
            println!("largest difference of {}: {far:.1e} ({place})", claim.what);
        }
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        for (claim, far, _) in self.largest.into_values() {
            record(claim, far);
        }
    }
}

/// The file in the target folder in which the largest difference of `claim` is kept.
fn kept(claim: &Claim) -> PathBuf {
    let name = format!("{} {}", claim.of, claim.what);
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    profile_folder().join("parity").join(name)
}

/// Keeps `far` if it is the largest difference that this process saw of `claim`.
fn record(claim: &'static Claim, far: f64) {
    static LARGEST: Mutex<BTreeMap<(&str, &str), f64>> = Mutex::new(BTreeMap::new());
    let mut all = LARGEST.lock().unwrap_or_else(PoisonError::into_inner);
    let largest = all.entry((claim.of, claim.what)).or_insert(far);
    *largest = largest.max(far);
    let path = kept(claim);
    std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
    std::fs::write(&path, format!("{largest:e}")).expect("the target folder can be written");
}

/// The largest difference of `claim` that the last run of its tests saw; none where they didn't run.
pub fn measured(claim: &Claim) -> Option<f64> {
    std::fs::read_to_string(kept(claim)).ok()?.parse().ok()
}

/// Every claim, the methods' first, then those of the host's parts.
pub fn all() -> Vec<&'static Claim> {
    let mut claims: Vec<&Claim> = inventory::iter::<Row>.into_iter().map(|row| row.0).collect();
    let part = |claim: &Claim| HOST.iter().position(|of| *of == claim.of).map_or(0, |at| at + 1);
    claims.sort_by_key(|claim| (part(claim), claim.of, claim.file, claim.what));
    claims
}

/// Parts of the host, in the order of the page; whatever else is a method.
const HOST: [&str; 8] =
    ["vit", "resnet", "wave", "ops", "optimisers", "transforms", "sound", "probes"];

/// A difference as the page has it: up to the next power of ten, so that it is the same on every machine,
/// but not above the tolerance, which no run passes.
pub fn rounded(far: f64, tolerance: f64) -> f64 {
    if far == 0.0 { 0.0 } else { 10_f64.powi(far.log10().ceil() as i32).min(tolerance) }
}

/// A tolerance or difference in words.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        0.01.. => format!("{value}"),
        _ => format!("{value:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_a_power_of_ten_and_never_above_its_tolerance() {
        let shown = |far, tolerance| number(rounded(far, tolerance));
        assert_eq!(shown(3.2e-7, 1e-5), "1e-6");
        assert_eq!(shown(2e-5, 5e-5), "5e-5");
        assert_eq!(shown(0.0, 1e-5), "0");
        assert_eq!(shown(0.3, 2.0), "1");
    }

    #[test]
    #[should_panic(expected = "loss of case 1: 2.0e-1")]
    fn a_difference_above_its_tolerance_fails_the_test_at_its_end() {
        static CLAIM: Claim =
            Claim { of: "x", what: "loss", against: "y", tolerance: 0.1, file: "" };
        let mut seen = Seen::new();
        seen.compare(&CLAIM, "case 0", 0.05);
        seen.compare(&CLAIM, "case 1", 0.2);
        seen.finish();
    }
}
