//! Counts and times over all scenarios that show how often each promise was exercised.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// A counter, or the maximum of a measured time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Increments,
    IncrementsUnknown,
    NotApplied,
    Tenures,
    FencedWrites,
    FencedNotApplied,
    Terms,
    Additions,
    AdditionsUnknown,
    Transfers,
    TransfersUnknown,
    Audits,
    Watches,
    Events,
    LongestConvergence,
    PlainReads,
    PlainReadsStale,
    PlainReadsLongest,
    AtLeastReads,
    LeaderReads,
    LeaderReadsStale,
    LeaderReadsLongest,
    WritesApplied,
    WritesSettled,
    WritesUnknown,
    Searched,
    KeysGivenUp,
    LeaseRounds,
    LeasesHeld,
    Takeovers,
    LongestTakeover,
    TakeoversWithLeader,
    LongestTakeoverWithLeader,
}

/// The figures of one scenario, or of all scenarios.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures(BTreeMap<Figure, u64>);

impl Figures {
    pub(crate) fn add(&mut self, figure: Figure, count: usize) {
        *self.0.entry(figure).or_default() += count as u64;
    }

    pub(crate) fn longest(&mut self, figure: Figure, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let longest = self.0.entry(figure).or_default();
        *longest = millis.max(*longest);
    }

    /// Merges the figures of another scenario.
    pub(crate) fn take_in(&mut self, other: &Self) {
        for (figure, value) in &other.0 {
            let ours = self.0.entry(*figure).or_default();
            *ours = if figure.is_a_time() { *value.max(ours) } else { *ours + value };
        }
    }

    fn get(&self, figure: Figure) -> u64 {
        self.0.get(&figure).copied().unwrap_or_default()
    }

    /// Returns a Markdown table of the promises that have figures.
    pub(crate) fn promises(&self) -> String {
        use Figure::*;
        let count = |figure| self.get(figure);
        let seconds = |figure| format!("{:.1} s", self.get(figure) as f64 / 1_000.0);
        let lines = [
            (
                Increments,
                "P2: `modify` loses no increment, and applies none twice",
                format!("{} acknowledged, {} unknown", count(Increments), count(IncrementsUnknown)),
            ),
            (
                NotApplied,
                "P4: a write that is reported as not applied is not stored",
                format!("{} writes refused or failed, none of them stored", count(NotApplied)),
            ),
            (
                Tenures,
                "P10 to P12: at most one guard is valid at a time, fences grow, and a stale fence is refused",
                format!(
                    "{} terms of locks; {} fenced writes, {} of them not applied",
                    count(Tenures),
                    count(FencedWrites),
                    count(FencedNotApplied)
                ),
            ),
            (
                LeaseRounds,
                "P15: a lease of 30 s outlives the loss of the leader",
                format!("held in {} of {} trials", count(LeasesHeld), count(LeaseRounds)),
            ),
            (
                Takeovers,
                "P20: the lock of a process that dies is free after its TTL, not before",
                format!(
                    "TTL 6 s: {} taken over within {}; {} within {} with the leader killed, too",
                    count(Takeovers),
                    seconds(LongestTakeover),
                    count(TakeoversWithLeader),
                    seconds(LongestTakeoverWithLeader)
                ),
            ),
            (
                Terms,
                "P23: terms of leaders grow, and each stops before the next starts",
                format!("{} terms", count(Terms)),
            ),
            (
                Additions,
                "P24: a counter is the sum of its increments, or reports an unknown outcome",
                format!("{} increments acknowledged, {} unknown", count(Additions), count(AdditionsUnknown)),
            ),
            (
                Transfers,
                "A transaction is applied as a whole or not at all, and sees one state",
                format!(
                    "{} transfers applied, {} unknown; {} sums over all accounts, all correct",
                    count(Transfers),
                    count(TransfersUnknown),
                    count(Audits)
                ),
            ),
            (
                Watches,
                "P25: watches, caches and live values reach the state of the leader, in order",
                format!(
                    "{} handles, {} events; within {} of the last write",
                    count(Watches),
                    count(Events),
                    seconds(LongestConvergence)
                ),
            ),
            (
                AtLeastReads,
                "P29: a read of at least a revision is not older",
                format!("{} reads, none older", count(AtLeastReads)),
            ),
            (
                LeaderReads,
                "(not guaranteed: a leader that was frozen or cut off may answer)",
                format!(
                    "of {} reads of the leader {} were out of date, by {} at most",
                    count(LeaderReads),
                    count(LeaderReadsStale),
                    seconds(LeaderReadsLongest)
                ),
            ),
            (
                PlainReads,
                "(not guaranteed: any replica may answer)",
                format!(
                    "of {} plain reads {} were out of date, by {} at most",
                    count(PlainReads),
                    count(PlainReadsStale),
                    seconds(PlainReadsLongest)
                ),
            ),
            (
                WritesApplied,
                "P43: the results of all writes form one history",
                format!(
                    "{} writes explained by their revisions (of the unknown ones, reads resolved {} and did not \
                     show {}); {} of them by search, {} keys given up",
                    count(WritesApplied),
                    count(WritesSettled),
                    count(WritesUnknown),
                    count(Searched),
                    count(KeysGivenUp)
                ),
            ),
        ];
        let mut table = String::from("| guarantee | figures |\n|---|---|\n");
        for (figure, promise, figures) in lines {
            if count(figure) > 0 {
                let _ = writeln!(table, "| {promise} | {figures} |");
            }
        }
        table
    }
}

impl Figure {
    fn is_a_time(self) -> bool {
        matches!(
            self,
            Self::LongestConvergence
                | Self::PlainReadsLongest
                | Self::LeaderReadsLongest
                | Self::LongestTakeover
                | Self::LongestTakeoverWithLeader
        )
    }
}
