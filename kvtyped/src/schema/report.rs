//! The result of a comparison.

use std::fmt;

/// The largest width of a column. Longer texts shift the rest of their line.
const MAX_WIDTH: usize = 48;

/// Whether the reader of one schema reads the records of another schema.
///
/// The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// All records can be read.
    Yes,
    /// Some values may be unreadable, for example a number that is too large.
    DataDecides,
    /// Records of the usual content cannot be read.
    No,
}

/// One difference between two schemas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub(super) path: String,
    pub(super) stored: String,
    pub(super) program: String,
    pub(super) backward: Effect,
    pub(super) forward: Effect,
    /// Whether a default value of the field would help.
    pub(super) lacks_default: bool,
}

/// An answer to the question whether a reader reads records, with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) verdict: Verdict,
    pub(super) reasons: Vec<String>,
}

impl Effect {
    pub(super) fn yes() -> Self {
        Self { verdict: Verdict::Yes, reasons: Vec::new() }
    }

    pub(super) fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { verdict, reasons: vec![reason.into()] }
    }

    /// Returns the worse effect, with the reasons of both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.verdict = self.verdict.max(other.verdict);
        for reason in other.reasons {
            if self.reasons.last() != Some(&reason) {
                self.reasons.push(reason);
            }
        }
        self
    }
}

impl Finding {
    /// Returns the path of the differing part: `address.city`, `tags[]` for the items of a sequence, `{}` for the
    /// values of a map. The path of the whole record is empty.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns whether the program reads stored records, as far as this part is concerned.
    pub fn backward(&self) -> Verdict {
        self.backward.verdict
    }

    /// Returns whether programs of the stored schema read new records, as far as this part is concerned.
    pub fn forward(&self) -> Verdict {
        self.forward.verdict
    }

    fn effects(&self) -> String {
        let effect = |name: &str, effect: &Effect| {
            let by_data = if effect.verdict == Verdict::DataDecides { ", data decides" } else { "" };
            (!effect.reasons.is_empty()).then(|| format!("{name}{by_data}: {}", effect.reasons.join(", ")))
        };
        let effects = [effect("BACKWARD", &self.backward), effect("FORWARD", &self.forward)];
        let effects: Vec<_> = effects.into_iter().flatten().collect();
        if effects.is_empty() { "no effect".to_owned() } else { effects.join("; ") }
    }
}

/// The differences between the schema of stored records and the schema of a program, with their effects.
///
/// [`Display`](fmt::Display) prints one line per difference and a line of advice:
///
/// ```
/// use kvtyped::schema::{Schema, compare};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Old { email: Option<String> }
///
/// #[derive(Deserialize)]
/// struct New { email: String, nick: Option<String> }
///
/// let report = compare(&Schema::probe::<Old>(), &Schema::probe::<New>());
/// assert_eq!(
///     report.to_string(),
///     "  email  text, optional there  text, required here  BACKWARD: stored records without `email` cannot be read\n  \
///      nick   -                     text, optional here  FORWARD: programs without `nick` drop it when they write\n\
///      add a schema version with `upgrade_from`, or give `email` a default"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compatibility {
    pub(super) findings: Vec<Finding>,
}

impl Compatibility {
    /// Returns whether the schemas are equal.
    pub fn is_identical(&self) -> bool {
        self.findings.is_empty()
    }

    /// Returns whether the program reads stored records.
    pub fn backward(&self) -> Verdict {
        self.findings.iter().map(Finding::backward).max().unwrap_or(Verdict::Yes)
    }

    /// Returns whether programs of the stored schema read the records of this program.
    pub fn forward(&self) -> Verdict {
        self.findings.iter().map(Finding::forward).max().unwrap_or(Verdict::Yes)
    }

    /// Returns the differences, in the order of their paths.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns the worst of several reports, first by [`backward`](Self::backward), then by
    /// [`forward`](Self::forward). Compare a program with each version that may be stored, not only with the last one.
    pub fn worst(reports: impl IntoIterator<Item = Self>) -> Option<Self> {
        reports.into_iter().max_by_key(|report| (report.backward(), report.forward(), !report.is_identical()))
    }

    fn advice(&self) -> String {
        let version = "add a schema version with `upgrade_from`";
        match (self.backward(), self.forward()) {
            _ if self.is_identical() => "the schemas are identical".to_owned(),
            (Verdict::No, _) => {
                let fields: Vec<_> = self
                    .findings
                    .iter()
                    .filter(|finding| finding.lacks_default)
                    .map(|finding| format!("`{}`", finding.path))
                    .collect();
                match fields.len() {
                    0 => version.to_owned(),
                    1 => format!("{version}, or give {} a default", fields.join(", ")),
                    _ => format!("{version}, or give {} defaults", fields.join(", ")),
                }
            }
            (Verdict::DataDecides, _) => format!("check the stored records, or {version}"),
            (_, Verdict::No) => "deploy readers of the new schema before its first writer".to_owned(),
            (_, Verdict::DataDecides) => {
                "write only values that programs of the stored schema read, until none of them runs".to_owned()
            }
            _ => "all records can be read by all programs".to_owned(),
        }
    }
}

impl fmt::Display for Compatibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |text: &str, place: &str| if text == "-" { text.to_owned() } else { format!("{text} {place}") };
        let rows: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let path = if finding.path.is_empty() { "(record)" } else { &finding.path };
                [path.to_owned(), side(&finding.stored, "there"), side(&finding.program, "here"), finding.effects()]
            })
            .collect();
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count().min(MAX_WIDTH)).max().unwrap_or(0);
        let (path, stored, program) = (width(0), width(1), width(2));
        for row in &rows {
            writeln!(f, "  {:path$}  {:stored$}  {:program$}  {}", row[0], row[1], row[2], row[3])?;
        }
        f.write_str(&self.advice())
    }
}
