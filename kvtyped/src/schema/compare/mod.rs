//! The effects of a difference between two schemas on readers and writers.

mod walk;
mod kinds;
mod structs;
mod pair;

use self::walk::{Env, Walk};
use super::Schema;
use super::report::{Compatibility, Effect, Finding};

/// Compares the schema of stored records with the schema of a program.
///
/// * BACKWARD: the program reads stored records.
/// * FORWARD: programs of the stored schema read the records that this program writes.
///
/// | change | BACKWARD | FORWARD |
/// |---|---|---|
/// | add an optional field | yes | yes, but old programs drop the field when they write |
/// | add a required field | no | yes, but old programs drop the field when they write |
/// | remove a field | yes | only if the field was optional |
/// | rename a field | no; yes with `alias` | no, if the field was required |
/// | make a required field optional | yes | no |
/// | make an optional field required | no | yes |
/// | widen an integer | yes | data decides |
/// | narrow an integer | data decides | yes |
/// | change the kind | no, or data decides | no, or data decides |
/// | add a variant | yes | no; yes for a unit variant with `#[serde(other)]` in old programs |
/// | remove a variant | no; yes for a unit variant with `#[serde(other)]` | yes |
/// | `deny_unknown_fields` in old programs | | no, for each added field |
/// | `deny_unknown_fields` in this program | no, for each removed field | |
///
/// A field with a default counts as optional, because older records may lack it.
pub fn compare(stored: &Schema, program: &Schema) -> Compatibility {
    if stored == program {
        return Compatibility { findings: Vec::new() };
    }
    let mut walk = Walk::default();
    walk.compare(&stored.shape, &Env::EMPTY, &program.shape, &Env::EMPTY);
    let mut findings: Vec<_> = walk.findings.into_values().collect();
    if findings.is_empty() {
        findings.push(Finding {
            path: String::new(),
            stored: stored.to_string(),
            program: program.to_string(),
            backward: Effect::yes(),
            forward: Effect::yes(),
            lacks_default: false,
        });
    }
    Compatibility { findings }
}
