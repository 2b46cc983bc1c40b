//! The numbers that an import prints.

use crate::app::App;
use crate::fail::Failure;
use crate::json::object;
use crate::out::Item;

/// The numbers of lines with each result.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) imported: u64,
    /// Records that exist already.
    pub(crate) unchanged: u64,
    pub(crate) skipped: u64,
    pub(crate) conflicts: u64,
    pub(crate) expired: u64,
    pub(crate) refused: u64,
}

impl Counts {
    pub(crate) fn print(&self, app: &App, bucket: &str, dry_run: bool) -> Result<(), Failure> {
        let Self { imported, unchanged, skipped, conflicts, expired, refused } = *self;
        let json = object! {
            "v" => 1u8,
            "type" => "imported",
            "bucket" => bucket,
            "imported" => imported,
            "unchanged" => unchanged,
            "skipped" => skipped,
            "conflicts" => conflicts,
            "expired" => expired,
            "refused" => refused,
            "dry_run" => dry_run.then_some(true),
        };
        let cells = [imported, unchanged, skipped, conflicts, expired, refused].map(|count| count.to_string());
        let columns = ["IMPORTED", "UNCHANGED", "SKIPPED", "CONFLICTS", "EXPIRED", "REFUSED"];
        app.out.one(&columns, &Item::new(json).cells(cells).name(bucket))
    }
}
