//! Progress bars on stderr.

use std::fmt;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::Out;

/// The unit of a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Records,
    Bytes,
}

impl Out {
    /// Returns a progress bar on stderr, which is hidden without a terminal. `total` may grow.
    pub(crate) fn progress(&self, total: u64, what: &str, unit: Unit) -> ProgressBar {
        if self.is_quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(total);
        match ProgressStyle::with_template(&template(what, unit)) {
            Ok(style) => bar.with_style(style.with_key("rate", rate)),
            Err(_) => bar,
        }
    }
}

fn template(what: &str, unit: Unit) -> String {
    let numbers = match unit {
        Unit::Records => "{human_pos}/{human_len}  {rate}",
        Unit::Bytes => "{bytes}/{total_bytes}  {bytes_per_sec}",
    };
    format!("{what} {{wide_bar}} {numbers}  {{eta}} left")
}

/// Writes the number of records a second, without decimals.
fn rate(state: &ProgressState, out: &mut dyn fmt::Write) {
    // A cast of a float saturates.
    let _ = write!(out, "{}/s", indicatif::HumanCount(state.per_sec().round() as u64));
}
